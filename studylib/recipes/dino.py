"""The tiny world's DINO: features in which two views of one subject are close, as `ViTModel`.

Stands for DINO. It never sees a label: a picture and another view of its subject, in the same or in another style, are
pulled together, all other pictures of the batch pushed away. Bars: same-instance retrieval top-1 among 64 of the same
noun >= 95 %, across styles >= 85 %.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from studylib.learning.processes import gathered
from studylib.measuring.encoders import dino_features
from studylib.measuring.pictures import to_pixels
from studylib.recipes import recipe
from studylib.recipes.budget import read_budget
from studylib.world.data import HELD_OUT, scene_number

GALLERY = 64
MEASURED = 4000  # held-out scenes
TEMPERATURE = 0.1


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


def image_processor() -> ViTImageProcessor:
    """Pictures to what the network reads: 128x128, in [-1, 1]."""
    return ViTImageProcessor(size={"height": 128, "width": 128}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def retrieval(model: ViTModel, count: int) -> dict[str, float]:
    """Top-1 retrieval of a held-out subject's other view among `GALLERY` subjects of its noun: from the same style's
    view, and from the view in another style."""
    queries, *views = (
        dino_features([Image.fromarray(picture) for picture in recipe.held_out_pictures(count, view)],
                      (model, image_processor()))
        for view in (0, 1, 2)
    )  # fmt: skip
    nouns = [scene_number(HELD_OUT + i).noun for i in range(count)]
    return {
        name: recipe.hit_rate(*recipe.retrieved(queries, keys, nouns, GALLERY).values())
        for name, keys in zip(("retrieval_top1", "retrieval_across_styles"), views, strict=True)
    }


def main() -> None:
    budget = read_budget("dino", __doc__.splitlines()[0], steps=5000, minutes=25, batch_size=96, scenes=16_000)
    device, first = budget.device, budget.seed * budget.scenes
    views = [recipe.drawn(budget.scenes, first=first, view=view) for view in (0, 1, 2)]
    model = recipe.start(budget, build())

    def draw(generator: torch.Generator) -> dict[str, Tensor]:
        index = torch.randint(budget.scenes, (budget.batch_size,), generator=generator).sort().values
        return {"index": index, "views": torch.randperm(3, generator=generator)[:2].expand(len(index), 2)}

    def loss(batch: Mapping[str, Tensor]) -> Tensor:
        index, chosen = batch["index"].numpy(), batch["views"][0].tolist()  # the same two views for the whole batch
        pixels = torch.cat([to_pixels(views[view][index]) for view in chosen]).to(device)
        features = F.normalize(model(pixels).last_hidden_state[:, 0].float(), dim=-1)  # of the class token
        one, other = (gathered(half) for half in features.split(len(index)))  # (N, D) each
        return recipe.contrast(one, other, TEMPERATURE)

    pace = 0.5 if budget.init else 1.0
    trained = recipe.train(
        budget, model, draw, loss, lr=1.5e-3 * pace, muon_lr=2e-3 * pace, weight_decay=0.05, ema=0.995
    )
    measured = retrieval(model, MEASURED)
    recipe.save_half(model, budget.out)
    image_processor().save_pretrained(budget.out)
    recipe.write_metrics(budget, model, trained, measured)


if __name__ == "__main__":
    recipe.run(main)
