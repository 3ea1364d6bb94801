"""UNets with cross-attention: SD 1.x, SD 2.x, SDXL and the tiny world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from studylib.denoisers.family import Family, square
from studylib.denoisers.prompts import Prompt


class UNetFamily(Family):
    """`UNet2DConditionModel` with the text encoders of StableDiffusionPipeline or StableDiffusionXLPipeline."""

    network_class = "UNet2DConditionModel"
    part = "unet"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width); an inpainting UNet has more input channels than these."""
        return self.pipe.vae.config.latent_channels, *square(self.network.config.sample_size)

    @property
    def told_sizes(self) -> bool:
        """Whether the network is told sizes and a pooled text, as SDXL's is."""
        return self.network.config.addition_embed_type == "text_time"

    def takes(self) -> set[str]:
        """Residuals always; the others where the network has the layers for them."""
        takes = {"skip_residuals", "middle_residual", "intrablock_residuals", "text_mask"}
        if self.told_sizes:
            takes.add("sizes")
        if self.network.config.encoder_hid_dim_type == "ip_image_proj":
            takes |= {"image_embeds", "image_masks"}
        if self.network.class_embedding is not None:
            takes.add("class_labels")
        if self.network.config.in_channels > self.shape[0]:
            takes.add("extra_channels")
        return takes

    def prompt(self, texts: Sequence[str], **options: Any) -> Prompt:
        """Encode texts with one text encoder or two."""
        return self._encoded(list(texts), False, options)[0]

    def unconditional(self, **options: Any) -> Prompt:
        """The empty text; zeros for an SDXL that was trained so."""
        return self._encoded([""], True, options)[1]

    def _encoded(self, texts: list[str], guided: bool, options: dict[str, Any]) -> tuple[Prompt, Prompt | None]:
        embeds, negative, *pooled = self.pipe.encode_prompt(
            prompt=texts, device=self.pipe._execution_device, num_images_per_prompt=1,
            do_classifier_free_guidance=guided, **options,
        )
        pooled, negative_pooled = pooled or (None, None)
        return Prompt(embeds, pooled), Prompt(negative, negative_pooled) if guided else None

    def output(
        self,
        latents: Tensor,
        timesteps: Tensor,
        prompt: Prompt | None,
        *,
        skip_residuals: Sequence[Tensor] | None = None,
        middle_residual: Tensor | None = None,
        intrablock_residuals: Sequence[Tensor] | None = None,
        image_embeds: Sequence[Tensor] | None = None,
        image_masks: Sequence[Tensor] | None = None,
        class_labels: Tensor | None = None,
        sizes: Tensor | None = None,
        text_mask: Tensor | None = None,
        extra_channels: Tensor | None = None,
    ) -> Tensor:
        """The UNet's output. Raises ValueError for skips without a middle, which diffusers takes for an adapter's."""
        if (skip_residuals is None) != (middle_residual is None):
            given = "skip_residuals" if middle_residual is None else "middle_residual"
            raise ValueError(f"{given} alone: give skip_residuals and middle_residual, zeros where nothing is added")
        added: dict[str, Any] = {}
        if self.told_sizes:
            added = {"text_embeds": prompt.pooled, "time_ids": self._time_ids(latents, sizes)}
        if image_embeds is not None:
            added["image_embeds"] = list(image_embeds)
        if extra_channels is not None:
            latents = torch.cat([latents, extra_channels.to(latents)], dim=1)  # (N, C + c, h, w)
        return self.network(
            latents,
            timesteps,
            encoder_hidden_states=prompt.embeds,
            class_labels=class_labels,
            cross_attention_kwargs=None if image_masks is None else {"ip_adapter_masks": list(image_masks)},
            added_cond_kwargs=added or None,
            down_block_additional_residuals=None if skip_residuals is None else tuple(skip_residuals),
            mid_block_additional_residual=middle_residual,
            # the network empties the list and may add to its tensors in place
            down_intrablock_additional_residuals=None if intrablock_residuals is None else list(intrablock_residuals),
            encoder_attention_mask=text_mask,
            return_dict=False,
        )[0]  # (N, C, h, w)

    def _time_ids(self, latents: Tensor, sizes: Tensor | None) -> Tensor:
        """(N, 6): as the pipeline tells them for a picture drawn at the latents' own size, unless given."""
        if sizes is None:
            size = [side * self.pipe.vae_scale_factor for side in latents.shape[-2:]]
            sizes = latents.new_tensor([*size, 0, 0, *size])  # (6,)
        return torch.as_tensor(sizes).to(latents).expand(len(latents), 6)
