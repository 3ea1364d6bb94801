"""The backbone of the small networks that measure."""

from transformers import ResNetConfig, ResNetModel


def small_resnet(widths: list[int]) -> ResNetModel:
    """A ResNet with one basic block a level: (N, 3, 128, 128) pictures -> levels of 32, 16, 8 and 4 cells a side."""
    config = ResNetConfig(
        embedding_size=widths[0],
        hidden_sizes=list(widths),
        depths=[1] * len(widths),
        layer_type="basic",
        num_channels=3,
    )
    return ResNetModel(config)
