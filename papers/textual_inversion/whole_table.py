"""The usual way, which the method's own module does not need: optimise the whole token table, copy rows back."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from papers.textual_inversion.method import (
    TextualInversionConfig,
    draw_batches,
    encode_photos,
    fitting_templates,
    initial_vectors,
    token_names,
)
from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.noise import denoising_errors
from studylib.learning.training import Batch, TrainingConfig, fit
from studylib.learning.weights import check_trainable, frozen_model


@dataclass
class WholeTable:
    """The new rows (N, D), how far each old row went (V,), and how many numbers the optimiser had to hold."""

    vectors: Tensor
    moved: Tensor
    parameters: int


def train_whole_table(
    pipe: Any, photos: Sequence[Image.Image], config: TextualInversionConfig, *, copy_back: bool = True
) -> WholeTable:
    """Train as the diffusers script does, on copies of tokenizer and text encoder, and leave `pipe` as it was.

    Every row has its gradient, moments and weight decay; `copy_back` then restores the old rows after each step. The
    pull and the norm prior are not part of that script and are refused.
    """
    if config.embedding_reg_weight or config.norm_target:
        raise ValueError("train_whole_table knows neither embedding_reg_weight nor norm_target; leave them at 0")
    check_trainable(pipe)
    latents, own = encode_photos(pipe, photos), (pipe.tokenizer, pipe.text_encoder)
    start = initial_vectors(pipe, config)  # (N, D)
    pipe.tokenizer, pipe.text_encoder = copy.deepcopy(own[0]), copy.deepcopy(own[1])
    try:
        pipe.tokenizer.add_tokens(token_names(config.placeholder_token, config.num_vectors))
        table = pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False).weight
        with torch.no_grad():
            table[-len(start):] = start
        before = table.detach().clone()  # (V + N, D)
        templates = fitting_templates(pipe, config)

        denoiser = Denoiser(pipe)

        def loss(batch: Batch) -> Tensor:
            prompts = [templates[i].format(config.placeholder_token) for i in batch["templates"].tolist()]
            prompt = denoiser.prompt(prompts)  # B rows
            return denoising_errors(denoiser, batch["latents"], prompt, batch["noise"], batch["timesteps"]).mean()

        def after_step(step: int) -> None:
            if copy_back:
                table[: -len(start)] = before[: -len(start)]

        settings = TrainingConfig(
            steps=config.max_train_steps, learning_rate=config.effective_learning_rate, max_grad_norm=0.0,
            seed=config.seed, gradient_accumulation_steps=config.gradient_accumulation_steps,
        )
        draw = draw_batches(pipe, latents, len(templates), config)
        with frozen_model(pipe):
            history = fit({"table": table}, draw, loss, settings, after_step=after_step, label="whole table")
        after = table.detach()
        moved = (after - before)[: -len(start)].norm(dim=1)  # (V,)
        return WholeTable(after[-len(start):].clone(), moved, history.parameters)
    finally:
        pipe.tokenizer, pipe.text_encoder = own
