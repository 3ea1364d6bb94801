"""Tests of studylib.evidence.knobs: a value out of range must be told before a training, by name."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from studylib.evidence.knobs import Config, check_choices, check_ranges, knob


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), True])
def test_out_of_range_is_refused_by_name(value):
    """NaN compares false with everything, and True passes for 1: both are typing errors."""
    with pytest.raises(ValueError, match=r"rate is in \[0, 1\]"):
        check_ranges(SimpleNamespace(rate=value), {"rate": (0.0, 1.0)})


def test_both_ends_are_included():
    check_ranges(SimpleNamespace(rate=0.0, steps=7), {"rate": (0.0, 1.0), "steps": (1, 7)})


def test_an_unknown_choice_names_the_known_ones():
    check_choices(SimpleNamespace(init="normal"), {"init": ("normal", "zero")})
    with pytest.raises(ValueError, match="init is one of normal, zero, not 'xavier'"):
        check_choices(SimpleNamespace(init="xavier"), {"init": ("normal", "zero")})


@dataclass(frozen=True)
class SmallConfig(Config):
    rate: float = knob(0.5, 0.0, 1.0)
    start: str = knob("zero", choices=("zero", "one"))
    name: str = "a"
    only_here: int = 3
    switch: bool = True


def test_a_config_takes_its_fields_from_the_parameters():
    """Sixteen arguments by position are sixteen chances to swap two of them."""
    parameters = {"name": "b", "rate": 0.25, "start": "one", "model": "tiny"}
    assert SmallConfig.from_parameters(parameters) == SmallConfig(0.25, "one", "b", 3, True)
    assert SmallConfig.from_parameters(parameters, name="c", only_here=4) == SmallConfig(0.25, "one", "c", 4, True)


def test_ranges_beside_the_fields_are_checked_whenever_one_is_made():
    """Also by `replace`, which is how notebooks vary a config."""
    assert SmallConfig.ranges() == {"rate": (0.0, 1.0)} and SmallConfig.choices() == {"start": ("zero", "one")}
    for wrong in ({"rate": 1.5}, {"start": "two"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(SmallConfig(), **wrong)


@pytest.mark.parametrize("name, value, error", [
    ("switch", "false", TypeError), ("switch", 1, TypeError), ("switch", (True,), TypeError),
    ("switch", None, TypeError),
    ("only_here", 3.0, TypeError), ("only_here", True, TypeError), ("only_here", "3", TypeError),
    ("rate", "0.5", TypeError), ("rate", False, TypeError), ("rate", float("nan"), ValueError),
    ("name", 3, TypeError), ("name", None, TypeError),
])  # fmt: skip
def test_a_field_has_its_type_by_every_way_in(name, value, error):
    """Plain papermill passes `-p switch false` as a text, which counts as true: the prior was trained."""
    for make in (SmallConfig, SmallConfig.from_parameters):
        with pytest.raises(error, match=name):
            make({name: value}) if make is not SmallConfig else make(**{name: value})
    with pytest.raises(error, match=name):
        replace(SmallConfig(), **{name: value})


def test_numbers_that_mean_the_same_are_taken():
    """A whole number for a float, and what numpy computes, become Python's own: a config is written to JSON."""
    made = SmallConfig(rate=1, only_here=np.int64(4), switch=np.bool_(False))
    assert [type(value) for value in (made.rate, made.only_here, made.switch)] == [float, int, bool]
    assert type(SmallConfig(rate=np.float32(0.5)).rate) is float and not made.switch
