"""From a picture back to the noise it could have been drawn from: VAE encoding and DDIM inversion.

Works for every latent UNet pipeline with DDIM's `alphas_cumprod`: SD 1.x, SD 2.x, SDXL, the tiny world.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor


@torch.no_grad()
def encode_image(pipe: Any, image: Image.Image | list[Image.Image]) -> Tensor:
    """Latents of one picture or several of equal size: the VAE's mean in the denoiser's scale, float32.

    Pictures whose sides are no multiple of the VAE's factor are resized to one, as the pipelines do.
    Returns (pictures, channels, height / factor, width / factor). Draws no random numbers.
    """
    pixels = pipe.image_processor.preprocess(image)  # (B, 3, H, W) in [-1, 1]
    with _full_precision(pipe.vae) as dtype:
        mean = pipe.vae.encode(pixels.to(pipe._execution_device, dtype)).latent_dist.mean  # (B, C, h, w)
    scale, shift = _latent_scale(pipe.vae, mean)
    return ((mean - shift) * scale).float()


@torch.no_grad()
def decode_latents(pipe: Any, latents: Tensor) -> list[Image.Image]:
    """Pictures of (B, C, h, w) latents: the inverse of `encode_image` up to the VAE's own loss."""
    scale, shift = _latent_scale(pipe.vae, latents)
    with _full_precision(pipe.vae) as dtype:
        unscaled = (latents / scale + shift).to(pipe._execution_device, dtype)
        pixels = pipe.vae.decode(unscaled, return_dict=False)[0]  # (B, 3, H, W) in about [-1, 1]
    return pipe.image_processor.postprocess(pixels.float(), output_type="pil")


def ddim_inversion(
    pipe: Any,
    image: Image.Image,
    prompt: str,
    *,
    num_inference_steps: int = 50,
    guidance_scale: float = 1.0,
) -> Tensor:
    """The latents DDIM would pass through on its way to `image`: (steps + 1, C, h, w), noisiest first.

    Exact only as far as the predicted noise changes little from step to step; guidance above 1 makes that
    worse. The prompt should describe the picture. Raises ValueError if the pipeline's schedule is not DDIM's.
    """
    return invert_latents(
        pipe,
        encode_image(pipe, image),
        prompt,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
    )


@torch.no_grad()
def invert_latents(
    pipe: Any,
    latents: Tensor,
    prompt: str,
    *,
    num_inference_steps: int = 50,
    guidance_scale: float = 1.0,
) -> Tensor:
    """DDIM inversion (arXiv 2010.02502, equation 13 run backwards) of clean latents, (1, C, h, w).

    Returns (steps + 1, C, h, w), noisiest first; kept in float32 whatever the denoiser's dtype is.
    """
    scheduler = _ddim_schedule(pipe, num_inference_steps)
    guided = guidance_scale > 1
    prompt_embeds, added = _conditioning(pipe, prompt, guided, latents)
    stride = scheduler.config.num_train_timesteps // num_inference_steps

    trajectory = [latents.float()]
    for timestep in reversed(scheduler.timesteps.tolist()):  # from clean to noisy
        alpha, alpha_next = _alpha(scheduler, timestep - stride), _alpha(scheduler, timestep)
        sample = trajectory[-1]
        model_input = torch.cat([sample] * 2) if guided else sample  # (1 or 2, C, h, w)
        output = pipe.unet(
            model_input.to(pipe.unet.dtype),
            timestep,
            encoder_hidden_states=prompt_embeds,
            added_cond_kwargs=added,
            return_dict=False,
        )[0].float()
        if guided:
            unconditional, conditional = output.chunk(2)  # (1, C, h, w) each
            output = unconditional + guidance_scale * (conditional - unconditional)
        clean, noise_pred = _split(output, sample, alpha, scheduler.config.prediction_type)
        trajectory.append(alpha_next**0.5 * clean + (1 - alpha_next) ** 0.5 * noise_pred)
    return torch.cat(trajectory).flip(0)  # (steps + 1, C, h, w)


def _split(output: Tensor, sample: Tensor, alpha: Tensor, prediction_type: str) -> tuple[Tensor, Tensor]:
    """Predicted clean latents and predicted noise, from what the denoiser says at cumulative `alpha`."""
    if prediction_type == "epsilon":
        return (sample - (1 - alpha) ** 0.5 * output) / alpha**0.5, output
    clean = alpha**0.5 * sample - (1 - alpha) ** 0.5 * output
    return clean, alpha**0.5 * output + (1 - alpha) ** 0.5 * sample


def _alpha(scheduler: DDIMScheduler, timestep: int) -> Tensor:
    """Cumulative alpha at `timestep`; below zero lies the clean picture."""
    return scheduler.alphas_cumprod[timestep] if timestep >= 0 else scheduler.final_alpha_cumprod


def _ddim_schedule(pipe: Any, num_inference_steps: int) -> DDIMScheduler:
    """A DDIM schedule with the pipeline's own numbers; the pipeline's scheduler keeps its state."""
    config, name = pipe.scheduler.config, type(pipe.scheduler).__name__
    if not hasattr(pipe.scheduler, "alphas_cumprod"):
        raise ValueError(
            f"DDIM inversion needs a scheduler with alphas_cumprod, the pipeline has {name}; "
            "models that learn a flow cannot be inverted this way",
        )
    if config.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
        raise ValueError(f"DDIM inversion takes epsilon or v_prediction, {name} has {config.prediction_type}")
    if isinstance(pipe.scheduler, DDIMScheduler) and config.clip_sample:
        raise ValueError(
            "the scheduler clips its predicted latents (clip_sample=True), which cannot be undone; "
            "use DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)",
        )
    scheduler = DDIMScheduler.from_config(config, clip_sample=False)
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


def _conditioning(
    pipe: Any, prompt: str, guided: bool, latents: Tensor,
) -> tuple[Tensor, dict[str, Tensor] | None]:
    """What the denoiser is told beside the latents, unconditional row first when guided."""
    prompt_embeds, negative_embeds, *pooled = pipe.encode_prompt(
        prompt=prompt,
        device=pipe._execution_device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=guided,
    )
    rows = [negative_embeds, prompt_embeds] if guided else [prompt_embeds]
    prompt_embeds = torch.cat(rows)  # (1 or 2, tokens, width)
    if pipe.unet.config.addition_embed_type != "text_time":
        return prompt_embeds, None
    text_embeds = torch.cat([pooled[1], pooled[0]] if guided else [pooled[0]])  # (1 or 2, width)
    size = [side * pipe.vae_scale_factor for side in latents.shape[-2:]]
    time_ids = prompt_embeds.new_tensor([[*size, 0, 0, *size]])  # (1, 6)
    return prompt_embeds, {"text_embeds": text_embeds, "time_ids": time_ids.expand(len(rows), -1)}


def _latent_scale(vae: Any, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """(scale, shift) such that the denoiser's latents are (VAE latents - shift) * scale."""
    config = vae.config
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        mean, std = (like.new_tensor(x).view(1, -1, 1, 1) for x in (config.latents_mean, config.latents_std))
        return config.scaling_factor / std, mean
    return config.scaling_factor, config.get("shift_factor") or 0.0


@contextmanager
def _full_precision(vae: Any) -> Iterator[torch.dtype]:
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
