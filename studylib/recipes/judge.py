"""The tiny world's judge: names what a picture shows, attribute by attribute. Metrics only, no training signal.

Stands for a human rater. Bar: >= 98 % each head on held-out renders, >= 97 % on their reconstructions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from studylib.learning.processes import share
from studylib.models.files import WEIGHTS
from studylib.models.judge import Judge
from studylib.recipes import training_loop as loop
from studylib.recipes.budget import read_budget
from studylib.world.data import HELD_OUT, scene_number
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


def labels(indices: range | list[int]) -> dict[str, Tensor]:
    """Class numbers of scenes by attribute; `ABSENT` where a scene has none (a ball has no haircut)."""
    truth = [attributes(scene_number(i)) for i in indices]
    return {
        a: torch.tensor([names.index(t[a]) if a in t else ABSENT for t in truth]) for a, names in HEADS.items()
    }


@torch.no_grad()
def accuracy(judge: Judge, pixels: Tensor, truth: dict[str, Tensor]) -> dict[str, float]:
    """Share of pictures that have the attribute and are named right, by attribute."""
    parts = [judge(batch) for batch in pixels.split(64)]
    result = {}
    for attribute, right in truth.items():
        has = right != ABSENT
        choice = torch.cat([part[attribute] for part in parts]).argmax(-1).cpu()
        result[attribute] = round((choice[has] == right[has]).float().mean().item(), 4)
    return result


@torch.no_grad()
def reconstructed(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Pictures after encoder and decoder, in [-1, 1]."""
    return torch.cat([vae.decode(vae.encode(p).latent_dist.mean).sample.clamp(-1, 1) for p in pixels.split(32)])


def main() -> None:
    budget = read_budget("judge", __doc__.splitlines()[0], steps=6000, minutes=20, batch_size=64, scenes=48_000)
    device, first = budget.device, budget.seed * budget.scenes
    data = loop.drawn(budget.scenes, first=first)
    truth = labels(range(first, first + budget.scenes))
    model = loop.start(budget, Judge({a: list(names) for a, names in HEADS.items()}))

    def loss(_: int, generator: torch.Generator) -> dict[str, Tensor]:
        index = share(torch.randint(len(data), (budget.batch_size,), generator=generator).sort().values)
        pixels = disturb(loop.to_pixels(data[index.numpy()], device), generator)
        with budget.precision.autocast():
            logits = model(pixels)
        losses = {}
        for attribute, values in logits.items():
            right = truth[attribute][index].to(device)
            if (right != ABSENT).any():
                losses[attribute] = F.cross_entropy(values.float(), right, ignore_index=ABSENT, label_smoothing=0.02)
        return {"loss": sum(losses.values())}

    trained = loop.fit(budget, model, loss, lr=3e-3, muon_lr=3e-3, weight_decay=0.02, ema=0.99)
    held = loop.to_pixels(loop.drawn(2048, first=HELD_OUT), device)
    right = labels(range(HELD_OUT, HELD_OUT + 2048))
    measured = accuracy(model, held, right)
    if (WEIGHTS / "vae").exists():
        vae = AutoencoderKL.from_pretrained(WEIGHTS / "vae", torch_dtype=torch.float32).to(device).eval()
        again = accuracy(model, reconstructed(vae, held), right)
        measured |= {f"{attribute}_reconstructed": share for attribute, share in again.items()}
    loop.save_half(model, budget.out)
    loop.write_metrics(budget, model, trained, measured)


if __name__ == "__main__":
    main()
