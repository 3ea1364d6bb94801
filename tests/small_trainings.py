"""Every method that trains, at tiny size and in one form, for tests of what must hold of all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from paper_checks import module_of
from PIL import Image
from torch import Tensor

STEPS = 4
dreambooth, hypernetworks, lora, textual_inversion = map(
    module_of, ("dreambooth", "hypernetworks", "lora", "textual_inversion")
)


def pictures(seed: int, count: int = 3) -> list[Image.Image]:
    """Noise, 16 pixels wide: other pictures for another seed."""
    generator = np.random.default_rng(seed)
    return [Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(count)]


def _dreambooth(pipe: Any, photos: Any, changes: dict[str, Any], options: dict[str, Any]) -> Any:
    config = dreambooth.DreamBoothConfig(max_train_steps=STEPS, train_batch_size=1, train_text_encoder=True)
    tuned = dreambooth.train(pipe, photos, pictures(90, 2), replace(config, **changes), **options)
    return tuned.weights, tuned.snapshots, tuned.history


def _textual_inversion(pipe: Any, photos: Any, changes: dict[str, Any], options: dict[str, Any]) -> Any:
    config = textual_inversion.TextualInversionConfig(
        placeholder_token="<c>", initializer_token="c", num_vectors=2, learnable_property="bare", max_train_steps=STEPS,
        train_batch_size=1, norm_target=0.4,
    )  # fmt: skip
    word = textual_inversion.train(pipe, photos, replace(config, **changes), **options)
    return {"vectors": word.vectors, "trace": word.trace}, word.history.snapshots, word.history


def _lora(pipe: Any, photos: Any, changes: dict[str, Any], options: dict[str, Any]) -> Any:
    config = replace(lora.LoRAConfig(rank=2, max_train_steps=STEPS, train_batch_size=1), **changes)
    trained = module_of("lora", "subject").train(pipe, photos, pictures(90, 2), config, **options)
    snapshots = {step: named_factors(kept) for step, kept in trained.snapshots.items()}
    return named_factors(trained.lora), snapshots, trained.history


def _hypernetwork(pipe: Any, photos: Any, changes: dict[str, Any], options: dict[str, Any]) -> Any:
    config = hypernetworks.HypernetworkConfig(max_train_steps=STEPS, train_batch_size=1, dropout=0.2)
    learned = hypernetworks.train(pipe, photos, replace(config, **changes), **options)
    return learned.nets.state_dict(), learned.snapshots, learned.history


def named_factors(trained: Any) -> dict[str, Tensor]:
    """The factors of a LoRA under one name each."""
    return {f"{name}.{side}": pair[i] for name, pair in trained.factors.items() for i, side in enumerate("AB")}


WRITTEN = (
    ("DreamBooth", dreambooth, _dreambooth), ("Textual Inversion", textual_inversion, _textual_inversion),
    ("LoRA", lora, _lora), ("hypernetwork", hypernetworks, _hypernetwork),
)  # fmt: skip
TRAININGS = {name: trains for name, paper, trains in WRITTEN if paper}


def train(method: str, pipe: Any, photos: Any, *, changes: Any = None, **options: Any) -> Any:
    """What was learned, its snapshots and its history; `changes` to the method's config, `options` to `fit`."""
    return TRAININGS[method](pipe, photos, changes or {}, options)
