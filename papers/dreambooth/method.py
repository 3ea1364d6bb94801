"""DreamBooth (Ruiz et al., CVPR 2023, arXiv 2208.12242): the whole denoiser learns one subject from a few pictures.

All pictures of the subject are captioned "a [identifier] [class noun]". Beside them the model goes on seeing its own
pictures of the class, which keeps the class from drifting to the subject.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.latents import LatentDistribution
from studylib.denoisers.noise import denoising_errors, min_snr_weights
from studylib.evidence.knobs import knob
from studylib.learning.identity import identity_of
from studylib.learning.prior import joined_halves, prior_batches
from studylib.learning.subject_words import SubjectWords
from studylib.learning.training import Batch, Draw, History, Loss, TrainingConfig, fit
from studylib.learning.weights import check_trainable, frozen_model, named_weights, restored


@dataclass(frozen=True)
class DreamBoothConfig(SubjectWords):
    """The knobs under the names of the diffusers script. Each step takes `train_batch_size` pictures of the subject
    and, with prior preservation, as many of the class. `snr_gamma` 0 weighs all timesteps alike."""

    with_prior_preservation: bool = True
    prior_loss_weight: float = knob(1.0, 0.0, 10.0)
    max_train_steps: int = knob(200, 4, 5000)  # the notebook looks at each quarter
    learning_rate: float = knob(1e-4, 1e-8, 1e-2)
    train_batch_size: int = knob(2, 1, 64)
    train_text_encoder: bool = True
    snr_gamma: float = knob(0.0, 0.0, 20.0)
    seed: int = 0


@dataclass
class Tuned:
    """Trained weights by name, and what the training left behind."""

    weights: dict[str, Tensor]
    history: History

    @property
    def snapshots(self) -> dict[int, dict[str, Tensor]]:
        """The weights of earlier steps, on the CPU."""
        return self.history.snapshots


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
    return prior_batches(Denoiser(pipe), photos, prior, config.train_batch_size)


def dreambooth_loss(pipe: Any, config: DreamBoothConfig) -> Loss:
    """The loss of a batch from `draw_batches`: one forward pass for the subject and the class together."""
    denoiser, prompts = Denoiser(pipe), [config.subject, config.class_prompt]
    frozen = None if config.train_text_encoder else denoiser.prompt(prompts).detach()

    def loss(batch: Batch) -> Mapping[str, Tensor]:
        halves, rows = joined_halves(batch)
        encoded = denoiser.prompt(prompts) if frozen is None else frozen
        latents, noise, timesteps = (rows[name] for name in ("latents", "noise", "timesteps"))
        count = len(latents) // len(halves)
        prompt = encoded[: len(halves)].repeat(count)  # B or 2B rows
        errors = denoising_errors(denoiser, latents, prompt, noise, timesteps)  # (B or 2B,)
        own, prior = errors[:count], errors[count:] if len(halves) == 2 else None
        weights = min_snr_weights(denoiser, timesteps[:count], config.snr_gamma) if config.snr_gamma else None
        value = prior_preservation_loss(own, prior, config.prior_loss_weight, weights)
        return {"loss": value, "instance": own.mean()} | ({} if prior is None else {"class": prior.mean()})

    return loss


def trained_parameters(pipe: Any, config: DreamBoothConfig) -> dict[str, Tensor]:
    """Every weight of the denoiser, and of the text encoder if it is trained, by name."""
    return named_weights(pipe, ["unet", *(["text_encoder"] if config.train_text_encoder else [])])


def train(
    pipe: Any, photos: Sequence[Image.Image], class_pictures: Sequence[Image.Image], config: DreamBoothConfig,
    *, label: str = "DreamBooth", **options: Any,
) -> Tuned:
    """Train on `photos` and leave `pipe` as it was; `options` go to `fit`, such as the steps to `keep`."""
    check_trainable(pipe)
    latents = Denoiser(pipe).encode(photos)
    prior = Denoiser(pipe).encode(class_pictures) if config.with_prior_preservation else None
    weights = trained_parameters(pipe, config)
    settings = TrainingConfig(steps=config.max_train_steps, learning_rate=config.learning_rate, seed=config.seed)
    identity = identity_of(pipe, config, of_subject=latents, of_class=prior)
    with frozen_model(pipe), restored(weights):
        history = fit(
            weights, draw_batches(pipe, latents, prior, config), dreambooth_loss(pipe, config), settings,
            identity=identity, label=label, **options,
        )
        return Tuned({name: weight.detach().clone() for name, weight in weights.items()}, history)
