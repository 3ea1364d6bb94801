"""The points of a sweep as tasks on a Ray cluster: the project travels there, records come back here."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from studylib.errors import StudyError
from studylib.files import disk_errors
from studylib.running.folder import replace_folder
from studylib.running.pool import Calls, Ended
from studylib.workspace import find_root, runs_folder

LEFT_HERE = (".git", ".venv", "runs", "**/__pycache__", "**/.ipynb_checkpoints", "*.part")  # not sent to the cluster
MAX_TRIES = 3  # more for a point whose node or worker was lost
MAX_IN_FLIGHT = 1000  # tasks that Ray holds at a time
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

    def run_calls(calls: Calls) -> Iterator[Ended]:
        mine = not ray.is_initialized()
        if mine:
            start(ray, address)
        try:
            yield from submit(ray, calls, gpus)
        finally:
            if mine:
                ray.shutdown()

    return run_calls


def start(ray: Any, address: str | None) -> None:
    """Connect to a cluster and send the project along as each task's working folder."""
    environment = {"working_dir": str(find_root()), "excludes": list(LEFT_HERE)}
    options = {"runtime_env": environment, "log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            with contextlib.suppress(ConnectionError):
                ray.init("auto", **options)
                return
            ray.init(include_dashboard=False, **options)
        else:
            ray.init(address, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "exceeds the maximum size" in str(error):
            cause = f"the project is larger than what Ray sends to a cluster: {said}"
            raise StudyError(cause, f"Move large files, such as models and data, out of {find_root()}") from error
        where = address or "this machine"
        raise StudyError(f"no Ray cluster answers at {where}: {said}", "Start one with `ray start --head`") from error


def submit(ray: Any, calls: Calls, gpus: float | None) -> Iterator[Ended]:
    """Keep the cluster busy and yield how each call ended; what still runs when the caller stops is cancelled."""
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=MAX_TRIES, retry_exceptions=False)(run_there)
    flying: dict[Any, tuple[int, str, str]] = {}
    try:
        while calls or flying:
            while calls and len(flying) < MAX_IN_FLIGHT:
                number, _, (slug, given, preset, timeout, prewarmed, id) = calls.popleft()
                flying[task.remote(slug, given, preset, timeout, prewarmed)] = number, slug, id
            for reference in ray.wait(list(flying), num_returns=1)[0]:
                number, slug, id = flying.pop(reference)
                yield land(ray, reference, number, slug, id)
    finally:
        for reference in flying:
            ray.cancel(reference, force=True)
        if flying:
            ray.wait(list(flying), num_returns=len(flying), timeout=GONE_SECONDS)


def land(ray: Any, reference: Any, number: int, slug: str, id: str) -> Ended:
    """Write a task's run folder into this workspace's runs, whole or not at all."""
    try:
        answer = ray.get(reference)
    except ray.exceptions.RayError as error:
        cause = f"its task was lost {MAX_TRIES + 1} times: {str(error).strip().splitlines()[0]}"
        return Ended(number, error=StudyError(cause, "Look at the nodes: `ray status`", exit_code=1), lost=True)
    if isinstance(answer, StudyError):
        return Ended(number, error=answer)
    there, seconds, files = answer
    if there != id:
        cause = f"the cluster computed run {there}, not {id}: its Python or its files differ from those here"
        return Ended(number, error=StudyError(cause, "Install the same versions on every node", exit_code=1))
    folder = runs_folder() / slug / id
    part = folder.with_name(f".{id}.ray.{os.getpid()}.part")
    with disk_errors(part):
        for name, content in files.items():
            path = part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (part / "figures").mkdir(parents=True, exist_ok=True)
        replace_folder(part, folder)
    return Ended(number, seconds)


def run_there(
    slug: str, given: dict[str, Any], preset: str | None, timeout: int, prewarmed: bool | None
) -> tuple[str, float, dict[str, bytes]] | StudyError:
    """On a node: run one point in the copy of the project that came along; its id, seconds and files.

    An error is returned, not raised: Ray would wrap it and lose what it says.
    """
    from studylib.running import runs

    os.environ["STUDY_ROOT"] = os.getcwd()
    folder = tempfile.mkdtemp(prefix="study-runs-")
    os.environ["STUDY_RUNS"] = folder
    try:
        done = runs.run(slug, given, preset=preset, timeout=timeout, prewarmed=prewarmed)
        files = {str(p.relative_to(done.folder)): p.read_bytes() for p in done.folder.rglob("*") if p.is_file()}
        return done.record["run_id"], done.record["seconds"], files
    except StudyError as error:
        remedy = error.remedy.partition("See ")[0].rstrip(". ")  # the notebook that failed stays on the node
        return type(error)(error.cause, remedy, exit_code=error.exit_code)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
