"""Runs and their records: whole or absent, not repeated, mended after a failure."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from mini_workspace import PARAMETERS, WORK, code, records, standard_cells, write_notebook
from prewarmed import gone

from studylib.errors import StudyError
from studylib.files import write_atomically
from studylib.running import runs
from studylib.workspace import PACKAGE

KEYS = """slug run_id status params preset seconds peak_memory_mib device versions hardware weights git_commit
started_at metrics claims""".split()


def set_cells(workspace: Path, *sources: str) -> None:
    cells = [code(PARAMETERS, "parameters"), *map(code, sources)]
    write_notebook(workspace / "notebooks" / "mini.ipynb", cells)


def left_over(workspace: Path) -> list[str]:
    names = {path.name for path in (workspace / "runs" / "mini").glob("*")} - {".locks"}
    return sorted(name for name in names if not name.endswith(".failed"))


def test_finished_run_is_recorded_once(workspace):
    """The record must be enough to repeat a run, and an equal run must cost nothing."""
    first = runs.run("mini", {"steps": 7}, preset="weak")
    record = json.loads((first.folder / "record.json").read_text())
    assert list(record) == KEYS and record == first.record
    assert first.fresh and first.folder == workspace / "runs" / "mini" / record["run_id"]
    assert record["params"] == {"share": True, "steps": 7, "strength": 0.25, "mode": "plain", "limit": None}
    assert (record["status"], record["preset"], record["device"]) == ("finished", "weak", "cpu")
    assert record["metrics"] == {"strength": 0.25, "steps": 7.0}
    assert {id: claim["verdict"] for id, claim in record["claims"].items()} == {
        "identity": "held",
        "count": "failed",
        "rises": "held",
        "falls": "undecided",
        "liked": "not testable here",
    }
    assert 10 < record["peak_memory_mib"] < 2000 and record["seconds"] > 0.1
    again = runs.run("mini", {"steps": 7, "strength": 0.25})
    assert not again.fresh and again.record == record
    forced = runs.run("mini", {"steps": 7, "strength": 0.25}, force=True)
    assert forced.fresh and forced.record["started_at"] >= record["started_at"]
    assert left_over(workspace) == [record["run_id"]]
    assert records("mini") == [forced.record]


def test_failing_cell_is_named_and_kept_to_look_at(workspace):
    """The reader needs the cell, the error and the notebook as far as it ran; nobody needs half a record."""
    set_cells(workspace, "print('so far')", "raise ValueError('a first line\\nthe last line')")
    with pytest.raises(StudyError) as caught:
        runs.run("mini", {"steps": 4})
    error = caught.value
    assert error.exit_code == 1 and "\n" not in str(error)
    assert "cell 4 of mini.ipynb failed with ValueError: a first line / the last line" in error.cause
    kept = Path(error.remedy.removeprefix("See "))
    assert "so far" in kept.read_text() and not (kept.parent / "record.json").exists()
    assert left_over(workspace) == [] and records("mini") == []
    write_notebook(workspace / "notebooks" / "mini.ipynb", standard_cells())
    assert runs.run("mini", {"steps": 4}).fresh


def test_cell_over_its_time_is_stopped(workspace):
    """A cell that hangs must not hold a sweep for ever."""
    set_cells(workspace, "1", "import time; time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(StudyError, match="cell 4 of mini.ipynb ran longer than 1 s"):
        runs.run("mini", timeout=1)
    assert time.monotonic() - began < 20


def test_dead_kernel_is_named(workspace):
    """The system's memory killer takes the kernel without a word."""
    set_cells(workspace, "import os; os._exit(9)")
    with pytest.raises(StudyError, match="kernel died in cell 3"):
        runs.run("mini")


def test_notebook_without_record_is_refused(workspace):
    """A run that measured nothing must not look like one that did."""
    set_cells(workspace, WORK)
    with pytest.raises(StudyError, match="without record"):
        runs.run("mini")
    assert records("mini") == []


def test_bad_input_starts_no_kernel(workspace):
    """Every check comes before the seconds a kernel costs, and before a folder is made."""
    for given in ({"stps": 1}, {"steps": "1"}, {"strength": 2.0}):
        with pytest.raises(StudyError):
            runs.run("mini", given)
    assert not (workspace / "runs").exists()


def test_cuda_asked_and_absent(workspace):
    """torch's own error comes late and long."""
    import torch

    device = f"cuda:{torch.cuda.device_count()}"  # one more than there are
    parameters = code(PARAMETERS + "device: str = 'cpu'", "parameters")
    write_notebook(workspace / "notebooks" / "mini.ipynb", [parameters, *standard_cells()[2:]])
    with pytest.raises(StudyError, match=f"device {device} is asked for"):
        runs.run("mini", {"device": device})
    assert not (workspace / "runs").exists()


def test_full_disk_leaves_no_record(workspace, monkeypatch):
    """A record cut short by a full disk would be read as the truth later."""
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StudyError, match="the disk is full"):
        runs.run("mini")
    assert calls and records("mini") == [] and left_over(workspace) == []
    monkeypatch.setattr(os, "fsync", real)
    assert runs.run("mini").fresh


def test_atomic_write_keeps_the_old_file(tmp_path, monkeypatch):
    """A reader sees the old text or the new one."""
    path = tmp_path / "file.json"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StudyError, match="file.json could not be written"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("kill", "code_wanted"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 130)]
)
def test_interrupted_run_leaves_nothing_that_looks_finished(workspace, kill, code_wanted):
    """However a run ends, its kernel ends with it, and the next run starts clean."""
    pid_file = workspace / "kernel.pid"
    cell = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    set_cells(workspace, cell)
    command = [sys.executable, "-c", "from studylib.cli.main import app; app()", "run", "mini"]
    study = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: pid_file.is_file() and pid_file.read_text())
    study.send_signal(kill)
    said = study.communicate(timeout=120)[1]
    assert study.returncode == code_wanted
    assert ("interrupted; nothing was recorded" in said) == (kill != signal.SIGKILL)
    assert "Traceback" not in said
    wait_for(lambda: not alive(int(pid_file.read_text())))
    assert records("mini") == []
    write_notebook(workspace / "notebooks" / "mini.ipynb", standard_cells())
    done = runs.run("mini")
    assert left_over(workspace) == [done.record["run_id"]], "part folders of a killed run stay behind"


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    return not gone(pid, 0.1)


def test_progress_in_a_log_is_one_line_a_cell(workspace, tmp_path):
    """A log full of redrawn bars cannot be read."""
    with (tmp_path / "log").open("w") as log:
        runs.run("mini", {"steps": 9}, stream=log)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [f"mini: cell {n} of 4" for n in (1, 2, 3, 4)]


def test_plain_papermill_runs_the_notebook(workspace, tmp_path):
    """The notebooks must not depend on this command; without a run folder record() only shows its summary."""
    output = tmp_path / "out.ipynb"
    papermill = [sys.executable, "-m", "papermill", "--cwd", str(tmp_path), "-p", "steps", "8"]
    environment = {name: value for name, value in os.environ.items() if name != "STUDY_RUN_DIR"}
    paths = [str(PACKAGE.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    notebook = str(workspace / "notebooks" / "mini.ipynb")
    subprocess.run([*papermill, notebook, str(output)], check=True, env=environment, capture_output=True)
    shown = nbformat.read(output, 4).cells[-1].outputs[0].data["text/plain"]
    assert "mini: 2 held, 1 undecided, 1 failed, 1 not testable here" in shown and "steps = 8" in shown
    assert not (workspace / "runs").exists()
