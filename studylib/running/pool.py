"""Runs calls in parallel, each in a process of its own that is forked from this one; none is lost, none left behind."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from studylib.errors import StudyError, cut

END_SECONDS = 15.0  # for a worker told to stop to clean up before it is killed
PR_SET_PDEATHSIG = 1  # of Linux's prctl
Calls = deque[tuple[int, Callable[..., Any], tuple[Any, ...]]]  # number, function, arguments


@dataclass(frozen=True)
class Ended:
    """How one call ended: its value, or its error; `lost` when the worker process itself died."""

    number: int
    value: Any = None
    error: StudyError | None = None
    lost: bool = False


class Pool:
    """At most `jobs` calls at a time; slot i of them sees the environment `environments[i]` besides this process's."""

    def __init__(self, jobs: int, environments: list[dict[str, str]]) -> None:
        # forked, so that a worker costs milliseconds: this process has imported what they need, and has no threads
        self.context = multiprocessing.get_context("fork" if sys.platform.startswith("linux") else "spawn")
        self.free = list(reversed(range(jobs)))
        self.environments = environments
        self.running: dict[int, tuple[int, int, Any]] = {}  # sentinel -> number, slot, process
        self.pipes: dict[int, Any] = {}  # sentinel -> what the worker writes to, until it has said all
        self.said: dict[int, tuple[Any, StudyError | None]] = {}

    def run(self, calls: Calls) -> Iterator[Ended]:
        """Take (number, function, arguments) from the left of `calls` and yield how each ended, in the order of their
        ends; what the caller appends meanwhile is run as well.

        When the caller stops early, or is interrupted, every worker is told to stop and waited for.
        """
        try:
            while calls or self.running:
                while self.free and calls:
                    self.start(*calls.popleft())
                # a pipe holds 64 KiB: a worker with more to say ends only when it has been listened to
                for ready in multiprocessing.connection.wait([*self.running, *self.pipes.values()]):
                    if ready in self.running:
                        yield self.collect(ready)
                    else:
                        self.listen(ready)
        finally:
            self.stop()

    def start(self, number: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Fork a worker for one call."""
        slot = self.free.pop()
        reader, writer = self.context.Pipe(duplex=False)
        process = self.context.Process(
            target=work, args=(writer, os.getpid(), self.environments[slot], function, arguments), daemon=False
        )
        process.start()
        writer.close()
        self.running[process.sentinel] = (number, slot, process)
        self.pipes[process.sentinel] = reader

    def listen(self, reader: Any) -> None:
        """Read all that a worker says, once; nothing if it dies in mid-sentence."""
        sentinel = next((one for one, pipe in self.pipes.items() if pipe is reader), None)
        if sentinel is None:  # its worker ended in the same moment, and was collected first
            return
        del self.pipes[sentinel]
        with contextlib.closing(reader), contextlib.suppress(EOFError, OSError):
            self.said[sentinel] = reader.recv()

    def collect(self, sentinel: int) -> Ended:
        """Take what an ended worker said."""
        if sentinel in self.pipes:
            self.listen(self.pipes[sentinel])
        number, slot, process = self.running.pop(sentinel)
        process.join()
        self.free.append(slot)
        value, error = self.said.pop(sentinel, (None, None))
        if error is None and value is None:
            how = f"signal {-process.exitcode}" if process.exitcode < 0 else f"status {process.exitcode}"
            cause = f"the worker process of this point ended early ({how})"
            return Ended(number, error=StudyError(cause, "Run it again", exit_code=1), lost=True)
        return Ended(number, value, error)

    def stop(self) -> None:
        """Tell all workers to stop, wait for them, kill those that do not."""
        processes = [process for _, _, process in self.running.values()]
        for process in processes:
            process.terminate()
        end = time.monotonic() + END_SECONDS
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for reader in self.pipes.values():
            reader.close()
        for known in (self.running, self.pipes, self.said):
            known.clear()


def work(
    writer: Any, parent: int, environment: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """In a worker: call, and say what came of it. It is told to stop if its parent dies."""
    # Ctrl-C reaches the parent as well, which tells each worker once; a kernel would inherit SIG_IGN, but no handler
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, interrupt)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return
    os.environ.update(environment)
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        try:
            said = (function(*arguments), None)
        except StudyError as error:
            said = (None, type(error)(cut(error.cause), error.remedy, exit_code=error.exit_code))
        except Exception as error:
            traceback.print_exc()
            cause = cut(f"unexpected {type(error).__name__}: {error}")
            said = (None, StudyError(cause, "A bug: see above", exit_code=1))
        writer.send(said)


def interrupt(_signal: int, _frame: object) -> None:
    """Treat SIGTERM as Ctrl-C, which stops the kernel and removes part files."""
    raise KeyboardInterrupt
