"""Pictures and texts to features and logits: what the measures in this room compare.

An encoder is None for the tiny world's own, a hub name, or what loaders in `studylib.models.load` return:
(model, image processor), for CLIP (model, CLIP processor).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from studylib.denoisers.prompts import listed
from studylib.measuring.pictures import to_pixels
from studylib.models import load
from studylib.models.table import ENCODERS

Encoder = str | tuple[Any, ...] | None
BATCH = 32
JUDGE_SIZE = (128, 128)


@dataclass(frozen=True)
class Encoders:
    """Which networks measure: None is the tiny world's own, a name is a hub checkpoint's."""

    clip: str | None = None
    dino: str | None = None

    @classmethod
    def named(cls, name: str, clip: str = "ViT-L/14", dino: str = "ViT-B/8") -> Encoders:
        """ "tiny", or "hub" for those that the paper measured with, `clip` and `dino` by their names in ENCODERS.

        Raises ValueError for another word.
        """
        known = {"tiny": cls(), "hub": cls(ENCODERS["clip"][clip], ENCODERS["dino"][dino])}
        if name not in known:
            raise ValueError(f"encoders is one of {', '.join(known)}, not {name!r}")
        return known[name]


def dino_features(images: Sequence[Image.Image], dino: Encoder = None) -> Tensor:
    """Return the L2-normalised class token of each picture, (N, D) float32 on the CPU."""
    model, processor = _load("load_dino", dino)
    return _encode_images(images, model, processor, lambda x: model(pixel_values=x).last_hidden_state[:, 0])


def text_image_features(images: Sequence[Image.Image], texts: Sequence[str],
                        clip: Encoder = None) -> tuple[Tensor, Tensor]:
    """Return the L2-normalised CLIP features of pictures (N, D) and texts (M, D), float32 on the CPU."""
    model, processor = _load("load_clip", clip)
    pictures = _encode_images(images, model, processor.image_processor,
                              lambda x: _projected(model.get_image_features(pixel_values=x)))  # (N, D)
    tokens = processor.tokenizer(listed(texts, "texts"), padding=True, truncation=True, return_tensors="pt")
    tokens = tokens.to(next(model.parameters()).device)
    with torch.inference_mode():
        sentences = _projected(model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]))  # (M, D)
    return pictures, F.normalize(sentences.float().cpu(), dim=-1)


def judge_network(given: nn.Module | None = None) -> nn.Module:
    """Return the judge: the given one, or the tiny world's."""
    if given is not None:
        return given
    return load.load_network("judge")


def judge_logits(images: Sequence[Image.Image], network: nn.Module) -> dict[str, Tensor]:
    """Return the judge's logits (N, classes) by attribute; pictures of another size are scaled to 128x128."""
    device = next(network.parameters()).device
    parts: dict[str, list[Tensor]] = {name: [] for name in network.heads}
    with torch.inference_mode():
        for batch in _batches(images):
            batch = [image if image.size == JUDGE_SIZE else image.resize(JUDGE_SIZE, Image.Resampling.LANCZOS)
                     for image in batch]
            for name, logits in network(to_pixels(batch).to(device)).items():  # (n, 3, 128, 128)
                parts[name].append(logits.float().cpu())  # (n, classes)
    return {name: torch.cat(logits) for name, logits in parts.items()}  # (N, classes)


def _load(loader: str, given: Encoder) -> tuple[Any, ...]:
    if isinstance(given, tuple):
        return given
    return getattr(load, loader)() if given is None else getattr(load, loader)(given)


def _batches(images: Sequence[Image.Image]) -> list[list[Image.Image]]:
    colour = [image.convert("RGB") for image in images]
    return [colour[start:start + BATCH] for start in range(0, len(colour), BATCH)]


def _encode_images(images: Sequence[Image.Image], model: nn.Module, processor: Any,
                   encode: Callable[[Tensor], Tensor]) -> Tensor:
    weight = next(model.parameters())
    with torch.inference_mode():
        parts = []
        for batch in _batches(images):
            pixels = processor(images=batch, return_tensors="pt")["pixel_values"]  # (n, 3, H, W)
            parts.append(encode(pixels.to(weight.device, weight.dtype)).float().cpu())  # (n, D)
    return F.normalize(torch.cat(parts), dim=-1)  # (N, D)


def _projected(output: Any) -> Tensor:
    """The projected features, which transformers 4 returns bare and transformers 5 in an output object."""
    return output if isinstance(output, Tensor) else output.pooler_output
