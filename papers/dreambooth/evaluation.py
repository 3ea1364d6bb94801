"""What DreamBooth is measured by: likeness to the subject, agreement with the prompt, and what became of the class.

Every model draws the same views from the same noise, so that two models are compared picture by picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from papers.dreambooth.method import DreamBoothConfig, tuned
from studylib import metrics
from studylib.denoising import LatentDistribution, encode_prompts
from studylib.encoders import text_image_features
from studylib.world.subjects import CONTEXTS, Context

PAPER: dict[str, dict[str, float]] = {  # the paper's table 1 [verified in two transcriptions]
    "real images": {"DINO": 0.774, "CLIP-I": 0.885},
    "DreamBooth": {"DINO": 0.668, "CLIP-I": 0.803, "CLIP-T": 0.305},  # on Stable Diffusion
    "Textual Inversion": {"DINO": 0.569, "CLIP-I": 0.780, "CLIP-T": 0.255},
}


@dataclass(frozen=True)
class Views:
    """What one model draws: the bare class, the bare subject, and the subject in each context."""

    of_class: list[Image.Image]
    of_subject: list[Image.Image]
    in_contexts: list[Image.Image]
    contexts: tuple[Context, ...]


def draw_views(
    pipe: Any,
    config: DreamBoothConfig,
    seed: int,
    *,
    count: int = 6,
    contexts: Sequence[Context] = CONTEXTS,
    weights: Mapping[str, Tensor] | None = None,
    **sampling: Any,
) -> Views:
    """Draw `count` pictures of class and subject, one in each context; `weights` None: the untouched model.

    Picture i of each view has the same noise in all of them, and for all models: it comes from `seed` and i.
    """

    def draw(prompts: list[str]) -> list[Image.Image]:
        generators = [torch.Generator().manual_seed(seed * 10_000 + i) for i in range(len(prompts))]
        return pipe(prompts, generator=generators, **sampling).images

    with tuned(pipe, weights or {}):
        return Views(
            draw([config.class_prompt] * count),
            draw([config.subject] * count),
            draw([context.prompt(config.subject) for context in contexts]),
            tuple(contexts),
        )


def likeness(images: Sequence[Image.Image], photos: Sequence[Image.Image], dino: Any = None) -> Tensor:
    """Mean DINO cosine of each picture with the photos, (N,), in [-1, 1]: the paper's DINO, or PRES for the class."""
    return (metrics.image_features(images, dino) @ metrics.image_features(photos, dino).T).mean(dim=1)  # (N,)


def clip_likeness(images: Sequence[Image.Image], photos: Sequence[Image.Image], clip: Any = None) -> Tensor:
    """The same with CLIP's picture features, (N,), in [-1, 1]: the paper's CLIP-I."""
    features, own = (text_image_features(list(pictures), [""], clip)[0] for pictures in (images, photos))
    return (features @ own.T).mean(dim=1)  # (N,)


def prompt_similarity(views: Views, config: DreamBoothConfig, clip: Any = None) -> Tensor:
    """CLIP cosine of each context's picture with its prompt, (contexts,), in [-1, 1]: the paper's CLIP-T.

    The identifier means nothing to CLIP: the prompt is compared without it.
    """
    prompts = [context.prompt(config.class_prompt) for context in views.contexts]
    return metrics.text_similarities(views.in_contexts, prompts, clip)


def judged_as_asked(views: Views, config: DreamBoothConfig) -> list[float]:
    """Share of what each context asks for, the class included, that the judge sees in its picture, in [0, 1]."""
    asked = [{"noun": config.class_noun} | context.asked for context in views.contexts]
    return [metrics.accuracy([image], [want]) for image, want in zip(views.in_contexts, asked, strict=True)]


@torch.no_grad()
def prediction_drift(
    pipe: Any, weights: Mapping[str, Tensor], class_latents: LatentDistribution, class_prompt: str, seed: int = 0
) -> Tensor:
    """How far training has moved the predicted noise for pictures of the class, mean square by picture, (N,).

    Drift without sampling: noise and timesteps are fixed by `seed`, eight spread over the schedule a picture.
    """
    count, levels = len(class_latents), 8
    generator = torch.Generator().manual_seed(seed)
    steps = (torch.arange(levels) + 0.5) / levels * pipe.scheduler.config.num_train_timesteps  # (levels,)
    timesteps = steps.long().repeat(count).to(pipe.unet.device)  # (N * levels,)
    clean = class_latents.mean.repeat_interleave(levels, dim=0)  # (N * levels, C, h, w)
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    noised = pipe.scheduler.add_noise(clean, noise, timesteps)
    embeds = encode_prompts(pipe, [class_prompt]).expand(len(noised), -1, -1)  # (N * levels, tokens, width)

    def predict() -> Tensor:
        parts = zip(noised.split(32), timesteps.split(32), embeds.split(32), strict=True)
        return torch.cat([pipe.unet(x, t, encoder_hidden_states=e).sample for x, t, e in parts])

    before = predict()
    with tuned(pipe, weights):
        after = predict()
    return (after - before).square().mean(dim=(1, 2, 3)).unflatten(0, (count, levels)).mean(dim=1)  # (N,)
