"""A training's state on disk: resumed from it, a run ends as if it had not been cut off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from studylib.errors import StudyError
from studylib.files import write_atomically

CHECKPOINT = "training.safetensors"
SAMPLED = 4096  # numbers of each tensor of the first batch that are compared
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what AdamW keeps of each weight


class History(Protocol):
    """What is kept of a training beside its weights."""

    rows: list[dict[str, float]]
    snapshots: dict[int, dict[str, Tensor]]


class Checkpoint:
    """Weights, their averages, AdamW's moments and the history in one safetensors file, replaced as a whole."""

    def __init__(
        self, folder: Path, weights: dict[str, Tensor], optimiser: torch.optim.AdamW, average: EMAModel | None,
        accelerator: Accelerator, config: Any,
    ) -> None:
        self.path = folder / CHECKPOINT
        self.weights, self.optimiser, self.average = weights, optimiser, average
        self.accelerator = accelerator
        self.first_batch: dict[str, Tensor] = {}
        self.made_by = json.dumps(asdict(config) | {"weights": {n: list(w.shape) for n, w in weights.items()}})

    def save(self, step: int, history: History) -> None:
        """Write the state after `step`."""
        if not self.accelerator.is_main_process:
            return
        tensors = {f"weight/{name}": weight for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            tensors |= {f"{kind}/{name}": self.optimiser.state[weight][kind] for kind in MOMENTS}
        if self.average is not None:
            tensors |= {f"average/{n}": a for n, a in zip(self.weights, self.average.shadow_params, strict=True)}
        scaler = self.accelerator.scaler
        for kept, weights in history.snapshots.items():
            tensors |= {f"snapshot/{kept}/{name}": weight for name, weight in weights.items()}
        tensors |= {f"data/{name}": values for name, values in self.first_batch.items()}
        about = {
            "step": step, "history": history.rows, "kept": list(history.snapshots),
            "scaler": scaler.state_dict() if scaler else None,
        }
        metadata = {"made_by": self.made_by, "about": json.dumps(about)}
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, save(whole, metadata))

    def load(self, history: History, first_batch: Mapping[str, Tensor]) -> int:
        """Put back what was saved and return its step; 0 if there is nothing.

        first_batch: what the training draws first, by which it is told from one on other data.
        """
        self.first_batch = {name: rows.detach().flatten()[:SAMPLED].cpu() for name, rows in first_batch.items()}
        if not self.path.exists():
            return 0
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except SafetensorError as error:
            raise StudyError(f"{self.path} is damaged: {error}", "Delete it: the training starts afresh") from error
        if metadata.get("made_by") != self.made_by:
            raise StudyError(
                f"{self.path} belongs to a training with {_difference(metadata.get('made_by'), self.made_by)}",
                "Delete it, or give another folder",
            )
        self._refuse_other_data(tensors)
        about: dict[str, Any] = json.loads(metadata["about"])
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(tensors[f"weight/{name}"])
                moments = {kind: tensors[f"{kind}/{name}"] for kind in MOMENTS}
                self.optimiser.state[weight] = {  # AdamW counts its steps on the CPU
                    kind: moment if kind == "step" else moment.to(weight.device) for kind, moment in moments.items()
                }
            if self.average is not None:
                for name, shadow in zip(self.weights, self.average.shadow_params, strict=True):
                    shadow.copy_(tensors[f"average/{name}"])
                self.average.optimization_step = about["step"]
        if about["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(about["scaler"])
        history.rows[:] = about["history"]
        for kept in about["kept"]:
            history.snapshots[kept] = {name: tensors[f"snapshot/{kept}/{name}"] for name in self.weights}
        return about["step"]

    def _refuse_other_data(self, tensors: Mapping[str, Tensor]) -> None:
        """The seed is the same, and so are the random numbers: another first batch is made of other pictures.

        Encoders round differently on different machines, hence the tolerance of a hundredth.
        """
        before = {name.removeprefix("data/"): rows for name, rows in tensors.items() if name.startswith("data/")}
        for name, rows in self.first_batch.items():
            same = name in before and before[name].shape == rows.shape
            if not same or not torch.allclose(before[name].double(), rows.double(), rtol=1e-2, atol=1e-2):
                raise StudyError(
                    f"{self.path} belongs to a training on other data: the first batch differs in {name!r}",
                    "Delete it, or give another folder",
                )


def _difference(other: str | None, mine: str) -> str:
    theirs, ours = json.loads(other or "{}"), json.loads(mine)
    named = [f"{key} = {theirs[key]!r} instead of {ours[key]!r}" for key in theirs
             if key in ours and key != "weights" and theirs[key] != ours[key]]
    return ", ".join(named) or "other weights"
