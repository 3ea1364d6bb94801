"""What a recipe's command line decides."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState

from studylib.models.files import WEIGHTS
from studylib.recipes.precision import TYPES

OLD_CHECKPOINT = "checkpoint.pt"  # of the loop that recipes once had for themselves
WARMUP = 100  # steps
LOWEST = 0.02  # factor of the learning rate at the end


@dataclass(frozen=True)
class Budget:
    """What the command line decides. The learning rate follows whichever of `steps` and `minutes` ends first."""

    steps: int
    minutes: float
    batch_size: int
    seed: int
    device: str
    scenes: int
    folder: Path
    out: Path
    compile: bool
    init: Path | None
    precision: str = "auto"
    options: dict[str, object] = field(default_factory=dict)  # of this recipe only

    def schedule(self, step: int, seconds: float) -> float | None:
        """Factor of the learning rate after `step` steps and so many seconds: a warm-up, then half a cosine down to
        `LOWEST`; None once either is used up."""
        progress = max(step / self.steps, seconds / 60 / self.minutes)
        if progress >= 1:
            return None
        return min(1.0, (step + 1) / WARMUP) * (LOWEST + (1 - LOWEST) * 0.5 * (1 + math.cos(math.pi * progress)))


def read_budget(
    name: str,
    description: str,
    *,
    steps: int,
    minutes: float,
    batch_size: int,
    scenes: int,
    options: dict[str, dict[str, object]] | None = None,
) -> Budget:
    """The command line of a recipe; `options` are its own: name -> what argparse is told of it."""
    parser = argparse.ArgumentParser(
        prog=f"python -m studylib.recipes.{name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=steps, help="optimiser steps at most")
    parser.add_argument(
        "--minutes", type=float, default=minutes, help="training minutes at most, resumed ones included"
    )
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    parser.add_argument("--scenes", type=int, default=scenes, help="training scenes kept on disk")
    parser.add_argument("--folder", type=Path, default=Path("runs/recipes") / name, help="checkpoint, curve, sheet")
    parser.add_argument("--out", type=Path, default=WEIGHTS / name, help="where the finished weights go")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=False, help="torch.compile the model"
    )
    parser.add_argument(
        "--init", type=Path, help="go on from these weights (a folder a recipe wrote), with a fresh schedule"
    )
    types = ("auto", *TYPES)
    parser.add_argument("--precision", choices=types, default="auto", help="auto: on a CPU the faster one of both")
    parser.add_argument("--threads", type=int, default=0, help="threads of this process; 0: as many as torch takes")
    for option, told in (options or {}).items():
        parser.add_argument(f"--{option.replace('_', '-')}", **told)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if (args.folder / OLD_CHECKPOINT).exists():
        parser.error(f"{args.folder / OLD_CHECKPOINT} has the format of an earlier version, which cannot be read: "
                     "delete it, or give another --folder")
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.device is None:
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    state = PartialState(cpu=args.device == "cpu")  # alone, unless `accelerate launch` started several
    if state.num_processes > 1:
        if args.batch_size % state.num_processes:
            parser.error(f"--batch-size {args.batch_size} cannot be shared by {state.num_processes} processes")
        args.device = "cpu" if state.device.type == "cpu" else str(state.device)  # not "cpu:0": no checkpoint knows it
    torch.manual_seed(args.seed)
    args.options = {option: getattr(args, option) for option in options or {}}
    return Budget(**{f: getattr(args, f) for f in Budget.__dataclass_fields__})
