"""Odd shells and odd places: closed files, letters that do not fit, long folders, other clones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mini_workspace import make_workspace, records

from studylib import workspace as places
from studylib.errors import StudyError
from studylib.running import engine, runs
from studylib.running.kernels import rendezvous
from studylib.running.parameters import check_parameters, parse_assignments
from studylib.workspace import PACKAGE

STUDY = [sys.executable, "-c", "from studylib.cli.main import app; app()"]


@pytest.mark.skipif(os.name != "posix", reason="a shell closes them")
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_files(workspace, closed):
    """`study run SLUG >&-` left a kernel for good: another file had taken the number."""
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *STUDY, "run", "mini"], timeout=300)
    assert done.returncode == 0 and len(records("mini")) == 1


def test_closed_files_of_a_launcher(workspace, environment):
    """JupyterLab may have been started without them."""
    script = "import os; os.close(0); os.close(1); from studylib.running import runs; runs.run('mini')"
    assert subprocess.run([sys.executable, "-c", script], env=environment, timeout=300).returncode == 0
    assert len(records("mini")) == 1


def test_letters_that_do_not_fit(workspace):
    """An argument that is no text, and a terminal that shows ASCII only."""
    done = subprocess.run([*STUDY, "run", "mini", "-p", b"mode=\xff"], capture_output=True, text=True)
    assert done.returncode == 2 and "not valid UTF-8" in done.stderr and len(done.stderr.splitlines()) == 1
    card = workspace / "papers" / "mini" / "card.toml"
    card.write_text(card.read_text().replace("A Small Study", "Übung — β"), encoding="utf-8")
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    for words in (["list"], ["list", "mini"]):
        done = subprocess.run([*STUDY, *words], capture_output=True, env=ascii_only)
        assert done.returncode == 0 and not done.stderr
    assert b"bung" in done.stdout


def test_a_notebook_may_name_no_kernel(workspace):
    """Editors other than Jupyter leave kernelspec and language out."""
    path = workspace / "notebooks" / "mini.ipynb"
    notebook = json.loads(path.read_text())
    notebook["metadata"] = {}
    path.write_text(json.dumps(notebook))
    assert runs.run("mini", {"steps": 5}).fresh


def test_a_long_temporary_folder(tmp_path, monkeypatch):
    """A socket's path has a hundred bytes: each run waited for a template that could not listen."""
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    folder = rendezvous.private_folder()
    assert len(str(folder)) < 80 and folder.is_dir()


def test_numbers_that_no_record_holds(workspace):
    """Integers beyond 64 bits were computed with, and the record was dropped later."""
    for text in (str(2**63), "9" * 5000):
        with pytest.raises(StudyError) as caught:
            check_parameters("mini", parse_assignments("mini", [f"steps={text}"]))
        assert len(str(caught.value)) < 5000
    with pytest.raises(StudyError, match="64 bits"):
        check_parameters("mini", {"strength": 10**400})


def test_all_wrong_parameters_are_named_at_once(workspace):
    """Three tries for three slips."""
    with pytest.raises(StudyError) as caught:
        parse_assignments("mini", ["stps=1", "steps=x", "mode", "share=2", "strength=7"])
    words = ("'stps'", "not 'x'", "-p mode has no value", "not '2'", "strength is between 0 and 1")
    assert all(one in str(caught.value) for one in words)


def test_a_library_of_another_clone(tmp_path, monkeypatch):
    """The `study` of one clone run inside another computed with one and hashed the other."""
    monkeypatch.delenv("STUDY_ROOT", raising=False)
    other = make_workspace(tmp_path / "other")
    monkeypatch.chdir(other / "notebooks")
    with pytest.raises(StudyError, match="you stand in the workspace"):
        places.find_root()
    monkeypatch.setenv("STUDY_ROOT", str(other))
    assert places.find_root() == other
    (other / "studylib").mkdir()
    with pytest.raises(StudyError, match="library of its own"):
        places.find_root()


def test_a_library_installed_without_its_checkout(tmp_path, monkeypatch):
    """`pip install .`: kernels must import the library that was hashed, and the checkout's papers."""
    checkout, site = make_workspace(tmp_path / "checkout"), tmp_path / "site" / "studylib"
    site.mkdir(parents=True)
    (checkout / "studylib").mkdir()
    monkeypatch.setattr(places, "PACKAGE", site)
    monkeypatch.delenv("STUDY_ROOT", raising=False)
    monkeypatch.chdir(checkout)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    paths = places.import_paths()
    assert paths["PYTHONPATH"].split(os.pathsep) == [str(site.parent), str(checkout)]
    monkeypatch.setattr(places, "PACKAGE", PACKAGE)
    monkeypatch.setenv("STUDY_ROOT", str(make_workspace(tmp_path / "plain")))
    first = places.import_paths()["PYTHONPATH"].split(os.pathsep)[0]
    assert Path(first) == tmp_path / "plain"


@pytest.mark.parametrize("name", ["~nobody-here/x", "a" * 400, "x\0y"])
def test_paths_that_cannot_exist(workspace, monkeypatch, name):
    """Unknown users and names of a thousand letters ended in "unexpected ..."."""
    from studylib.files import given_path
    from studylib.models.files import check_model

    for read in (given_path, lambda text: check_model(text, "tiny")):
        with pytest.raises(StudyError, match="is no path"):
            read(name)


def test_kernels_know_where_runs_are(workspace, monkeypatch):
    """A relative STUDY_RUNS means the user's place, not the kernel's."""
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("STUDY_RUNS", "here")
    assert engine.kernel_environment(workspace, None)["STUDY_RUNS"] == str(workspace / "here")
