"""Whatever is killed, and whenever: no record that looks finished, no process left, and the next call repairs."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from jupyter_client.kernelspec import KernelSpec
from mini_workspace import records, write_work
from prewarmed import gone, templates

from studylib.errors import StudyError
from studylib.running import engine, runs
from studylib.running.scratch import scratch_folder

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


@pytest.mark.parametrize("prewarmed", [True, False])
def test_what_a_killed_kernel_started_ends_with_it(workspace, environment, prewarmed):
    """The system's memory killer takes one process: what the notebook had started must not hold its memory on."""
    file = workspace / "child"
    start = f"import os, subprocess; open({str(file)!r}, 'w').write(str(subprocess.Popen(['sleep', '999']).pid))"
    write_work(workspace, start, "os.kill(os.getpid(), 9)")
    with pytest.raises(StudyError, match="the kernel died in cell 5"):
        runs.run("mini", prewarmed=prewarmed)
    assert gone(int(file.read_text()))


def test_a_plain_kernel_takes_its_children_along(workspace, tmp_path):
    """The runner is killed: ipykernel ended itself and left what it had started."""
    file = workspace / "child"
    start = f"import os, subprocess; open({str(file)!r}, 'w').write(str(subprocess.Popen(['sleep', '999']).pid))"
    write_work(workspace, start, "import time; time.sleep(999)")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    script = "from studylib.running import runs; runs.run('mini')"
    runner = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"TMPDIR": str(scratch)})
    end = time.monotonic() + 120
    while not (file.exists() and file.read_text()):
        assert runner.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    assert list(scratch.iterdir())
    runner.kill()
    runner.wait()
    assert gone(int(file.read_text()))
    while list(scratch.iterdir()):  # the kernel removes its client's temporary folder as it ends
        assert time.monotonic() < end
        time.sleep(0.02)


def test_temporary_folders_of_the_dead_are_swept(tmp_path, monkeypatch):
    """Each killed runner left one for good. Folders in use, and other programs' folders of such a name, stay."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    hold = "import os; from studylib.running.scratch import scratch_folder\n"
    hold += "with scratch_folder() as f: print(f, flush=True);"
    (tmp_path / "study-notes").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    dead = subprocess.run(
        [sys.executable, "-c", f"{hold} os._exit(0)"], env=environment, stdout=subprocess.PIPE, text=True
    ).stdout.strip()  # fmt: skip
    assert os.path.isdir(dead)
    with subprocess.Popen(
        [sys.executable, "-c", f"{hold} os.read(0, 1)"],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        alive = holder.stdout.readline().strip()
        with scratch_folder() as mine:
            assert not os.path.exists(dead) and os.path.isdir(alive)
            assert sorted(map(str, tmp_path.iterdir())) == sorted([str(mine), alive, str(tmp_path / "study-notes")])
        holder.stdin.close()
    assert [path.name for path in tmp_path.iterdir()] == ["study-notes"]


@pytest.mark.parametrize("dying", [1, 2])
def test_a_kernel_that_dies_before_it_answers_is_replaced(workspace, monkeypatch, dying):
    """Nothing was executed yet, so another kernel takes its place; it ended in "unexpected RuntimeError"."""
    count = workspace / "count"
    stub = workspace / "stub.py"
    stub.write_text(
        "import os, runpy, sys\n"
        f"count = os.path.getsize({str(count)!r})\n"
        f"open({str(count)!r}, 'a').write('x')\n"
        f"if count < {dying}: os.kill(os.getpid(), 9)\n"
        "runpy.run_module('studylib.running.kernels.plain', run_name='__main__')\n"
    )
    count.touch()
    spec = KernelSpec(argv=[sys.executable, str(stub), "-f", "{connection_file}"], display_name="", language="python")
    monkeypatch.setattr(engine.SameInterpreterSpecs, "get_kernel_spec", lambda *_: spec)
    if dying == 1:
        assert runs.run("mini").fresh and count.read_text() == "xx"
    else:
        with pytest.raises(engine.KernelDied, match="died before replying"):
            runs.run("mini")
        assert runs.run("mini").fresh


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
