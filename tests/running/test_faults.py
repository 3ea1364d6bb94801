"""Whatever is killed, and whenever: no record that looks finished, no process left, and the next call repairs."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from mini_workspace import records, write_work
from prewarmed import gone, templates

from studylib.errors import StudyError
from studylib.running import runs

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc")
PAUSE = "Path(MARK).write_text('here'); time.sleep(120)"
PHASES = {  # where the runner stops and waits to be killed
    "before the kernel starts": f"engine.execute = lambda *_, **__: ({PAUSE.replace(';', ',')})",
    "before the record is written": f"""
        write = runs.write_atomically
        def stop(path, content):
            {PAUSE}
        runs.write_atomically = stop
    """,
    "between record and final name": f"""
        def stop(part, folder):
            assert (part / "record.json").is_file()
            {PAUSE}
        runs.replace_folder = stop
    """,
    "between two final names": f"""
        rename = Path.rename
        def stop(self, target):
            if self.name.endswith(".part"):
                {PAUSE}
            return rename(self, target)
        Path.rename = stop
    """,
    "in mid-cell": "",
}


@pytest.mark.parametrize("kernels", ["prewarmed", "plain"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_runner_killed_leaves_nothing_that_looks_finished(workspace, environment, phase, kernels):
    """SIGKILL gives no time to clean up: what was begun must be seen to be unfinished."""
    mark, pid_file = workspace / "mark", workspace / "pid"
    begin = f"import os, time\nfrom pathlib import Path\nPath({str(pid_file)!r}).write_text(str(os.getpid()))"
    wait = f"mark = Path({str(mark)!r})\nif not mark.exists(): mark.touch(); time.sleep(120)"
    write_work(workspace, begin, wait if phase == "in mid-cell" else "")
    script = "import time\nfrom pathlib import Path\nfrom studylib.running import engine, runs\n"
    script += f"MARK = {str(mark)!r}\n"
    script += textwrap.dedent(PHASES[phase]) + f"\nruns.run('mini', force=True, prewarmed={kernels == 'prewarmed'})\n"
    if phase == "between two final names":
        runs.run("mini")  # whose folder the new one is to replace
    runner = subprocess.Popen([sys.executable, "-c", script], env=environment)
    end = time.monotonic() + 120
    while not mark.exists():
        assert runner.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    runner.kill()
    runner.wait()
    assert phase.startswith("before the kernel") or gone(int(pid_file.read_text()))
    assert records("mini") == []
    again = runs.run("mini", prewarmed=kernels == "prewarmed")
    assert again.fresh and records("mini") == [again.record]
    names = {path.name for path in again.folder.parent.iterdir()} - {".locks"}
    assert names == {again.folder.name}
    assert not list((again.folder.parent / ".locks").iterdir())


def test_a_template_killed_before_a_run_is_replaced(workspace, environment, sockets):
    """The socket file of a dead template stays behind; nobody answers there."""
    runs.run("mini", prewarmed=True)
    (template,) = templates(sockets)
    os.kill(template, signal.SIGKILL)
    assert gone(template)
    assert runs.run("mini", prewarmed=True, force=True).fresh
    assert templates(sockets) and template not in templates(sockets)


def test_a_full_disk_is_named_and_leaves_no_record(workspace, tmp_path, monkeypatch):
    """A real file system of 64 KiB: the run cannot be written, says so, and is whole on the next try elsewhere."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        write_work(workspace, "print('x' * 100_000)")
        monkeypatch.setenv("STUDY_RUNS", str(small))
        with pytest.raises(StudyError, match="the disk is full") as caught:
            runs.run("mini")
        assert "See" not in str(caught.value) and not list(small.glob("mini/*.failed"))
        assert records("mini") == []
        monkeypatch.delenv("STUDY_RUNS")
        assert runs.run("mini").fresh
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_link_out_of_the_runs_folder_is_refused(workspace, tmp_path):
    """A run folder, or a paper's, that leads elsewhere would have another place overwritten or read as truth."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    first = runs.run("mini")
    first.folder.rename(elsewhere / "kept")
    first.folder.symlink_to(elsewhere / "kept")
    with pytest.raises(StudyError, match="outside"):
        runs.run("mini", force=True)
    first.folder.unlink()
    home = first.folder.parent
    home.rename(elsewhere / "home")
    home.symlink_to(elsewhere / "home")
    with pytest.raises(StudyError, match="outside"):
        runs.run("mini")
    for slug in ("../mini", "mini/../mini", "..", ""):
        with pytest.raises(StudyError, match="no paper is called"):
            runs.run(slug)
    assert sorted(path.name for path in elsewhere.iterdir()) == ["home", "kept"]
