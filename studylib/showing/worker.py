"""Newest request wins: work on a thread, cancelled between denoising steps when something newer is wanted.

A kernel handles the front end's messages one after another, so drawing inside a slider's callback would draw
every position the slider passed. Here a request only leaves a note and wakes a worker thread, which exists as
long as there is something to draw. No worker runs while a notebook cell runs: attention hooks live on the
model that both would use.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

_changed = threading.Condition()  # guards every attribute below and all attributes of NewestWins
_turn = threading.RLock()  # held while work runs: two widgets never use the model at the same time
_running_cells = 0
_watching = False
_all: weakref.WeakSet[NewestWins] = weakref.WeakSet()


class Cancelled(Exception):
    """Raised between two denoising steps because a newer request made the running one worthless."""


class Cancellation:
    """Answers whether the work was cancelled when called, and takes note of how far it is."""

    def __init__(self, on_step: Callable[[int, int], None] | None = None) -> None:
        self._event = threading.Event()
        self._on_step = on_step

    def __call__(self) -> bool:
        return self._event.is_set()

    def cancel(self) -> None:
        """Ask the work to stop at its next step."""
        self._event.set()

    def report(self, step: int, steps: int) -> None:
        """Tell the reader that `step` of `steps` is finished, unless nobody waits for it any more."""
        if self._on_step is not None and not self():
            self._on_step(step, steps)


def cancel_callback(cancelled: Callable[[], bool]) -> Callable[[Any, int, Any, dict], dict]:
    """Make a `callback_on_step_end` for a diffusers pipeline that stops it once `cancelled()` is true.

    Raises `Cancelled` inside the pipeline; leave it alone, the widget expects it. Reports progress where
    `cancelled` can take it.
    """

    def on_step_end(pipe: Any, step: int, timestep: Any, kwargs: dict) -> dict:
        if cancelled():
            raise Cancelled(f"stopped after step {step + 1}")
        if isinstance(cancelled, Cancellation):
            cancelled.report(step + 1, pipe.num_timesteps)
        return kwargs

    return on_step_end


class NewestWins:
    """Call `work(values, cancelled)` for the newest requested values, on a thread that ends when none are.

    `delay`: seconds of silence to wait for after a request. `work` runs outside the caller's thread, so state
    that PyTorch keeps per thread (gradient mode, autocast) is not inherited. `work` must not raise: nobody
    would see it.
    """

    def __init__(
        self,
        work: Callable[[Any, Cancellation], None],
        *,
        delay: float = 0.08,
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        _watch_cells()
        self._work = work
        self._delay = delay
        self._on_step = on_step
        self._pending: list = []  # empty, or the one newest request
        self._due = 0.0
        self._active: tuple[Any, Cancellation] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        _all.add(self)

    @property
    def alive(self) -> bool:
        """Whether a worker thread exists right now."""
        return self._thread is not None

    def request(self, values: Any) -> bool:
        """Ask for `values` instead of what was asked before; false if that has to wait for a running cell."""
        with _changed:
            if self._closed:
                return True
            self._pending = [values]
            self._due = time.monotonic() + self._delay
            if self._active is not None:
                self._active[1].cancel()
            self._start()
            _changed.notify_all()
            return not _running_cells

    def wait(self, timeout: float = 60.0) -> bool:
        """Return once nothing is pending or running; inside a cell the pending work is done here, in the
        caller's thread.

        False if `timeout` seconds were not enough.
        """
        while True:
            with _changed:
                if not (_running_cells and self._pending):
                    return _changed.wait_for(lambda: self._thread is None and self._active is None, timeout)
                values = self._pending.pop()
            self.work_here(values)

    def close(self, timeout: float = 10.0) -> None:
        """Cancel everything, refuse what comes, and wait at most `timeout` seconds for the thread to end."""
        with _changed:
            self._closed = True
            self._pending = []
            if self._active is not None:
                self._active[1].cancel()
            _changed.notify_all()
            if threading.current_thread() is not self._thread:
                _changed.wait_for(lambda: self._thread is None, timeout)
        _all.discard(self)

    def _start(self) -> None:
        """Start the worker if there is work, none runs and no cell runs; the caller holds the lock."""
        if self._pending and self._thread is None and not _running_cells and not self._closed:
            self._thread = threading.Thread(target=self._run, name="newest-wins", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                with _changed:
                    while self._pending and not _running_cells and (left := self._due - time.monotonic()) > 0:
                        _changed.wait(left)
                    if not self._pending or _running_cells:
                        self._thread = (
                            None  # under the same lock as the look at `_pending`: no request falls between
                        )
                        _changed.notify_all()
                        return
                    values = self._pending.pop()
                self.work_here(values)
        except BaseException:
            with _changed:
                self._thread = None
                _changed.notify_all()
            raise

    def work_here(self, values: Any) -> None:
        """Do the work for `values` in the caller's thread, after whatever another thread is doing."""
        cancelled = Cancellation(self._on_step)
        with _changed:
            self._active = (values, cancelled)
        try:
            with _turn:
                if not cancelled():
                    self._work(values, cancelled)
        finally:
            with _changed:
                self._active = None
                _changed.notify_all()

    def _step_aside(self) -> None:
        """Cancel the running work but remember it; the caller holds the lock."""
        if self._thread is not None and self._active is not None:
            values, cancelled = self._active
            cancelled.cancel()
            self._pending = self._pending or [values]


def _watch_cells() -> None:
    """Arrange, once per kernel, that workers step aside while a cell runs and go on after it."""
    global _watching, _running_cells
    if _watching:
        return
    _watching = True
    atexit.register(_close_all)
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        _running_cells = 1  # the one that brought us here
        shell.events.register("pre_execute", before_cell)
        shell.events.register("post_execute", after_cell)


def before_cell() -> None:
    """Stop all workers at their next step and return when they have stopped."""
    global _running_cells
    with _changed:
        _running_cells += 1
        for newest in list(_all):
            newest._step_aside()
        _changed.notify_all()
        _changed.wait_for(lambda: all(newest._thread is None for newest in list(_all)))


def after_cell() -> None:
    """Let the workers go on with the newest requests."""
    global _running_cells
    with _changed:
        _running_cells = max(0, _running_cells - 1)
        for newest in list(_all):
            newest._start()


def _close_all() -> None:
    for newest in list(_all):
        newest.close()
