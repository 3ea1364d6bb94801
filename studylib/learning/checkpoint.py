"""A training's state on disk: resumed from it, a run ends as if it had not been cut off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from studylib.errors import StudyError
from studylib.files import write_atomically
from studylib.learning.config import TrainingConfig
from studylib.learning.history import History

CHECKPOINT = "training.safetensors"
SAMPLED = 4096  # numbers of each tensor of the first batch that are compared


class Checkpoint:
    """Weights, their averages, buffers, the optimiser's state and the history in one safetensors file, replaced as a
    whole."""

    def __init__(
        self, folder: Path, weights: Mapping[str, Tensor], buffers: Mapping[str, Tensor], optimiser: Optimizer,
        average: EMAModel | None, accelerator: Accelerator, config: TrainingConfig,
    ) -> None:
        self.path = folder / CHECKPOINT
        self.step = 0  # of the state on disk
        self.weights, self.buffers, self.optimiser, self.average = weights, buffers, optimiser, average
        self.accelerator = accelerator
        self.first_batch: dict[str, Tensor] = {}
        self.made_by = json.dumps(asdict(config) | {"weights": {n: list(w.shape) for n, w in weights.items()}})

    def save(self, history: History) -> None:
        """Write the state after the history's last step."""
        self.step = len(history.rows)
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        about = {
            "step": self.step, "history": history.rows, "kept": list(history.snapshots),
            "scaler": scaler.state_dict() if scaler else None,
        }
        metadata = {"made_by": self.made_by, "about": json.dumps(about)}
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors(history).items()}
        write_atomically(self.path, save(whole, metadata))

    def _tensors(self, history: History) -> dict[str, Tensor]:
        """All that is kept, as `kind/name`; what the optimiser keeps of a weight has a kind each."""
        tensors = {f"weight/{name}": weight for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            tensors |= {f"{kind}/{name}": values for kind, values in self.optimiser.state[weight].items()}
        if self.average is not None:
            tensors |= {f"average/{n}": a for n, a in zip(self.weights, self.average.shadow_params, strict=True)}
        tensors |= {f"buffer/{name}": values for name, values in self.buffers.items()}
        for kept, weights in history.snapshots.items():
            tensors |= {f"snapshot/{kept}/{name}": weight for name, weight in weights.items()}
        return tensors | {f"data/{name}": values for name, values in self.first_batch.items()}

    def load(self, history: History, first_batch: Mapping[str, Tensor]) -> None:
        """Put back what was saved, if there is anything.

        first_batch: what the training draws first, by which it is told from one on other data.
        """
        self.first_batch = {name: rows.detach().flatten()[:SAMPLED].cpu() for name, rows in first_batch.items()}
        if not self.path.exists():
            return
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                tensors: dict[str, dict[str, Tensor]] = {}
                for key in file.keys():
                    kind, _, name = key.partition("/")
                    tensors.setdefault(kind, {})[name] = file.get_tensor(key)
        except SafetensorError as error:
            raise StudyError(f"{self.path} is damaged: {error}", "Delete it: the training starts afresh") from error
        if metadata.get("made_by") != self.made_by:
            raise StudyError(
                f"{self.path} belongs to a training with {_difference(metadata.get('made_by'), self.made_by)}",
                "Delete it, or give another folder",
            )
        self._refuse_other_data(tensors.pop("data", {}))
        about: dict[str, Any] = json.loads(metadata["about"])
        self.step = about["step"]
        averages, snapshots = tensors.pop("average", {}), tensors.pop("snapshot", {})
        with torch.no_grad():
            for owner, kept in ((self.weights, tensors.pop("weight")), (self.buffers, tensors.pop("buffer", {}))):
                for name, values in owner.items():
                    values.copy_(kept[name])
            for name, weight in self.weights.items():  # the rest are kinds of the optimiser's
                state = {kind: values[name] for kind, values in tensors.items() if name in values}
                self.optimiser.state[weight] = {  # AdamW counts its steps on the CPU
                    kind: values if kind == "step" else values.to(weight.device) for kind, values in state.items()
                }
            if self.average is not None:
                for name, shadow in zip(self.weights, self.average.shadow_params, strict=True):
                    shadow.copy_(averages[name])
                self.average.optimization_step = self.step
        if about["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(about["scaler"])
        history.rows[:] = about["history"]
        for step in about["kept"]:
            history.snapshots[step] = {name: snapshots[f"{step}/{name}"] for name in self.weights}

    def _refuse_other_data(self, before: Mapping[str, Tensor]) -> None:
        """The seed is the same, and so are the random numbers: another first batch is made of other pictures.

        Encoders round differently on different machines, hence the tolerance of a hundredth.
        """
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
