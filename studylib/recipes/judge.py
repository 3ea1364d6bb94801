"""The tiny world's judge: names noun, colour, style, place and pattern of a picture. Metrics only, no training signal.

Stands for a human rater. Bar: >= 98 % each for noun, colour, style and place on held-out renders.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from studylib.learning.processes import share
from studylib.models.judge import Judge
from studylib.recipes import training_loop as loop
from studylib.world.data import HELD_OUT, held_out, pictures, scene_number
from studylib.world.scene import COLOURS, NOUNS, PATTERNS, PLACES, STYLES, attributes

HEADS = {"noun": NOUNS, "colour": COLOURS, "style": STYLES, "place": PLACES, "pattern": PATTERNS}


def disturb(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Blur (none to three passes of a 3x3 mean), noise and brightness: generated pictures are never as crisp as
    renders, and a person does not take a soft sketch for a watercolour."""
    n = len(pixels)
    for _ in range(3):
        blur = torch.rand(n, 1, 1, 1, generator=generator).to(pixels)
        soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
        pixels = torch.lerp(pixels, soft, blur)
    noise = (
        0.06
        * torch.rand(n, 1, 1, 1, generator=generator).to(pixels)
        * torch.randn(pixels.shape, generator=generator).to(pixels)
    )
    return pixels * (1 + 0.08 * torch.randn(n, 1, 1, 1, generator=generator).to(pixels)) + noise


def labels(indices: list[int]) -> dict[str, Tensor]:
    """Class numbers of scenes by attribute."""
    truth = [attributes(scene_number(i)) for i in indices]
    return {a: torch.tensor([names.index(t[a]) for t in truth]) for a, names in HEADS.items()}


def main() -> None:
    budget = loop.budget("judge", __doc__.splitlines()[0], steps=6000, minutes=12, batch_size=64, scenes=60_000)
    device = budget.device
    data = loop.drawn(budget.scenes)
    truth = labels(range(budget.scenes))
    model = loop.start(budget, Judge({a: list(names) for a, names in HEADS.items()}))

    def loss(_: int, generator: torch.Generator) -> dict[str, Tensor]:
        index = share(torch.randint(len(data), (budget.batch_size,), generator=generator).sort().values)
        pixels = disturb(loop.to_pixels(data[index.numpy()], device), generator)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            logits = model(pixels)
        losses = {
            a: F.cross_entropy(v.float(), truth[a][index].to(device), label_smoothing=0.02) for a, v in logits.items()
        }
        return {"loss": sum(losses.values()), **losses}

    trained = loop.fit(budget, model, loss, lr=3e-3, muon_lr=3e-3, weight_decay=0.02)
    scenes, hits = held_out(2048), dict.fromkeys(HEADS, 0)
    held = pictures(len(scenes), loop.DATA, first=HELD_OUT)
    with torch.no_grad():
        for start in range(0, len(scenes), 64):
            for attribute, logits in model(loop.to_pixels(held[start : start + 64], device)).items():
                for scene, choice in zip(scenes[start : start + 64], logits.argmax(-1).tolist(), strict=True):
                    hits[attribute] += HEADS[attribute][choice] == attributes(scene)[attribute]
    loop.save_half(model, budget.out)
    loop.write_metrics(budget, model, trained, {a: round(n / len(scenes), 4) for a, n in hits.items()})


if __name__ == "__main__":
    main()
