"""A method's configuration: its knobs with their ranges, checked before a minute of work and not after it."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Self, get_type_hints

import numpy as np


def knob(default: Any, low: float | None = None, high: float | None = None, *, choices: Sequence[str] = ()) -> Any:
    """Make a field of a `Config` with its range, both ends included, or with its choices: the one place of them."""
    limits = {} if low is None or high is None else {"range": (low, high)}
    return dataclasses.field(default=default, metadata=limits | ({"choices": tuple(choices)} if choices else {}))


@dataclasses.dataclass(frozen=True)
class Config:
    """Base of a method's configuration; its fields are called as the notebook's parameters are.

    Raises TypeError for a field of another type, so that the text "false" does not pass for true, and ValueError for
    one outside the range or choices that stand beside it. A whole number is taken where a number is asked for.
    """

    def __post_init__(self) -> None:
        set_types(self)
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


WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


def set_types(config: Any) -> None:
    """Give each field of a frozen dataclass whose type is bool, int, float or str that very type.

    Numbers of numpy become Python's, and whole numbers floats where the field is one. Raises TypeError for a value of
    another type and ValueError for a number that is not finite.
    """
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name, None)
        if kind not in WORDS or type(value) is kind and kind is not float:
            continue
        fits = {bool: np.bool_, int: numbers.Integral, float: numbers.Real, str: str}[kind]
        if not isinstance(value, fits) or isinstance(value, bool):
            raise TypeError(f"{name} is {WORDS[kind]}, not {value!r}")
        if kind is float and not math.isfinite(value):
            raise ValueError(f"{name} is a finite number, not {value!r}")
        object.__setattr__(config, name, kind(value))


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
