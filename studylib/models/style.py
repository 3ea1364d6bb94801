"""The network that tells in which nuance of a style a picture is drawn, whatever it shows; it stands for CSD."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from studylib.models.resnet import small_resnet


class StyleNetwork(nn.Module, PyTorchModelHubMixin):
    """A small ResNet whose features are means and deviations of its channels over the picture, at every level: what
    is drawn where is lost, how it is drawn stays."""

    def __init__(self, widths: list[int] = (24, 40, 64, 96), dimensions: int = 64) -> None:
        super().__init__()
        self.backbone = small_resnet(widths)
        statistics = 2 * (widths[0] + sum(widths))
        self.outputs = nn.Sequential(nn.Linear(statistics, 128), nn.GELU(), nn.Linear(128, dimensions))

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, 128, 128) in [-1, 1] -> unit features (N, dimensions)."""
        levels = self.backbone(pixels, output_hidden_states=True).hidden_states
        flat = [level.flatten(2) for level in levels]  # (N, C, h * w) each
        statistics = torch.cat([torch.cat([x.mean(-1), x.std(-1)], 1) for x in flat], dim=1)
        return F.normalize(self.outputs(statistics).float(), dim=-1)
