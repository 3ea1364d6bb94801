"""Tests of studylib.reports.lesson: one table for all notebooks, of methods that were given the same lesson."""

import json

import numpy as np
import pytest
from mini_workspace import make_workspace, prose, standard_cells, write_notebook
from PIL import Image
from typer.testing import CliRunner

from studylib.cli.main import app
from studylib.errors import StudyError
from studylib.reports import lesson

GIVEN = {"model": "tiny", "seed": 0, "subject": "cat", "num_inference_steps": 12}
PLACE = f"## Methods\n\n{lesson.START}\nold\n{lesson.END}\n\nRead it."


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Three papers that recorded the lesson; the notebooks of `mini` and `other` have a place for the table."""
    root = make_workspace(tmp_path)
    monkeypatch.setenv("STUDY_ROOT", str(root))
    card = (root / "papers" / "mini" / "card.toml").read_text()
    for number, slug in enumerate(("mini", "other", "third")):
        folder = root / "papers" / slug
        (folder / "figures").mkdir(parents=True)
        (folder / "card.toml").write_text(card.replace('slug = "mini"', f'slug = "{slug}"'))
        strip = np.repeat(np.arange(6, dtype=np.uint8) * 40 + number, 8)[None, :, None].repeat(8, 0).repeat(3, 2)
        Image.fromarray(strip).save(folder / "figures" / "lesson.webp", lossless=True)
        write_results(root, slug, DINO=0.5 + number)
        if slug != "third":
            write_notebook(root / "notebooks" / f"{slug}.ipynb", [*standard_cells(), prose(PLACE)])
    return root


def write_results(root, slug, weights=None, changed=None, **row):
    metrics = {f"lesson: {name}": value for name, value in row.items()} | {"unrelated": 1.0}
    weights = {"studylib/sd/model.safetensors": "a"} | (weights or {})
    results = {"slug": slug, "params": GIVEN | (changed or {}), "claims": {}, "metrics": metrics, "weights": weights}
    (root / "papers" / slug / "results.json").write_text(json.dumps(results))


def page(root) -> str:
    return (root / "papers" / lesson.PAGE).read_text()


def test_all_notebooks_show_the_same_table(workspace):
    """Whichever was rendered last: the table is made once, and prose around it stays."""
    assert lesson.update_lesson() is True
    rows = [line for line in page(workspace).splitlines() if line.startswith("| ")]
    assert rows[0] == "| method | DINO |" and rows[2:] == ["| mini | 0.500 |", "| other | 1.500 |", "| third | 2.500 |"]
    texts = []
    for slug in ("mini", "other"):
        cells = json.loads((workspace / "notebooks" / f"{slug}.ipynb").read_text())["cells"]
        texts.append("".join(cells[-1]["source"]))
        assert all(row in texts[-1] for row in rows) and "](../papers/lesson.webp)" in texts[-1]
    assert texts[0] == texts[1] and texts[0].startswith("## Methods") and texts[0].endswith("Read it.")
    with Image.open(workspace / "papers" / lesson.SHEET) as sheet:
        assert sheet.width > sheet.height > 100
    assert lesson.update_lesson() is False, "written again without a change"


def test_another_lesson_is_left_out_and_said(workspace):
    """A row measured with another seed or subject would be a comparison of lessons, not of methods."""
    write_results(workspace, "mini", changed={"seed": 3, "subject": "boat"}, DINO=0.9)
    found = lesson.methods()
    assert list(found.rows) == list(found.strips) == ["other", "third"]
    (said,) = found.omitted
    assert said == "mini is left out: it was measured with seed=3 instead of 0, subject='boat' instead of 'cat'."
    lesson.update_lesson()
    assert said in page(workspace) and "0.900" not in page(workspace)


def test_other_weights_are_left_out_and_a_papers_own_do_not_count(workspace):
    """After a training of the base the papers not yet rendered show the old one: no table may hold two models."""
    write_results(workspace, "other", weights={"studylib/sd/model.safetensors": "b"}, DINO=0.9)
    write_results(workspace, "third", weights={"third/adapter.safetensors": "c"}, DINO=0.7)
    found = lesson.methods()
    assert list(found.rows) == ["mini", "third"]
    assert found.omitted == ["other is left out: it was measured with other weights, until it is rendered again."]


def test_rows_need_not_have_the_same_columns(workspace):
    """A method that trains nothing has no seconds and no file."""
    write_results(workspace, "other", **{"DINO": 0.25, "file (kB)": 9.0})
    table = lesson.markdown(lesson.methods())
    assert "| method | DINO | file (kB) |" in table and "| mini | 0.500 |  |" in table
    assert "| other | 0.250 | 9.000 |" in table


def test_without_a_row_nothing_is_written(workspace):
    """The first papers of a course may teach no subject."""
    for slug in ("mini", "other", "third"):
        write_results(workspace, slug)
    assert lesson.update_lesson() is None and not (workspace / "papers" / lesson.PAGE).exists()


def test_a_place_without_its_end_is_named(workspace):
    """Half a pair of markers would swallow the rest of the cell."""
    write_notebook(workspace / "notebooks" / "mini.ipynb", [*standard_cells(), prose(lesson.START)])
    with pytest.raises(StudyError, match="mini.ipynb has no place for the table of methods"):
        lesson.update_lesson()


def test_render_makes_the_table(workspace):
    """One step of `study render`, also when no paper is rendered: after a paper was removed, for instance."""
    (workspace / "README.md").write_text("<!-- papers:start -->\n<!-- papers:end -->\n")
    result = CliRunner().invoke(app, ["render", "index"])
    assert result.exit_code == 0 and "papers/LESSON.md: rewritten" in result.stdout, result.output
    assert "papers/LESSON.md: unchanged" in CliRunner().invoke(app, ["render", "index"]).stdout
