"""The loop that every recipe shares: seeded, resumable after a kill, with a time budget and a sample sheet.

Under `accelerate launch` several processes share each batch and take the same steps as one process would.
"""

from __future__ import annotations

import copy
import csv
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from studylib.learning.processes import agreed, average_gradients, leave
from studylib.models.files import check_edition
from studylib.recipes.budget import Budget
from studylib.recipes.optimisers import MuonAdamW
from studylib.world.data import pictures
from studylib.world.scene import EDITION

ModelT = TypeVar("ModelT", bound=nn.Module)
DATA = Path(os.environ.get("STUDY_DATA", "runs/recipes/data"))


def drawn(count: int, first: int = 0, view: int = 0) -> np.ndarray:
    """Pictures of scenes, drawn once: by the first process, while others wait."""
    with PartialState().main_process_first():
        return pictures(count, DATA, first=first, view=view)


def start(budget: Budget, model: ModelT, part: str = "") -> ModelT:
    """`model` on the budget's device, with the weights of `--init` if that was given: of its folder `part`, if any."""
    if budget.init is not None:
        check_edition(budget.init)
        given = type(model).from_pretrained(budget.init / part).float().state_dict()  # a ViT's has a pooler besides
        model.load_state_dict({name: given[name] for name in model.state_dict()})
    return model.to(budget.device)


def fit(
    budget: Budget,
    model: nn.Module,
    loss: Callable[[int, torch.Generator], dict[str, Tensor]],
    *,
    lr: float,
    muon_lr: float = 0.0,
    warmup: int = 100,
    weight_decay: float = 0.01,
    ema: float = 0.0,
    sheet: Callable[[nn.Module], Image.Image] | None = None,
    sheet_every: float = 5.0,
    save_every: float = 3.0,
    minimum_lr: float = 0.02,
) -> dict[str, float]:
    """Train `model` in place and return `{"steps", "minutes"}`.

    `loss(step, generator)` returns named losses whose "loss" is minimised; `generator` is seeded by the step, so a
    resumed run sees what an uninterrupted one would have seen. A checkpoint is written by rename every `save_every`
    minutes: a kill loses at most that. `sheet(model)` draws the sample sheet every `sheet_every` minutes. With `ema`
    above 0 the model ends with the averaged weights. `muon_lr` is the peak learning rate of the weights that Muon
    takes (0: AdamW takes all).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = MuonAdamW(model, lr=lr, muon_lr=muon_lr, weight_decay=weight_decay)
    average = [p.detach().clone() for p in parameters] if ema else []
    state = {"step": 0, "seconds": 0.0}
    checkpoint = budget.folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=budget.device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        for a, b in zip(average, saved["average"], strict=True):
            a.copy_(b)
        state = saved["state"]
        print(f"resumed from {checkpoint} at step {state['step']}, {state['seconds'] / 60:.1f} minutes")

    main, name = PartialState().is_main_process, budget.folder.name

    def save() -> None:
        if not main:
            return
        partial = checkpoint.with_suffix(".partial")
        torch.save(
            {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "average": average, "state": state},
            partial,
        )
        os.replace(partial, checkpoint)

    def swap() -> None:
        for p, a in zip(parameters, average, strict=bool(average)):
            p.data, a.data = a.data, p.data

    def show() -> None:
        if sheet is not None and main:
            swap() if average else None
            model.eval()
            with torch.no_grad():
                sheet(model).save(budget.folder / "sheet.png")
            model.train()
            swap() if average else None

    def gradients(step: int) -> dict[str, Tensor]:
        generator.manual_seed(budget.seed * 1_000_003 + step)
        losses = loss(step, generator)
        model.zero_grad(set_to_none=True)
        losses["loss"].backward()
        return losses

    generator = torch.Generator()
    model.train()
    alone = PartialState().num_processes == 1  # several processes must agree: they keep float32
    if alone and (speeds := budget.precision.probe(lambda: gradients(state["step"]))):
        print(f"{name}: a step takes {speeds} seconds; {budget.precision.dtype} is taken", flush=True)
    log_path = budget.folder / "loss.csv"
    previous, last_save, last_sheet, running = time.monotonic(), time.monotonic(), time.monotonic(), {}
    with (
        (log_path if main else Path(os.devnull)).open("a", newline="") as file,
        tqdm(total=budget.steps, initial=state["step"], desc=name, mininterval=5, disable=not main) as bar,
    ):
        log = csv.writer(file)
        while (progress := max(state["step"] / budget.steps, agreed(state["seconds"]) / 60 / budget.minutes)) < 1:
            scale = min(1.0, (state["step"] + 1) / warmup) * (
                minimum_lr + (1 - minimum_lr) * 0.5 * (1 + math.cos(math.pi * progress))
            )
            optimiser.scale(scale)
            losses = gradients(state["step"])
            average_gradients(parameters)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            if average:
                decay = min(ema, (state["step"] + 1) / (state["step"] + 10))
                torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
            now = time.monotonic()
            state["step"], state["seconds"], previous = state["step"] + 1, state["seconds"] + now - previous, now
            for key, value in losses.items():
                running.setdefault(key, []).append(float(value.detach()))
            bar.update()
            if state["step"] % 50 == 0:
                means = {key: agreed(sum(v) / len(v), "mean") for key, v in running.items()}
                bar.set_postfix({k: f"{v:.4f}" for k, v in means.items()}, refresh=False)
                log.writerow([state["step"], f"{state['seconds']:.0f}", *(f"{k}={v:.5f}" for k, v in means.items())])
                file.flush()
                running = {}
            if now - last_save > 60 * save_every:
                save()
                last_save = time.monotonic()
            if now - last_sheet > 60 * sheet_every:
                show()
                last_sheet = previous = time.monotonic()
    save()
    if average:
        swap()
    model.eval()
    if not main:
        leave()  # the first process measures and saves
    if sheet is not None:
        with torch.no_grad():
            sheet(model).save(budget.folder / "sheet.png")
    plot_losses(log_path)
    return {"steps": state["step"], "minutes": round(state["seconds"] / 60, 1)}


def plot_losses(log_path: Path) -> None:
    """The loss curve beside its log."""
    from matplotlib.figure import Figure

    rows = [row for row in csv.reader(log_path.open()) if len(row) > 2]
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    for column, cell in enumerate(rows[-1][2:] if rows else []):
        name = cell.partition("=")[0]
        values = [float(row[2 + column].partition("=")[2]) for row in rows]
        axes.plot([int(row[0]) for row in rows], values, label=name)
    axes.set(xlabel="step", yscale="log")
    axes.legend()
    figure.savefig(log_path.with_suffix(".png"), dpi=110)


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


def contrast(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Row i of `one` and row i of `other` belong together, all other pairs do not: (N, D) unit features each -> the
    mean cross-entropy both ways (InfoNCE)."""
    logits = one @ other.T / temperature  # (N, N)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def save_half(model: nn.Module, folder: Path) -> None:
    """Save in the library's own layout as fp16 safetensors, without changing `model`."""
    half = copy.deepcopy(model).to("cpu", torch.float16)
    half.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # a model card about the hub, from PyTorchModelHubMixin


def to_pixels(pictures: object, device: str) -> Tensor:
    """(N, 128, 128, 3) uint8 -> (N, 3, 128, 128) float in [-1, 1]."""
    return torch.tensor(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] -> picture."""
    array = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    return Image.fromarray(array.cpu().numpy())


def contact_sheet(images: list[Image.Image], columns: int) -> Image.Image:
    """Pictures in rows with a thin gap."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + 2), rows * (height + 2)), "white")
    for i, image in enumerate(images):
        sheet.paste(image, ((i % columns) * (width + 2), (i // columns) * (height + 2)))
    return sheet
