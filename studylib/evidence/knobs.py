"""Checks that a method's configuration makes of its own fields, before a minute of work and not after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


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
