"""Real diffusers pipelines at toy size with random weights, built in memory, the same for the same seed."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WIDTH = 32  # of text embeddings


def tokenizer() -> CLIPTokenizer:
    """A byte-level tokenizer without merges: every text becomes one token per byte."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=16)


def text_config(**changes: int) -> CLIPTextConfig:
    vocabulary = 2 * 256 + 2
    return CLIPTextConfig(
        **{
            "vocab_size": vocabulary, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1,
            "pad_token_id": vocabulary - 1, "hidden_size": WIDTH, "intermediate_size": 37,
            "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 16,
            "projection_dim": WIDTH, **changes,
        },
    )


def vae(seed: int = 0, **changes: object) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        **{
            "block_out_channels": (8, 16), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4,
            "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
            "sample_size": 16, **changes,
        },
    ).eval()


def unet(seed: int = 0, **changes: object) -> UNet2DConditionModel:
    """Two levels, attention at both and in the middle: seven self-attention layers (ten in `sdxl`)."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        **{
            "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4,
            "down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2,
            "cross_attention_dim": WIDTH, "attention_head_dim": 2, **changes,
        },
    ).eval()


def scheduler(**changes: object) -> DDIMScheduler:
    return DDIMScheduler(
        **{
            "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
            "set_alpha_to_one": False, "steps_offset": 1, **changes,
        },
    )


def sd(seed: int = 0, **unet_changes: object) -> StableDiffusionPipeline:
    denoiser = unet(seed, **unet_changes)
    pipe = StableDiffusionPipeline(
        vae=vae(seed), text_encoder=CLIPTextModel(text_config()).eval(), tokenizer=tokenizer(), unet=denoiser,
        scheduler=scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def frozen_sd(seed: int = 0) -> StableDiffusionPipeline:
    """The same with every weight frozen, as `load` gives it: a training asks for gradients of what it trains."""
    pipe = sd(seed)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)
    return pipe


def pictures(seed: int = 0, count: int = 3) -> list[Image.Image]:
    """Smooth random pictures of the pipelines' size."""
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((16, 16)) for _ in range(count)]


def sdxl(seed: int = 0, **unet_changes: object) -> StableDiffusionXLPipeline:
    denoiser = unet(
        seed,
        **{
            "cross_attention_dim": 2 * WIDTH, "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
            "use_linear_projection": True,
            "attention_head_dim": (2, 4), "transformer_layers_per_block": (1, 2), **unet_changes,
        },
    )
    pipe = StableDiffusionXLPipeline(
        vae=vae(seed), unet=denoiser, scheduler=scheduler(),
        text_encoder=CLIPTextModel(text_config()).eval(), tokenizer=tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(text_config()).eval(), tokenizer_2=tokenizer(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
