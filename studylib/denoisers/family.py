"""One kind of network behind a `Denoiser`: which conditions it takes, and how it is called."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor, nn

from studylib.denoisers.prompts import Prompt

# All conditions of all families; N is the number of latents, and one row serves all where the network allows it.
CONDITIONS = {
    "skip_residuals": "a tensor for each skip of a UNet, added to it (ControlNet)",
    "middle_residual": "a tensor added to the output of a UNet's middle block (ControlNet)",
    "intrablock_residuals": "a tensor for each down block of a UNet, added inside it (T2I-Adapter)",
    "block_residuals": "tensors (N, tokens, width) added after the blocks of a transformer (ControlNet)",
    "single_block_residuals": "the same after FLUX's single blocks",
    "image_embeds": "image prompts: a tensor for each loaded IP-Adapter",
    "image_masks": "where image prompts act: a mask (1, images, H, W) for each loaded IP-Adapter",
    "class_labels": "numbers of classes (N,)",
    "sizes": "pixels (N, 6) original, crop and target for SDXL, (N, 2) height and width for PixArt",
    "text_mask": "(N, tokens), 1 where a token of the prompt may be attended to",
    "extra_channels": "(N, c, h, w), put behind the channels of the latents (inpainting)",
    "guidance": "the guidance scale that a distilled FLUX is told, a number or (N,)",
    "appended_latents": "(N, C, h', w'), whose tokens FLUX puts behind those of the latents, for hooks `condition`",
    "appended_offset": "(rows, columns) by which the positions of appended_latents are moved, in tokens",
}


class Family(ABC):
    """What differs between the families; made by `Denoiser`, which is what others use."""

    network_class: ClassVar[str]
    part: ClassVar[str] = "transformer"  # where the pipeline has its network

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @property
    def network(self) -> nn.Module:
        """The network that predicts."""
        return getattr(self.pipe, self.part)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents at the size that the pipeline draws."""
        return self.network.config.in_channels, *square(self.network.config.sample_size)

    @abstractmethod
    def takes(self) -> set[str]:
        """The conditions, by their names in CONDITIONS, that the network takes as it is loaded now."""

    @abstractmethod
    def prompt(self, texts: Sequence[str], **options: Any) -> Prompt:
        """Encode texts as the pipeline does."""

    @abstractmethod
    def unconditional(self, **options: Any) -> Prompt:
        """The one row that the pipeline uses for guidance where no negative prompt is given."""

    @abstractmethod
    def output(self, latents: Tensor, timesteps: Tensor, prompt: Prompt | None, **conditions: Any) -> Tensor:
        """All that the network says, (N, C or more, h, w), of latents (N, C, h, w) at timesteps (N,)."""

    def schedule(self, scheduler: Any, num_inference_steps: int, shape: Sequence[int]) -> None:
        """Set a scheduler's timesteps as the pipeline does for latents of this shape."""
        scheduler.set_timesteps(num_inference_steps, device=self.pipe._execution_device)

    def draw(self, prompts: Sequence[str], **sampling: Any) -> list[Image.Image]:
        """Pictures that the pipeline draws."""
        return self.pipe(list(prompts), **sampling).images

    def check(self, conditions: Mapping[str, Any]) -> dict[str, Any]:
        """The conditions that were given; TypeError for one that this network cannot take."""
        given = {name: value for name, value in conditions.items() if value is not None}
        takes = self.takes()
        for name in given:
            if name not in takes:
                raise TypeError(self._refusal(name, given, takes))
        return given

    def _refusal(self, name: str, given: Mapping[str, Any], takes: set[str]) -> str:
        who = f"{type(self.pipe).__name__} with {type(self.network).__name__}"
        if name in CONDITIONS:
            problem = f"{who}, as it is loaded, cannot take {name!r} ({CONDITIONS[name]})"
        else:
            close = difflib.get_close_matches(name, CONDITIONS, n=1)
            problem = f"no condition is called {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")
        listed = "; ".join(f"{one}: {CONDITIONS[one]}" for one in CONDITIONS if one in takes) or "none"
        return f"{problem}. Given: {', '.join(given)}. {who} takes: {listed}."


def square(side: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of a `sample_size`, which is one number or two."""
    return (side, side) if isinstance(side, int) else (side[0], side[1])
