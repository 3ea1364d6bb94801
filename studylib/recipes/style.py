"""The tiny world's style network: which nuance of a style, whatever is drawn. Metrics only, no training signal.

Stands for CSD. A picture and one of another noun in the same nuance (line width, hatching, tint, shadow, grain) are
pulled together, other pictures pushed away, most of them of the same style. Bar: among 32 pictures of the same style
the one with the same nuance and another noun comes first in >= 80 %.
"""

from __future__ import annotations

import torch
from torch import Tensor

from studylib.learning.processes import gathered, share
from studylib.models.style import StyleNetwork
from studylib.recipes import training_loop as loop
from studylib.recipes.budget import read_budget
from studylib.world.data import HELD_OUT, scene_number
from studylib.world.scene import STYLES

GALLERY = 32


@torch.no_grad()
def retrieval(model: StyleNetwork, device: str, count: int = 4000) -> dict[str, float]:
    """Top-1 retrieval of the picture in the same nuance among `GALLERY` of the same style, over all and by style."""
    queries, keys = (
        torch.cat([
            model(loop.to_pixels(held[i : i + 128], device)).cpu() for i in range(0, count, 128)
        ])
        for held in (loop.drawn(count, first=HELD_OUT, view=view) for view in (0, 3))
    )  # fmt: skip
    styles = [scene_number(HELD_OUT + i).style for i in range(count)]
    hits, totals = dict.fromkeys(STYLES, 0), dict.fromkeys(STYLES, 0)
    for style in STYLES:
        members = [i for i, s in enumerate(styles) if s == style]
        for start in range(0, len(members) - GALLERY + 1, GALLERY):
            index = torch.tensor(members[start : start + GALLERY])
            best = (queries[index] @ keys[index].T).argmax(1)
            hits[style] += int((best == torch.arange(GALLERY)).sum())
            totals[style] += GALLERY
    overall = round(sum(hits.values()) / sum(totals.values()), 4)
    return {"retrieval_top1": overall} | {style: round(hits[style] / totals[style], 4) for style in STYLES}


def main() -> None:
    budget = read_budget("style", __doc__.splitlines()[0], steps=6000, minutes=25, batch_size=96, scenes=16_000)
    device, first = budget.device, budget.seed * budget.scenes
    scenes, mates = (loop.drawn(budget.scenes, first=first, view=view) for view in (0, 3))
    members = {s: torch.tensor([i for i in range(budget.scenes) if scene_number(first + i).style == s]) for s in STYLES}
    model = loop.start(budget, StyleNetwork())

    def loss(_: int, generator: torch.Generator) -> dict[str, Tensor]:
        style = STYLES[int(torch.randint(len(STYLES), (), generator=generator))]
        own = members[style][torch.randint(len(members[style]), (budget.batch_size * 3 // 4,), generator=generator)]
        any_style = torch.randint(budget.scenes, (budget.batch_size - len(own),), generator=generator)
        index = share(torch.cat([own, any_style]).unique()).numpy()
        pixels = torch.cat([loop.to_pixels(part[index], device) for part in (scenes, mates)])
        with budget.precision.autocast():
            both = model(pixels)
        one, other = gathered(both[: len(index)]), gathered(both[len(index) :])  # (N, D) each
        return {"loss": loop.contrast(one, other, 0.1)}

    trained = loop.fit(budget, model, loss, lr=2e-3, muon_lr=2e-3, weight_decay=0.02, ema=0.99)
    measured = retrieval(model, device)
    loop.save_half(model, budget.out)
    loop.write_metrics(budget, model, trained, measured)


if __name__ == "__main__":
    main()
