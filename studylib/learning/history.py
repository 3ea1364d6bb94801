"""What a training leaves behind beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from studylib.showing.tables import Table


@dataclass
class History:
    """What a training left behind: a row per step with its losses, learning rate and seconds so far.

    snapshots: step -> the weights after it, on the CPU, for the steps that `fit` was asked to keep.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    snapshots: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    parameters: int = 0
    memory_mib: float = 0.0  # the most that training held beyond what was there before

    @property
    def seconds(self) -> float:
        """Seconds of training, those before a resume included."""
        return self.rows[-1]["seconds"] if self.rows else 0.0

    def column(self, name: str = "loss") -> list[float]:
        """One named loss, step by step."""
        if self.rows and name not in self.rows[0]:
            raise LookupError(f"the history has no column {name!r}, only {', '.join(self.rows[0])}")
        return [row[name] for row in self.rows]

    def table(self, every: int = 50) -> Table:
        """Means over each `every` steps."""
        parts = [self.rows[start : start + every] for start in range(0, len(self.rows), every)]
        names = [name for name in self.rows[0] if name not in ("step", "seconds")]
        means = [{name: sum(row[name] for row in part) / len(part) for name in names} for part in parts]
        return Table({f"to step {p[-1]['step']:.0f}": mean for p, mean in zip(parts, means, strict=True)}, digits=4)


def snapshot(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of weights on the CPU, by name."""
    return {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}
