"""What all recipes share: pictures, a model to start from, its training within a budget, and what is written of it."""

from __future__ import annotations

import copy
import csv
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from PIL import Image
from torch import Tensor, nn

from studylib.errors import StudyError
from studylib.learning.checkpoint import CHECKPOINT
from studylib.learning.history import History
from studylib.learning.processes import leave
from studylib.learning.training import Draw, Loss, fit
from studylib.learning.weights import restored
from studylib.models.files import check_edition
from studylib.recipes.budget import Budget
from studylib.recipes.optimisers import MuonAdamW, RecipeConfig, inner_weights
from studylib.recipes.precision import mixed_precision
from studylib.showing import figures
from studylib.world.data import HELD_OUT, pictures
from studylib.world.scene import EDITION

ModelT = TypeVar("ModelT", bound=nn.Module)
DATA = Path(os.environ.get("STUDY_DATA", "runs/recipes/data"))
SAVE_EVERY = 180.0  # seconds
LOGGED = 50  # steps of which loss.csv has the mean


def run(main: Callable[[], None]) -> None:
    """Run a recipe's command line; what a user can mend ends it with one line."""
    try:
        main()
    except StudyError as error:
        sys.exit(f"error: {error}")


def drawn(count: int, first: int = 0, view: int = 0) -> np.ndarray:
    """Pictures of scenes, drawn once: by the first process, while others wait."""
    with PartialState().main_process_first():
        return pictures(count, DATA, first=first, view=view)


def held_out_pictures(count: int, view: int = 0) -> np.ndarray:
    """Pictures of held-out scenes, to measure on: for the first process, which does not wait for those that left."""
    return pictures(count, DATA, first=HELD_OUT, view=view)


def start(budget: Budget, model: ModelT, part: str = "") -> ModelT:
    """`model` on the budget's device, with the weights of `--init` if that was given: of its folder `part`, if any."""
    if budget.init is not None:
        check_edition(budget.init)
        given = type(model).from_pretrained(budget.init / part).float().state_dict()  # a ViT's has a pooler besides
        model.load_state_dict({name: given[name] for name in model.state_dict()})
    return model.to(budget.device)


def train(
    budget: Budget,
    model: nn.Module,
    draw: Draw,
    loss: Loss,
    *,
    lr: float,
    muon_lr: float = 0.0,
    weight_decay: float = 0.01,
    ema: float = 0.0,
    sheet: Callable[[nn.Module], Image.Image] | None = None,
    sheet_every: float = 5.0,
) -> dict[str, float]:
    """Train what `model` has of weights that want gradients, and return `{"steps", "minutes"}`.

    `draw` and `loss` are those of `fit`; `lr` and `muon_lr` are peaks. The sample sheet, `sheet(model)`, and the loss
    curve are drawn every `sheet_every` minutes and at the end. Of several processes only the first returns.
    """
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    buffers, folder = dict(model.named_buffers()), budget.folder
    model.train()

    def step(dtype: torch.dtype) -> None:
        with torch.autocast(torch.device(budget.device).type, dtype, enabled=dtype != torch.float32):
            value = loss(draw(torch.Generator().manual_seed(budget.seed)))
        (value if isinstance(value, Tensor) else value["loss"]).backward()
        model.zero_grad(set_to_none=True)

    def show(history: History) -> None:
        write_losses(history, folder)
        if sheet is not None:
            model.eval()
            sheet(model).save(folder / "sheet.png")
            model.train()

    with restored(buffers):  # a BatchNorm counts the steps that are only tried
        precision = mixed_precision(budget.precision, budget.device, folder, step)
    config = RecipeConfig(
        budget.steps, lr, betas=(0.9, 0.99), weight_decay=weight_decay, mixed_precision=precision, ema_decay=ema,
        seed=budget.seed, muon_learning_rate=muon_lr,
    )  # fmt: skip
    if (folder / CHECKPOINT).exists():
        print(f"{folder.name}: goes on from {folder / CHECKPOINT}", flush=True)
    history = fit(
        weights, draw, loss, config, folder=folder, save_every=SAVE_EVERY, buffers=buffers, schedule=budget.schedule,
        make_optimiser=lambda named: MuonAdamW(named, inner_weights(model), config),
        show=show, show_every=60 * sheet_every, label=folder.name,
    )  # fmt: skip
    model.eval()
    if not PartialState().is_main_process:
        leave()  # the first process measures and saves
    return {"steps": len(history.rows), "minutes": round(history.seconds / 60, 1)}


def write_losses(history: History, folder: Path) -> None:
    """`loss.csv`, means over `LOGGED` steps, and their curve."""
    rows = [{"step": title.split()[-1]} | cells for title, cells in history.table(LOGGED).rows.items()]
    with (folder / "loss.csv").open("w", newline="") as file:
        log = csv.DictWriter(file, rows[0])
        log.writeheader()
        log.writerows(rows)
    names = [name for name in rows[0] if name not in ("step", "learning_rate")]
    curve = figures.curve([int(row["step"]) for row in rows], {name: [row[name] for row in rows] for name in names},
                          x_label="step", width=7.0)
    curve.axes[0].set_yscale("log")
    curve.savefig(folder / "loss.png")


def write_metrics(budget: Budget, model: nn.Module, trained: dict[str, float], measured: dict[str, object]) -> None:
    """`metrics.json` beside the weights: what was measured on held-out scenes, and how the model came to be."""
    before = budget.init and budget.init / "metrics.json"
    if before and before.exists():  # steps and minutes are those of all trainings together
        earlier = json.loads(before.read_text())
        trained = {key: round(trained[key] + earlier[key], 1) for key in trained}
    metrics = {
        **measured,
        **trained,
        "device": budget.device,
        "seed": budget.seed,
        "batch_size": budget.batch_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "edition": EDITION,
    }
    (budget.out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    print(json.dumps(metrics, indent=1))


def contrast(one: Tensor, other: Tensor, temperature: Tensor | float, same: Tensor | None = None) -> Tensor:
    """Row i of `one` and row i of `other` belong together, other pairs do not: (N, D) unit features each -> the mean
    cross-entropy both ways (InfoNCE), in float32.

    same: (N, N), 1 where a pair belongs together, for batches in which that is true of other pairs as well.
    """
    same = torch.eye(len(one), device=one.device) if same is None else same
    target = same / same.sum(1, keepdim=True)
    with torch.autocast(one.device.type, enabled=False):
        logits = one.float() @ other.float().T / temperature  # (N, N)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def retrieved(queries: Tensor, keys: Tensor, groups: Sequence[str], gallery: int) -> dict[str, tuple[int, int]]:
    """How often query i finds key i first among `gallery` keys of its group: group -> (hits, trials)."""
    counts = {}
    for group in dict.fromkeys(groups):
        members = [i for i, own in enumerate(groups) if own == group]
        parts = [members[i : i + gallery] for i in range(0, len(members) - gallery + 1, gallery)]
        found = [(queries[part] @ keys[part].T).argmax(1) == torch.arange(gallery) for part in parts]
        counts[group] = (sum(int(hits.sum()) for hits in found), gallery * len(parts))
    return counts


def hit_rate(*counts: tuple[int, int]) -> float:
    """Hits of all trials, in [0, 1], to four digits."""
    hits, trials = (sum(numbers) for numbers in zip(*counts, strict=True))
    return round(hits / trials, 4)


def save_half(model: nn.Module, folder: Path) -> None:
    """Save in the library's own layout as fp16 safetensors, without changing `model`."""
    half = copy.deepcopy(model).to("cpu", torch.float16)
    half.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # a model card about the hub, from PyTorchModelHubMixin
