"""How good the tiny world's pictures are, measured beside its renders and reconstructions.

`python -m studylib.recipes.bars` measures the shipped weights again and draws the sheet that README shows.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from scipy.linalg import sqrtm
from torch import Tensor

from studylib.models.face import FaceNetwork
from studylib.models.files import WEIGHTS
from studylib.models.judge import Judge
from studylib.recipes import training_loop as loop
from studylib.recipes.judge import reconstructed
from studylib.recipes.pipeline import sample, shipped_pipeline
from studylib.world.data import HELD_OUT, held_out
from studylib.world.scene import Scene, attributes, caption

SHEET = WEIGHTS / "sheet.webp"
SURE = 0.9  # a judge's probability from which it counts as sure
ALL_HAVE = ("noun", "colour", "style", "place")


def pixels_of(images: list[Image.Image]) -> Tensor:
    """(N, 3, 128, 128) in [-1, 1]."""
    return loop.to_pixels(np.stack([np.asarray(image) for image in images]), "cpu")


@torch.no_grad()
def judged(judge: Judge, pixels: Tensor) -> list[dict[str, str]]:
    """The judge's choice for every attribute of every picture."""
    parts = [judge(batch) for batch in pixels.split(64)]
    best = {a: torch.cat([part[a] for part in parts]).argmax(-1).tolist() for a in judge.heads}
    return [{a: judge.heads[a][best[a][i]] for a in best} for i in range(len(pixels))]


@torch.no_grad()
def sure_of_pattern(judge: Judge, pixels: Tensor) -> float:
    """Share of pictures of whose pattern the judge is sure."""
    best = torch.cat([judge(batch)["pattern"].softmax(-1).max(-1).values for batch in pixels.split(64)])
    return (best > SURE).float().mean().item()


@torch.no_grad()
def judge_features(judge: Judge, pixels: Tensor) -> np.ndarray:
    """What the judge's heads read, (N, 96) float64."""
    return torch.cat([judge.backbone(p).pooler_output.flatten(1) for p in pixels.split(64)]).double().numpy()


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


def measure(
    pipe: StableDiffusionPipeline, judge: Judge, face: FaceNetwork, folder: Path, count: int = 600
) -> dict[str, float]:
    """All that the card of `sd` reports, on held-out captions that tell everything, and how free an unsaid style is."""
    scenes = held_out(count)
    images = sample(pipe, [caption(scene) for scene in scenes], seed=10_000)
    drawn = pixels_of(images)
    renders = loop.to_pixels(loop.drawn(2048, first=HELD_OUT), "cpu")
    again = reconstructed(pipe.vae, renders[:count])
    others = judge_features(judge, renders[count:])
    result = {"prompts": count} | agreement(scenes, judged(judge, drawn))
    people = torch.tensor([scene.person is not None for scene in scenes])
    result |= {
        "faces_found": faces_found(face, drawn[people]),
        "pattern_sure": sure_of_pattern(judge, drawn),
        "pattern_sure_renders": sure_of_pattern(judge, renders[:count]),
        "frechet": frechet(judge_features(judge, drawn), others),
        "frechet_reconstructions": frechet(judge_features(judge, again), others),
        "frechet_renders": frechet(judge_features(judge, renders[:count]), others),
    }
    loop.contact_sheet(images[:60], 12).save(folder / "held_out.png")
    cats = sample(pipe, ["a cat"] * (count // 3), seed=50_000)
    loop.contact_sheet(cats[:60], 12).save(folder / "cats.png")
    counts = Counter(choice["style"] for choice in judged(judge, pixels_of(cats)))
    shares = [n / len(cats) for n in counts.values()]
    result["style_entropy_bits"] = -sum(share * math.log2(share) for share in shares)
    return {name: round(value, 4) for name, value in result.items()}


def sheet(pipe: StableDiffusionPipeline, first: int = 700, count: int = 48, columns: int = 8) -> Image.Image:
    """Renders, their reconstructions and samples of their captions, one block under the other."""
    scenes = held_out(count, first=first)
    renders = loop.to_pixels(loop.drawn(2048, first=HELD_OUT)[first : first + count], "cpu")
    again = [loop.to_image(p) for p in reconstructed(pipe.vae, renders)]
    samples = sample(pipe, [caption(scene) for scene in scenes], seed=20_000)
    rows = [loop.to_image(p) for p in renders], again, samples
    blocks = [loop.contact_sheet(images, columns * 2) for images in rows]
    page = Image.new("RGB", (blocks[0].width, sum(block.height + 14 for block in blocks)), "white")
    top = 0
    for block in blocks:
        page.paste(block, (0, top))
        top += block.height + 14
    return page


def networks() -> tuple[Judge, FaceNetwork]:
    """The shipped judge and face network, in float32."""
    return (
        Judge.from_pretrained(WEIGHTS / "judge").float().eval(),
        FaceNetwork.from_pretrained(WEIGHTS / "face").float().eval(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studylib.recipes.bars", description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=600, help="held-out captions to draw, a third as many cats")
    count = parser.parse_args().prompts
    folder = Path("runs/recipes/bars")
    folder.mkdir(parents=True, exist_ok=True)
    pipe = shipped_pipeline()
    measured = measure(pipe, *networks(), folder, count)
    path = WEIGHTS / "sd" / "metrics.json"
    metrics = json.loads(path.read_text()) | measured
    path.write_text(json.dumps(metrics, indent=1) + "\n")
    print(json.dumps(metrics, indent=1))
    sheet(pipe).save(SHEET, quality=86)


if __name__ == "__main__":
    main()
