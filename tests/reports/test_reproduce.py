"""`study reproduce`: it must not call another machine's numbers equal, nor equal ones different."""

import copy

import pytest

from studylib.reports.reproduce import compare_with

COMMITTED = {
    "metrics": {"DINO": 0.5, "lesson: training (s)": 80.0},
    "claims": {
        "exact": {"verdict": "held", "effect": 0.0, "interval": None},
        "effect": {"verdict": "held", "effect": 0.3, "interval": [0.2, 0.4]},
    },
    "versions": {"torch": "2"},
    "hardware": {"threads": "2"},
}


def record(**changes):
    run = {"slug": "paper"} | copy.deepcopy(COMMITTED)
    for path, value in changes.items():
        *way, last = path.split("__")
        part = run
        for step in way:
            part = part[step]
        part[last] = value
    return run


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "equal to the bit"),
        ({"metrics__lesson: training (s)": 95.0}, "equal to the bit"),  # time is nobody's promise
        ({"metrics__DINO": 0.5000001}, "equal within the claims' intervals"),
        ({"claims__effect__effect": 0.25}, "equal within the claims' intervals"),
        ({"claims__effect__effect": 0.45}, "not equal"),
        ({"claims__effect__verdict": "undecided"}, "not equal"),
        ({"claims__exact__verdict": "failed"}, "not equal"),
        ({"claims": {"exact": COMMITTED["claims"]["exact"]}}, "not equal"),  # a claim that was not decided
    ],
)
def test_outcomes(changes, outcome):
    """Bits, intervals, or neither; what a clock says does not count."""
    assert compare_with(COMMITTED, record(**changes)).outcome == outcome


def test_what_differs_is_shown(capsys):
    """A reader on another machine must see what may be the reason."""
    compare_with(COMMITTED, record(hardware__threads="1", claims__effect__effect=0.45)).show()
    shown = capsys.readouterr().out
    assert "threads" in shown and "0.45" in shown and "not equal; changed: effect" in shown
