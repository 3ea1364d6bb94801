"""The tiny world's DINO: features in which two views of one subject are close, as `ViTModel`.

Stands for DINO. It never sees a label: a picture and another view of its subject in the same style are pulled together,
all other pictures of the batch pushed away. Bar: same-instance retrieval top-1 >= 90 % among 64 of the same noun.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from studylib.learning.processes import gathered, share
from studylib.recipes import training_loop as loop
from studylib.world.data import HELD_OUT, pictures, scene_number
from studylib.world.scene import NOUNS

GALLERY = 64


def build() -> ViTModel:
    """A fresh ViT, 0.3 M parameters."""
    return ViTModel(
        ViTConfig(
            hidden_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=192,
            image_size=128,
            patch_size=16,
            qkv_bias=True,
        ),
        add_pooling_layer=False,
    )


def features(model: ViTModel, pixels: Tensor) -> Tensor:
    """(N, 3, 128, 128) in [-1, 1] -> unit class-token features (N, 96)."""
    return F.normalize(model(pixels).last_hidden_state[:, 0].float(), dim=-1)


@torch.no_grad()
def retrieval(model: ViTModel, device: str, count: int = 6000) -> dict[str, float]:
    """Top-1 retrieval of a held-out subject's other view among `GALLERY` subjects of its noun; `same_style` draws the
    gallery from one style as well (fewer, harder)."""
    queries, keys = (
        torch.cat([features(model, loop.to_pixels(batch, device)) for batch in _batches(count, view)])
        for view in (0, 1)
    )
    scenes = [scene_number(HELD_OUT + i) for i in range(count)]
    result = {}
    for name, groups in (
        ("retrieval_top1", [(n, None) for n in NOUNS]),
        ("same_style", [("person", s) for s in ("flat", "sketch")]),
    ):
        hits = total = 0
        for noun, style in groups:
            members = [i for i, s in enumerate(scenes) if s.noun == noun and style in (None, s.style)]
            for start in range(0, len(members) - GALLERY + 1, GALLERY):
                index = torch.tensor(members[start : start + GALLERY])
                best = (queries[index] @ keys[index].T).argmax(1)
                hits, total = hits + int((best == torch.arange(GALLERY, device=best.device)).sum()), total + GALLERY
        result[name] = round(hits / total, 4)
    return result


def _batches(count: int, view: int) -> list:
    held = pictures(count, loop.DATA, first=HELD_OUT, view=view)
    return [held[i : i + 128] for i in range(0, count, 128)]


def main() -> None:
    budget = loop.budget("dino", __doc__.splitlines()[0], steps=5000, minutes=12, batch_size=128, scenes=60_000)
    device = budget.device
    first, second = (loop.drawn(budget.scenes, view=view) for view in (0, 1))
    model = loop.start(budget, build())
    temperature = 0.1

    def loss(_: int, generator: torch.Generator) -> dict[str, Tensor]:
        index = torch.randint(len(first), (budget.batch_size,), generator=generator).sort().values
        index = share(index).numpy()
        pixels = loop.to_pixels(first[index], device), loop.to_pixels(second[index], device)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            both = features(model, torch.cat(pixels))
        one, other = gathered(both[: len(index)]), gathered(both[len(index) :])  # (N, D) each
        logits = one @ other.T / temperature  # (N, N)
        target = torch.arange(len(logits), device=device)
        return {"loss": (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2}

    trained = loop.fit(budget, model, loss, lr=1.5e-3, muon_lr=2e-3, weight_decay=0.05, ema=0.995)
    measured = retrieval(model, device)
    loop.save_half(model, budget.out)
    ViTImageProcessor(size={"height": 128, "width": 128}, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(
        budget.out
    )
    loop.write_metrics(budget, model, trained, measured)


if __name__ == "__main__":
    main()
