"""The tiny world's style network: which nuance of a style, whatever is drawn. Metrics only, no training signal.

Stands for CSD. A picture and one of another noun in the same nuance (line width, hatching, tint, shadow, grain) are
pulled together, other pictures pushed away, most of them of the same style. Bar: among 32 pictures of the same style
the one with the same nuance and another noun comes first in >= 80 %.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from studylib.learning.processes import gathered
from studylib.measuring.pictures import to_pixels
from studylib.models.style import StyleNetwork
from studylib.recipes import recipe
from studylib.recipes.budget import read_budget
from studylib.world.data import HELD_OUT, scene_number
from studylib.world.scene import STYLES

GALLERY = 32
MEASURED = 4000  # held-out scenes


@torch.no_grad()
def retrieval(model: StyleNetwork, device: str, count: int) -> dict[str, float]:
    """Top-1 retrieval of the picture in the same nuance among `GALLERY` of the same style, over all and by style."""
    queries, keys = (
        torch.cat([model(batch.to(device)).cpu() for batch in to_pixels(held).split(128)])
        for held in (recipe.held_out_pictures(count, view) for view in (0, 3))
    )
    styles = [scene_number(HELD_OUT + i).style for i in range(count)]
    counts = recipe.retrieved(queries, keys, styles, GALLERY)
    return {"retrieval_top1": recipe.hit_rate(*counts.values())} | {s: recipe.hit_rate(counts[s]) for s in STYLES}


def main() -> None:
    budget = read_budget("style", __doc__.splitlines()[0], steps=6000, minutes=25, batch_size=96, scenes=16_000)
    device, first = budget.device, budget.seed * budget.scenes
    scenes, mates = (recipe.drawn(budget.scenes, first=first, view=view) for view in (0, 3))
    members = {s: torch.tensor([i for i in range(budget.scenes) if scene_number(first + i).style == s]) for s in STYLES}
    model = recipe.start(budget, StyleNetwork())

    def draw(generator: torch.Generator) -> dict[str, Tensor]:
        style = members[STYLES[int(torch.randint(len(STYLES), (), generator=generator))]]
        own = style[torch.randperm(len(style), generator=generator)[: budget.batch_size * 3 // 4]]
        others = torch.randperm(budget.scenes, generator=generator)
        others = others[~torch.isin(others, own)]
        return {"index": torch.cat([own, others[: budget.batch_size - len(own)]]).sort().values}

    def loss(batch: Mapping[str, Tensor]) -> Tensor:
        index = batch["index"].numpy()
        both = model(torch.cat([to_pixels(part[index]) for part in (scenes, mates)]).to(device))
        one, other = (gathered(half) for half in both.split(len(index)))  # (N, D) each
        return recipe.contrast(one, other, 0.1)

    trained = recipe.train(budget, model, draw, loss, lr=2e-3, muon_lr=2e-3, weight_decay=0.02, ema=0.99)
    measured = retrieval(model, device, MEASURED)
    recipe.save_half(model, budget.out)
    recipe.write_metrics(budget, model, trained, measured)


if __name__ == "__main__":
    recipe.run(main)
