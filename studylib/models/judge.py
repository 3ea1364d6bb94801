"""The network that names what a picture of the tiny world shows; it stands for a human rater."""

from __future__ import annotations

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from studylib.models.resnet import small_resnet


class Judge(nn.Module, PyTorchModelHubMixin):
    """A small ResNet with one linear head an attribute; 0.2 M parameters."""

    def __init__(self, heads: dict[str, list[str]], widths: list[int] = (24, 40, 64, 96)) -> None:
        super().__init__()
        self.heads = {attribute: list(names) for attribute, names in heads.items()}
        self.backbone = small_resnet(widths)
        self.outputs = nn.ModuleDict({a: nn.Linear(widths[-1], len(names)) for a, names in self.heads.items()})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(N, 3, 128, 128) in [-1, 1] -> logits (N, classes) by attribute."""
        features = self.backbone(pixels).pooler_output.flatten(1)  # (N, 96)
        return {attribute: head(features) for attribute, head in self.outputs.items()}
