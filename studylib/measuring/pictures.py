"""Pictures as the numbers that the tiny world's networks read, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor


def to_pixels(pictures: np.ndarray | Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size, or their bytes (N, H, W, 3) -> (N, 3, H, W) float32 in [-1, 1]."""
    values = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))  # (N, H, W, 3)
    return values.permute(0, 3, 1, 2).float() / 127.5 - 1  # (N, 3, H, W)


def to_images(pixels: Tensor) -> list[Image.Image]:
    """(N, 3, H, W) in [-1, 1] -> pictures; what lies beyond is cut off."""
    return VaeImageProcessor().postprocess(pixels.detach().float(), output_type="pil")
