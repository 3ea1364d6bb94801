"""From a picture back to the noise it could have been drawn from, and from noise to the picture: the same walk.

DDIM for denoisers of a noise schedule (arXiv 2010.02502, equation 13), Euler for those of a flow.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.prompts import Prompt
from studylib.denoisers.steps import new_schedule

Words = str | Sequence[str] | Prompt


def ddim_inversion(
    denoiser: Denoiser,
    image: Image.Image,
    prompt: Words,
    *,
    num_inference_steps: int = 50,
    guidance_scale: float = 1.0,
    **conditions: Any,
) -> Tensor:
    """The latents that the sampler would pass through on its way to `image`: (steps + 1, C, h, w), noisiest first.

    Exact only as far as the prediction changes little from step to step; guidance above 1 makes that worse. The
    prompt should describe the picture, which keeps its size. Raises ValueError for a schedule that cannot be inverted.
    """
    return invert_latents(
        denoiser,
        denoiser.encode([image], own_size=True).mean,
        prompt,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        **conditions,
    )


@torch.no_grad()
def invert_latents(
    denoiser: Denoiser,
    latents: Tensor,
    prompt: Words,
    *,
    num_inference_steps: int = 50,
    guidance_scale: float = 1.0,
    **conditions: Any,
) -> Tensor:
    """Walk from clean latents, (1, C, h, w), to noise: (steps + 1, C, h, w), noisiest first.

    Each step takes the prediction at its noisy end, as the sampler does on its way back. The walk is kept in float32
    whatever the denoiser's dtype is. `conditions` go to `predict`.
    """
    grid = _grid(denoiser, num_inference_steps, latents.shape)
    told = _told(denoiser, prompt, guidance_scale)
    trajectory = [latents.float()]
    new_schedule(denoiser.network)
    for high, low in reversed(grid):  # from clean to noisy
        output = denoiser.predict_guided(trajectory[-1], high.timestep, *told, **conditions)
        trajectory.append(_moved(denoiser.kind, trajectory[-1], output, low, high))
    new_schedule(denoiser.network)
    return torch.cat(trajectory).flip(0)  # (steps + 1, C, h, w)


@torch.no_grad()
def sample_latents(
    denoiser: Denoiser,
    latents: Tensor,
    prompt: Words,
    *,
    num_inference_steps: int = 50,
    guidance_scale: float = 1.0,
    **conditions: Any,
) -> Tensor:
    """Walk from noise (N, C, h, w) to clean latents (N, C, h, w) without random numbers: `invert_latents` backwards.

    For pipelines that take no latents, as DiTPipeline, and for methods that need more than a pipeline gives.
    """
    grid = _grid(denoiser, num_inference_steps, latents.shape)
    told = _told(denoiser, prompt, guidance_scale)
    sample = latents.float()
    new_schedule(denoiser.network)
    for high, low in grid:  # from noisy to clean
        output = denoiser.predict_guided(sample, high.timestep, *told, **conditions)
        sample = _moved(denoiser.kind, sample, output, high, low)
    new_schedule(denoiser.network)
    return sample


@dataclass(frozen=True)
class _Level:
    """One noise level of a walk: factors of clean latents and of noise there, and the timestep that is told."""

    signal: Tensor
    noisiness: Tensor
    timestep: Tensor | None  # None: clean, where nothing is predicted


def _moved(kind: str, sample: Tensor, output: Tensor, start: _Level, end: _Level) -> Tensor:
    """Latents at the level `end`, from those at `start` and a prediction."""
    if kind == "flow":
        return sample + (end.noisiness - start.noisiness) * output
    if kind == "epsilon":
        clean, noise_pred = (sample - start.noisiness * output) / start.signal, output
    else:
        clean = start.signal * sample - start.noisiness * output
        noise_pred = start.signal * output + start.noisiness * sample
    return end.signal * clean + end.noisiness * noise_pred


def _told(denoiser: Denoiser, prompt: Words, guidance_scale: float) -> tuple[Prompt, float, Prompt | None]:
    encoded = prompt if isinstance(prompt, Prompt) else denoiser.prompt(prompt)
    return encoded, guidance_scale, denoiser.unconditional() if guidance_scale > 1 else None


def _grid(denoiser: Denoiser, num_inference_steps: int, shape: Sequence[int]) -> list[tuple[_Level, _Level]]:
    """The noisy and the clean end of each step of the sampler, the noisiest first."""
    if denoiser.kind == "flow":
        schedule = denoiser.schedule(num_inference_steps, shape)
        times = [*schedule.timesteps, None]
        levels = [_Level(1 - sigma, sigma, t) for sigma, t in zip(schedule.sigmas.cpu(), times, strict=True)]
        return list(itertools.pairwise(levels))
    schedule = _ddim_schedule(denoiser, num_inference_steps)
    stride = schedule.config.num_train_timesteps // num_inference_steps
    return [(_level(schedule, t), _level(schedule, t - stride)) for t in schedule.timesteps.tolist()]


def _level(schedule: DDIMScheduler, timestep: int) -> _Level:
    """The level of a timestep; below zero lies the clean picture."""
    alpha = schedule.alphas_cumprod[timestep] if timestep >= 0 else schedule.final_alpha_cumprod
    return _Level(alpha**0.5, (1 - alpha) ** 0.5, torch.tensor(timestep) if timestep >= 0 else None)


def _ddim_schedule(denoiser: Denoiser, num_inference_steps: int) -> DDIMScheduler:
    """A DDIM schedule with the pipeline's own numbers; the pipeline's scheduler keeps its state."""
    config = denoiser.pipe.scheduler.config
    if isinstance(denoiser.pipe.scheduler, DDIMScheduler) and config.clip_sample:
        raise ValueError(
            "the scheduler clips its predicted latents (clip_sample=True), which cannot be undone; "
            "use DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)",
        )
    scheduler = DDIMScheduler.from_config(config, clip_sample=False)
    scheduler.set_timesteps(num_inference_steps)
    return scheduler
