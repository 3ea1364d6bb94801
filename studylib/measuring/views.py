"""The same pictures from every method: class, subject and subject in contexts, each from its own noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.prompts import listed
from studylib.world.subjects import CONTEXTS, Context


@dataclass(frozen=True)
class Views:
    """What one model draws: the bare class, the bare subject, and the subject in each context."""

    of_class: list[Image.Image]
    of_subject: list[Image.Image]
    in_contexts: list[Image.Image]
    contexts: tuple[Context, ...] = CONTEXTS


def draw_pictures(
    pipe: Any, prompts: Sequence[str], seeds: Sequence[int], *, batch_size: int = 20, label: str = "pictures",
    each: Mapping[str, Sequence[Any] | Tensor] | None = None, **sampling: Any,
) -> list[Image.Image]:
    """Draw each prompt from the noise of its own seed, whatever the batches; random state: CPU generators.

    each: arguments of the pipeline that have one item a picture, such as images of a ControlNet; `sampling` is shared
    by all. A pipeline of classes, DiT, takes their names as prompts.
    """
    denoiser, images, each, prompts = Denoiser(pipe), [], each or {}, listed(prompts)
    uneven = {name: len(values) for name, values in each.items() if len(values) != len(prompts)}
    if uneven:
        raise ValueError(f"{len(prompts)} pictures need as many items of each argument, not {uneven}")
    starts = range(0, len(prompts), batch_size)
    for start in tqdm(starts, desc=label, leave=False, disable=len(starts) < 2):
        part = slice(start, start + batch_size)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
        own = {name: values[part] for name, values in each.items()}
        images += denoiser.draw(prompts[part], generator=generators, **own, **sampling)
    return images


def draw_views(
    pipe: Any, subject: str, class_prompt: str, seed: int, *, count: int = 6,
    contexts: Sequence[Context] = CONTEXTS, of_class: Sequence[Image.Image] | None = None, **sampling: Any,
) -> Views:
    """Draw `count` pictures of class and subject, given as words, and one of the subject in each context.

    Picture i of each view starts from the noise of `seed` and i. `sampling` goes to the pipeline. `of_class`: pictures
    of the class that are known already, for a method that cannot change them; they are not drawn again.
    """
    new = count if of_class is None else 0  # pictures of the class that are to be drawn
    prompts = [*[class_prompt] * new, *[subject] * count, *(context.prompt(subject) for context in contexts)]
    numbers = [*range(new), *range(count), *range(len(contexts))]
    images = draw_pictures(pipe, prompts, [10_000 * seed + i for i in numbers], label="views", **sampling)
    known = images[:new] if of_class is None else list(of_class)
    return Views(known, images[new : new + count], images[new + count :], tuple(contexts))
