"""Intervals of paired effects whose pairs share seeds and prompts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

MIN_SEEDS, MIN_PAIRS, MIN_TRAINING_SEEDS = 3, 24, 5
LEVEL = 0.95


class Interval(NamedTuple):
    """A mean effect and the ends of its 95 % interval, in the effect's own unit."""

    mean: float
    low: float
    high: float


def crossed_interval(
    effects: Sequence[float], seeds: Sequence[Hashable], prompts: Sequence[Hashable]
) -> Interval:
    """Return the mean paired effect with its 95 % interval, for pairs that share seeds and share prompts.

    `effects[i]` is measured with `seeds[i]` and `prompts[i]`; a pair measured twice counts once, by its mean. The
    variance of the mean is that by seed plus that by prompt, each s^2 / n of n means: a new seed and a new prompt would
    both move the mean. Their sum is taken for a chi-square by Welch and Satterthwaite, with no fewer degrees of freedom
    than the smaller number of levels less one, and Student's t gives the width. Where neither seed nor prompt matters
    the interval is too wide, by a factor of sqrt(2).
    Raises ValueError for lengths that differ, no effects, or an effect that is not finite.
    """
    values = np.asarray([float(effect) for effect in effects])
    if not (len(values) == len(seeds) == len(prompts)):
        raise ValueError(f"lengths differ: {len(values)} effects, {len(seeds)} seeds, {len(prompts)} prompts")
    if len(values) == 0 or not np.isfinite(values).all():
        raise ValueError("effects must be one or more finite numbers")
    pairs: dict[tuple[Hashable, Hashable], list[float]] = {}
    for value, *pair in zip(values.tolist(), seeds, prompts, strict=True):
        pairs.setdefault(tuple(pair), []).append(value)
    cells = np.asarray([np.mean(repeats) for repeats in pairs.values()])
    mean = float(cells.mean())
    parts = [_variance_of_mean(cells - mean, [pair[side] for pair in pairs]) for side in (0, 1)]
    known = [(variance, levels - 1) for variance, levels in parts if levels > 1]
    total = sum(variance for variance, _ in known)
    if not total:
        return Interval(mean, mean, mean)
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in known)
    freedom = max(freedom, min(degrees for _, degrees in known))
    half = float(student.ppf((1 + LEVEL) / 2, freedom) * total**0.5)
    return Interval(mean, mean - half, mean + half)


def leave_one_out_interval(statistic: Callable[[Sequence[Hashable]], float], seeds: Sequence[Hashable]) -> Interval:
    """Return a statistic of all seeds together with its 95 % interval, by leaving out one seed at a time (jackknife).

    For what is measured between seeds, such as how different their pictures are: every seed is in many pairs, and the
    pairs are not independent. `statistic` takes some of the seeds. Raises ValueError for fewer than 3 seeds.
    """
    if len(seeds) < 3:
        raise ValueError(f"leaving one seed out takes 3 seeds or more, got {len(seeds)}")
    whole = float(statistic(seeds))
    without = np.asarray([statistic([*seeds[:i], *seeds[i + 1 :]]) for i in range(len(seeds))])
    variance = (len(seeds) - 1) / len(seeds) * ((without - without.mean()) ** 2).sum()
    half = float(student.ppf((1 + LEVEL) / 2, len(seeds) - 1) * variance**0.5)
    return Interval(whole, whole - half, whole + half)


def _variance_of_mean(residuals: np.ndarray, groups: Sequence[Hashable]) -> tuple[float, int]:
    """The variance of the mean that differences between groups bring, and the number of groups."""
    names = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    sums = np.bincount([names[name] for name in groups], weights=residuals)
    levels = len(names)
    if levels == 1:
        return 0.0, 1
    return float(levels / (levels - 1) * (sums**2).sum() / len(residuals) ** 2), levels
