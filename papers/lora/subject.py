"""How a LoRA learns one subject: the data and the loss of DreamBooth (Ruiz et al., CVPR 2023), with thin factors alone.

Pictures of the subject are captioned "a [identifier] [class noun]"; beside them the model sees its own of the class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor

from papers.lora.factors import Lora
from papers.lora.method import LoRAConfig, LoRALinear, new_layers
from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.latents import LatentDistribution
from studylib.denoisers.noise import denoising_errors
from studylib.denoisers.prompts import listed
from studylib.learning.identity import identity_of
from studylib.learning.prior import joined_halves, prior_batches
from studylib.learning.training import Batch, Draw, History, Loss, TrainingConfig, fit
from studylib.learning.weights import check_trainable, frozen_model, replaced

Pictures = Sequence[Image.Image] | LatentDistribution


@dataclass
class Trained:
    """A trained LoRA and what its training left behind; `snapshots` hold those of earlier steps."""

    lora: Lora
    history: History
    snapshots: dict[int, Lora] = field(default_factory=dict)


def draw_batches(
    pipe: Any, photos: LatentDistribution, prior: LatentDistribution | None, config: LoRAConfig
) -> Draw:
    """Batches as DreamBooth's: pictures of the subject and of the class, each with noise and a timestep of its own.

    `instance_index` tells which photo a row shows, and so its caption.
    """
    return prior_batches(Denoiser(pipe), photos, prior, config.train_batch_size)


def subject_loss(pipe: Any, captions: Sequence[str], config: LoRAConfig) -> Loss:
    """Error on the subject plus lambda times error on the class (DreamBooth's equation 2), in one forward pass.

    `captions`: one a photo, and that of the class last.
    """
    denoiser = Denoiser(pipe)
    frozen = None if config.train_text_encoder else denoiser.prompt(captions).detach()  # P + 1 rows

    def loss(batch: Batch) -> Mapping[str, Tensor]:
        halves, rows = joined_halves(batch)
        latents, noise, timesteps, shown = (rows[name] for name in ("latents", "noise", "timesteps", "index"))
        shown = shown.clone()
        shown[len(batch["instance_index"]) :] = len(captions) - 1  # the class has one caption, the last
        if frozen is None:
            words, places = _distinct([captions[i] for i in shown.tolist()])
            prompt = denoiser.prompt(words)[places]  # B or 2B rows
        else:
            prompt = frozen[shown]
        errors = denoising_errors(denoiser, latents, prompt, noise, timesteps)  # (B or 2B,)
        own, *prior = [part.mean() for part in errors.chunk(len(halves))]
        value = own + config.prior_loss_weight * prior[0] if prior else own
        return {"loss": value, "instance": own} | ({"class": prior[0]} if prior else {})

    return loss


def train(
    pipe: Any, photos: Pictures, class_pictures: Pictures, config: LoRAConfig,
    *, captions: Sequence[str] | None = None, label: str = "LoRA", **options: Any,
) -> Trained:
    """Train a LoRA on `photos` and leave `pipe` as it was.

    `captions`: one a photo, where they are not all the subject's name. Pictures that several trainings share may be
    encoded before, by `Denoiser.encode`. `options` go to `fit`, such as the steps to `keep`.
    """
    check_trainable(pipe)
    captions = [config.subject] * len(photos) if captions is None else listed(captions, "captions")
    if len(captions) != len(photos):
        raise ValueError(f"{len(captions)} captions for {len(photos)} photos; give one for each")
    latents = _encoded(pipe, photos)
    prior = _encoded(pipe, class_pictures) if config.with_prior_preservation else None
    layers = new_layers(pipe, config)
    weights = {f"{name}.{side}": getattr(layer, side) for name, layer in layers.items() for side in "AB"}
    settings = TrainingConfig(
        steps=config.max_train_steps, learning_rate=config.learning_rate, epsilon=config.adam_epsilon, seed=config.seed
    )
    identity = identity_of(pipe, config, captions=captions, of_subject=latents, of_class=prior)
    with frozen_model(pipe), replaced(pipe, layers):
        history = fit(
            weights, draw_batches(pipe, latents, prior, config),
            subject_loss(pipe, [*captions, config.class_prompt], config), settings,
            identity=identity, label=label, **options,
        )
    snapshots = {step: _lora(layers, kept, config) for step, kept in history.snapshots.items()}
    return Trained(_lora(layers, weights, config), history, snapshots)


def _lora(layers: Mapping[str, LoRALinear], weights: Mapping[str, Tensor], config: LoRAConfig) -> Lora:
    """Copies of the factors of these layers, where the layers are."""
    copies = {name: weight.detach().clone() for name, weight in weights.items()}
    pairs = {
        name: tuple(copies[f"{name}.{side}"].to(layer.weight.device) for side in "AB") for name, layer in layers.items()
    }
    return Lora(pairs, config.scale)


def _encoded(pipe: Any, pictures: Pictures) -> LatentDistribution:
    return pictures if isinstance(pictures, LatentDistribution) else Denoiser(pipe).encode(pictures)


def _distinct(words: list[str]) -> tuple[list[str], list[int]]:
    """Each text once, and where each of the given ones stands among them."""
    once = list(dict.fromkeys(words))
    return once, [once.index(word) for word in words]
