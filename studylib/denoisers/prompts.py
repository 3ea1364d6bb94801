"""What a denoiser is told in words, in one form for all of them: a row for each text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """Encoded texts, a row for each; a field that the denoiser has no use for is None.

    embeds: (N, tokens, width). pooled: (N, width), one vector a text. mask: (N, tokens), 1 where a token is no padding.
    labels: (N,), numbers of classes in place of texts.
    """

    embeds: Tensor | None = None
    pooled: Tensor | None = None
    mask: Tensor | None = None
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        counts = {name: len(tensor) for name, tensor in self._tensors().items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"a prompt has as many rows in each of its fields, at least one field; given: {counts}")

    def __len__(self) -> int:
        return len(next(iter(self._tensors().values())))

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> Prompt:
        """Choose rows, in this order; one number gives a prompt of one row."""
        index = [rows] if isinstance(rows, int) else rows
        return self._changed(lambda tensor: tensor[index])

    def repeat(self, count: int) -> Prompt:
        """Repeat each row `count` times, its copies one after another."""
        return self._changed(lambda tensor: tensor.repeat_interleave(count, dim=0))

    def expand(self, count: int) -> Prompt:
        """Give each of `count` rows its text: one row is shared by all. Raises ValueError for another number."""
        if len(self) == count:
            return self
        if len(self) != 1:
            raise ValueError(f"{len(self)} prompts were given for {count} latents: give one each, or one for all")
        return self._changed(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def detach(self) -> Prompt:
        """The same without gradients, to be encoded once and used at every step of a training."""
        return self._changed(Tensor.detach)

    def to(self, device: torch.device, dtype: torch.dtype) -> Prompt:
        """Move to a device; embeddings get the dtype, masks and labels keep theirs."""
        return self._changed(lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype))

    @staticmethod
    def join(prompts: Sequence[Prompt]) -> Prompt:
        """Put the rows of prompts one below another."""
        names = prompts[0]._tensors()
        return Prompt(**{name: torch.cat([getattr(prompt, name) for prompt in prompts]) for name in names})

    def _tensors(self) -> dict[str, Tensor]:
        named = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Prompt:
        return Prompt(**{name: change(tensor) for name, tensor in self._tensors().items()})


def listed(texts: Sequence[str], name: str = "prompts") -> list[str]:
    """Texts as a list; TypeError for one text in place of a list, which would be taken letter by letter."""
    if isinstance(texts, str):
        raise TypeError(f"{name} is a list of texts, a single one as [{texts!r}], not the text {texts!r}")
    return list(texts)
