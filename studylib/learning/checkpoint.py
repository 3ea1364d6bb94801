"""A training's state on disk: resumed from it, a run ends as if it had not been cut off."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
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
from studylib.learning.identity import Identity

CHECKPOINT = "training.safetensors"
SAMPLED = 4096  # numbers of each tensor of the first batch that are compared


class Checkpoint:
    """Weights, their averages, buffers, the optimiser's state and the history in one safetensors file, replaced as a
    whole."""

    def __init__(
        self, folder: Path, weights: Mapping[str, Tensor], buffers: Mapping[str, Tensor], optimiser: Optimizer,
        average: EMAModel | None, accelerator: Accelerator, config: TrainingConfig, identity: Identity,
    ) -> None:
        self.path = folder / CHECKPOINT
        self.step = 0  # of the state on disk
        self.weights, self.buffers, self.optimiser, self.average = weights, buffers, optimiser, average
        self.accelerator = accelerator
        self.data = {f"pictures {name}": rows for name, rows in identity.data.items()}
        shapes = {name: list(weight.shape) for name, weight in weights.items()}
        made_by = {"training": asdict(config), "weights": shapes, **identity.choices}
        self.made_by = json.dumps(made_by, default=str)

    def save(self, history: History) -> None:
        """Write the state after the history's last step."""
        self.step = len(history.rows)
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        about = {
            "step": self.step, "history": history.rows, "kept": list(history.snapshots),
            "memory_mib": history.memory_mib, "scaler": scaler.state_dict() if scaler else None,
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
        return tensors | {f"data/{name}": values for name, values in self.data.items()}

    def load(self, history: History, first_batch: Mapping[str, Tensor], keep: Collection[int]) -> None:
        """Put back what was saved, if there is anything.

        first_batch: what the training draws first, by which it is told from one on other data. keep: the steps whose
        weights are asked for. Raises StudyError for a checkpoint of another training, of other data, or without them.
        """
        first = {name: rows.detach().flatten()[:SAMPLED].cpu() for name, rows in first_batch.items()}
        self.data |= {f"first batch's {name}": rows for name, rows in first.items()}
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
        missing = [step for step in keep if step <= self.step and step not in about["kept"]]
        if missing:
            raise StudyError(
                f"{self.path} has not kept the weights of step {missing[0]}; it kept {about['kept'] or 'none'}",
                "Delete it to train again, or ask for what it kept",
            )
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
        history.memory_mib = about["memory_mib"]
        for step in about["kept"]:
            history.snapshots[step] = {name: snapshots[f"{step}/{name}"] for name in self.weights}

    def _refuse_other_data(self, before: Mapping[str, Tensor]) -> None:
        """Pictures, and the first batch: the seed is the same, and so a first batch that differs is of other data.

        Encoders round differently on different machines, hence the tolerance of a hundredth.
        """
        for name in dict.fromkeys([*self.data, *before]):
            then, now = before.get(name), self.data.get(name)
            same = then is not None and now is not None and then.shape == now.shape
            if not same or not torch.allclose(then.double(), now.double(), rtol=1e-2, atol=1e-2):
                raise StudyError(
                    f"{self.path} belongs to a training on other data: {name} differ",
                    "Delete it, or give another folder",
                )


def _difference(other: str | None, mine: str) -> str:
    """What sets two trainings apart, in words: the settings that differ, else which of the other parts."""
    theirs, ours = json.loads(other or "{}"), json.loads(mine)
    named = [
        f"{key} = {theirs[part][key]!r} instead of {value!r}"
        for part in ("training", "method") if part in theirs
        for key, value in ours.get(part, {}).items() if key in theirs[part] and theirs[part][key] != value
    ]  # fmt: skip
    parts = [f"other {part}" for part in ("captions", "model", "weights") if theirs.get(part) != ours.get(part)]
    return ", ".join(dict.fromkeys(named)) or " and ".join(parts) or "another method"
