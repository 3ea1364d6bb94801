"""How a training is done, as one frozen dataclass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from studylib.evidence.knobs import check_choices, check_ranges


@dataclass(frozen=True)
class TrainingConfig:
    """How to train: AdamW, gradients clipped to `max_grad_norm` (0: not), learning rate by `schedule` after a warm-up.

    `ema_decay` above 0 ends with averaged weights. `gradient_accumulation_steps` batches make one step.
    """

    steps: int
    learning_rate: float
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    ema_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        endless = (0.0, math.inf)
        check_ranges(self, {
            "steps": (1, math.inf), "learning_rate": endless, "warmup_steps": endless, "weight_decay": endless,
            "max_grad_norm": endless, "ema_decay": (0.0, 0.99999), "gradient_accumulation_steps": (1, math.inf),
        })  # fmt: skip
        check_choices(self, {
            "schedule": ("constant", "linear", "cosine"), "mixed_precision": ("no", "bf16", "fp16")
        })  # fmt: skip
