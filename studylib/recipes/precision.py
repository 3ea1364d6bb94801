"""Which number type a training computes in: tried, not assumed.

A processor without bfloat16 units takes several times as long for a bfloat16 step as for a float32 one; one that has
them, half as long.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

TYPES = ("auto", "float32", "bfloat16")
PROBED = 10  # steps of each type


class Precision:
    """The type of a training's forward passes: as asked for, or on a CPU the faster of two after `probe`."""

    def __init__(self, device: str = "cpu", asked: str = "auto") -> None:
        if asked not in TYPES:
            raise ValueError(f"a number type is one of {', '.join(TYPES)}, not {asked!r}")
        self.device = torch.device(device).type
        half = asked == "bfloat16" or (asked == "auto" and self.device != "cpu")
        self.dtype = torch.bfloat16 if half else torch.float32
        self.open = asked == "auto" and self.device == "cpu"

    def autocast(self) -> AbstractContextManager[object]:
        """The block in which forward passes run."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device, self.dtype)

    def probe(self, step: Callable[[], object], steps: int = PROBED) -> dict[str, float]:
        """Time `step` in both types, keep the faster one, and return the seconds of a step by type.

        Nothing is timed where the type was asked for or the device is no CPU. A type whose first step takes more than
        three times the other's needs no further ones.
        """
        if not self.open:
            return {}
        self.open, taken = False, {}
        for dtype in (torch.float32, torch.bfloat16):
            self.dtype, times = dtype, []
            for _ in range(steps):
                start = time.monotonic()
                step()
                times.append(time.monotonic() - start)
                if taken and times[0] > 3 * min(taken.values()):
                    break
            taken[dtype] = min(times)
        self.dtype = min(taken, key=taken.get)
        return {str(dtype).removeprefix("torch."): round(seconds, 4) for dtype, seconds in taken.items()}
