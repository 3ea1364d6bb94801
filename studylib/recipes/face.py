"""The tiny world's face network: where a face's five keypoints are, and whose face it is. Metrics only.

Stands for ArcFace and a face detector. Two pictures of one person (another pose, expression and place; the same style
or another) are pulled together, other people pushed away; keypoints are known from the scene. Bars: verification AUC
>= 0.99 across pose, expression and place, keypoints within 2.5 pixels on average.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from studylib.learning.processes import gathered
from studylib.measuring.pictures import to_pixels
from studylib.models.face import KEYPOINTS, FaceNetwork, Faces
from studylib.recipes import recipe
from studylib.recipes.budget import read_budget
from studylib.recipes.judge import disturb
from studylib.world.data import HELD_OUT, numbered_view, scene_number
from studylib.world.shapes import keypoints

NO_FACE = 0.25  # share of pictures of things in a batch
MEASURED = 4000  # held-out scenes


def people(first: int, count: int) -> list[int]:
    """Which of `count` scenes show a person, counted from `first`."""
    return [i for i in range(count) if scene_number(first + i).person is not None]


def true_keypoints(number: int, view: int) -> list[tuple[float, float]]:
    """The five keypoints of a numbered scene in picture widths."""
    points = keypoints(numbered_view(number, view))
    return [points[name] for name in KEYPOINTS]


def auc(same: Tensor, different: Tensor) -> float:
    """Chance that two pictures of one person are more alike than two of different people."""
    order = torch.cat([same, different]).argsort().argsort().float() + 1  # ranks from 1
    count = len(same)
    return ((order[:count].sum() - count * (count + 1) / 2) / (count * len(different))).item()


@torch.no_grad()
def seen(model: FaceNetwork, pixels: Tensor) -> Faces:
    """The network's answer for any number of pictures."""
    parts = [model(batch) for batch in pixels.split(128)]
    return Faces(*(torch.cat(values).cpu() for values in zip(*parts, strict=True)))


def measure(model: FaceNetwork, device: str, count: int) -> dict[str, float]:
    """AUC between views of the same style, and between views of different styles; keypoint error; faces found."""
    members = people(HELD_OUT, count)
    views = {}
    for view in (0, 1, 2):
        held = recipe.held_out_pictures(count, view)
        views[view] = seen(model, to_pixels(held[members]).to(device))
    things = sorted(set(range(count)) - set(members))[:1000]
    none = seen(model, to_pixels(recipe.held_out_pictures(count)[things]).to(device))
    result = {}
    for name, view in (("auc", 1), ("auc_across_styles", 2)):
        likeness = views[0].embedding @ views[view].embedding.T
        other = ~torch.eye(len(members), dtype=torch.bool)
        result[name] = round(auc(likeness.diagonal(), likeness[other]), 4)
    truth = torch.tensor([true_keypoints(HELD_OUT + i, 0) for i in members])
    error = (views[0].keypoints - truth).norm(dim=-1).mean().item() * 128
    result["keypoint_error_px"] = round(error, 2)
    result["found"] = round((views[0].found > 0).float().mean().item(), 4)
    result["found_in_things"] = round((none.found > 0).float().mean().item(), 4)
    return result


def main() -> None:
    budget = read_budget("face", __doc__.splitlines()[0], steps=6000, minutes=25, batch_size=64, scenes=16_000)
    device, first = budget.device, budget.seed * budget.scenes
    views = [recipe.drawn(budget.scenes, first=first, view=view) for view in (0, 1, 2)]
    members = torch.tensor(people(first, budget.scenes))
    things = torch.tensor(sorted(set(range(budget.scenes)) - set(members.tolist())))
    truth = torch.zeros(3, budget.scenes, len(KEYPOINTS), 2)
    for view in range(3):
        truth[view, members] = torch.tensor([true_keypoints(first + i, view) for i in members.tolist()])
    model = recipe.start(budget, FaceNetwork())
    empty = round(budget.batch_size * NO_FACE)

    def draw(generator: torch.Generator) -> dict[str, Tensor]:
        index = members[torch.randperm(len(members), generator=generator)[: budget.batch_size]]
        things_shown = things[torch.randint(len(things), (empty,), generator=generator)]
        chosen = torch.randperm(3, generator=generator)[:2]
        return {"index": index, "things": things_shown, "views": chosen.expand(len(index), 2)}

    def loss(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        index, (a, b) = batch["index"], batch["views"][0].tolist()  # the same two views for the whole batch
        parts = [views[a][index.numpy()], views[b][index.numpy()], views[0][batch["things"].numpy()]]
        faces = model(disturb(torch.cat([to_pixels(part) for part in parts]).to(device)))
        n = len(index)
        one, other = gathered(faces.embedding[:n]), gathered(faces.embedding[n : 2 * n])
        points = torch.cat([truth[a, index], truth[b, index]]).to(device)
        identity = recipe.contrast(one, other, 0.1)
        where = heatmap_loss(faces.maps[: 2 * n], points) + 10 * (faces.keypoints[: 2 * n] - points).abs().mean()
        present = (torch.arange(len(faces.found), device=device) < 2 * n).float()
        found = F.binary_cross_entropy_with_logits(faces.found, present)
        return {"loss": identity + where + found, "identity": identity, "where": where, "found": found}

    trained = recipe.train(budget, model, draw, loss, lr=2e-3, muon_lr=2e-3, weight_decay=0.02, ema=0.99)
    measured = measure(model, device, MEASURED)
    recipe.save_half(model, budget.out)
    recipe.write_metrics(budget, model, trained, measured)


def heatmap_loss(maps: Tensor, points: Tensor) -> Tensor:
    """Cross-entropy of each map (N, K, h, w) with the cell that holds its keypoint (N, K, 2)."""
    height, width = maps.shape[-2:]
    column = (points[..., 0] * width).long().clamp(0, width - 1)
    row = (points[..., 1] * height).long().clamp(0, height - 1)
    return F.cross_entropy(maps.flatten(2).flatten(0, 1), (row * width + column).flatten()) / 4


if __name__ == "__main__":
    recipe.run(main)
