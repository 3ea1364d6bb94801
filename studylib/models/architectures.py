"""Networks of hub models without their weights, on the meta device: layers and shapes to count on, in no memory."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel


def sd15_unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's denoiser: 859,520,964 parameters."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            cross_attention_dim=768,
            attention_head_dim=8,  # heads, in the checkpoint's own words
            norm_num_groups=32,
        )


def sd15_text_encoder() -> CLIPTextModel:
    """Its text encoder, CLIP ViT-L/14's: 123,060,480 parameters, a table of 49,408 words."""
    config = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    with torch.device("meta"):
        return CLIPTextModel(config)
