"""Pictures as latents: encoded once by a pipeline's autoencoder, then drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class LatentDistribution:
    """What a frozen encoder says of pictures: scaled means and standard deviations, (N, C, h, w) float32.

    Encoding once and drawing from it at every step is the same as encoding at every step.
    """

    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    def sample(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Latents of the pictures `index`, (n, C, h, w); random state: a CPU generator."""
        noise = torch.randn(len(index), *self.mean.shape[1:], generator=generator).to(self.mean)
        index = index.to(self.mean.device)
        return self.mean[index] + self.std[index] * noise


@torch.no_grad()
def encode_images(pipe: Any, images: Sequence[Image.Image], batch_size: int = 8) -> LatentDistribution:
    """Encode pictures with the pipeline's autoencoder, on its device; they are scaled to the size it draws."""
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    means, stds = [], []
    for start in range(0, len(images), batch_size):
        batch = [image.convert("RGB") for image in images[start : start + batch_size]]
        pixels = pipe.image_processor.preprocess(batch, height=size, width=size)  # (n, 3, H, W) in [-1, 1]
        posterior = pipe.vae.encode(pixels.to(pipe.vae.device, pipe.vae.dtype)).latent_dist
        means.append(posterior.mean.float() * pipe.vae.config.scaling_factor)
        stds.append(posterior.std.float() * pipe.vae.config.scaling_factor)
    return LatentDistribution(torch.cat(means), torch.cat(stds))
