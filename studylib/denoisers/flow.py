"""Transformers with joint attention that predict a flow: SD3 and FLUX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from PIL import Image
from torch import Tensor, nn

from studylib.denoisers.family import Family, square
from studylib.denoisers.places import appended_tokens
from studylib.denoisers.prompts import Prompt


class SD3Family(Family):
    """`SD3Transformer2DModel` of StableDiffusion3Pipeline: two CLIP texts and T5."""

    network_class = "SD3Transformer2DModel"

    def takes(self) -> set[str]:
        """Residuals after blocks; image prompts with an IP-Adapter."""
        return {"block_residuals", *(["image_embeds"] if getattr(self.network, "image_proj", None) is not None else [])}

    def prompt(self, texts: Sequence[str], **options: Any) -> Prompt:
        """Encode texts with all three encoders."""
        embeds, _, pooled, _ = self._encoded(list(texts), False, options)
        return Prompt(embeds, pooled)

    def unconditional(self, **options: Any) -> Prompt:
        """The empty text."""
        _, embeds, _, pooled = self._encoded([""], True, options)
        return Prompt(embeds, pooled)

    def _encoded(self, texts: list[str], guided: bool, options: dict[str, Any]) -> tuple[Tensor, ...]:
        device = self.pipe._execution_device
        return self.pipe.encode_prompt(
            texts, None, None, device=device, do_classifier_free_guidance=guided, **options
        )

    def output(
        self,
        latents: Tensor,
        timesteps: Tensor,
        prompt: Prompt | None,
        *,
        block_residuals: Sequence[Tensor] | None = None,
        image_embeds: Tensor | None = None,
    ) -> Tensor:
        """The velocity from clean to noise."""
        return self.network(
            hidden_states=latents,
            timestep=timesteps,
            encoder_hidden_states=prompt.embeds,
            pooled_projections=prompt.pooled,
            block_controlnet_hidden_states=None if block_residuals is None else list(block_residuals),
            joint_attention_kwargs=None if image_embeds is None else {"ip_adapter_image_embeds": image_embeds},
            return_dict=False,
        )[0]  # (N, C, h, w)

    def schedule(self, scheduler: Any, num_inference_steps: int, shape: Sequence[int]) -> None:
        """Shift the sigmas by the picture's size where the scheduler asks for it."""
        patch = self.network.config.patch_size
        tokens = (shape[-2] // patch) * (shape[-1] // patch)
        options = {"mu": _shift(scheduler, tokens, 1.16)} if scheduler.config.get("use_dynamic_shifting") else {}
        scheduler.set_timesteps(num_inference_steps, device=self.pipe._execution_device, **options)


class FluxFamily(Family):
    """`FluxTransformer2DModel` of FluxPipeline: CLIP's pooled text and T5; packs latents into tokens of 2 x 2 cells."""

    network_class = "FluxTransformer2DModel"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width); the size is that of the autoencoder, since the network has none."""
        height, width = square(self.pipe.vae.config.sample_size)
        factor = self.pipe.vae_scale_factor
        return self.network.config.in_channels // 4, height // factor, width // factor

    def takes(self) -> set[str]:
        """Residuals after both kinds of blocks and tokens at the end; the others where the layers are there."""
        takes = {"block_residuals", "single_block_residuals", "appended_latents", "appended_offset"}
        if self.network.config.guidance_embeds:
            takes.add("guidance")
        if getattr(self.network, "encoder_hid_proj", None) is not None:
            takes.add("image_embeds")
        return takes

    def prompt(self, texts: Sequence[str], **options: Any) -> Prompt:
        """Encode texts with both encoders."""
        embeds, pooled, _ = self.pipe.encode_prompt(list(texts), None, device=self.pipe._execution_device, **options)
        return Prompt(embeds, pooled)

    def unconditional(self, **options: Any) -> Prompt:
        """The empty text."""
        return self.prompt([""], **options)

    def output(
        self,
        latents: Tensor,
        timesteps: Tensor,
        prompt: Prompt | None,
        *,
        block_residuals: Sequence[Tensor] | None = None,
        single_block_residuals: Sequence[Tensor] | None = None,
        image_embeds: Sequence[Tensor] | None = None,
        guidance: Tensor | float = 3.5,
        appended_latents: Tensor | None = None,
        appended_offset: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """The velocity from clean to noise."""
        height, width = latents.shape[-2:]
        tokens, places = pack(latents), token_places(latents)  # (N, h w / 4, 4C), (h w / 4, 3)
        own = tokens.shape[1]
        if appended_latents is not None:
            tokens = torch.cat([tokens, pack(appended_latents.to(latents))], dim=1)  # (N, tokens, 4C)
            places = torch.cat([places, token_places(appended_latents.to(latents), appended_offset)])  # (tokens, 3)
        told = None
        if self.network.config.guidance_embeds:
            told = torch.as_tensor(guidance, dtype=torch.float32, device=latents.device).expand(len(latents))  # (N,)
        with appended_tokens(condition=tokens.shape[1] - own):
            output = self.network(
                hidden_states=tokens,
                timestep=timesteps.to(tokens.dtype) / 1000,  # the network multiplies by it again
                guidance=told,
                pooled_projections=prompt.pooled,
                encoder_hidden_states=prompt.embeds,
                txt_ids=latents.new_zeros(prompt.embeds.shape[1], 3),
                img_ids=places,
                controlnet_block_samples=block_residuals and list(block_residuals),
                controlnet_single_block_samples=single_block_residuals and list(single_block_residuals),
                joint_attention_kwargs={} if image_embeds is None else {"ip_adapter_image_embeds": list(image_embeds)},
                return_dict=False,
            )[0]  # (N, tokens, 4C)
        return unpack(output[:, :own], height, width)  # (N, C, h, w)

    def schedule(self, scheduler: Any, num_inference_steps: int, shape: Sequence[int]) -> None:
        """Shift the sigmas by the picture's size, from 1 down to 1 / steps."""
        sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
        mu = _shift(scheduler, (shape[-2] // 2) * (shape[-1] // 2), 1.15)
        scheduler.set_timesteps(sigmas=sigmas, device=self.pipe._execution_device, mu=mu)

    def draw(self, prompts: Sequence[str], **sampling: Any) -> list[Image.Image]:
        """Pictures of the autoencoder's size, unless height and width are given."""
        height, width = (side * self.pipe.vae_scale_factor for side in self.shape[1:])
        return self.pipe(list(prompts), **{"height": height, "width": width, **sampling}).images


def pack(latents: Tensor) -> Tensor:
    """Put the 2 x 2 cells of a token behind one another, as FLUX takes them: (N, C, h, w) -> (N, h w / 4, 4C)."""
    if latents.shape[-2] % 2 or latents.shape[-1] % 2:
        raise ValueError(f"FLUX takes latents of even height and width, not {tuple(latents.shape[-2:])}")
    cells = latents.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))  # (N, C, h / 2, 2, w / 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (N, h w / 4, 4C)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Undo `pack`: (N, h w / 4, 4C) -> (N, C, h, w)."""
    cells = tokens.unflatten(1, (height // 2, width // 2)).unflatten(-1, (-1, 2, 2))  # (N, h / 2, w / 2, C, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)  # (N, C, h, w)


def token_places(latents: Tensor, offset: tuple[int, int] = (0, 0)) -> Tensor:
    """Row and column of each token behind a zero, (h w / 4, 3), from which FLUX computes rotary embeddings."""
    rows = torch.arange(latents.shape[-2] // 2, device=latents.device) + offset[0]
    columns = torch.arange(latents.shape[-1] // 2, device=latents.device) + offset[1]
    grid = torch.cartesian_prod(rows, columns)  # (h w / 4, 2)
    return nn.functional.pad(grid, (1, 0)).to(latents.dtype)  # (h w / 4, 3)


def _shift(scheduler: Any, tokens: int, max_shift: float) -> float:
    config = scheduler.config
    return calculate_shift(
        tokens, config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5), config.get("max_shift", max_shift),
    )
