"""Which number type a training computes in: tried, not assumed.

A processor without bfloat16 units takes several times as long for a bfloat16 step as for a float32 one; one that has
them, half as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import PartialState

from studylib.files import write_atomically

TYPES = {"float32": "no", "bfloat16": "bf16"}  # ours -> accelerate's word for the mixed precision
KEPT = "precision.txt"  # what was found to be faster, beside the checkpoint
PROBED = 10  # steps of each type


def mixed_precision(asked: str, device: str, folder: Path, step: Callable[[torch.dtype], object]) -> str:
    """accelerate's word for the type `asked` for.

    "auto" is bfloat16 on a GPU. On a CPU it is the type in which `step` is faster, tried once and kept in `folder`, so
    that a resumed training computes as it began; several processes, which must agree, keep float32.
    """
    if asked != "auto":
        return TYPES[asked]
    if torch.device(device).type != "cpu":
        return TYPES["bfloat16"]
    if PartialState().num_processes > 1:
        return TYPES["float32"]
    kept = folder / KEPT
    if not kept.exists():
        seconds = probe(step)
        fastest = min(seconds, key=seconds.get)
        print(f"{folder.name}: a step takes {seconds} seconds; {fastest} is taken", flush=True)
        write_atomically(kept, fastest)
    return TYPES[kept.read_text()]


def probe(step: Callable[[torch.dtype], object], steps: int = PROBED) -> dict[str, float]:
    """Seconds of the fastest of `steps` calls of `step`, by number type.

    A type whose first step takes more than three times the other's needs no further ones.
    """
    taken: dict[str, float] = {}
    for name in TYPES:
        times = []
        for _ in range(steps):
            start = time.monotonic()
            step(getattr(torch, name))
            times.append(time.monotonic() - start)
            if taken and times[0] > 3 * min(taken.values()):
                break
        taken[name] = round(min(times), 4)
    return taken
