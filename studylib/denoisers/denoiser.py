"""`Denoiser`: one form for UNet, DiT, PixArt, SD3 and FLUX pipelines, so that a method is written once.

Latents are (N, C, h, w) in the denoiser's scale and timesteps are those of the scheduler, from 0 (clean) to
`num_train_timesteps`, whatever the network itself is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from studylib.denoisers.autoencoder import decode_pixels, encode_pictures, image_processor, scale_factor
from studylib.denoisers.dit import DiTFamily, PixArtFamily
from studylib.denoisers.family import Family
from studylib.denoisers.flow import FluxFamily, SD3Family
from studylib.denoisers.forward import check_unwrapped, is_offloaded
from studylib.denoisers.latents import LatentDistribution
from studylib.denoisers.prompts import Prompt, listed
from studylib.denoisers.steps import new_schedule
from studylib.denoisers.unet import UNetFamily
from studylib.errors import StudyError

FAMILIES: tuple[type[Family], ...] = (UNetFamily, DiTFamily, PixArtFamily, SD3Family, FluxFamily)
Kind = Literal["epsilon", "v_prediction", "flow"]


class Denoiser:
    """The network of a pipeline with its scheduler, text encoders and autoencoder, in one form for all families.

    It keeps nothing of its own: parts that are exchanged in the pipeline are exchanged here as well.
    Raises TypeError for a pipeline of another family, StudyError for a network in a wrapper.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.family = _family(pipe)

    @property
    def network(self) -> nn.Module:
        """The module that predicts: where hooks are set and weights are trained."""
        return self.family.network

    @property
    def device(self) -> torch.device:
        """Where the network computes, also if it waits on the CPU for its turn."""
        return self.pipe._execution_device

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents at the size that the pipeline draws."""
        return self.family.shape

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of the picture that the pipeline draws."""
        factor = scale_factor(self.pipe)
        return self.shape[1] * factor, self.shape[2] * factor

    @property
    def num_train_timesteps(self) -> int:
        """The number of timesteps of the noise schedule."""
        return self.pipe.scheduler.config.num_train_timesteps

    @property
    def training_timesteps(self) -> Tensor:
        """All timesteps that training draws from, (T,) on the CPU, the cleanest first; a flow's are shifted as its
        scheduler says."""
        scheduler = self.pipe.scheduler
        if self.kind == "flow":
            return type(scheduler).from_config(scheduler.config).timesteps.flip(0)
        return torch.arange(self.num_train_timesteps)

    @property
    def kind(self) -> Kind:
        """What the network predicts: the noise, the velocity v of a noise schedule, or a flow.

        Raises ValueError for a scheduler that predicts something else.
        """
        scheduler = self.pipe.scheduler
        if not hasattr(scheduler, "alphas_cumprod"):
            return "flow"
        kind = scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise ValueError(f"the scheduler predicts {kind!r}; a Denoiser needs epsilon, v_prediction or a flow")
        return kind

    def prompt(self, texts: Sequence[str], **options: Any) -> Prompt:
        """Encode texts as the pipeline does, with gradients where they are enabled; `options` go to `encode_prompt`.

        DiT takes names of its classes. Raises ValueError for a class that it does not know.
        """
        return self.family.prompt([texts] if isinstance(texts, str) else texts, **options)

    def unconditional(self, **options: Any) -> Prompt:
        """The one row that the pipeline uses for guidance where no negative prompt is given."""
        return self.family.unconditional(**options)

    def predict(
        self,
        latents: Tensor,
        timesteps: Tensor | float,
        prompt: Prompt | Tensor | Sequence[str] | None,
        **conditions: Any,
    ) -> Tensor:
        """Predict the noise, velocity or flow of noised latents (N, C, h, w), in their shape and dtype.

        timesteps: one number or (N,). prompt: texts, encoded texts, or embeddings (N, tokens, width) alone; one row
        serves all. conditions: by the names in `family.CONDITIONS`. Raises TypeError for one that this network
        cannot take.
        """
        return self.predict_all(latents, timesteps, prompt, **conditions)[:, : latents.shape[1]]  # (N, C, h, w)

    def predict_all(
        self,
        latents: Tensor,
        timesteps: Tensor | float,
        prompt: Prompt | Tensor | Sequence[str] | None,
        **conditions: Any,
    ) -> Tensor:
        """Give all that the network says: with a learned sigma twice the channels, the prediction first."""
        given = self.family.check(conditions)
        self._refuse_training_offloaded(prompt)
        dtype = self.network.dtype
        timesteps = torch.as_tensor(timesteps, device=latents.device).expand(len(latents))  # (N,)
        encoded = self._encoded(prompt)
        if encoded is not None:
            encoded = encoded.to(latents.device, dtype).expand(len(latents))
        elif "class_labels" not in given:
            raise ValueError("give a prompt, or class_labels where the network takes them")
        return self.family.output(latents.to(dtype), timesteps, encoded, **given).to(latents.dtype)

    def predict_guided(
        self,
        latents: Tensor,
        timesteps: Tensor | float,
        prompt: Prompt | Tensor | Sequence[str],
        guidance_scale: float,
        negative: Prompt | Tensor | Sequence[str] | None = None,
        negative_conditions: Mapping[str, Any] | None = None,
        **conditions: Any,
    ) -> Tensor:
        """Predict with classifier-free guidance, (N, C, h, w): both predictions in one pass, the negative first.

        negative: by default what the pipeline takes. conditions go to both, unless `negative_conditions` has others
        for the negative. At a scale of 1 or below there is no guidance, as in the pipelines.
        """
        if guidance_scale <= 1:
            return self.predict(latents, timesteps, prompt, **conditions)
        count = len(latents)
        negative = self.unconditional() if negative is None else self._encoded(negative)
        both = Prompt.join([negative.expand(count), self._encoded(prompt).expand(count)])  # 2N rows
        if isinstance(timesteps, Tensor) and timesteps.numel() > 1:
            timesteps = timesteps.repeat(2)  # (2N,)
        other = {**conditions, **(negative_conditions or {})}
        told = {name: _joined(other[name], value, count) for name, value in self.family.check(conditions).items()}
        output = self.predict(torch.cat([latents] * 2), timesteps, both, **told)  # (2N, C, h, w)
        without, with_prompt = output.chunk(2)  # (N, C, h, w) each
        return without + guidance_scale * (with_prompt - without)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor | float) -> Tensor:
        """Noise clean latents (N, C, h, w) to timesteps, a number or (N,), as the training scripts do."""
        signal, noisiness = self.levels(timesteps, clean)
        return signal * clean + noisiness * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor | float) -> Tensor:
        """What `predict` should give for `add_noise(clean, noise, timesteps)`, in the same shape."""
        kind = self.kind
        if kind == "epsilon":
            return noise
        if kind == "flow":
            return noise - clean
        signal, noisiness = self.levels(timesteps, clean)
        return signal * noise - noisiness * clean

    def split(self, prediction: Tensor, latents: Tensor, timesteps: Tensor | float) -> tuple[Tensor, Tensor]:
        """Clean latents and noise, (N, C, h, w) each, that a prediction says noised latents consist of."""
        kind = self.kind
        signal, noisiness = self.levels(timesteps, latents)
        if kind == "flow":
            return latents - noisiness * prediction, latents + signal * prediction
        if kind == "epsilon":
            return (latents - noisiness * prediction) / signal, prediction
        return signal * latents - noisiness * prediction, signal * prediction + noisiness * latents

    def levels(self, timesteps: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of clean latents and of noise at timesteps, (N, 1, 1, 1) or (1, 1, 1, 1), as `like` in dtype."""
        timesteps = torch.as_tensor(timesteps, device=like.device).reshape(-1, 1, 1, 1)  # (N or 1, 1, 1, 1)
        if self.kind == "flow":
            sigma = (timesteps / self.num_train_timesteps).to(like.dtype)
            return 1 - sigma, sigma
        alphas = self.pipe.scheduler.alphas_cumprod.to(like)[timesteps.long()]
        return alphas**0.5, (1 - alphas) ** 0.5

    def schedule(self, num_inference_steps: int, shape: Sequence[int] | None = None) -> Any:
        """A copy of the pipeline's scheduler with the timesteps that the pipeline would set for latents of this shape.

        shape: by default that of the size which the pipeline draws; it matters where the noise schedule depends on it.
        """
        scheduler = type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)
        self.family.schedule(scheduler, num_inference_steps, self.shape if shape is None else shape)
        return scheduler

    def encode(
        self, images: Sequence[Image.Image], *, own_size: bool = False, batch_size: int = 8
    ) -> LatentDistribution:
        """Encode pictures with the autoencoder, without gradients; they are scaled to the size that is drawn.

        own_size: pictures of one size keep it, up to what the autoencoder can divide. Draws no random numbers.
        """
        return encode_pictures(self.pipe, images, None if own_size else self.pixels, batch_size)

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of latents (N, C, h, w), without gradients."""
        with torch.no_grad():
            pixels = self.decode_pixels(latents)
        return image_processor(self.pipe).postprocess(pixels.float(), output_type="pil")

    def decode_pixels(self, latents: Tensor) -> Tensor:
        """The same as a tensor (N, 3, H, W) in about [-1, 1], with gradients to the latents."""
        return decode_pixels(self.pipe, latents)

    def draw(self, prompts: Sequence[str], **sampling: Any) -> list[Image.Image]:
        """Draw pictures with the pipeline itself, at its own size; DiT takes names of its classes."""
        prompts = listed(prompts)
        new_schedule(self.network)
        images = self.family.draw(prompts, **sampling)
        new_schedule(self.network)
        return images

    def _refuse_training_offloaded(self, prompt: Any) -> None:
        """An offloaded part leaves the GPU before its backward pass: what is trained through it would be lost."""
        if not torch.is_grad_enabled() or not is_offloaded(self.network):
            return
        embeds = prompt.embeds if isinstance(prompt, Prompt) else prompt
        trained = any(weight.requires_grad for weight in self.network.parameters())
        if trained or isinstance(embeds, Tensor) and embeds.requires_grad:
            raise StudyError(
                "this pipeline is offloaded, its parts take turns on the GPU: nothing can be trained through it",
                "Take a smaller model, or a GPU that holds the whole of this one; use torch.no_grad() to predict only",
            )

    def _encoded(self, prompt: Prompt | Tensor | Sequence[str] | None) -> Prompt | None:
        if prompt is None or isinstance(prompt, Prompt):
            return prompt
        return Prompt(prompt) if isinstance(prompt, Tensor) else self.prompt(prompt)


def _family(pipe: Any) -> Family:
    network = getattr(pipe, "unet", None)
    network = getattr(pipe, "transformer", None) if network is None else network
    check_unwrapped(network)
    names = [ancestor.__name__ for ancestor in type(network).__mro__]
    for family in FAMILIES:
        if family.network_class in names:
            return family(pipe)
    known = ", ".join(family.network_class for family in FAMILIES)
    raise TypeError(
        f"a Denoiser wraps a pipeline with one of {known}; a {type(pipe).__name__} with {type(network).__name__} "
        "was given"
    )


def _joined(negative: Any, positive: Any, count: int) -> Any:
    """A condition for both halves of guidance: what has a row for each of `count` latents is put one below another."""
    if isinstance(positive, Tensor) and positive.ndim and len(positive) == count:
        return torch.cat([negative, positive])
    if isinstance(positive, list | tuple) and any(isinstance(one, Tensor) for one in positive):
        return [_joined(*pair, count) for pair in zip(negative, positive, strict=True)]
    return positive
