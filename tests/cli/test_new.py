"""A paper started from the template runs and passes its test before the first change."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_pipelines
from typer.testing import CliRunner

import studylib
from studylib.cli.main import app
from studylib.cli.new import create, to_cells
from studylib.errors import StudyError
from studylib.running.parameters import check_parameters


def test_new_paper_runs_and_passes_its_test_at_once(workspace, monkeypatch):
    """The first minute of writing a paper: nothing to mend before the first change."""
    pipeline = workspace / "pipeline"
    tiny_pipelines.sd().save_pretrained(pipeline)
    made = CliRunner().invoke(app, ["new", "fresh", "--title", "A Fresh Idea"])
    assert made.exit_code == 0
    wrote = re.findall(r"^wrote (\S+)", made.stdout, re.MULTILINE)
    assert {"papers/fresh/card.toml", "notebooks/fresh.ipynb", "tests/papers/test_fresh.py"} < set(wrote)
    assert not [path for path in wrote if "__" in (workspace / path).read_text().replace("__post_init__", "")]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = CliRunner().invoke(
        app, ["run", "fresh", "--model", str(pipeline), "-p", "num_inference_steps=2"]
    )
    assert result.exit_code == 0, result.stderr
    assert "claims: 3 held" in result.stdout and "failed" not in result.stdout
    library = str(Path(studylib.__file__).parents[1])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(workspace), library]),
        "STUDY_TEST_MODEL": str(pipeline),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/papers/test_fresh.py"]
    test = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)
    assert test.returncode == 0 and "4 passed" in test.stdout, test.stdout


def test_new_paper_takes_its_place_in_the_course(workspace):
    """A planned paper's year, number and arXiv id are known already."""
    create("later", "A Later Study")
    card = (workspace / "papers" / "later" / "card.toml").read_text()
    assert "order = 2\n" in card and "year = 2025\n" in card and 'arxiv = "2501.00001"' in card
    assert check_parameters("later", {})["model"] == "tiny"


def test_notebook_follows_the_rules_of_the_house(workspace):
    """A start that breaks the rules would have to be mended first: 16 to 22 code cells, short, no class."""
    create("fresh", "A Fresh Idea")
    cells = json.loads((workspace / "notebooks" / "fresh.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert 16 <= len(sources) <= 22
    lengths = sorted(len(source.splitlines()) for source in sources)
    assert lengths[len(lengths) // 2] <= 8 and not any("class " in source for source in sources)
    assert "record(" in sources[-1] and cells[0]["source"][0] == "# A Fresh Idea\n"


@pytest.mark.parametrize("title", ["a\x1b[31mred", "a\u202eb", "a\ud800"])
def test_a_title_that_could_not_be_read_back_is_refused(workspace, title):
    """`study new` wrote a card that `study list` then refused, for the whole course."""
    with pytest.raises(StudyError, match="control character"):
        create("fresh", title)
    assert not (workspace / "papers" / "fresh").exists()


def test_script_becomes_cells():
    """Tags and Markdown have to arrive where papermill and the reader look for them."""
    script = (
        '# %% [markdown]\n# # Title\n#\n# text\n\n# %% tags=["parameters"]\nx: int = 1\n\n# %%\n# why\nx\n'
    )
    title, parameters, plain = to_cells(script)
    assert (title["cell_type"], "".join(title["source"])) == ("markdown", "# Title\n\ntext")
    assert (parameters["metadata"], parameters["source"]) == ({"tags": ["parameters"]}, ["x: int = 1"])
    assert (plain["cell_type"], "".join(plain["source"]), plain["outputs"]) == ("code", "# why\nx", [])


def test_a_disk_that_fills_leaves_no_half_paper(workspace, monkeypatch):
    """Half a paper was left, and the next try refused: "is there already"."""
    real, left = os.fsync, iter([True] * 6)

    def fsync(descriptor):
        if not next(left, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    before = sorted(workspace.rglob("*"))
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StudyError, match="the disk is full"):
        create("fresh", "A Title")
    assert sorted(workspace.rglob("*")) == before
    monkeypatch.setattr(os, "fsync", real)
    assert all(path.is_file() for path in create("fresh", "A Title"))
