"""Transformers that take latents as they are, with a learned sigma behind the noise: DiT and PixArt."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from studylib.denoisers.family import Family
from studylib.denoisers.prompts import Prompt


class DiTFamily(Family):
    """`DiTTransformer2DModel` of DiTPipeline: told classes, no texts."""

    network_class = "DiTTransformer2DModel"

    def takes(self) -> set[str]:
        """Classes, in place of the prompt's."""
        return {"class_labels"}

    def prompt(self, texts: Sequence[str], **options: Any) -> Prompt:
        """Look up names among the pipeline's labels; "" is the class that stands for none."""
        return Prompt(labels=torch.tensor([self._label(text) for text in texts], device=self.pipe._execution_device))

    def unconditional(self, **options: Any) -> Prompt:
        """The class that stands for none."""
        return self.prompt([""])

    def _label(self, text: str) -> int:
        if not text:
            return self.network.config.num_embeds_ada_norm
        if text in self.pipe.labels:
            return self.pipe.labels[text]
        close = difflib.get_close_matches(text, self.pipe.labels, n=1) or list(self.pipe.labels)[:1]
        hint = f", such as {close[0]!r}" if close else ""
        raise ValueError(f"DiTPipeline knows no class {text!r}: give one of its {len(self.pipe.labels)} labels{hint}")

    def output(
        self, latents: Tensor, timesteps: Tensor, prompt: Prompt | None, *, class_labels: Tensor | None = None
    ) -> Tensor:
        """Noise and, in as many channels more, what the learned sigma is computed from."""
        labels = prompt.labels if class_labels is None else torch.as_tensor(class_labels, device=latents.device)
        labels = labels.expand(len(latents))  # (N,)
        return self.network(latents, timestep=timesteps, class_labels=labels, return_dict=False)[0]  # (N, 2C, h, w)

    def draw(self, prompts: Sequence[str], **sampling: Any) -> list[Image.Image]:
        """Pictures of classes. Guidance needs 1000 classes: that number is written in DiTPipeline as the empty one."""
        return self.pipe(class_labels=[self._label(text) for text in prompts], **sampling).images


class PixArtFamily(Family):
    """`PixArtTransformer2DModel` of PixArtAlphaPipeline and PixArtSigmaPipeline: T5 texts with their mask."""

    network_class = "PixArtTransformer2DModel"

    def takes(self) -> set[str]:
        """Another mask of the text, and sizes where the network was trained with them."""
        return {"text_mask", *(["sizes"] if self.network.use_additional_conditions else [])}

    def prompt(self, texts: Sequence[str], **options: Any) -> Prompt:
        """Encode texts with T5."""
        embeds, mask, _, _ = self._encoded(list(texts), False, options)
        return Prompt(embeds, mask=mask)

    def unconditional(self, **options: Any) -> Prompt:
        """The empty text."""
        _, _, embeds, mask = self._encoded([""], True, options)
        return Prompt(embeds, mask=mask)

    def _encoded(self, texts: list[str], guided: bool, options: dict[str, Any]) -> tuple[Tensor, ...]:
        device = self.pipe._execution_device
        return self.pipe.encode_prompt(texts, do_classifier_free_guidance=guided, device=device, **options)

    def output(
        self,
        latents: Tensor,
        timesteps: Tensor,
        prompt: Prompt | None,
        *,
        text_mask: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:
        """Noise and, in as many channels more, what the learned sigma is computed from."""
        mask = prompt.mask if text_mask is None else text_mask
        return self.network(
            latents,
            encoder_hidden_states=prompt.embeds,
            encoder_attention_mask=mask,
            timestep=timesteps,
            added_cond_kwargs=self._sizes(latents, sizes),
            return_dict=False,
        )[0]  # (N, 2C, h, w)

    def _sizes(self, latents: Tensor, sizes: Tensor | None) -> dict[str, Tensor | None]:
        """Height and width in pixels, by default the latents' own, and their ratio."""
        if not self.network.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        if sizes is None:
            sizes = latents.new_tensor([side * self.pipe.vae_scale_factor for side in latents.shape[-2:]])  # (2,)
        sizes = torch.as_tensor(sizes).to(latents).expand(len(latents), 2)
        return {"resolution": sizes, "aspect_ratio": sizes[:, :1] / sizes[:, 1:]}  # (N, 2), (N, 1)

    def draw(self, prompts: Sequence[str], **sampling: Any) -> list[Image.Image]:
        """Pictures of the words as they are, at the size asked for and not the nearest of the pipeline's list."""
        return self.pipe(list(prompts), **{"use_resolution_binning": False, "clean_caption": False, **sampling}).images
