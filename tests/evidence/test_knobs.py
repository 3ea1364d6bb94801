"""Tests of studylib.evidence.knobs: a value out of range must be told before a training, by name."""

from types import SimpleNamespace

import pytest

from studylib.evidence.knobs import check_choices, check_ranges


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
