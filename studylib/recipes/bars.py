"""How good the tiny world's pictures are, measured beside its renders and reconstructions.

`python -m studylib.recipes.bars` measures the shipped weights again and draws the sheet that README shows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.linalg import sqrtm
from torch import Tensor

from studylib.measuring import metrics
from studylib.measuring.pictures import to_images, to_pixels
from studylib.measuring.views import draw_pictures
from studylib.models.face import FaceNetwork
from studylib.models.files import WEIGHTS
from studylib.models.judge import Judge
from studylib.models.load import load, load_network
from studylib.recipes import recipe
from studylib.recipes.vae import reconstructed
from studylib.showing import figures
from studylib.world.data import held_out
from studylib.world.scene import Scene, attributes, caption

SHEET = WEIGHTS / "sheet.webp"
RENDERS = 2048  # held-out scenes that are drawn
SURE = 0.9  # a judge's probability from which it counts as sure
ALL_HAVE = ("noun", "colour", "style", "place")


def sample(pipe: Any, captions: Sequence[str], seed: int) -> list[Image.Image]:
    """A picture a caption in 25 steps, i from the noise of `seed + i`."""
    seeds = range(seed, seed + len(captions))
    return draw_pictures(pipe, captions, seeds, batch_size=40, num_inference_steps=25, guidance_scale=5.0)


def sure_of_pattern(judge: Judge, images: list[Image.Image]) -> float:
    """Share of pictures of whose pattern the judge is sure."""
    best = metrics.judge_probabilities(images, "pattern", judge).max(-1).values
    return (best > SURE).float().mean().item()


@torch.no_grad()
def judge_features(judge: Judge, images: list[Image.Image]) -> np.ndarray:
    """What the judge's heads read, (N, 96) float64."""
    parts = [judge.backbone(batch).pooler_output.flatten(1) for batch in to_pixels(images).split(64)]
    return torch.cat(parts).double().numpy()


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    """Frechet distance of two sets of features (N, D), each taken as a normal distribution."""
    means, covariances = zip(*((f.mean(0), np.cov(f, rowvar=False)) for f in (one, other)), strict=True)
    root = sqrtm(covariances[0] @ covariances[1]).real
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root))


@torch.no_grad()
def faces_found(face: FaceNetwork, pixels: Tensor) -> float:
    """Share of pictures with a face whose five keypoints are each at one place: more than half of a keypoint's map
    lies within two cells (8 pixels) of its centre."""
    hits = []
    for batch in pixels.split(64):
        faces = face(batch)
        weights = faces.maps.flatten(2).softmax(-1)  # (N, 5, h * w)
        side = faces.maps.shape[-1]
        cells = (torch.arange(side) + 0.5) / side
        grid = torch.stack(torch.meshgrid(cells, cells, indexing="xy"), dim=-1).flatten(0, 1)  # (h * w, 2)
        near = (grid - faces.keypoints[:, :, None]).norm(dim=-1) < 2.5 / side
        hits.append((faces.found > 0) & ((weights * near).sum(-1) > 0.5).all(-1))
    return torch.cat(hits).float().mean().item()


def agreement(scenes: list[Scene], choices: list[dict[str, str]]) -> dict[str, float]:
    """Share of pictures with what their captions ask for; of people also hair (cut and colour), glasses, beard and
    expression."""
    truth = [attributes(scene) for scene in scenes]
    people = [i for i, t in enumerate(truth) if "haircut" in t]

    def share(members: list[int] | range, *names: str) -> float:
        return round(sum(all(choices[i][n] == truth[i][n] for n in names) for i in members) / max(1, len(members)), 4)

    asked = {"glasses": "yes", "beard": "yes"}  # a caption says nothing of a person without
    result = {name: share(range(len(scenes)), name) for name in ALL_HAVE}
    result["hair"] = share(people, "haircut", "hair_colour")
    for name in ("glasses", "beard", "expression"):
        members = [i for i in people if name not in asked or truth[i][name] == asked[name]]
        result[name] = share([i for i in members if truth[i][name] != "neutral"], name)
    return result


def renders_of(count: int, first: int = 0) -> list[Image.Image]:
    """Held-out scenes as they are drawn."""
    return [Image.fromarray(picture) for picture in recipe.held_out_pictures(RENDERS)[first : first + count]]


def through(vae: Any, images: list[Image.Image]) -> list[Image.Image]:
    """Pictures after the autoencoder, which is on the CPU or another device."""
    return to_images(reconstructed(vae, to_pixels(images).to(vae.device)))


def measure(pipe: Any, folder: Path, count: int = 600) -> dict[str, float]:
    """All that the card of `sd` reports, on held-out captions that tell everything, and how free an unsaid style is."""
    judge, face = load_network("judge"), load_network("face")
    scenes = held_out(count)
    images = sample(pipe, [caption(scene) for scene in scenes], seed=10_000)
    renders, others = renders_of(count), renders_of(RENDERS - count, first=count)
    elsewhere = judge_features(judge, others)
    people = [image for image, scene in zip(images, scenes, strict=True) if scene.person is not None]
    result = {"prompts": count} | agreement(scenes, metrics.judge(images, judge))
    result |= {
        "faces_found": faces_found(face, to_pixels(people)),
        "pattern_sure": sure_of_pattern(judge, images),
        "pattern_sure_renders": sure_of_pattern(judge, renders),
        "frechet": frechet(judge_features(judge, images), elsewhere),
        "frechet_reconstructions": frechet(judge_features(judge, through(pipe.vae, renders)), elsewhere),
        "frechet_renders": frechet(judge_features(judge, renders), elsewhere),
    }
    figures.sheet(images[:60], 12, gap=2).save(folder / "held_out.png")
    cats = sample(pipe, ["a cat"] * (count // 3), seed=50_000)
    figures.sheet(cats[:60], 12, gap=2).save(folder / "cats.png")
    result["style_entropy_bits"] = metrics.style_entropy(cats, judge)
    return {name: round(value, 4) for name, value in result.items()}


def sheet(pipe: Any, first: int = 700, count: int = 48) -> Image.Image:
    """Renders, their reconstructions and samples of their captions, one block under the other."""
    renders = renders_of(count, first)
    samples = sample(pipe, [caption(scene) for scene in held_out(count, first=first)], seed=20_000)
    blocks = [figures.sheet(images, 16, gap=2) for images in (renders, through(pipe.vae, renders), samples)]
    return figures.sheet(blocks, 1, gap=14)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studylib.recipes.bars", description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=600, help="held-out captions to draw, a third as many cats")
    count = parser.parse_args().prompts
    folder = Path("runs/recipes/bars")
    folder.mkdir(parents=True, exist_ok=True)
    pipe = load("tiny", device="cpu")
    measured = measure(pipe, folder, count)
    path = WEIGHTS / "sd" / "metrics.json"
    metrics = json.loads(path.read_text()) | measured
    path.write_text(json.dumps(metrics, indent=1) + "\n")
    print(json.dumps(metrics, indent=1))
    sheet(pipe).save(SHEET, quality=86)


if __name__ == "__main__":
    recipe.run(main)
