"""What a training's result depends on beside its settings: the method's choices, the words, the data, the model."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from studylib.denoisers.latents import LatentDistribution

SAMPLED = 4096  # numbers of each picture that are kept and compared
WEIGHED = 64  # numbers of each weight of the model that are hashed


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to. `choices`: name -> plain values, equal or not. `data`: name -> tensor, whose rows
    are compared with a tolerance, since encoders round differently on different machines."""

    choices: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Tensor] = field(default_factory=dict)


NOBODY = Identity()


def identity_of(
    pipe: Any, config: Any, *, captions: Sequence[str] = (), **pictures: LatentDistribution | None
) -> Identity:
    """Identity of a training of a method: its whole config, its captions in order, its encoded pictures by name, and
    the pipeline as it is before the training."""
    choices = {"method": dataclasses.asdict(config), "captions": list(captions), "model": model_digest(pipe)}
    given = {name: latents for name, latents in pictures.items() if latents is not None}
    return Identity(choices, {name: _sampled(latents.mean) for name, latents in given.items()})


@torch.no_grad()
def model_digest(pipe: Any) -> str:
    """Hash of a pipeline: names, shapes and some numbers of every weight, and the noise schedule. A retrained model,
    another checkpoint or a loaded adapter changes it."""
    digest = hashlib.sha256()
    for part, module in sorted(pipe.components.items()):
        if not isinstance(module, nn.Module):
            continue
        for name, weight in module.named_parameters():
            numbers = weight.detach().flatten()[:: max(1, weight.numel() // WEIGHED)].float().cpu()
            digest.update(f"{part}.{name} {tuple(weight.shape)}".encode() + numbers.numpy().tobytes())
    schedule = {name: value for name, value in pipe.scheduler.config.items() if not name.startswith("_")}
    digest.update(repr(sorted(schedule.items(), key=str)).encode())
    return digest.hexdigest()


def _sampled(latents: Tensor) -> Tensor:
    """Numbers spread over each picture, (N, at most SAMPLED) on the CPU."""
    rows = latents.detach().flatten(1)  # (N, C h w)
    return rows[:, :: -(-rows.shape[1] // SAMPLED)].cpu()
