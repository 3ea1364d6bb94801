"""The one training loop, for papers and recipes, on accelerate: seeded, resumable, in float32 or mixed precision.

A step's random numbers come from the seed and the step's number alone, so that a run that was cut off and resumed
ends with the very weights of one that was not. Under `accelerate launch` the processes share each batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.optim import Optimizer
from tqdm.auto import tqdm

from studylib.errors import StudyError
from studylib.learning.checkpoint import Checkpoint
from studylib.learning.config import TrainingConfig
from studylib.learning.history import History, snapshot
from studylib.learning.identity import NOBODY, Identity
from studylib.learning.processes import agreed, average_gradients, share
from studylib.machine import peak_of

Batch = Mapping[str, Tensor]
Draw = Callable[[torch.Generator], Batch]
Loss = Callable[[Batch], Tensor | Mapping[str, Tensor]]
Gradients = Mapping[str, Tensor]
Schedule = Callable[[int, float], float | None]


def fit(
    parameters: Mapping[str, Tensor],
    draw: Draw,
    loss: Loss,
    config: TrainingConfig,
    *,
    folder: str | Path | None = None,
    identity: Identity = NOBODY,
    save_every: float = 30.0,
    make_optimiser: Callable[[dict[str, Tensor]], Optimizer] | None = None,
    schedule: Schedule | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    after_backward: Callable[[int, Gradients], None] | None = None,
    after_step: Callable[[int], None] | None = None,
    show: Callable[[History], None] | None = None,
    show_every: float = 300.0,
    keep: Collection[int] = (),
    label: str = "training",
) -> History:
    """Train the named `parameters` in place; everything else stays as it is.

    `draw(generator)` makes a batch, tensors with a row per sample, from a CPU generator; `loss(batch)` returns its
    mean loss, or named losses of which "loss" is minimised. `after_backward(n, gradients)` sees the gradients by name,
    before they are clipped, and `after_step(n)` the new weights, in each of steps 1 to N. `keep` names steps whose
    weights become snapshots of the history, 0 those before the first. With `folder` the state is kept there every
    `save_every` seconds and at the end, and a later call of the same `identity` goes on from it; `buffers`, which the
    forward itself changes (the statistics of a BatchNorm), are kept with it.
    make_optimiser: from the named weights; by default AdamW as `config` says. schedule: (steps done, seconds so far) ->
    factor of the learning rates in the next step, None to end before `config.steps`; by default that of `config`.
    `show(history)` is called every `show_every` seconds and at the end, in the first process, with the averaged weights
    in place; its time does not count.
    Random state: the global generators, which `loss` may draw from, are seeded by the step and in the end left as they
    were. Raises ValueError for weights that are not float32, StudyError for weights that the loss does not reach, for a
    loss that is not finite and for a checkpoint of another training, of other data or without the steps to `keep`.
    """
    weights = _trained(parameters)
    if strange := [step for step in keep if not 0 <= step <= config.steps]:
        raise ValueError(f"{label}: step {strange[0]} cannot be kept, the steps are 0 to {config.steps}")
    device = next(iter(weights.values())).device
    accelerator = _accelerator(config, device)
    optimiser = adamw(weights.values(), config) if make_optimiser is None else make_optimiser(weights)
    peaks = [group["lr"] for group in optimiser.param_groups]
    schedule = schedule or _schedule(config, optimiser)
    average = EMAModel(weights.values(), decay=config.ema_decay) if config.ema_decay else None
    history = History(parameters=sum(weight.numel() for weight in weights.values()))
    checkpoint = None
    if folder is not None:
        settings = (accelerator, config, identity)
        checkpoint = Checkpoint(Path(folder), weights, buffers or {}, optimiser, average, *settings)
        checkpoint.load(history, draw(_generator(config, 0, 0)), keep)
    first = step = len(history.rows)
    if first == 0 and 0 in keep:
        history.snapshots[0] = snapshot(weights)
    stepper = accelerator.prepare_optimizer(optimiser, device_placement=False)
    previous = saved = shown = time.monotonic()
    main = accelerator.is_main_process
    bar = tqdm(total=config.steps, initial=first, desc=label, leave=False, mininterval=0.5, disable=not main)
    with peak_of(str(device)) as peak, _training(weights), bar:
        while step < config.steps and (factor := schedule(step, history.seconds)) is not None:
            for group, rate in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = rate * factor
            losses = _accumulate(accelerator, weights, draw, loss, config, step)
            if step == first:
                _check_gradients(weights, label)
            step += 1
            _check_loss(losses["loss"], step, config, label)
            if after_backward is not None:
                after_backward(step, {name: weight.grad for name, weight in weights.items()})
            if config.max_grad_norm:
                accelerator.clip_grad_norm_(weights.values(), config.max_grad_norm)
            stepper.step()
            stepper.zero_grad()
            if average is not None:
                average.step(weights.values())
            if after_step is not None:
                with torch.no_grad():
                    after_step(step)
            if step in keep:
                history.snapshots[step] = snapshot(weights)
            now = time.monotonic()
            row = {"step": step, **losses, "learning_rate": optimiser.param_groups[0]["lr"]}
            history.rows.append(row | {"seconds": agreed(history.seconds + now - previous)})
            previous = now
            bar.update()
            bar.set_postfix(loss=f"{losses['loss']:.4f}", refresh=False)
            if checkpoint and now - saved > save_every:
                checkpoint.save(history)
                saved = time.monotonic()
            if show and main and now - shown > show_every:
                with torch.no_grad(), _averaged(weights, average):
                    show(history)
                previous = shown = time.monotonic()
    history.memory_mib = max(history.memory_mib, peak.mib)  # of the part before a resume, or of this one
    if checkpoint and checkpoint.step < step:
        checkpoint.save(history)
    if average is not None:
        average.copy_to(weights.values())
    if show and main:
        with torch.no_grad():
            show(history)
    return history


def adamw(weights: Iterable[Tensor], config: TrainingConfig) -> torch.optim.AdamW:
    """The optimiser that `config` describes."""
    weights = list(weights)
    return torch.optim.AdamW(
        weights, config.learning_rate, config.betas, config.epsilon, config.weight_decay,
        fused=True if weights[0].device.type == "cpu" else None,  # else there it goes weight by weight, in Python
    )


def _schedule(config: TrainingConfig, optimiser: Optimizer) -> Schedule:
    """What `config` says: it looks at steps only."""
    factor = get_scheduler(
        config.schedule, optimiser, num_warmup_steps=config.warmup_steps, num_training_steps=config.steps
    ).lr_lambdas[0]
    return lambda step, _: factor(step)


@contextlib.contextmanager
def _averaged(weights: Mapping[str, Tensor], average: EMAModel | None) -> Iterator[None]:
    """The averaged weights in place of the last ones inside the block."""
    if average is None:
        yield
        return
    average.store(weights.values())
    average.copy_to(weights.values())
    try:
        yield
    finally:
        average.restore(weights.values())


def _check_loss(loss: float, step: int, config: TrainingConfig, label: str) -> None:
    """StudyError for a loss that is not finite: the weights would be lost with the next step."""
    if not math.isfinite(loss):
        raise StudyError(
            f"{label}: the loss is {loss} at step {step}",
            f"Lower learning_rate, which is {config.learning_rate:g}, or train with mixed_precision='no'",
        )


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
