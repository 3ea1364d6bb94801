"""Sweeps: every point checked before the first starts, none lost, none run twice, and a clean end whatever happens."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque

import pytest
from mini_workspace import records, write_work

from studylib.errors import StudyError
from studylib.running import runs, sweeps
from studylib.running.engine import KernelDied
from studylib.running.grid import parse_grid
from studylib.running.pool import Pool

SLOW = "import time; time.sleep(0.2)"


def plan(*texts, **fixed):
    return sweeps.plan("mini", parse_grid("mini", list(texts)), fixed)


def command(workspace, *words, **options):
    return subprocess.Popen(
        [sys.executable, "-c", "from studylib.cli.main import app; app()", "sweep", "mini", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_grids_are_read_as_parameters_are(workspace):
    """What -p takes, -g takes, with lists and ranges besides."""
    assert parse_grid("mini", ["share=true,no", "steps=0..4..2", 'mode=["plain"]', "limit=none,3"]) == {
        "share": [True, False], "steps": [0, 2, 4], "mode": ["plain"], "limit": [None, 3],
    }  # fmt: skip
    assert parse_grid("mini", ["steps=-2..1"]) == {"steps": [-2, -1, 0, 1]}
    for text, said in (
        ("steps", "has no values"),
        ("steps=4..1", "holds no number"),
        ("steps=1,1", "1 twice"),
        ("steps=1,x", "steps takes a whole number"),
        ("stps=1", "no parameter 'stps'. Did you mean steps"),
        ('mode=["a"', "no JSON list"),
    ):
        with pytest.raises(StudyError, match=said):
            parse_grid("mini", [text])
    # refused by their size, before a value is made: 10^11 of them would fill the memory first
    for words, said in (
        (["steps=0..100000000000"], "100,000,000,001 values, more than 10,000"),
        (["steps=0..9999", "limit=0..9999"], "100,000,000 points, more than 10,000"),
        (["steps=" + ",".join("1" * 10_001)], "10,001 points, more than"),
        (["steps=0.." + "9" * 5000], "a number of more than 18 digits"),
        (["steps=" + "[" * 50_000], "no JSON list"),
    ):
        with pytest.raises(StudyError, match=said) as caught:
            parse_grid("mini", words)
        assert len(str(caught.value)) < 5_000
    with pytest.raises(StudyError, match="given twice"):
        parse_grid("mini", ["steps=1", "steps=2"])


def test_all_points_are_checked_before_the_first_starts(workspace):
    """An error at point 90 must not cost the hours of the 89 before it."""
    with pytest.raises(StudyError, match=r"point 3 of 3 .*strength is between 0 and 1"):
        plan("strength=0.5,1,2")
    with pytest.raises(StudyError, match="more than 10,000"):
        plan("steps=1..200", "strength=0.1,0.2", "limit=1..100")
    with pytest.raises(StudyError, match="steps is given by -g and by -p"):
        plan("steps=1,2", steps=3)
    assert not (workspace / "runs").exists()


def test_a_sweep_runs_each_point_once_and_the_rest_later(workspace):
    """The same command again runs only what is missing, also points that a single run has made."""
    runs.run("mini", {"steps": 2, "share": False})
    sweep = plan("share=true,false", "steps=1,2")
    wanted = [(True, 1), (True, 2), (False, 1), (False, 2)]
    assert [p.given for p in sweep.points] == [{"share": share, "steps": steps} for share, steps in wanted]
    assert [p.state for p in sweep.points] == ["missing"] * 3 + ["done"]
    said = io.StringIO()
    sweeps.run_sweep(sweep, jobs=2, stream=said)
    assert {p.state for p in sweep.points} == {"done"} and len(records("mini")) == 4
    assert "mini: 1 of 4 points are already done" in said.getvalue() and "[4/4]" in said.getvalue()
    saved = json.loads((workspace / "runs" / "mini" / "sweeps" / f"{sweep.sweep_id}.json").read_text())
    assert saved["grid"] == {"share": [True, False], "steps": [1, 2]}
    assert [p["run_id"] for p in saved["points"]] == [p.run_id for p in sweep.points]
    stamps = {record["run_id"]: record["started_at"] for record in records("mini")}
    again = sweeps.run_sweep(plan("steps=1,2", "share=false,true"))
    assert again.sweep_id == sweep.sweep_id and not again.missing()
    assert {record["run_id"]: record["started_at"] for record in records("mini")} == stamps


def test_a_failing_point_does_not_stop_the_others(workspace):
    """At the end the user needs to know which failed, in which cell, with what error."""
    write_work(workspace, "if steps == 2: raise ValueError('two is too many')")
    process = command(workspace, "-g", "steps=1..3", "--jobs", "2")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "2 of 3 points done, 1 failed" in out
    assert "failed: steps=2: cell 4 of mini.ipynb failed with ValueError: two is too many" in err
    assert sorted(record["params"]["steps"] for record in records("mini")) == [1, 3]


def test_dry_run_lists_the_points(workspace):
    """Before hours are spent, the list; nothing is written."""
    process = command(workspace, "-g", "steps=1..3", "-g", "share=true,false", "--dry-run")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "6 points, 6 to run" in out and "steps=3 share=False" in out
    assert not (workspace / "runs" / "mini").exists()


def test_nothing_starts_when_all_is_done(workspace):
    """A cluster of many machines was started to find that it had nothing to do."""
    sweep = plan("steps=1,2")
    for point in sweep.points:
        point.state = "done"
    assert sweeps.run_sweep(sweep, run_calls=lambda calls: pytest.fail("started")).missing() == []


def test_a_dry_run_says_how_long(workspace):
    """Minutes decide whether a grid is started; they come from what points took that are done."""
    assert sweeps.estimate(plan("steps=1..3"), 2) == ""
    results = {"claims": {}, "metrics": {}, "seconds": 120}
    (workspace / "papers" / "mini" / "results.json").write_text(json.dumps(results))
    said = sweeps.estimate(plan("steps=1..3"), 2)
    assert "about 4 minutes with --jobs 2 (as the rendered notebook took 120 s)" in said
    known = plan("steps=1..3")
    known.points[0].state, known.points[0].seconds = "done", 30.0
    assert "about 1 minutes with --jobs 1 (as a point that is done took 30 s)" in sweeps.estimate(known, 1)


def test_a_kernel_killed_by_the_system_is_tried_again(workspace):
    """Memory may be short for a moment only; an error of the notebook itself would only repeat."""
    died = workspace / "died"
    write_work(workspace, f"import os, pathlib; p = pathlib.Path({str(died)!r})",
             "if not p.exists(): p.touch(); os.kill(os.getpid(), 9)")
    said = io.StringIO()
    sweep = sweeps.run_sweep(plan("steps=1"), stream=said)
    assert sweep.points[0].state == "done" and "trying again" in said.getvalue()
    write_work(workspace, "import os", "os.kill(os.getpid(), 9)")
    sweep = sweeps.run_sweep(plan("steps=1"), retries=2)
    assert sweep.points[0].state == "failed" and "the kernel died in cell 5" in sweep.points[0].error


def test_out_of_memory_is_named(workspace, monkeypatch):
    """Both the system's killer and an allocation refused must read as what they are."""
    write_work(workspace, "raise MemoryError('no room')")
    with pytest.raises(StudyError, match="out of memory: cell 4 .*no room.*smaller model"):
        runs.run("mini")
    write_work(workspace, "import os", "os.kill(os.getpid(), 9)")
    kills = iter((4, 5))
    monkeypatch.setattr("studylib.running.engine.memory_kills", lambda: next(kills))
    with pytest.raises(KernelDied, match="out of memory: the kernel died in cell 5"):
        runs.run("mini")


def ended(pid, seconds=10.0):
    """Whether a process ends by itself; one that was killed exists until the system has collected it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_ends_cleanly_and_goes_on_later(workspace, number):
    """Ctrl-C in mid-sweep: finished points stay, running ones leave nothing, no process is left behind."""
    write_work(workspace, "import os, pathlib, time\npathlib.Path(f'pid{steps}').write_text(str(os.getpid()))\n"
             "time.sleep(60 if steps > 1 and not pathlib.Path('go').exists() else 0)")
    process = command(workspace, "-g", "steps=1..4", "--jobs", "2", start_new_session=True)
    marks = [workspace / "notebooks" / f"pid{i}" for i in (2, 3)]
    end = time.monotonic() + 120
    while not all(m.exists() and m.read_text() for m in marks):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "1 of 4 points done, 0 failed" in out, err
    assert "interrupted" in err and "Traceback" not in err
    assert all(ended(int(mark.read_text())) for mark in marks)
    assert not list((workspace / "runs" / "mini").glob(".*.part"))
    (workspace / "notebooks" / "go").touch()
    assert {p.state for p in sweeps.run_sweep(plan("steps=1..4"), jobs=2).points} == {"done"}


def test_two_sweeps_of_the_same_points_run_each_point_once(workspace):
    """Two people, or one in two windows: the second waits for the first's record."""
    log = workspace / "log"
    write_work(workspace, f"with open({str(log)!r}, 'a') as f: f.write(f'{{steps}}\\n')", SLOW)
    both = [command(workspace, "-g", "steps=1..4", "--jobs", "2") for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    assert sorted(log.read_text().split()) == ["1", "2", "3", "4"]


def test_threads_and_gpus_are_divided(monkeypatch):
    """Two workers with all threads each would be slower than one after the other."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    environments = sweeps.worker_environments(4)
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments] == ["2", "5", "2", "5"]
    assert {e["OMP_NUM_THREADS"] for e in environments} == {"2"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert sweeps.worker_environments(2) == [{}, {}]


def _double(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 4:
        raise StudyError("four", "never four", exit_code=7)
    return 2 * number, os.environ["SLOT"]


def _long(length):
    return "x" * length


def _complain(length):
    raise StudyError("y" * length, "less")


def test_pool_listens_while_it_waits():
    """A pipe holds 64 KiB: a worker with more to say would wait for ever, and the pool for it. Errors are cut."""
    ended = {e.number: e for e in Pool(2, [{}, {}]).run(deque([(0, _long, (300_000,)), (1, _complain, (300_000,))]))}
    assert ended[0].value == "x" * 300_000
    assert len(ended[1].error.cause) < 5_000 and ended[1].error.remedy == "less"


def test_pool_tells_how_each_call_ended():
    """A worker that is killed must be reported, and its slot must serve the next call."""
    pool = Pool(2, [{"SLOT": "a"}, {"SLOT": "b"}])
    ended = {e.number: e for e in pool.run(deque((i, _double, (i,)) for i in range(6)))}
    assert {i: e.value[0] for i, e in ended.items() if e.value} == {0: 0, 1: 2, 2: 4, 5: 10}
    assert {e.value[1] for e in ended.values() if e.value} <= {"a", "b"}
    assert ended[3].lost and "signal 9" in str(ended[3].error)
    assert (ended[4].error.cause, ended[4].error.remedy, ended[4].error.exit_code) == ("four", "never four", 7)
    assert not ended[4].lost and not pool.running
