"""DreamBooth (Ruiz et al., CVPR 2023, arXiv 2208.12242): the whole denoiser learns one subject from a few pictures.

All pictures of the subject are captioned "a [identifier] [class noun]". Beside them the model goes on seeing its own
pictures of the class, which keeps the class from drifting to the subject.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from studylib.denoisers.latents import LatentDistribution, encode_images
from studylib.denoisers.noise import denoising_errors, min_snr_weights, noised
from studylib.denoisers.prompts import embed_prompts, encode_prompts
from studylib.evidence.knobs import Config, knob
from studylib.learning.training import Batch, Draw, History, Loss, TrainingConfig, check_not_offloaded, fit


@dataclass(frozen=True)
class DreamBoothConfig(Config):
    """The knobs under the names of the diffusers script. Each step takes `train_batch_size` pictures of the subject
    and, with prior preservation, as many of the class. `snr_gamma` 0 weighs all timesteps alike."""

    identifier: str = "sks"
    class_noun: str = "cat"
    with_prior_preservation: bool = True
    prior_loss_weight: float = knob(1.0, 0.0, 10.0)
    max_train_steps: int = knob(200, 4, 5000)  # the notebook looks at each quarter
    learning_rate: float = knob(1e-4, 1e-8, 1e-2)
    train_batch_size: int = knob(2, 1, 64)
    train_text_encoder: bool = False
    snr_gamma: float = knob(0.0, 0.0, 20.0)
    seed: int = 0

    @property
    def subject(self) -> str:
        """The subject in words: "a sks cat"; the identifier alone where the class noun is left out."""
        return " ".join(["a", *filter(None, (self.identifier, self.class_noun))])

    @property
    def class_prompt(self) -> str:
        return f"a {self.class_noun}".strip()


@dataclass
class Tuned:
    """Trained weights by name, and what the training left behind; `snapshots` hold those of earlier steps."""

    weights: dict[str, Tensor]
    history: History
    snapshots: dict[int, dict[str, Tensor]] = field(default_factory=dict)


def prior_preservation_loss(
    instance_errors: Tensor, class_errors: Tensor | None, prior_loss_weight: float, weights: Tensor | None = None
) -> Tensor:
    """Error on the subject plus lambda times error on the class (the paper's equation 2); errors and weights (B,).

    `weights` (min-SNR) belong to the subject's own timesteps, one each; the class keeps its plain mean.
    """
    own = instance_errors if weights is None else weights * instance_errors  # (B,)
    return own.mean() if class_errors is None else own.mean() + prior_loss_weight * class_errors.mean()


def draw_batches(
    pipe: Any, photos: LatentDistribution, prior: LatentDistribution | None, config: DreamBoothConfig
) -> Draw:
    """Batches with the subject in the first half of the columns, the class in the second: each sample has noise and
    a timestep of its own."""

    def draw(generator: torch.Generator) -> Batch:
        batch: dict[str, Tensor] = {}
        for half, latents in (("instance", photos), ("class", prior)):
            if latents is not None:
                index = torch.randint(len(latents), (config.train_batch_size,), generator=generator)
                parts = noised(pipe, latents, index, generator)
                batch |= {f"{half}_{part}": rows for part, rows in parts.items()}
        return batch

    return draw


def dreambooth_loss(pipe: Any, config: DreamBoothConfig) -> Loss:
    """The loss of a batch from `draw_batches`: one forward pass for the subject and the class together."""
    prompts = [config.subject, config.class_prompt]
    frozen = None if config.train_text_encoder else encode_prompts(pipe, prompts)  # (2, tokens, width)

    def loss(batch: Batch) -> Mapping[str, Tensor]:
        halves = [half for half in ("instance", "class") if f"{half}_latents" in batch]
        embeds = embed_prompts(pipe, prompts) if frozen is None else frozen
        latents, noise, timesteps = (
            torch.cat([batch[f"{half}_{part}"] for half in halves]) for part in ("latents", "noise", "timesteps")
        )
        count = len(latents) // len(halves)
        prompt_embeds = embeds[: len(halves)].repeat_interleave(count, dim=0)  # (B or 2B, tokens, width)
        errors = denoising_errors(pipe, latents, prompt_embeds, noise, timesteps)  # (B or 2B,)
        own, prior = errors[:count], errors[count:] if len(halves) == 2 else None
        weights = min_snr_weights(pipe, timesteps[:count], config.snr_gamma) if config.snr_gamma else None
        value = prior_preservation_loss(own, prior, config.prior_loss_weight, weights)
        return {"loss": value, "instance": own.mean()} | ({} if prior is None else {"class": prior.mean()})

    return loss


def trained_parameters(pipe: Any, config: DreamBoothConfig) -> dict[str, Tensor]:
    """Every weight of the denoiser, and of the text encoder if it is trained, by name."""
    parts = ["unet", *(["text_encoder"] if config.train_text_encoder else [])]
    return {f"{part}.{name}": weight for part in parts for name, weight in getattr(pipe, part).named_parameters()}


def train(
    pipe: Any, photos: Sequence[Image.Image], class_pictures: Sequence[Image.Image], config: DreamBoothConfig,
    *, keep: Sequence[int] = (), label: str = "DreamBooth", **options: Any,
) -> Tuned:
    """Train on `photos` and leave `pipe` as it was; `keep` names steps whose weights are kept as well."""
    check_not_offloaded(pipe)
    latents = encode_images(pipe, photos)
    prior = encode_images(pipe, class_pictures) if config.with_prior_preservation else None
    weights = trained_parameters(pipe, config)
    snapshots: dict[int, dict[str, Tensor]] = {}

    def after_step(step: int) -> None:
        if step in keep:
            snapshots[step] = {name: weight.detach().half() for name, weight in weights.items()}

    settings = TrainingConfig(steps=config.max_train_steps, learning_rate=config.learning_rate, seed=config.seed)
    with kept(weights):
        history = fit(
            weights, draw_batches(pipe, latents, prior, config), dreambooth_loss(pipe, config), settings,
            after_step=after_step, label=label, **options,
        )
        return Tuned({name: weight.detach().clone() for name, weight in weights.items()}, history, snapshots)


@contextmanager
def tuned(pipe: Any, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The pipeline with trained weights inside the block; afterwards it is what it was, bit for bit."""
    own = {name: _parameter(pipe, name) for name in weights}
    with kept(own):
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(weights[name])
        yield


@contextmanager
def kept(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Put these weights back when the block ends."""
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])


def _parameter(pipe: Any, name: str) -> Tensor:
    part, _, rest = name.partition(".")
    return getattr(pipe, part).get_parameter(rest)

