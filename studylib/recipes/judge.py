"""The tiny world's judge: names what a picture shows, attribute by attribute. Metrics only, no training signal.

Stands for a human rater. Bar: >= 98 % each head on held-out renders, >= 97 % on their reconstructions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from studylib.measuring import metrics
from studylib.measuring.pictures import to_images, to_pixels
from studylib.models.files import WEIGHTS
from studylib.models.judge import Judge
from studylib.models.load import load_part
from studylib.recipes import recipe
from studylib.recipes.budget import read_budget
from studylib.recipes.vae import reconstructed
from studylib.world.data import held_out, scene_number
from studylib.world.scene import COLOURS, NOUNS, PATTERNS, PEOPLE_ATTRIBUTES, PLACES, STYLES, attributes

HEADS = {
    "noun": NOUNS,
    "colour": COLOURS,
    "style": STYLES,
    "place": PLACES,
    "pattern": PATTERNS,
    "accent": COLOURS,
    **PEOPLE_ATTRIBUTES,
}
ABSENT = -100  # the class number of an attribute that a scene does not have
MEASURED = 2048  # held-out scenes


def disturb(pixels: Tensor) -> Tensor:
    """Blur (none to three passes of a 3x3 mean), noise and brightness: generated pictures are never as crisp as
    renders, and a person does not take a soft sketch for a watercolour.

    Random state: torch's global generator.
    """
    n = len(pixels)
    for _ in range(3):
        soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
        pixels = torch.lerp(pixels, soft, torch.rand(n, 1, 1, 1).to(pixels))
    noise = 0.06 * torch.rand(n, 1, 1, 1) * torch.randn(pixels.shape)
    return pixels * (1 + 0.08 * torch.randn(n, 1, 1, 1)).to(pixels) + noise.to(pixels)


def labels(indices: range | list[int]) -> dict[str, Tensor]:
    """Class numbers of scenes by attribute; `ABSENT` where a scene has none (a ball has no haircut)."""
    truth = [attributes(scene_number(i)) for i in indices]
    return {
        a: torch.tensor([names.index(t[a]) if a in t else ABSENT for t in truth]) for a, names in HEADS.items()
    }


def head_loss(logits: Tensor, right: Tensor) -> Tensor:
    """Mean cross-entropy over the pictures that have the attribute: logits (N, classes), class numbers (N,); 0 where
    none has it."""
    total = F.cross_entropy(logits, right, ignore_index=ABSENT, label_smoothing=0.02, reduction="sum")
    return total / (right != ABSENT).sum().clamp(min=1)


def accuracy(judge: Judge, images: list[Image.Image]) -> dict[str, float]:
    """Share of the first held-out scenes that have the attribute and are named right, by attribute."""
    truth = [attributes(scene) for scene in held_out(len(images))]
    return {name: round(share, 4) for name, share in metrics.accuracy_by_attribute(images, truth, judge).items()}


def main() -> None:
    budget = read_budget("judge", __doc__.splitlines()[0], steps=6000, minutes=20, batch_size=64, scenes=48_000)
    device, first = budget.device, budget.seed * budget.scenes
    data = recipe.drawn(budget.scenes, first=first)
    truth = labels(range(first, first + budget.scenes))
    model = recipe.start(budget, Judge({a: list(names) for a, names in HEADS.items()}))

    def draw(generator: torch.Generator) -> dict[str, Tensor]:
        return {"index": torch.randint(len(data), (budget.batch_size,), generator=generator).sort().values}

    def loss(batch: Mapping[str, Tensor]) -> Tensor:
        logits = model(disturb(to_pixels(data[batch["index"].numpy()]).to(device)))
        return sum(head_loss(values.float(), truth[a][batch["index"]].to(device)) for a, values in logits.items())

    trained = recipe.train(budget, model, draw, loss, lr=3e-3, muon_lr=3e-3, weight_decay=0.02, ema=0.99)
    held = recipe.held_out_pictures(MEASURED)
    measured = accuracy(model, [Image.fromarray(picture) for picture in held])
    if (WEIGHTS / "vae").exists():
        vae = load_part("diffusers", "AutoencoderKL", WEIGHTS / "vae", torch.float32).to(device).eval()
        again = accuracy(model, to_images(reconstructed(vae, to_pixels(held).to(device))))
        measured |= {f"{attribute}_reconstructed": share for attribute, share in again.items()}
    recipe.save_half(model, budget.out)
    recipe.write_metrics(budget, model, trained, measured)


if __name__ == "__main__":
    recipe.run(main)
