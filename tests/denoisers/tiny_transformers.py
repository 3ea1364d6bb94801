"""Real diffusers pipelines with transformers, at toy size with random weights, the same for the same seed."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5Tokenizer

from tests.tiny_pipelines import WIDTH, scheduler, text_config, tokenizer, vae

LETTERS = [*"abcdefghijklmnopqrstuvwxyz"]


def t5_tokenizer() -> T5Tokenizer:
    """One token a letter."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=[*special, *((letter, -3.0) for letter in LETTERS)], extra_ids=0)


def t5() -> T5EncoderModel:
    torch.manual_seed(3)
    return T5EncoderModel(
        T5Config(vocab_size=32, d_model=WIDTH, d_kv=8, d_ff=37, num_layers=1, num_heads=4, dropout_rate=0.0),
    ).eval()


def dit(seed: int = 0, **changes: Any) -> DiTPipeline:
    """Four named classes of a thousand, since DiTPipeline's empty class is number 1000."""
    torch.manual_seed(seed)
    network = DiTTransformer2DModel(
        **{
            "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2,
            "sample_size": 8, "num_embeds_ada_norm": 1000, **changes,
        },
    ).eval()
    with torch.no_grad():  # the library starts with weights so small that classes hardly matter
        network.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight.mul_(3)
    pipe = DiTPipeline(network, vae(seed), scheduler(), id2label={0: "cat", 1: "dog", 2: "boat", 3: "house, home"})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pixart(seed: int = 0, **changes: Any) -> PixArtAlphaPipeline:
    torch.manual_seed(seed)
    network = PixArtTransformer2DModel(
        **{
            "num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16, "in_channels": 4,
            "out_channels": 8, "num_layers": 2, "sample_size": 8, "caption_channels": WIDTH, **changes,
        },
    ).eval()
    pipe = PixArtAlphaPipeline(t5_tokenizer(), t5(), vae(seed), network, scheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd3(seed: int = 0, **changes: Any) -> StableDiffusion3Pipeline:
    torch.manual_seed(seed)
    network = SD3Transformer2DModel(
        **{
            "sample_size": 8, "in_channels": 4, "out_channels": 4, "num_layers": 2, "attention_head_dim": 8,
            "num_attention_heads": 2, "joint_attention_dim": 2 * WIDTH, "caption_projection_dim": 16,
            "pooled_projection_dim": 2 * WIDTH, "pos_embed_max_size": 8, **changes,
        },
    ).eval()
    torch.manual_seed(seed + 1)
    first, second = (CLIPTextModelWithProjection(text_config()).eval() for _ in range(2))
    pipe = StableDiffusion3Pipeline(
        transformer=network, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(seed, shift_factor=0.06),
        text_encoder=first, tokenizer=tokenizer(), text_encoder_2=second, tokenizer_2=tokenizer(),
        text_encoder_3=None, tokenizer_3=None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux(seed: int = 0, **changes: Any) -> FluxPipeline:
    torch.manual_seed(seed)
    network = FluxTransformer2DModel(
        **{
            "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8,
            "num_attention_heads": 2, "joint_attention_dim": WIDTH, "pooled_projection_dim": WIDTH,
            "guidance_embeds": True, "axes_dims_rope": (2, 2, 4), **changes,
        },
    ).eval()
    torch.manual_seed(seed + 1)
    clip = CLIPTextModel(text_config()).eval()
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=vae(seed, shift_factor=0.1),
        text_encoder=clip, tokenizer=tokenizer(), text_encoder_2=t5(), tokenizer_2=t5_tokenizer(), transformer=network,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


TRANSFORMERS = {"dit": dit, "pixart": pixart, "sd3": sd3, "flux": flux}
