"""The points of a sweep as tasks on a Ray cluster: the project travels there, records come back here."""

from __future__ import annotations

import importlib.util
import os
import platform
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from studylib.errors import StudyError
from studylib.files import disk_errors
from studylib.running.folder import only_one, replace_folder
from studylib.running.pool import Calls, Ended
from studylib.running.scratch import scratch_folder
from studylib.workspace import find_root, runs_folder

LEFT_HERE = (".git", ".venv", "runs", "**/__pycache__", "**/.ipynb_checkpoints", "*.part")  # not sent to the cluster
MAX_TRIES = 3  # more for a point whose node or worker was lost
MAX_IN_FLIGHT = 1000  # tasks that Ray holds at a time
PORT_SECONDS, ANSWER_SECONDS = 10, 60  # for a port to open, and for a cluster to say that it is there
GONE_SECONDS = 30.0  # for tasks to be cancelled


def on_ray(address: str | None, *, gpus: float | None = None) -> Callable[[Calls], Iterator[Ended]]:
    """What `run_sweep` takes as `run_calls`: each call is one Ray task on the cluster at `address`, None for the one
    that this machine belongs to or, without one, a cluster of this machine alone.

    `gpus` is what a run asks for; None asks for one where the cluster has any. A task whose node is lost is run again
    on another; its record is written here and once. StudyError if Ray is not installed or does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise StudyError("Ray is not installed", "Install it: pip install -e '.[cluster]'") from error
    if address is not None and importlib.util.find_spec("grpc") is None:
        raise StudyError("Ray's client is not installed", "Install it: pip install -e '.[cluster]'")

    def run_calls(calls: Calls) -> Iterator[Ended]:
        mine = not ray.is_initialized()
        if mine:
            start(ray, address)
        try:
            yield from submit(ray, calls, gpus, again=partial(restart, ray, address) if mine else None)
        finally:
            if mine:
                ray.shutdown()

    return run_calls


def start(ray: Any, address: str | None) -> None:
    """Connect to a cluster and send the project along as each task's working folder."""
    environment = {"working_dir": str(find_root()), "excludes": list(LEFT_HERE)}
    options = {"runtime_env": environment, "log_to_driver": False, "logging_level": "ERROR"}
    try:
        if answers(address or "auto"):
            ray.init(address or "auto", **options)
        else:
            ray.init(include_dashboard=False, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "exceeds the maximum size" in str(error):
            cause = f"the project is larger than what Ray sends to a cluster: {said}"
            raise StudyError(cause, f"Move large files, such as models and data, out of {find_root()}") from error
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise StudyError(f"no Ray cluster answers at {where}: {said}", "Start one with `ray start --head`") from error


def restart(ray: Any, address: str | None) -> None:
    """Connect again after this machine's own part of the cluster was lost."""
    ray.shutdown()
    start(ray, address)


def answers(address: str) -> bool:
    """Tell whether a cluster answers. ConnectionError where one is named, by `address` or RAY_ADDRESS, and does not.

    A dead address keeps `ray.init` for minutes: first its port is tried, then a process that can be ended connects.
    """
    named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = named.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=PORT_SECONDS).close()
    script = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR', namespace='study')"
    command = [sys.executable, "-c", script, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS)
        said = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it does not say why"])[-1]
    except subprocess.TimeoutExpired:
        said = f"no answer in {ANSWER_SECONDS} s"
    if said and named:
        raise ConnectionError(said)
    return not said


def submit(ray: Any, calls: Calls, gpus: float | None, again: Callable[[], None] | None = None) -> Iterator[Ended]:
    """Keep the cluster busy and yield how each call ended; what still runs when the caller stops is cancelled.

    A call whose node was lost is made again, on the cluster that `again` connects to if this machine's part was lost.
    """
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
    flying: dict[Any, tuple[int, Any, tuple[Any, ...]]] = {}
    lost: Counter[int] = Counter()
    try:
        task = remote(ray, gpus)
        while calls or flying:
            while calls and len(flying) < MAX_IN_FLIGHT:
                call = calls.popleft()
                flying[task.remote(*call[2][:5])] = call
            for reference in ray.wait(list(flying), num_returns=1)[0]:
                call = flying.pop(reference)
                ended, local = land(ray, reference, call)
                if not ended.lost or lost[call[0]] == MAX_TRIES:
                    yield ended
                    continue
                lost[call[0]] += 1
                calls.append(call)
                if local and again is not None:
                    calls.extend(flying.values())
                    flying.clear()
                    again()
                    task = remote(ray, gpus)
    finally:
        for reference in flying:
            ray.cancel(reference, force=True)
        if flying:
            ray.wait(list(flying), num_returns=len(flying), timeout=GONE_SECONDS)


def remote(ray: Any, gpus: float) -> Any:
    """The task that runs one point."""
    return ray.remote(num_cpus=1, num_gpus=gpus, max_retries=MAX_TRIES, retry_exceptions=False)(run_there)


def land(ray: Any, reference: Any, call: tuple[int, Any, tuple[Any, ...]]) -> tuple[Ended, bool]:
    """Write a task's run folder into this workspace's runs, whole or not at all; tell also whether the connection to
    the cluster was lost with it."""
    number, _, (slug, *_, id) = call
    try:
        answer = ray.get(reference)
    except ray.exceptions.RayError as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        cause = f"its task was lost {MAX_TRIES + 1} times: {said}"
        gone = isinstance(error, ray.exceptions.LocalRayletDiedError)
        return Ended(number, error=StudyError(cause, "Look at the nodes: `ray status`", exit_code=1), lost=True), gone
    if isinstance(answer, StudyError):
        return Ended(number, error=answer), False
    there, seconds, files = answer
    if there != id:
        cause = f"the cluster computed run {there}, not {id}: its Python or its files differ from those here"
        return Ended(number, error=StudyError(cause, "Install the same versions on every node", exit_code=1)), False
    folder = runs_folder() / slug / id
    part = folder.with_name(f".{id}.{platform.node()}.{os.getpid()}.part")
    with disk_errors(part), only_one(folder.parent, id, None):
        for name, content in files.items():
            path = part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (part / "figures").mkdir(parents=True, exist_ok=True)
        replace_folder(part, folder)
    return Ended(number, seconds), False


def run_there(
    slug: str, given: dict[str, Any], preset: str | None, timeout: int, prewarmed: bool | None
) -> tuple[str, float, dict[str, bytes]] | StudyError:
    """On a node: run one point in the copy of the project that came along; its id, seconds and files.

    An error is returned, not raised: Ray would wrap it and lose what it says.
    """
    os.environ["STUDY_ROOT"] = os.getcwd()
    with scratch_folder("study-runs-") as folder:
        os.environ["STUDY_RUNS"] = str(folder)
        return run_in_scratch(slug, given, preset, timeout, prewarmed)


def run_in_scratch(
    slug: str, given: dict[str, Any], preset: str | None, timeout: int, prewarmed: bool | None
) -> tuple[str, float, dict[str, bytes]] | StudyError:
    """Run one point into the node's temporary folder; what `run_there` returns."""
    from studylib.running import runs

    try:
        done = runs.run(slug, given, preset=preset, timeout=timeout, prewarmed=prewarmed)
        files = {str(p.relative_to(done.folder)): p.read_bytes() for p in done.folder.rglob("*") if p.is_file()}
        return done.record["run_id"], done.record["seconds"], files
    except StudyError as error:
        remedy = error.remedy.partition("See ")[0].rstrip(". ")  # the notebook that failed stays on the node
        return type(error)(error.cause, remedy, exit_code=error.exit_code)
