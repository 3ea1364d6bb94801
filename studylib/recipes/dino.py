"""The tiny world's DINO: features in which two views of one subject are close, as `ViTModel`.

Stands for DINO. It never sees a label: a picture and another view of its subject, in the same or in another style, are
pulled together, all other pictures of the batch pushed away. Bars: same-instance retrieval top-1 among 64 of the same
noun >= 95 %, across styles >= 85 %.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from studylib.learning.processes import gathered, share
from studylib.recipes import training_loop as loop
from studylib.recipes.budget import read_budget
from studylib.world.data import HELD_OUT, scene_number
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
def retrieval(model: ViTModel, device: str, count: int = 4000) -> dict[str, float]:
    """Top-1 retrieval of a held-out subject's other view among `GALLERY` subjects of its noun: from the same style's
    view, and from the view in another style."""
    queries, same, other = (
        torch.cat([features(model, loop.to_pixels(batch, device)) for batch in _batches(count, view)])
        for view in (0, 1, 2)
    )
    nouns = [scene_number(HELD_OUT + i).noun for i in range(count)]
    result = {}
    for name, keys in (("retrieval_top1", same), ("retrieval_across_styles", other)):
        hits = total = 0
        for noun in NOUNS:
            members = [i for i, n in enumerate(nouns) if n == noun]
            for start in range(0, len(members) - GALLERY + 1, GALLERY):
                index = torch.tensor(members[start : start + GALLERY])
                best = (queries[index] @ keys[index].T).argmax(1).cpu()
                hits, total = hits + int((best == torch.arange(GALLERY)).sum()), total + GALLERY
        result[name] = round(hits / total, 4)
    return result


def _batches(count: int, view: int) -> list:
    held = loop.drawn(count, first=HELD_OUT, view=view)
    return [held[i : i + 128] for i in range(0, count, 128)]


def main() -> None:
    budget = read_budget("dino", __doc__.splitlines()[0], steps=5000, minutes=25, batch_size=96, scenes=16_000)
    device, start = budget.device, budget.seed * budget.scenes
    views = [loop.drawn(budget.scenes, first=start, view=view) for view in (0, 1, 2)]
    model = loop.start(budget, build())
    temperature = 0.1

    def loss(_: int, generator: torch.Generator) -> dict[str, Tensor]:
        index = torch.randint(budget.scenes, (budget.batch_size,), generator=generator).sort().values
        index, (a, b) = share(index).numpy(), torch.randperm(3, generator=generator)[:2].tolist()
        pixels = loop.to_pixels(views[a][index], device), loop.to_pixels(views[b][index], device)
        with budget.precision.autocast():
            both = features(model, torch.cat(pixels))
        one, other = gathered(both[: len(index)]), gathered(both[len(index) :])  # (N, D) each
        return {"loss": loop.contrast(one, other, temperature)}

    pace = 0.5 if budget.init else 1.0
    trained = loop.fit(budget, model, loss, lr=1.5e-3 * pace, muon_lr=2e-3 * pace, weight_decay=0.05, ema=0.995)
    measured = retrieval(model, device)
    loop.save_half(model, budget.out)
    ViTImageProcessor(size={"height": 128, "width": 128}, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(
        budget.out
    )
    loop.write_metrics(budget, model, trained, measured)


if __name__ == "__main__":
    main()
