"""Runs one notebook through papermill with an engine that uses this interpreter and cannot hang."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any, TextIO

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.execute import execute_notebook
from traitlets import default

from studylib.errors import StudyError, cut
from studylib.files import disk_errors
from studylib.running.kernels.watch import kill_group
from studylib.running.notebook import read_notebook
from studylib.running.progress import Progress
from studylib.running.scratch import scratch_folder
from studylib.workspace import import_paths, runs_folder

ENGINE = "study"
PREWARMED = "study"  # the kernelspec whose kernels are forked from a process that has imported the libraries
MEMORY_ERRORS = ("MemoryError", "OutOfMemoryError")  # of Python, of torch
LESS_MEMORY = "A smaller model, fewer pictures or other programs closed need less memory"
PREWARMED_FIRST, PLAIN_ONLY = (True, True, False), (False, False)  # kinds of kernels, in the order they are tried
MAX_SOCKET_PATH = 80  # of about 100 characters a socket file's path may have
START_SECONDS = 180  # for a kernel to answer; on a busy machine its imports alone take a minute
SLICE = 0.25  # seconds between looks at a socket whose wake-up may have been lost


class KernelDied(StudyError):
    """A kernel that ended before its notebook did: killed by the system, or by a fault in compiled code."""


class NeverBegan(KernelDied):
    """A kernel that ended before it answered at all, so that nothing was executed."""


class SameInterpreterSpecs(KernelSpecManager):
    """Starts kernels with the interpreter that runs this code, whatever a kernelspec on disk says."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return a spec for this interpreter under any name: prewarmed under PREWARMED, else plain."""
        module = "launcher" if kernel_name == PREWARMED else "plain"
        argv = [sys.executable, "-m", f"studylib.running.kernels.{module}", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


class SameInterpreterKernel(AsyncKernelManager):
    """A kernel of this interpreter, reached through socket files of this user where there are any."""

    @default("kernel_spec_manager")
    def _same_interpreter(self) -> KernelSpecManager:
        return SameInterpreterSpecs(parent=self)

    def use_socket_files(self, folder: Path) -> None:
        """Talk through files in `folder`: no ports that could clash, nothing another user could read."""
        self.transport, self.ip = "ipc", str(folder / "kernel")


    def end_group(self) -> None:
        """End what a kernel has started and left behind when it was killed: it led a group of its own."""
        group = getattr(self.provisioner, "pgid", None)
        if group and group != os.getpgrp():
            kill_group(group)


async def poll_in_slices(get_msg: Any, timeout: float | None = None) -> dict[str, Any]:
    """Wait for a channel's message in slices of a quarter second; raises queue.Empty after `timeout` seconds.

    nbclient sends the state of an Output widget on the socket on which it awaits the reply. After a large
    send, a picture say, the socket's edge-triggered wake-up is used up and a single long wait never ends.
    """
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        left = SLICE if end is None else end - time.monotonic()
        try:
            return await get_msg(timeout=max(0.0, min(SLICE, left)))
        except Empty:
            if end is not None and left <= SLICE:
                raise


class StudyClient(PapermillNotebookClient):
    """papermill's client with sliced waits on the two channels it reads."""

    def start_new_kernel_client(self, **options: Any) -> Any:
        """Connect to the kernel and make this connection's waits sliced; other clients are untouched."""
        try:
            client = super().start_new_kernel_client(**options)
        except RuntimeError as error:  # of jupyter_client, for a kernel that ends or is silent before its first reply
            raise NeverBegan(str(error).strip().splitlines()[0], LESS_MEMORY, exit_code=1) from error
        for channel in (client.shell_channel, client.iopub_channel):
            channel.get_msg = partial(poll_in_slices, channel.get_msg)
        return client


class StudyEngine(NBClientEngine):
    """papermill engine `study`. Options beyond papermill's: `env` for the kernel, `prewarmed`, `on_cell_start`."""

    @classmethod
    def execute_managed_notebook(  # noqa: D102 - papermill's interface
        cls,
        nb_man: Any,
        kernel_name: str,
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        env: dict[str, str] | None = None,
        prewarmed: bool = False,
        log_output: bool = False,
        **options: Any,
    ) -> Any:
        wanted = {
            name: options[name]
            for name in ("on_cell_start", "stdout_file", "stderr_file")
            if options.get(name)
        }
        kernel = SameInterpreterKernel(kernel_name=PREWARMED if prewarmed else kernel_name)
        client = StudyClient(
            nb_man,
            km=kernel,
            kernel_name=kernel_name,
            timeout=execution_timeout,
            startup_timeout=start_timeout,
            shutdown_kernel="immediate",  # nothing is left to save: records are on disk by then
            log_output=log_output,
            **wanted,
        )
        client.owns_km = True  # so that the client stops the kernel, whatever happens
        with scratch_folder() as folder:
            kernel.connection_file = str(folder / "kernel.json")
            if os.name == "posix" and len(str(folder)) < MAX_SOCKET_PATH:
                kernel.use_socket_files(folder)
            try:
                return client.execute(**({"env": env} if env else {}))
            finally:
                kernel.end_group()


papermill_engines.register(ENGINE, StudyEngine)


def kernel_environment(run_dir: Path, model: Any) -> dict[str, str]:
    """Return the kernel's environment: where to record, where studylib and papers are, quiet libraries.

    On a tiny model the hub is switched off, so that a run cannot come to depend on the network.
    """
    env = {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    if isinstance(model, str) and model.startswith("tiny"):
        env["HF_HUB_OFFLINE"] = "1"
    own = {"STUDY_RUN_DIR": str(run_dir), "STUDY_RUNS": str(runs_folder())}
    return env | os.environ | import_paths() | own


def memory_kills() -> int:
    """How many processes the system has killed for want of memory, as far as it says."""
    total = 0
    for file in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):
        with suppress(OSError):
            total += sum(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith("oom_kill "))
    return total


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C inside the block: the kernel is stopped, part files are removed."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread: signals are the caller's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def execute(
    notebook: Path,
    run_dir: Path,
    parameters: dict[str, Any],
    *,
    timeout: int,
    model: Any,
    stream: TextIO | None,
    prewarmed: bool = False,
) -> float:
    """Execute a notebook into `run_dir/notebook.ipynb` in a fresh kernel and return the seconds it took.

    `timeout` is in seconds per cell; `stream` shows the progress, None for none. The kernel, `prewarmed` or
    plain, runs in the notebook's folder and is stopped whatever happens. StudyError says which cell failed, ran
    too long or lost its kernel; what was executed up to there stays in `run_dir`.
    """
    cells = whole_notebook(notebook).cells
    total = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in cells) + bool(parameters)
    output = run_dir / "notebook.ipynb"
    progress = Progress(notebook.stem, total, stream)
    kills = memory_kills()
    options = {"execution_timeout": timeout, "env": kernel_environment(run_dir, model), "on_cell_start": progress.cell}
    try:
        with termination_as_interrupt(), disk_errors(output):
            execute_in_turn(notebook, output, parameters, PREWARMED_FIRST if prewarmed else PLAIN_ONLY, options)
    except PapermillExecutionError as error:
        lines = [line.strip() for line in error.evalue.splitlines() if line.strip()]
        said = cut(f"{error.ename}: {' / '.join(lines[-3:])}" if lines else error.ename)
        cause = f"cell {error.exec_count} of {notebook.name} failed with {said}"
        if error.ename in MEMORY_ERRORS:
            raise StudyError(f"out of memory: {cause}", LESS_MEMORY, exit_code=1) from error
        raise StudyError(cause, exit_code=1) from error
    except CellTimeoutError as error:
        cause = f"cell {progress.begun} of {notebook.name} ran longer than {timeout} s"
        raise StudyError(cause, "Allow more with --timeout", exit_code=1) from error
    except DeadKernelError as error:
        cause = f"the kernel died in cell {progress.begun} of {notebook.name}"
        if memory_kills() > kills:
            raise KernelDied(f"out of memory: {cause}, killed by the system", LESS_MEMORY, exit_code=1) from error
        raise KernelDied(cause, f"Most likely memory was short. {LESS_MEMORY}", exit_code=1) from error
    finally:
        progress.close()
    return time.monotonic() - progress.start


def whole_notebook(path: Path) -> nbformat.NotebookNode:
    """Read a notebook that nbformat's own rules allow; StudyError says which one is broken."""
    read_notebook(path)
    try:
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
    except (nbformat.ValidationError, ValueError, KeyError, AttributeError, TypeError, AssertionError) as error:
        said = cut(str(error).strip().partition("\n")[0]) or "its format has no number"
        raise StudyError(f"{path} is not a notebook: {said}", "Restore the file") from error
    return notebook


def execute_in_turn(
    notebook: Path, output: Path, parameters: dict[str, Any], kernels: Sequence[bool], options: dict[str, Any]
) -> None:
    """Execute a notebook in a kernel that answers; `kernels` say for each try whether it is a prewarmed one.

    A kernel that ends before it answers has executed nothing, so that another can take its place.
    """
    for number, prewarmed in enumerate(kernels, start=1):
        try:
            execute_notebook(
                notebook,
                output,
                parameters,
                engine_name=ENGINE,
                kernel_name="python3",
                language="python",  # a notebook may name neither kernel nor language
                progress_bar=False,
                cwd=notebook.parent,
                prewarmed=prewarmed,
                start_timeout=START_SECONDS,
                **options,
            )
            return
        except NeverBegan:
            if number == len(kernels):
                raise
