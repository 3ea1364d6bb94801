"""Sweeps on a real Ray cluster of several nodes, started on this machine; one of them is lost on the way."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections import deque

import pytest
from mini_workspace import make_workspace, records, write_work
from prewarmed import gone

from studylib.errors import StudyError
from studylib.running import cluster, sweeps
from studylib.running.grid import parse_grid
from studylib.workspace import PACKAGE

pytest.importorskip("ray", reason="the extra `cluster` is not installed")
HEAD = {"num_cpus": 0, "include_dashboard": False}
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace with a library of its own, as a checkout is: that is what travels to the nodes."""
    import shutil

    make_workspace(tmp_path)
    ignored = shutil.ignore_patterns("weights", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "studylib", ignore=ignored)
    for name in ("STUDY_ROOT", "STUDY_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("RAY_DISABLE_IMPORT_WARNING", "1")
    return tmp_path


@pytest.fixture
def nodes():
    """A cluster of a head that runs nothing and two nodes that run one task each."""
    from ray.cluster_utils import Cluster

    ray_cluster = Cluster(initialize_head=True, head_node_args=HEAD)
    workers = [ray_cluster.add_node(**NODE) for _ in range(2)]
    ray_cluster.wait_for_nodes()
    yield ray_cluster, workers
    ray_cluster.shutdown()


def sweep(workspace, *words, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", "from studylib.cli.main import app; app()", "sweep", "mini", "--plain", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=workspace, env=dict(os.environ) | environment,
    )  # fmt: skip


def test_a_node_lost_in_mid_sweep_costs_no_point(workspace, nodes):
    """The points of the lost node are run again on the other; each has exactly one record, written here."""
    ray_cluster, workers = nodes
    log = workspace / "log"
    log.mkdir()
    write_work(
        workspace,
        f"import os, pathlib, time\nlog = pathlib.Path({str(log)!r})",
        "(log / f'{steps}.{os.getpid()}').touch()\nwhile not (log / 'go').exists(): time.sleep(0.1)",
    )
    process = sweep(workspace, "-g", "steps=1..4", "--on", "ray", RAY_ADDRESS=ray_cluster.address)
    end = time.monotonic() + 240
    while len(list(log.iterdir())) < 2:  # both nodes are at work
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)
    kernels = [int(path.name.partition(".")[2]) for path in log.iterdir()]
    ray_cluster.remove_node(workers[0], allow_graceful=False)
    while not any(gone(pid, 0.1) for pid in kernels):  # the node's workers see that it is lost, and end
        assert time.monotonic() < end
    (log / "go").touch()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "4 of 4 points done" in out, err
    begun = sorted(int(path.name.partition(".")[0]) for path in log.glob("*.*"))
    assert len(begun) == 5 and set(begun) == {1, 2, 3, 4}, "one point was begun twice, on two nodes"
    records = [json.loads(path.read_text()) for path in (workspace / "runs" / "mini").glob("*/record.json")]
    assert sorted(record["params"]["steps"] for record in records) == [1, 2, 3, 4]
    again = sweep(workspace, "-g", "steps=1..4", "--dry-run")
    assert "4 points, 0 to run" in again.communicate(timeout=60)[0]


def test_an_error_on_a_node_reads_as_it_does_here(workspace, nodes, monkeypatch):
    """The cell and the error, without Ray's own pages of traceback; the other points are run."""
    ray_cluster, _ = nodes
    write_work(workspace, "if steps == 2: raise ValueError('two is too many')")
    process = sweep(workspace, "-g", "steps=1..3", "--on", "ray", RAY_ADDRESS=ray_cluster.address)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "2 of 3 points done, 1 failed" in out, err
    assert "failed: steps=2: cell 4 of mini.ipynb failed with ValueError: two is too many" in err
    assert "Traceback" not in err


def test_no_cluster_is_one_clear_error(tmp_path, monkeypatch):
    """A wrong address must not end in a page of Ray's log."""
    monkeypatch.setenv("STUDY_ROOT", str(make_workspace(tmp_path)))
    plan = sweeps.plan("mini", parse_grid("mini", ["steps=1,2"]), {})
    client = importlib.util.find_spec("grpc") is not None
    said = "no Ray cluster answers at ray://127.0.0.1:9" if client else "Ray's client is not installed. .*cluster"
    with pytest.raises(StudyError, match=said):
        sweeps.run_sweep(plan, run_calls=cluster.on_ray("ray://127.0.0.1:9"))
    assert records("mini") == [] and not {p.state for p in plan.points} & {"done", "failed"}


def test_a_dead_address_is_not_waited_for(tmp_path, monkeypatch):
    """A cluster that was, or a host that is silent, kept `ray.init` for minutes."""
    monkeypatch.setenv("STUDY_ROOT", str(make_workspace(tmp_path)))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    plan = sweeps.plan("mini", parse_grid("mini", ["steps=1,2"]), {})
    with pytest.raises(StudyError, match="no Ray cluster answers at 127.0.0.1:9: .*refused"):
        sweeps.run_sweep(plan, run_calls=cluster.on_ray(None))
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StudyError, match="no answer in 3 s"):
            sweeps.run_sweep(plan, run_calls=cluster.on_ray(None))


class Reference:
    """A task that was submitted, one of several for the same point."""

    def __init__(self, step):
        self.step = step


class Lossy:
    """As much of Ray as `submit` uses: tasks whose nodes are lost a number of times before they answer."""

    class exceptions:  # noqa: N801 - Ray's own name
        class RayError(Exception):
            pass

        class LocalRayletDiedError(RayError):
            pass

    def __init__(self, losses, error):
        self.losses, self.error = losses, error

    def remote(self, **_):
        return lambda function: self.Task()

    class Task:
        def remote(self, *arguments):
            return Reference(arguments[1]["steps"])

    def wait(self, references, **_):
        return references[:1], references[1:]

    def get(self, reference):
        self.losses[reference.step] -= 1
        if self.losses[reference.step] >= 0:
            raise self.error("its raylet was killed")
        return StudyError("ran", exit_code=1)

    def cancel(self, *_, **__):
        pass


@pytest.mark.parametrize("kind", ["RayError", "LocalRayletDiedError"])
def test_a_lost_task_is_made_again_as_promised(kind):
    """A raylet killed in mid-sweep failed 4 of 6 points: what Ray gives up is submitted again, on a new connection
    where this machine's own was lost."""
    error = getattr(Lossy.exceptions, kind)
    ray = Lossy({1: 0, 2: 1, 3: cluster.MAX_TRIES, 4: 99}, error)
    connected = []
    calls = deque((step, None, ("mini", {"steps": step}, None, 9, None, "id")) for step in (1, 2, 3, 4))
    ended = {e.number: e for e in cluster.submit(ray, calls, 0.0, again=lambda: connected.append(1))}
    assert {number for number, one in ended.items() if one.error.cause == "ran"} == {1, 2, 3}
    assert ended[4].lost and "lost 4 times" in ended[4].error.cause
    assert bool(connected) == (kind == "LocalRayletDiedError")
