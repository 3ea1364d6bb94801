"""Verdicts: identities, effects with intervals, what is refused."""

import math

import numpy as np
import pytest
import torch
from mini_workspace import make_workspace

from studylib.evidence.card import load_card
from studylib.evidence.claims import Claims

SEEDS = [i % 3 for i in range(24)]
PROMPTS = [i // 3 for i in range(24)]


@pytest.fixture
def claims(tmp_path, monkeypatch) -> Claims:
    monkeypatch.setenv("STUDY_ROOT", str(make_workspace(tmp_path)))
    return Claims(load_card("mini"))


@pytest.mark.parametrize(
    ("measured", "expected", "tolerance", "verdict"),
    [
        (3, 3, 0.0, "held"),
        (3, 4, 0.0, "failed"),
        (0.1 + 0.2, 0.3, 0.0, "failed"),
        (0.1 + 0.2, 0.3, 1e-9, "held"),
        (True, True, 0.0, "held"),
        (math.nan, math.nan, 1.0, "failed"),
        ([1.0, math.nan], [1.0, 2.0], 1.0, "failed"),
        (torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(2, 3), 0.0, "held"),
        (torch.ones(2, 3), torch.ones(3, 2), 9.0, "failed"),
        (np.array([1.0, 1.5]), [1.0, 1.0], 0.5, "held"),
        (["up", "mid"], ["up", "mid"], 0.0, "held"),
        (["up", "mid"], ["mid", "up"], 0.0, "failed"),
        ("1", 1, 0.0, "failed"),
    ],
)
def test_exact(claims, measured, expected, tolerance, verdict):
    """An identity holds to its tolerance everywhere or not at all; a NaN never does."""
    assert claims.exact("identity", measured, expected, tolerance).verdict == verdict


@pytest.mark.parametrize(("measured", "expected"), [([], []), (torch.ones(0), torch.ones(0)), (torch.ones(2, 0), [])])
def test_an_identity_of_nothing_is_refused(claims, measured, expected):
    """Two empty lists are equal: a measurement that found nothing would hold for ever."""
    with pytest.raises(ValueError, match="claim identity: nothing is compared"):
        claims.exact("identity", measured, expected)


@pytest.mark.parametrize(
    ("shift", "id", "verdict"),
    [
        (1.0, "rises", "held"),
        (1.0, "falls", "reversed"),
        (-1.0, "falls", "held"),
        (-1.0, "rises", "reversed"),
        (0.0, "rises", "undecided"),
    ],
)
def test_directional(claims, shift, id, verdict):
    """The verdict follows the interval's side of zero and the side the paper claims, which stands on its card alone."""
    noise = np.random.default_rng(0).normal(0, 0.3, 24)
    effects = shift + noise - noise.mean()
    found = claims.directional(id, effects, SEEDS, PROMPTS)
    assert found.verdict == verdict
    assert found.effect == pytest.approx(shift, abs=1e-9)
    assert found.interval[0] < found.effect < found.interval[1]


def test_effect_carried_by_one_prompt_is_undecided(claims):
    """Many seeds of one lucky prompt are not many observations."""
    effects = [3.0 if prompt == 0 else 0.0 for prompt in PROMPTS]
    assert claims.directional("rises", effects, SEEDS, PROMPTS).verdict == "undecided"


@pytest.mark.parametrize(
    ("pairs", "seeds", "unit", "named"),
    [(23, 3, "pair", "23 pairs"), (24, 2, "pair", "2 seeds"), (24, 4, "training", "4 training seeds")],
)
def test_too_few_measurements_are_refused(claims, pairs, seeds, unit, named):
    """A verdict from fewer pairs than the design asks for would look as good as any other."""
    numbers = range(pairs)
    with pytest.raises(ValueError, match=named):
        claims.directional("rises", [1.0] * pairs, [i % seeds for i in numbers], list(numbers), unit=unit)
    assert "rises" in claims.undecided_ids()


def test_repeated_pairs_count_once(claims):
    """Measuring one pair 24 times is one pair."""
    with pytest.raises(ValueError, match="3 pairs"):
        claims.directional("rises", [1.0] * 24, [i % 3 for i in range(24)], ["a"] * 24)


def test_five_trainings_are_enough(claims):
    """Where a training is the unit, one prompt and five seeds must do."""
    found = claims.directional("rises", [1.0, 1.1, 0.9, 1.2, 0.8], range(5), ["a"] * 5, unit="training")
    assert found.verdict == "held"


def test_unknown_and_misused_claims_are_named(claims):
    """A verdict filed under a wrong id would leave the card's claim unmeasured."""
    with pytest.raises(LookupError, match="Did you mean identity.*count, rises"):
        claims.exact("identiti", 1, 1)
    with pytest.raises(ValueError, match=r"claims\.directional"):
        claims.exact("rises", 1, 1)


def test_record_needs_every_claim(claims):
    """A claim left out must stop the record, or it would vanish from the scoreboard."""
    claims.exact("identity", 1, 1)
    with pytest.raises(ValueError, match="count, rises, falls"):
        claims.results()
    claims.exact("count", 1, 2)
    claims.directional("rises", [1.0] * 24, SEEDS, PROMPTS)
    claims.directional("falls", [1.0] * 24, SEEDS, PROMPTS)
    results = claims.results()
    assert {id: result["verdict"] for id, result in results.items()} == {
        "identity": "held",
        "count": "failed",
        "rises": "held",
        "falls": "reversed",
        "liked": "not testable here",
    }
    assert set(results["rises"]) == {"verdict", "effect", "interval", "paper"}
    assert results["rises"]["interval"] == [1.0, 1.0]


def test_table_prints_words_and_shows_figures(claims):
    """Printed text is compared by nbval, so it holds no measured digits; the HTML is for the reader."""
    claims.directional("rises", [0.123] * 24, SEEDS, PROMPTS)
    table = claims.table()
    assert "rises     directional  held" in repr(table) and "0.123" not in repr(table)
    assert "identity  exact        not measured yet" in repr(table)
    html = table._repr_html_()
    assert "+0.123" in html and "0.5 [verified]" in html and "not testable here" in html
