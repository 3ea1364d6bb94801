"""What every method that learns a subject is measured by: the same views from the same noise, seen by the same eyes.

Views are compared picture by picture between methods: picture i starts from the same noise in all of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.latents import LatentDistribution
from studylib.denoisers.noise import fixed_errors, fixed_predictions
from studylib.measuring import metrics
from studylib.measuring.encoders import Encoders, text_image_features
from studylib.measuring.views import Views
from studylib.showing.tables import Table
from studylib.world.scene import NOUNS

Key = TypeVar("Key", bound=Hashable)
Measured = dict[str, dict[str, float]]  # measure -> picture -> value
TINY = Encoders()  # the tiny world's own


def likeness(images: Sequence[Image.Image], photos: Sequence[Image.Image], dino: Any = None) -> Tensor:
    """Mean DINO cosine of each picture with the photos, (N,), in [-1, 1]."""
    return (metrics.image_features(images, dino) @ metrics.image_features(photos, dino).T).mean(dim=1)  # (N,)


def clip_likeness(images: Sequence[Image.Image], photos: Sequence[Image.Image], clip: Any = None) -> Tensor:
    """The same with CLIP's picture features, (N,), in [-1, 1]."""
    features, own = (text_image_features(list(pictures), [""], clip)[0] for pictures in (images, photos))
    return (features @ own.T).mean(dim=1)  # (N,)


def judged_as_asked(views: Views, class_noun: str) -> list[float]:
    """Share of what each context asks for that the judge sees in its picture, in [0, 1].

    The class is asked for as well, if it is one that the judge knows.
    """
    noun = {"noun": class_noun} if class_noun in NOUNS else {}
    asked = [noun | context.asked for context in views.contexts]
    return [metrics.accuracy([image], [want]) for image, want in zip(views.in_contexts, asked, strict=True)]


def spread(images: Sequence[Image.Image], dino: Any = None) -> Tensor:
    """Mean DINO distance of each picture to the others, (N,), in [0, 2]."""
    cosines = metrics.pairwise_similarity(images, dino)  # (N, N)
    return (len(images) - cosines.sum(dim=1)) / (len(images) - 1)  # (N,), its own 1 - 1 counts nothing


def measure_views(
    views: Views, photos: Sequence[Image.Image], class_prompt: str, encoders: Encoders = TINY
) -> Measured:
    """Every measure, picture by picture; contexts are named by their words, others by their number.

    DINO, CLIP-I: likeness of the pictures in contexts to the photos. plain: the same of the bare subject, by DINO.
    CLIP-T: agreement with the prompt, which is compared without the identifier, since CLIP never met that. judged: as
    `judged_as_asked`, with the tiny encoders only. PRES: likeness of the bare class to the photos, which should stay
    low. DIV: spread of the bare subject's pictures. Views that were not drawn are not measured.
    """
    found: dict[str, Any] = {}
    if views.in_contexts:
        prompts = [context.prompt(class_prompt) for context in views.contexts]
        found["DINO"] = likeness(views.in_contexts, photos, encoders.dino)
        found["CLIP-I"] = clip_likeness(views.in_contexts, photos, encoders.clip)
        found["CLIP-T"] = metrics.text_similarities(views.in_contexts, prompts, encoders.clip)
        if encoders.clip is None:
            found["judged"] = judged_as_asked(views, class_prompt.split()[-1])
    by_words = set(found)
    if views.of_subject:
        found["plain"] = likeness(views.of_subject, photos, encoders.dino)
    if views.of_class:
        found["PRES"] = likeness(views.of_class, photos, encoders.dino)
    if len(views.of_subject) > 1:
        found["DIV"] = spread(views.of_subject, encoders.dino)
    words = [context.words for context in views.contexts]
    return {
        measure: {words[i] if measure in by_words else str(i): float(value) for i, value in enumerate(values)}
        for measure, values in found.items()
    }


def means(measured: Measured) -> dict[str, float]:
    """Mean over the pictures, measure by measure."""
    return {measure: mean_of(values) for measure, values in measured.items()}


def views_table(measured: Mapping[str, Measured | Mapping[str, float]]) -> Table:
    """A row for each model, with the means of its measures; rows of plain numbers stand as they are."""
    return Table({
        name: means(found) if all(isinstance(values, dict) for values in found.values()) else dict(found)
        for name, found in measured.items()
    })


def mean_of(values: Mapping[Any, float]) -> float:
    """Mean over whatever the values are named by."""
    return float(np.mean(list(values.values())))


def difference(method: Mapping[Key, float], baseline: Mapping[Key, float]) -> dict[Key, float]:
    """Method minus baseline, pair by pair: what a claim is decided from.

    Raises ValueError if the two do not have the same pairs.
    """
    if unpaired := set(method) ^ set(baseline):
        raise ValueError(f"{len(unpaired)} values have no partner, such as {min(map(str, unpaired))!r}")
    return {pair: value - baseline[pair] for pair, value in method.items()}


def photo_errors(
    pipe: Any, learned: AbstractContextManager, photos: LatentDistribution, prompt: str, **how: int
) -> dict[str, float]:
    """`fixed_errors` of pictures inside `learned`, photo by photo; `how` is its seed and levels."""
    with learned:
        errors = fixed_errors(Denoiser(pipe), photos, prompt, **how)  # (N,)
    return {f"photo {i}": value for i, value in enumerate(errors.tolist())}


@torch.no_grad()
def prediction_drift(
    pipe: Any, learned: AbstractContextManager, class_latents: LatentDistribution, class_prompt: str, seed: int = 0
) -> Tensor:
    """How far `learned`, once entered, moves the predicted noise for pictures of the class: mean square, (N,).

    Drift without sampling: noise and timesteps are fixed by `seed`, eight spread over the schedule a picture.
    """
    denoiser, levels = Denoiser(pipe), 8

    def predict() -> Tensor:
        return fixed_predictions(denoiser, class_latents.mean, class_prompt, seed, levels)  # (N * levels, C, h, w)

    before = predict()
    with learned:
        after = predict()
    return (after - before).square().mean(dim=(1, 2, 3)).unflatten(0, (-1, levels)).mean(dim=1)  # (N,)
