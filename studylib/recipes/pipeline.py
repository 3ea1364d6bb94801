"""The tiny model's parts as an ordinary `StableDiffusionPipeline`, and pictures from it."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from tqdm.auto import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from studylib.models.files import WEIGHTS


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.5's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def assemble(
    unet: UNet2DConditionModel, vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """The parts as a pipeline; progress bars off."""
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def shipped_pipeline() -> StableDiffusionPipeline:
    """The shipped weights as a pipeline in float32."""
    return assemble(
        UNet2DConditionModel.from_pretrained(WEIGHTS / "sd" / "unet", torch_dtype=torch.float32).eval(),
        AutoencoderKL.from_pretrained(WEIGHTS / "vae", torch_dtype=torch.float32).eval(),
        CLIPTextModel.from_pretrained(WEIGHTS / "clip", dtype=torch.float32).eval(),
        CLIPTokenizer.from_pretrained(WEIGHTS / "clip"),
    )


def sample(
    pipe: StableDiffusionPipeline,
    prompts: list[str],
    seed: int,
    *,
    steps: int = 25,
    guidance_scale: float = 5.0,
    batch_size: int = 40,
) -> list[Image.Image]:
    """One picture a prompt; the noise of prompt i comes from `seed + i` alone."""
    images = []
    for start in tqdm(range(0, len(prompts), batch_size), desc="sampling", disable=len(prompts) <= batch_size):
        batch = prompts[start : start + batch_size]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(batch))]
        images += pipe(batch, num_inference_steps=steps, guidance_scale=guidance_scale, generator=generators).images
    return images
