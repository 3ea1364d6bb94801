"""Noise added to latents, and what a denoiser gets wrong about it: the training loss, drawn or at fixed noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.latents import LatentDistribution
from studylib.denoisers.prompts import Prompt

Density = Callable[[int, int, torch.Generator], Tensor]  # (count, levels, generator) -> whole numbers (count,)


def uniform(count: int, levels: int, generator: torch.Generator) -> Tensor:
    """Draw each of `levels` noise levels alike, (count,), from 0, the cleanest; random state: a CPU generator."""
    return torch.randint(levels, (count,), generator=generator)


def cubic(count: int, levels: int, generator: torch.Generator) -> Tensor:
    """Draw high noise more often, (count,): (1 - u^3) * levels, u uniform, as T2I-Adapter trains (arXiv 2302.08453)."""
    drawn = torch.rand(count, generator=generator)  # (count,)
    return ((1 - drawn**3) * levels).long().clamp(max=levels - 1)


def between(low: float, high: float) -> Density:
    """Draw alike among the noise levels from the share `low` up to the share `high` of the schedule, in [0, 1]."""
    if not 0 <= low < high <= 1:
        raise ValueError(f"a range of noise levels has 0 <= low < high <= 1, not low={low} and high={high}")

    def density(count: int, levels: int, generator: torch.Generator) -> Tensor:
        first, last = round(low * levels), round(high * levels)
        if first == last:
            raise ValueError(f"there is no noise level between {low} and {high} of {levels}")
        return torch.randint(first, last, (count,), generator=generator)

    return density


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Density:
    """Draw middle levels more often: the sigmoid of a normal number, as SD3 trains (arXiv 2403.03206, section 3.1)."""

    def density(count: int, levels: int, generator: torch.Generator) -> Tensor:
        drawn = torch.sigmoid(mean + std * torch.randn(count, generator=generator))  # (count,)
        return (drawn * levels).long().clamp(max=levels - 1)

    return density


def draw_timesteps(
    denoiser: Denoiser, count: int, generator: torch.Generator, density: Density = uniform
) -> Tensor:
    """Training timesteps, (count,) on the denoiser's device; random state: a CPU generator."""
    levels = denoiser.training_timesteps  # (T,)
    return levels[density(count, len(levels), generator)].to(denoiser.device)


def noised(
    denoiser: Denoiser, latents: LatentDistribution, index: Tensor, generator: torch.Generator,
    density: Density = uniform,
) -> dict[str, Tensor]:
    """Latents (n, C, h, w) of the pictures `index`, with noise (n, C, h, w) and a timestep (n,) of its own for each.

    Random state: a CPU generator, from which latents, noise and timesteps are drawn in this order.
    """
    clean = latents.sample(index, generator)  # (n, C, h, w)
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    timesteps = draw_timesteps(denoiser, len(index), generator, density)
    return {"latents": clean, "noise": noise, "timesteps": timesteps}


def denoising_errors(
    denoiser: Denoiser, latents: Tensor, prompt: Prompt | Tensor, noise: Tensor, timesteps: Tensor, **conditions: Any
) -> Tensor:
    """Mean squared error of the denoiser's prediction for each noised latent, (N,): the training loss, unweighted.

    The target is the noise, the velocity or the flow, as the pipeline's scheduler says; conditions as in `predict`.
    """
    target = denoiser.target(latents, noise, timesteps)  # (N, C, h, w)
    prediction = denoiser.predict(denoiser.add_noise(latents, noise, timesteps), timesteps, prompt, **conditions)
    return (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))  # (N,)


def at_fixed_levels(denoiser: Denoiser, clean: Tensor, seed: int, levels: int) -> dict[str, Tensor]:
    """Each of the latents (N, C, h, w) at `levels` timesteps spread over the schedule: latents, noise and timesteps of
    N * levels rows, for measures without the luck of a draw. Random state: a CPU generator of `seed`."""
    all_levels = denoiser.training_timesteps  # (T,)
    steps = all_levels[((torch.arange(levels) + 0.5) / levels * len(all_levels)).long()]  # (levels,)
    clean = clean.repeat_interleave(levels, dim=0)  # (N * levels, C, h, w)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).to(clean)
    timesteps = steps.repeat(len(clean) // levels).to(denoiser.device)  # (N * levels,)
    return {"latents": clean, "noise": noise, "timesteps": timesteps}


@torch.no_grad()
def predict_in_parts(
    denoiser: Denoiser, noisy: Tensor, timesteps: Tensor, prompt: Prompt, rows: int = 32
) -> Tensor:
    """What the denoiser predicts of many noised latents, (N, C, h, w), without gradients and `rows` at a time.

    prompt: N rows, or one for all.
    """
    prompt = prompt.expand(len(noisy))
    parts = [slice(start, start + rows) for start in range(0, len(noisy), rows)]
    return torch.cat([denoiser.predict(noisy[part], timesteps[part], prompt[part]) for part in parts])


@torch.no_grad()
def fixed_errors(
    denoiser: Denoiser, latents: LatentDistribution, prompt: str, seed: int = 0, levels: int = 8
) -> Tensor:
    """The training loss of each picture under `prompt`, (N,), with noise and timesteps fixed by `seed`."""
    asked = at_fixed_levels(denoiser, latents.mean, seed, levels)
    prediction = fixed_predictions(denoiser, latents.mean, prompt, seed, levels)
    target = denoiser.target(asked["latents"], asked["noise"], asked["timesteps"])  # (N * levels, C, h, w)
    errors = (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))  # (N * levels,)
    return errors.unflatten(0, (-1, levels)).mean(dim=1)  # (N,)


@torch.no_grad()
def fixed_predictions(
    denoiser: Denoiser, latents: Tensor, prompt: str, seed: int = 0, levels: int = 8
) -> Tensor:
    """What the denoiser predicts of latents (N, C, h, w) with fixed noise, (N * levels, C, h, w)."""
    asked = at_fixed_levels(denoiser, latents, seed, levels)
    noisy = denoiser.add_noise(asked["latents"], asked["noise"], asked["timesteps"])  # (N * levels, C, h, w)
    return predict_in_parts(denoiser, noisy, asked["timesteps"], denoiser.prompt([prompt]))  # (N * levels, C, h, w)


def min_snr_weights(denoiser: Denoiser, timesteps: Tensor, gamma: float) -> Tensor:
    """Min-SNR-gamma weight of each timestep, (N,) (Hang et al. 2023): min(SNR, gamma) / SNR, for v / (SNR + 1).

    Where a schedule ends at an SNR of zero the weight is its limit, 1, for v 0. Raises
    ValueError for a denoiser that predicts a flow, for which the paper has no weights.
    """
    kind = denoiser.kind
    if kind == "flow":
        raise ValueError("min-SNR weights are for the noise or v of a noise schedule; this denoiser predicts a flow")
    alphas = denoiser.pipe.scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = alphas / (1 - alphas)
    if kind == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1)
    return (gamma / snr).clamp(max=1.0)
