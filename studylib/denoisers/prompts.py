"""Prompts as the embeddings that a pipeline's denoiser reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def encode_prompts(pipe: Any, prompts: Sequence[str]) -> Tensor:
    """Text embeddings of prompts, (N, tokens, width) float32, from the pipeline's frozen text encoder."""
    return embed_prompts(pipe, prompts).float()


def embed_prompts(pipe: Any, prompts: Sequence[str]) -> Tensor:
    """The same with gradients, for methods that train the text encoder or its embeddings.

    Raises ValueError for pipelines that condition on more than one text encoder's states, such as SDXL.
    """
    if not hasattr(pipe, "unet") or getattr(pipe, "text_encoder_2", None) is not None:
        raise ValueError(
            f"training here takes pipelines with a UNet and one text encoder, such as sd15, not {type(pipe).__name__}"
        )
    return pipe.encode_prompt(list(prompts), pipe.unet.device, 1, False)[0]  # (N, tokens, width)
