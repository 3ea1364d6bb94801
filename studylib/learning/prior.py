"""Batches of two halves: pictures of a subject, and of its class, so that the class does not drift to the subject."""

from __future__ import annotations

import torch
from torch import Tensor

from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.latents import LatentDistribution
from studylib.denoisers.noise import Density, noised, uniform
from studylib.learning.training import Batch, Draw


def prior_batches(
    denoiser: Denoiser, photos: LatentDistribution, prior: LatentDistribution | None, batch_size: int,
    density: Density = uniform,
) -> Draw:
    """Draw `batch_size` photos of the subject and, unless `prior` is None, as many pictures of the class.

    Columns are `instance_latents`, `instance_noise`, `instance_timesteps`, `instance_index` and the same of `class`:
    each row has noise and a timestep of its own, and the class does not move what is drawn for the subject.
    """

    def draw(generator: torch.Generator) -> Batch:
        batch: dict[str, Tensor] = {}
        for half, latents in (("instance", photos), ("class", prior)):
            if latents is not None:
                index = torch.randint(len(latents), (batch_size,), generator=generator)
                rows = noised(denoiser, latents, index, generator, density) | {"index": index}
                batch |= {f"{half}_{name}": values for name, values in rows.items()}
        return batch

    return draw


def joined_halves(batch: Batch) -> tuple[list[str], dict[str, Tensor]]:
    """Names of the halves that are there, and their columns one below another, for one forward pass of both."""
    halves = [half for half in ("instance", "class") if f"{half}_latents" in batch]
    names = [name.removeprefix("instance_") for name in batch if name.startswith("instance_")]
    return halves, {name: torch.cat([batch[f"{half}_{name}"] for half in halves]) for name in names}
