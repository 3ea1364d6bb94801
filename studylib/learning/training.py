"""One training loop for every paper that trains, on accelerate: seeded, resumable, in float32 or mixed precision.

A step's random numbers come from the seed and the step's number alone, so that a run that was cut off and resumed
ends with the very weights of one that was not. Under `accelerate launch` the processes share each batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm.auto import tqdm

from studylib.errors import StudyError
from studylib.evidence.knobs import check_choices, check_ranges
from studylib.learning.checkpoint import Checkpoint
from studylib.learning.identity import NOBODY, Identity
from studylib.learning.processes import agreed, average_gradients, share
from studylib.machine import peak_of
from studylib.showing.tables import Table

Batch = Mapping[str, Tensor]
Draw = Callable[[torch.Generator], Batch]
Loss = Callable[[Batch], Tensor | Mapping[str, Tensor]]
Gradients = Mapping[str, Tensor]


@dataclass(frozen=True)
class TrainingConfig:
    """How to train: AdamW, gradients clipped to `max_grad_norm` (0: not), learning rate by `schedule` after a warm-up.

    `ema_decay` above 0 ends with averaged weights. `gradient_accumulation_steps` batches make one step.
    """

    steps: int
    learning_rate: float
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    ema_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        endless = (0.0, math.inf)
        check_ranges(self, {
            "steps": (1, math.inf), "learning_rate": endless, "warmup_steps": endless, "weight_decay": endless,
            "max_grad_norm": endless, "ema_decay": (0.0, 0.99999), "gradient_accumulation_steps": (1, math.inf),
        })  # fmt: skip
        check_choices(self, {
            "schedule": ("constant", "linear", "cosine"), "mixed_precision": ("no", "bf16", "fp16")
        })  # fmt: skip


@dataclass
class History:
    """What a training left behind: a row per step with its losses, learning rate and seconds so far.

    snapshots: step -> the weights after it, on the CPU, for the steps that `fit` was asked to keep.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    snapshots: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    parameters: int = 0
    memory_mib: float = 0.0  # the most that training held beyond what was there before

    @property
    def seconds(self) -> float:
        """Seconds of training, those before a resume included."""
        return self.rows[-1]["seconds"] if self.rows else 0.0

    def column(self, name: str = "loss") -> list[float]:
        """One named loss, step by step."""
        if self.rows and name not in self.rows[0]:
            raise LookupError(f"the history has no column {name!r}, only {', '.join(self.rows[0])}")
        return [row[name] for row in self.rows]

    def table(self, every: int = 50) -> Table:
        """Means over each `every` steps."""
        parts = [self.rows[start : start + every] for start in range(0, len(self.rows), every)]
        names = [name for name in self.rows[0] if name not in ("step", "seconds")]
        means = [{name: sum(row[name] for row in part) / len(part) for name in names} for part in parts]
        return Table({f"to step {p[-1]['step']:.0f}": mean for p, mean in zip(parts, means, strict=True)}, digits=4)


def fit(
    parameters: Mapping[str, Tensor],
    draw: Draw,
    loss: Loss,
    config: TrainingConfig,
    *,
    folder: str | Path | None = None,
    identity: Identity = NOBODY,
    save_every: float = 30.0,
    after_backward: Callable[[int, Gradients], None] | None = None,
    after_step: Callable[[int], None] | None = None,
    keep: Collection[int] = (),
    label: str = "training",
) -> History:
    """Train the named `parameters` in place; everything else stays as it is.

    `draw(generator)` makes a batch, tensors with a row per sample, from a CPU generator; `loss(batch)` returns its
    mean loss, or named losses of which "loss" is minimised. `after_backward(n, gradients)` sees the gradients by name,
    before they are clipped, and `after_step(n)` the new weights, in each of steps 1 to N. `keep` names steps whose
    weights become snapshots of the history, 0 those before the first. With `folder` the state is kept there every
    `save_every` seconds and at the end, and a later call of the same `identity` goes on from it.
    Random state: the global generators are left as they were. Raises ValueError for weights that are not float32,
    StudyError for weights that the loss does not reach, for a loss that is not finite and for a checkpoint of another
    training, of other data or without the steps to `keep`.
    """
    weights = _trained(parameters)
    if strange := [step for step in keep if not 0 <= step <= config.steps]:
        raise ValueError(f"{label}: step {strange[0]} cannot be kept, the steps are 0 to {config.steps}")
    device = next(iter(weights.values())).device
    accelerator = _accelerator(config, device)
    optimiser = torch.optim.AdamW(
        weights.values(), config.learning_rate, config.betas, config.epsilon, config.weight_decay,
        fused=True if device.type == "cpu" else None,  # else there it goes weight by weight, in Python
    )
    factor = get_scheduler(
        config.schedule, optimiser, num_warmup_steps=config.warmup_steps, num_training_steps=config.steps
    ).lr_lambdas[0]
    average = EMAModel(weights.values(), decay=config.ema_decay) if config.ema_decay else None
    history = History(parameters=sum(weight.numel() for weight in weights.values()))
    checkpoint = folder and Checkpoint(Path(folder), weights, optimiser, average, accelerator, config, identity)
    first = checkpoint.load(history, draw(_generator(config, 0, 0)), keep) if checkpoint else 0
    if first == 0 and 0 in keep:
        history.snapshots[0] = snapshot(weights)
    stepper = accelerator.prepare_optimizer(optimiser, device_placement=False)
    previous, saved = time.monotonic(), time.monotonic()
    quiet = not accelerator.is_main_process
    bar = tqdm(total=config.steps, initial=first, desc=label, leave=False, mininterval=0.5, disable=quiet)
    with peak_of(str(device)) as peak, _training(weights), bar:
        for step in range(first, config.steps):
            optimiser.param_groups[0]["lr"] = config.learning_rate * factor(step)
            losses = _accumulate(accelerator, weights, draw, loss, config, step)
            if not math.isfinite(losses["loss"]):
                raise StudyError(
                    f"{label}: the loss is {losses['loss']} at step {step + 1}",
                    f"Lower learning_rate, which is {config.learning_rate:g}, or train with mixed_precision='no'",
                )
            if step == first:
                _check_gradients(weights, label)
            if after_backward is not None:
                after_backward(step + 1, {name: weight.grad for name, weight in weights.items()})
            if config.max_grad_norm:
                accelerator.clip_grad_norm_(weights.values(), config.max_grad_norm)
            stepper.step()
            stepper.zero_grad()
            if average is not None:
                average.step(weights.values())
            if after_step is not None:
                with torch.no_grad():
                    after_step(step + 1)
            if step + 1 in keep:
                history.snapshots[step + 1] = snapshot(weights)
            now = time.monotonic()
            row = {"step": step + 1, **losses, "learning_rate": optimiser.param_groups[0]["lr"]}
            history.rows.append(row | {"seconds": history.seconds + now - previous})
            previous = now
            bar.update()
            bar.set_postfix(loss=f"{losses['loss']:.4f}", refresh=False)
            if checkpoint and now - saved > save_every and step + 1 < config.steps:
                checkpoint.save(step + 1, history)
                saved = time.monotonic()
    history.memory_mib = max(history.memory_mib, peak.mib)  # of the part before a resume, or of this one
    if checkpoint and first < config.steps:
        checkpoint.save(config.steps, history)
    if average is not None:
        average.copy_to(weights.values())
    return history


def _check_gradients(weights: dict[str, Tensor], label: str) -> None:
    """StudyError naming weights that the loss does not depend on: they would silently stay as they are."""
    without = [name for name, weight in weights.items() if weight.grad is None]
    if without:
        more = f" and {len(without) - 5} more" if len(without) > 5 else ""
        raise StudyError(
            f"{label}: {len(without)} of {len(weights)} parameters got no gradient: {', '.join(without[:5])}{more}",
            "The loss does not depend on them: leave them out, or put what is trained into the forward",
        )


def _accumulate(
    accelerator: Accelerator, weights: dict[str, Tensor], draw: Draw, loss: Loss, config: TrainingConfig, step: int
) -> dict[str, float]:
    """Gradients of one step's batches, averaged over processes, and the mean of each named loss."""
    sums: dict[str, float] = {}
    parts = config.gradient_accumulation_steps
    for part in range(parts):
        generator = _generator(config, step, part)
        torch.manual_seed(_seed(config.seed, step, part) + accelerator.process_index)  # for dropout
        with accelerator.accumulate():
            batch = _share(draw(generator), accelerator)
            with accelerator.autocast():
                value = loss(batch)
            named = {"loss": value} if isinstance(value, Tensor) else dict(value)
            accelerator.backward(named["loss"])
        for name, tensor in named.items():
            sums[name] = sums.get(name, 0.0) + tensor.detach().float()
    average_gradients(list(weights.values()))
    return {name: agreed(float(total) / parts, "mean") for name, total in sums.items()}


def _share(batch: Batch, accelerator: Accelerator) -> Batch:
    """This process's rows of a batch that all processes have drawn alike."""
    count = accelerator.num_processes
    if count == 1:
        return batch
    uneven = {name: len(rows) for name, rows in batch.items() if len(rows) % count}
    if uneven:
        raise ValueError(f"a batch of {uneven} rows cannot be shared by {count} processes; take a multiple of {count}")
    return {name: share(rows) for name, rows in batch.items()}


def snapshot(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of weights on the CPU, by name."""
    return {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}


def gradient_sizes(gradients: Gradients, group: Callable[[str], str]) -> dict[str, float]:
    """Largest absolute gradient of each group of weights; exactly 0.0 where a group has none at all.

    group: the name of a weight -> that of its group.
    """
    sizes: dict[str, float] = {}
    for name, gradient in gradients.items():
        sizes[group(name)] = max(sizes.get(group(name), 0.0), float(gradient.abs().max()))
    return sizes


def _generator(config: TrainingConfig, step: int, part: int) -> torch.Generator:
    """The CPU generator from which one batch is drawn."""
    return torch.Generator().manual_seed(_seed(config.seed, step, part))


def _seed(*numbers: int) -> int:
    """One number for a seed, a step and a part; those of neighbouring steps and seeds have nothing in common."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest(), "little")


def _trained(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not parameters:
        raise ValueError("fit: no parameters given; pass {name: parameter}, such as dict(network.named_parameters())")
    strange = {name: weight.dtype for name, weight in parameters.items() if weight.dtype != torch.float32}
    if strange:
        name, dtype = next(iter(strange.items()))
        raise ValueError(
            f"{len(strange)} of {len(parameters)} weights to train are not float32, such as {name} ({dtype}): small "
            "steps would be rounded away; call .float() on what is trained and use mixed_precision for speed"
        )
    return dict(parameters)


@contextlib.contextmanager
def _training(weights: dict[str, Tensor]) -> Iterator[None]:
    """Gradients for these weights inside the block only; the random state is put back after it."""
    device = next(iter(weights.values())).device
    before = {name: weight.requires_grad for name, weight in weights.items()}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(torch.enable_grad())
        try:
            for weight in weights.values():
                weight.requires_grad_(True)
            yield
        finally:
            for name, weight in weights.items():
                weight.grad = None
                weight.requires_grad_(before[name])


def _accelerator(config: TrainingConfig, device: torch.device) -> Accelerator:
    """accelerate keeps one precision a process; a notebook may train twice with two."""
    state = AcceleratorState._shared_state
    if state and AcceleratorState().mixed_precision != config.mixed_precision:
        AcceleratorState._reset_state()
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
    )
