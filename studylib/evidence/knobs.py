"""A method's configuration: its knobs with their ranges, checked before a minute of work and not after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self


def knob(default: Any, low: float | None = None, high: float | None = None, *, choices: Sequence[str] = ()) -> Any:
    """Make a field of a `Config` with its range, both ends included, or with its choices: the one place of them."""
    limits = {} if low is None or high is None else {"range": (low, high)}
    return dataclasses.field(default=default, metadata=limits | ({"choices": tuple(choices)} if choices else {}))


@dataclasses.dataclass(frozen=True)
class Config:
    """Base of a method's configuration; its fields are called as the notebook's parameters are.

    Raises ValueError for a field outside the range or choices that stand beside it.
    """

    def __post_init__(self) -> None:
        check_ranges(self, self.ranges())
        check_choices(self, self.choices())

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], **changes: Any) -> Self:
        """Take the fields that the notebook has as parameters from these; `changes` come on top."""
        names = [field.name for field in dataclasses.fields(cls) if field.name in parameters]
        return cls(**{name: parameters[name] for name in names} | changes)

    @classmethod
    def ranges(cls) -> dict[str, tuple[float, float]]:
        """Return name -> (low, high) of the fields that have a range."""
        found = dataclasses.fields(cls)
        return {field.name: field.metadata["range"] for field in found if "range" in field.metadata}

    @classmethod
    def choices(cls) -> dict[str, tuple[str, ...]]:
        """Return name -> choices of the fields that have some."""
        found = dataclasses.fields(cls)
        return {field.name: field.metadata["choices"] for field in found if "choices" in field.metadata}


def check_ranges(config: Any, limits: Mapping[str, tuple[float, float]]) -> None:
    """Raise ValueError for a field of `config` outside its (low, high), both included; NaN and booleans always are."""
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if isinstance(value, bool) or not low <= value <= high:  # also refuses NaN
            raise ValueError(f"{name} is in [{low:g}, {high:g}], not {value!r}")


def check_choices(config: Any, choices: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError for a field of `config` that is none of its choices, naming them."""
    for name, known in choices.items():
        if getattr(config, name) not in known:
            raise ValueError(f"{name} is one of {', '.join(known)}, not {getattr(config, name)!r}")
