"""Pictures to latents and back, in the scale of the denoiser, for every autoencoder of these pipelines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor

from studylib.denoisers.latents import LatentDistribution


def image_processor(pipe: Any) -> VaeImageProcessor:
    """The pipeline's own, or one for a pipeline that has none, such as DiTPipeline."""
    if hasattr(pipe, "image_processor"):
        return pipe.image_processor
    return VaeImageProcessor(vae_scale_factor=scale_factor(pipe))


def scale_factor(pipe: Any) -> int:
    """Pixels of a picture's side for one cell of its latents."""
    return 2 ** (len(pipe.vae.config.block_out_channels) - 1)


@torch.no_grad()
def encode_pictures(
    pipe: Any, images: Sequence[Image.Image], size: tuple[int, int] | None, batch_size: int
) -> LatentDistribution:
    """Scaled means and deviations of pictures at `size` (height, width), or at their own; on the VAE's device."""
    height, width = size or (None, None)
    means, stds = [], []
    with full_precision(pipe.vae) as dtype:
        for start in range(0, len(images), batch_size):
            batch = [image.convert("RGB") for image in images[start : start + batch_size]]
            pixels = image_processor(pipe).preprocess(batch, height=height, width=width)  # (n, 3, H, W) in [-1, 1]
            posterior = pipe.vae.encode(pixels.to(pipe._execution_device, dtype)).latent_dist
            mean, std = posterior.mean.float(), posterior.std.float()
            scale, shift = latent_scale(pipe.vae, mean)
            means.append((mean - shift) * scale)
            stds.append(std * scale)
    return LatentDistribution(torch.cat(means), torch.cat(stds))  # (N, C, h, w) each


def decode_pixels(pipe: Any, latents: Tensor) -> Tensor:
    """Pixels (N, 3, H, W) in about [-1, 1] of latents (N, C, h, w)."""
    scale, shift = latent_scale(pipe.vae, latents)
    with full_precision(pipe.vae) as dtype:
        unscaled = (latents / scale + shift).to(pipe._execution_device, dtype)
        return pipe.vae.decode(unscaled, return_dict=False)[0]  # (N, 3, H, W)


def latent_scale(vae: Any, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """(scale, shift) such that the denoiser's latents are (VAE latents - shift) * scale."""
    config = vae.config
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        mean, std = (like.new_tensor(x).view(1, -1, 1, 1) for x in (config.latents_mean, config.latents_std))
        return config.scaling_factor / std, mean
    return config.scaling_factor, config.get("shift_factor") or 0.0


@contextmanager
def full_precision(vae: Any) -> Iterator[torch.dtype]:
    """A half-precision VAE that overflows (`force_upcast`) works in float32 for the length of the block."""
    dtype = vae.dtype
    upcast = dtype == torch.float16 and vae.config.get("force_upcast", False)
    if upcast:
        vae.to(dtype=torch.float32)
    try:
        yield vae.dtype
    finally:
        if upcast:
            vae.to(dtype=dtype)
