"""Latents of pictures, encoded once and drawn from at every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
