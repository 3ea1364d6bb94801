"""The clock of all hooks: which step and timestep the running forward of a denoiser belongs to.

A step is the place of a timestep in its schedule. Forwards at one timestep, such as the two passes of guidance, are one
step. A schedule goes one way: where timesteps turn round, a new one begins, at step 0. Where it begins at the very
timestep at which the last one ended, as sampling after inversion does, nothing can be seen: `new_schedule` tells it.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from studylib.denoisers.forward import forward_wrapped


@dataclass(frozen=True)
class Moment:
    """Where one forward stands. step and timestep are None where the samples of a batch have different timesteps.

    timestep: as the denoiser received it. schedule: how many schedules have begun before this one.
    inputs: the arguments of the forward, by name.
    """

    step: int | None
    timestep: float | None
    schedule: int
    inputs: Mapping[str, Any]


@dataclass(frozen=True)
class _Count:
    """How far a schedule has come. direction: 1 up, -1 down, 0 after its first timestep."""

    schedule: int = 0
    step: int = 0
    timestep: float | None = None  # None: a new schedule is about to begin
    direction: int = 0

    def at(self, timestep: float) -> _Count:
        """The count after a forward at this timestep."""
        if self.timestep is None:
            return replace(self, step=0, timestep=timestep, direction=0)
        if timestep == self.timestep:
            return self
        direction = 1 if timestep > self.timestep else -1
        if self.direction in (0, direction):
            return replace(self, step=self.step + 1, timestep=timestep, direction=direction)
        return _Count(self.schedule + 1, 0, timestep)

    def ended(self) -> _Count:
        """The count before a new schedule; a second call changes nothing."""
        return self if self.timestep is None else _Count(self.schedule + 1)


class Clock:
    """Counts the steps of a denoiser while a block is open; one for each block, so that each counts from 0.

    A module whose forward takes no timestep, such as a text encoder, has moments without step and timestep.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser = denoiser
        self.names = list(inspect.signature(type(denoiser).forward).parameters)[1:]  # without self
        self.now: Moment | None = None  # None: the denoiser is not running
        self._count = _Count()

    @property
    def timed(self) -> bool:
        """Whether steps can be told."""
        return "timestep" in self.names

    @property
    def step(self) -> int | None:
        """The running forward's step."""
        return None if self.now is None else self.now.step

    @property
    def timestep(self) -> float | None:
        """The running forward's timestep."""
        return None if self.now is None else self.now.timestep

    @contextmanager
    def running(self) -> Iterator[Clock]:
        """Read the arguments of each forward of the denoiser inside the block."""
        _open_clocks.add(self)
        try:
            with forward_wrapped(self.denoiser, self._run):
                yield self
        finally:
            _open_clocks.discard(self)

    def restart(self) -> None:
        """Begin a new schedule with the next forward."""
        self._count = self._count.ended()

    def _run(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.timed and torch.is_grad_enabled() and getattr(self.denoiser, "is_gradient_checkpointing", False):
            raise RuntimeError(
                f"{type(self.denoiser).__name__} uses gradient checkpointing: its backward pass would run hooked "
                "modules again, without the hook or at another step. Call "
                "denoiser.disable_gradient_checkpointing(), or use torch.no_grad() where no gradient is needed.",
            )
        before = self.now, self._count
        self._read(dict(zip(self.names, args, strict=False)) | kwargs)
        try:
            return forward(*args, **kwargs)
        finally:
            self.now, count = before
            if self.now is not None:  # a hook has run the denoiser: its own schedule goes on where it was
                self._count = count

    def _read(self, inputs: dict[str, Any]) -> None:
        step = timestep = None
        if self.timed:
            given = inputs.get("timestep")
            if given is None:
                raise RuntimeError(f"{type(self.denoiser).__name__} ran without a timestep, so it has no step.")
            values = set(torch.as_tensor(given).flatten().tolist())
            if len(values) == 1:
                timestep = float(values.pop())
                self._count = self._count.at(timestep)
                step = self._count.step
        self.now = Moment(step, timestep, self._count.schedule, inputs)


_open_clocks: weakref.WeakSet[Clock] = weakref.WeakSet()


def new_schedule(denoiser: nn.Module) -> None:
    """Tell all open hooks of this denoiser that its next forward begins a new schedule.

    Inversion and the samplers of this library call it; loops of one's own may. Without open hooks it does nothing.
    """
    for clock in list(_open_clocks):
        if clock.denoiser is denoiser:
            clock.restart()
