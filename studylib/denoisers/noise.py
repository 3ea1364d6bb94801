"""Noise added to latents, and what a denoiser gets wrong about it: the training loss, drawn or at fixed noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from studylib.denoisers.latents import LatentDistribution
from studylib.denoisers.prompts import encode_prompts


def noised(
    pipe: Any, latents: LatentDistribution, index: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Latents (n, C, h, w) of the pictures `index`, with noise (n, C, h, w) and a timestep (n,) of its own for each.

    Random state: a CPU generator, from which latents, noise and timesteps are drawn in this order.
    """
    clean = latents.sample(index, generator)  # (n, C, h, w)
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    return {"latents": clean, "noise": noise, "timesteps": draw_timesteps(pipe, len(index), generator)}


def denoising_errors(
    pipe: Any, latents: Tensor, prompt_embeds: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Mean squared error of the denoiser's prediction for each noised latent, (N,): the training loss, unweighted.

    The target is the noise or the velocity, as the pipeline's scheduler says.
    """
    scheduler = pipe.scheduler
    noised = scheduler.add_noise(latents, noise, timesteps)  # (N, C, h, w)
    prediction = pipe.unet(noised, timesteps, encoder_hidden_states=prompt_embeds).sample
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"the scheduler predicts {kind!r}; training needs epsilon or v_prediction")
    target = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
    return (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))  # (N,)


def at_fixed_levels(pipe: Any, clean: Tensor, seed: int, levels: int) -> dict[str, Tensor]:
    """Each of the latents (N, C, h, w) at `levels` timesteps spread over the schedule: latents, noise and timesteps of
    N * levels rows, for measures without the luck of a draw. Random state: a CPU generator of `seed`."""
    steps = ((torch.arange(levels) + 0.5) / levels * pipe.scheduler.config.num_train_timesteps).long()  # (levels,)
    clean = clean.repeat_interleave(levels, dim=0)  # (N * levels, C, h, w)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).to(clean)
    timesteps = steps.repeat(len(clean) // levels).to(pipe.unet.device)  # (N * levels,)
    return {"latents": clean, "noise": noise, "timesteps": timesteps}


@torch.no_grad()
def fixed_errors(pipe: Any, latents: LatentDistribution, prompt: str, seed: int = 0, levels: int = 8) -> Tensor:
    """The training loss of each picture under `prompt`, (N,), with noise and timesteps fixed by `seed`."""
    asked = at_fixed_levels(pipe, latents.mean, seed, levels)
    embeds = encode_prompts(pipe, [prompt]).expand(len(asked["latents"]), -1, -1)  # (N * levels, tokens, width)
    rows = (asked["latents"], embeds, asked["noise"], asked["timesteps"])
    parts = zip(*(tensor.split(32) for tensor in rows), strict=True)
    errors = torch.cat([denoising_errors(pipe, *part) for part in parts])  # (N * levels,)
    return errors.unflatten(0, (-1, levels)).mean(dim=1)  # (N,)


def min_snr_weights(pipe: Any, timesteps: Tensor, gamma: float) -> Tensor:
    """Min-SNR-gamma weight of each timestep, (N,) (Hang et al. 2023): min(SNR, gamma) / SNR, for v / (SNR + 1)."""
    alphas = pipe.scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = alphas / (1 - alphas)
    over = snr + 1 if pipe.scheduler.config.prediction_type == "v_prediction" else snr
    return snr.clamp(max=gamma) / over


def draw_timesteps(pipe: Any, count: int, generator: torch.Generator) -> Tensor:
    """Uniform training timesteps, (count,) on the denoiser's device; random state: a CPU generator."""
    steps = torch.randint(pipe.scheduler.config.num_train_timesteps, (count,), generator=generator)
    return steps.to(pipe.unet.device)
