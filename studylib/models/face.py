"""The network that finds a face, its five keypoints and whose it is; it stands for ArcFace and a face detector."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from studylib.models.resnet import small_resnet

KEYPOINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")


class Faces(NamedTuple):
    """What `FaceNetwork` saw in N pictures."""

    embedding: Tensor  # (N, dimensions), of length 1: whose face it is
    keypoints: Tensor  # (N, 5, 2): x and y in picture widths, in the order of KEYPOINTS
    found: Tensor  # (N,): log odds that there is a face
    maps: Tensor  # (N, 5, 32, 32): logits of where each keypoint is


class FaceNetwork(nn.Module, PyTorchModelHubMixin):
    """A small ResNet: keypoints are the centres of five heat maps, the embedding reads the last level."""

    def __init__(self, widths: list[int] = (32, 48, 72, 112), dimensions: int = 64) -> None:
        super().__init__()
        self.backbone = small_resnet(widths)
        self.lateral = nn.ModuleList([nn.Conv2d(width, 32, 1) for width in widths])
        maps = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.GELU(), nn.Conv2d(32, len(KEYPOINTS), 1))
        self.outputs = nn.ModuleDict({
            "embedding": nn.Linear(widths[-1] * 16, dimensions), "found": nn.Linear(widths[-1], 1), "maps": maps
        })  # fmt: skip

    def forward(self, pixels: Tensor) -> Faces:
        """(N, 3, 128, 128) in [-1, 1] -> `Faces`."""
        _, *levels = self.backbone(pixels, output_hidden_states=True).hidden_states  # 32, 16, 8, 4 cells a side
        joined = 0
        for lateral, level in zip(self.lateral, levels, strict=True):
            joined = joined + F.interpolate(lateral(level), size=levels[0].shape[-2:], mode="bilinear")
        maps = self.outputs["maps"](joined).float()  # (N, 5, 32, 32)
        embedding = F.normalize(self.outputs["embedding"](levels[-1].flatten(1)).float(), dim=-1)
        found = self.outputs["found"](levels[-1].mean(dim=(2, 3))).float()[:, 0]
        return Faces(embedding, centres(maps), found, maps)


def centres(maps: Tensor) -> Tensor:
    """(N, K, h, w) logits -> the expected position under each map's softmax, (N, K, 2) in picture widths."""
    height, width = maps.shape[-2:]
    weights = maps.flatten(2).softmax(-1).view_as(maps)
    x = (torch.arange(width, device=maps.device) + 0.5) / width
    y = (torch.arange(height, device=maps.device) + 0.5) / height
    return torch.stack([(weights.sum(2) * x).sum(-1), (weights.sum(3) * y).sum(-1)], dim=-1)
