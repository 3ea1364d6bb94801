"""Intervals of paired effects."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MIN_SEEDS, MIN_PAIRS, MIN_TRAINING_SEEDS = 3, 24, 5


class Interval(NamedTuple):
    """A mean paired effect and the ends of its 95 % bootstrap interval, in the effect's own unit."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    effects: Sequence[float],
    seeds: Sequence[int],
    prompts: Sequence[object],
    draws: int = 2000,
    rng_seed: int = 0,
) -> Interval:
    """Return the mean paired effect with its 95 % percentile interval, resampled by seed and by prompt.

    `effects[i]` is measured with `seeds[i]` and `prompts[i]`. Seeds and prompts are drawn with replacement,
    each on their own, and a pair counts as often as its seed times its prompt was drawn: pairs that share a
    seed or a prompt are not taken for independent. Random state: its own generator, seeded by `rng_seed`.
    Raises ValueError for lengths that differ, no effects, or an effect that is not finite.
    """
    values = np.asarray([float(effect) for effect in effects])
    if not (len(values) == len(seeds) == len(prompts)):
        raise ValueError(f"lengths differ: {len(values)} effects, {len(seeds)} seeds, {len(prompts)} prompts")
    if len(values) == 0 or not np.isfinite(values).all():
        raise ValueError("effects must be one or more finite numbers")
    rng = np.random.default_rng(rng_seed)
    weights = np.ones((draws, len(values)))
    for group in (seeds, prompts):
        names = {name: number for number, name in enumerate(dict.fromkeys(group))}
        if len(names) == 1:  # one seed, or one prompt, for all pairs: nothing to resample there
            continue
        counts = rng.multinomial(
            len(names), np.full(len(names), 1 / len(names)), size=draws
        )  # (draws, names)
        weights *= counts[:, [names[name] for name in group]]  # (draws, pairs)
    totals = weights.sum(axis=1)
    means = (weights @ values)[totals > 0] / totals[totals > 0]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))
