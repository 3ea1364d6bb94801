"""Records that a hand or a crash has changed, and folders that hold what nobody put there: repaired, never believed."""

import json
import os
import platform
import subprocess
import sys
import time

import pytest
from mini_workspace import records

from studylib.running import runs, sweeps
from studylib.running.folder import STALE_SECONDS, remove_stale

DAMAGES = {
    "empty": lambda text: "",
    "cut short": lambda text: text[: len(text) // 2],
    "no text": lambda text: "\0" * 100,
    "a list": lambda text: "[]",
    "an empty object": lambda text: "{}",
    "another run's": lambda text: text.replace('"run_id": "', '"run_id": "f'),
    "another paper's": lambda text: text.replace('"slug": "mini"', '"slug": "maxi"'),
    "unfinished": lambda text: text.replace('"finished"', '"running"'),
    "other parameters": lambda text: text.replace('"steps": 3', '"steps": 4'),
    "no claims": lambda text: text.replace('"claims"', '"verdicts"'),
    "a word for a number": lambda text: text.replace('"metrics": {', '"metrics": {"score": "much",'),
    "not a number": lambda text: text.replace('"metrics": {', '"metrics": {"score": NaN,'),
    "a long number": lambda text: text.replace('"seconds": ', '"seconds": ' + "9" * 5000),
    "deep brackets": lambda text: "[" * 100_000,
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The text of a record as a run wrote it."""
    from mini_workspace import make_workspace

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDY_ROOT", str(make_workspace(tmp_path_factory.mktemp("sound"))))
        patch.setenv("STUDY_KERNELS", "plain")
        patch.delenv("STUDY_RUNS", raising=False)
        return (runs.run("mini").folder / "record.json").read_text()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_not_done(workspace, sound, damage):
    """A sweep counted it as done and never repaired it: one reader, which checks, now decides for runs and sweeps."""
    (point,) = sweeps.plan("mini", {}, {}).points
    folder = workspace / "runs" / "mini" / point.run_id
    folder.mkdir(parents=True)
    text = sound.replace(json.loads(sound)["run_id"], point.run_id)
    (folder / "record.json").write_text(text)
    assert sweeps.plan("mini", {}, {}).points[0].state == "done"
    changed = DAMAGES[damage](text)
    assert changed != text
    (folder / "record.json").write_text(changed)
    assert sweeps.plan("mini", {}, {}).points[0].state == "missing"


def test_a_damaged_record_is_written_again(workspace, tmp_path):
    """The user has asked for a result: the run says what was wrong and gives a sound record."""
    done = runs.run("mini")
    (done.folder / "record.json").write_text("{}")
    with (tmp_path / "log").open("w") as log:
        again = runs.run("mini", stream=log)
    assert again.fresh and records("mini") == [again.record]
    assert "damaged" in (tmp_path / "log").read_text().splitlines()[0]


def test_strange_entries_do_not_stop_a_paper(workspace):
    """People and other programs put things anywhere."""
    home = workspace / "runs" / "mini"
    (home / ".locks" / "folder").mkdir(parents=True)
    (point,) = sweeps.plan("mini", {}, {}).points
    for name in (".x.part", ".a.b.part", f".{'9' * 40}.part", "notes", point.run_id, f"{point.run_id}.failed"):
        (home / name).write_text("mine")
    for name in (".y.part", ".a.b.c.part", f".{point.run_id}.host.{'9' * 40}.part", "sweeps.json"):
        (home / name).mkdir()
    done = runs.run("mini")
    assert done.fresh and (home / "notes").read_text() == "mine" and (home / ".y.part").is_dir()
    (done.folder / "record.json").unlink()
    (done.folder / "record.json").mkdir()
    assert runs.run("mini").fresh


def test_a_relative_runs_folder_is_where_the_user_stands(workspace, monkeypatch):
    """A kernel works in another folder: the whole run was computed there and lost."""
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("STUDY_RUNS", "mine/runs")
    done = runs.run("mini")
    assert done.folder.parent == workspace / "mine" / "runs" / "mini" and (done.folder / "notebook.ipynb").is_file()
    assert not runs.run("mini").fresh and not (workspace / "notebooks" / "mine").exists()


@pytest.mark.parametrize("host", ["elsewhere", platform.node()])
def test_a_living_run_is_never_swept(workspace, host):
    """In a shared folder age says nothing: a run whose lock is held stays, however old its files are."""
    home = workspace / "runs" / "mini"
    part = home / f".{'a' * 12}.{host}.{2**22 - 1}.part"
    (part / "figures").mkdir(parents=True)
    (home / ".locks").mkdir()
    old = time.time() - 10 * STALE_SECONDS
    for path in (part / "figures", part):
        os.utime(path, (old, old))
    hold = "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); print(flush=True)"
    command = [sys.executable, "-c", f"{hold}; sys.stdin.read()", str(home / ".locks" / ("a" * 12))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        remove_stale(home, "b" * 12)
        assert part.is_dir() and (home / ".locks" / ("a" * 12)).exists()
    if host == "elsewhere":
        (part / "figures" / "new.webp").touch()  # it works still, and its lock is not seen here
        remove_stale(home, "b" * 12)
        assert part.is_dir()
        os.utime(part / "figures" / "new.webp", (old, old))
        os.utime(part / "figures", (old, old))
    remove_stale(home, "b" * 12)
    assert not part.exists() and not list((home / ".locks").iterdir())
