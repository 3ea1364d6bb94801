"""Intervals: they cover the truth as often as they say, at the very sizes that notebooks use."""

import itertools
import math

import numpy as np
import pytest

from studylib.evidence.intervals import crossed_interval, leave_one_out_interval

SIZES = [(3, 3), (3, 10), (5, 8), (5, 10), (10, 8)]  # seeds or trainings, prompts
SPREADS = {"seed-heavy": (1.0, 0.1, 0.5), "prompt-heavy": (0.1, 1.0, 0.5), "mixed": (0.7, 0.7, 0.7)}
# the spreads are those of seed, prompt and rest
DRAWS = 800


def crossed(rng: np.random.Generator, size: tuple[int, int], spread: tuple[float, float, float]) -> np.ndarray:
    """Null effects: what is due to the seed, to the prompt and to neither, (seeds, prompts)."""
    by_seed, by_prompt, rest = spread
    return (
        by_seed * rng.standard_normal((size[0], 1))
        + by_prompt * rng.standard_normal((1, size[1]))
        + rest * rng.standard_normal(size)
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spread", SPREADS)
def test_coverage(size, spread):
    """A bootstrap over 3 x 8 pairs decided 13 to 27 % of effects that were nothing, where it promised 5 %.

    Three levels of each say little about their spread: there the interval may be wider than it need be.
    """
    rng = np.random.default_rng(0)
    seeds, prompts = zip(*itertools.product(range(size[0]), range(size[1])), strict=True)
    intervals = [crossed_interval(crossed(rng, size, SPREADS[spread]).ravel(), seeds, prompts) for _ in range(DRAWS)]
    covered = np.mean([low <= 0 <= high for _, low, high in intervals])
    assert 0.93 <= covered <= (0.98 if size == (3, 3) else 0.97)


def test_coverage_where_nothing_matters():
    """Noise alone, of no seed and no prompt: too wide by sqrt(2) and never too narrow."""
    rng, size = np.random.default_rng(1), (5, 8)
    seeds, prompts = zip(*itertools.product(range(5), range(8)), strict=True)
    intervals = [crossed_interval(crossed(rng, size, (0, 0, 1)).ravel(), seeds, prompts) for _ in range(DRAWS)]
    assert np.mean([low <= 0 <= high for _, low, high in intervals]) > 0.97


def test_one_prompt_is_students_interval():
    """With a single prompt nothing is left but the t interval of the seeds' effects."""
    effects = [1.0, 1.1, 0.9, 1.2, 0.8]
    mean, low, high = crossed_interval(effects, range(5), ["a"] * 5)
    assert mean == pytest.approx(1.0)
    half = 2.7764 * np.std(effects, ddof=1) / math.sqrt(5)  # Student's t with 4 degrees of freedom
    assert (high - mean, mean - low) == pytest.approx((half, half), rel=1e-4)


def test_a_pair_measured_twice_is_one_pair():
    """Repeating a measurement must not narrow the interval."""
    effects, seeds, prompts = [1.0, 2.0, 4.0, 3.0], [0, 0, 1, 1], ["a", "b", "a", "b"]
    once = crossed_interval(effects, seeds, prompts)
    assert crossed_interval(effects * 3, seeds * 3, prompts * 3) == pytest.approx(once)


def test_equal_effects_have_no_width():
    """Effects without any spread leave nothing to be unsure of."""
    assert crossed_interval([0.5] * 6, [0, 0, 1, 1, 2, 2], "ababab") == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("effects", "seeds", "named"),
    [([], [], "finite"), ([1.0, math.inf], [0, 1], "finite"), ([1.0], [0, 1], "lengths")],
)
def test_what_has_no_mean_is_refused(effects, seeds, named):
    """An infinite effect, or one without its seed, must not become a number."""
    with pytest.raises(ValueError, match=named):
        crossed_interval(effects, seeds, seeds)


def test_coverage_of_what_is_between_seeds():
    """Pairs of seeds taken for independent decided 25 to 52 % of nothing: leaving seeds out must not."""
    rng, count, hits = np.random.default_rng(2), 8, 0
    for _ in range(DRAWS):
        points = rng.standard_normal(count)

        def distance(seeds, points=points):  # mean over pairs of |a - b|, expected to be 2 / sqrt(pi)
            return np.mean([abs(points[a] - points[b]) for a, b in itertools.combinations(seeds, 2)])

        _, low, high = leave_one_out_interval(distance, range(count))
        hits += low <= 2 / math.sqrt(math.pi) <= high
    assert 0.92 <= hits / DRAWS <= 0.97
    with pytest.raises(ValueError, match="3 seeds"):
        leave_one_out_interval(distance, [0, 1])
