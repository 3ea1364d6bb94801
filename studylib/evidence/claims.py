"""Decides a paper's claims from measurements: identities to a tolerance, effects by seeds and prompts."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from studylib.errors import nearest
from studylib.evidence.card import Card, Claim, Kind
from studylib.evidence.intervals import MIN_PAIRS, MIN_SEEDS, MIN_TRAINING_SEEDS, crossed_interval
from studylib.evidence.verdicts import (
    FAILED,
    HELD,
    NOT_TESTABLE,
    NOT_YET,
    REVERSED,
    UNDECIDED,
    badge,
    count_verdicts,
)


@dataclass(frozen=True)
class Verdict:
    """What was found for one claim; `effect` is the measured value or mean effect, `detail` its origin."""

    claim: Claim
    verdict: str
    effect: float | None = None
    interval: tuple[float, float] | None = None
    detail: str = ""

    def __repr__(self) -> str:
        return f"{self.claim.id}: {self.verdict}"


class Effects(dict[str, dict[int, dict[str, float]]]):
    """Effects of trainings: claim -> seed -> prompt -> method minus baseline; `why_none` says why there are none."""

    def __init__(self, found: Mapping[str, dict[int, dict[str, float]]] | None = None, *, why_none: str = "") -> None:
        super().__init__(found or {})
        self.why_none = why_none


class Claims:
    """The claims of one card, decided one by one in its notebook; `beyond` ones are from the start."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self._claims = {claim.id: claim for claim in card.claims}
        self._verdicts = {
            claim.id: Verdict(claim, NOT_TESTABLE, detail=claim.how)
            for claim in card.claims
            if claim.kind == "beyond"
        }

    def exact(self, id: str, measured: object, expected: object, tolerance: float = 0.0) -> Verdict:
        """Decide an exact claim: `held` if `measured` is within `tolerance` of `expected`, else `failed`.

        Both may be numbers, arrays or tensors of one shape, or anything compared by equality (words, lists
        of names). Raises ValueError for empty ones: an identity of nothing would always hold.
        """
        claim = self._of_kind(id, "exact")
        try:
            found, sought = _array(measured), _array(expected)
        except (TypeError, ValueError):
            held, effect, detail = measured == expected, None, f"measured {measured!r}, expected {expected!r}"
        else:
            if not found.size or not sought.size:
                raise ValueError(f"claim {id}: nothing is compared with nothing; shapes {found.shape}, {sought.shape}")
            same_shape = found.shape == sought.shape
            gap = float(np.abs(found - sought).max(initial=0.0)) if same_shape else math.nan
            held = gap <= tolerance  # a NaN anywhere makes this false
            effect = float(found) if found.ndim == 0 and math.isfinite(float(found)) else None
            if found.ndim and math.isfinite(gap):
                effect = gap
            if not same_shape:
                detail = f"shape {found.shape} measured, {sought.shape} expected"
            elif found.ndim == 0:
                detail = f"measured {float(found):g}, expected {float(sought):g}"
            else:
                detail = f"largest difference {gap:g}"
            detail += f", tolerance {tolerance:g}"
        return self._decide(Verdict(claim, HELD if held else FAILED, effect, None, detail))

    def directional(
        self,
        id: str,
        effects: Sequence[float],
        seeds: Sequence[int],
        prompts: Sequence[object],
        unit: Literal["pair", "training"] = "pair",
    ) -> Verdict:
        """Decide a claim with a sign: `held`, `reversed`, or `undecided` when the interval contains 0.

        `effects[i]` is method minus baseline for one pair sharing `seeds[i]` and `prompts[i]`; the card says which
        sign the paper claims. Needs 3 seeds and 24 different pairs, or 5 seeds when the unit is a training.
        Raises ValueError with the numbers given when there are fewer.
        """
        claim = self._of_kind(id, "directional")
        if unit not in ("pair", "training"):
            raise ValueError(f"unit must be 'pair' or 'training', got {unit!r}")
        interval = crossed_interval(effects, seeds, prompts)
        n_seeds, n_pairs = len(set(seeds)), len(set(zip(seeds, prompts, strict=True)))
        if unit == "pair" and (n_seeds < MIN_SEEDS or n_pairs < MIN_PAIRS):
            raise ValueError(
                f"claim {id} has {n_seeds} seeds and {n_pairs} pairs; "
                f"it needs {MIN_SEEDS} seeds and {MIN_PAIRS} pairs",
            )
        if unit == "training" and n_seeds < MIN_TRAINING_SEEDS:
            raise ValueError(f"claim {id} has {n_seeds} training seeds; it needs {MIN_TRAINING_SEEDS}")
        low, high = sorted((claim.sign * interval.low, claim.sign * interval.high))
        verdict = HELD if low > 0 else REVERSED if high < 0 else UNDECIDED
        detail = f"{n_pairs} pairs, {n_seeds} seeds; the paper says {'more' if claim.sign > 0 else 'less'}"
        return self._decide(Verdict(claim, verdict, interval.mean, (interval.low, interval.high), detail))

    def trained(self, id: str, effects: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Verdict:
        """Decide a claim whose effect takes a training per seed, from what `stored_effects` returned.

        Where that holds nothing of it, the verdict is `not measured yet` and its detail says how to measure it.
        """
        if id not in effects:
            claim = self._of_kind(id, "directional")
            detail = f"takes {MIN_TRAINING_SEEDS} trainings: study render --full {self.card.slug}"
            if isinstance(effects, Effects) and effects.why_none:
                detail = f"{effects.why_none}; it {detail}"
            return self._decide(Verdict(claim, NOT_YET, detail=detail))
        rows = [
            (value, seed, prompt) for seed, values in effects[id].items() for prompt, value in values.items()
        ]
        return self.directional(id, *map(list, zip(*rows, strict=True)), unit="training")

    def beyond(self, id: str) -> Verdict:
        """Return the verdict of a claim that needs the real model or people: `not testable here`."""
        return self._verdicts[self._of_kind(id, "beyond").id]

    def undecided_ids(self) -> list[str]:
        """List the claims that have not been measured yet, in the card's order."""
        return [id for id in self._claims if id not in self._verdicts]

    def results(self) -> dict[str, dict[str, Any]]:
        """Return id -> {verdict, effect, interval, paper}; ValueError names claims not measured."""
        missing = self.undecided_ids()
        if missing:
            raise ValueError(f"claims not measured yet: {', '.join(missing)}; decide each before record(...)")
        return {
            id: {
                "verdict": self._verdicts[id].verdict,
                "effect": self._verdicts[id].effect,
                "interval": list(self._verdicts[id].interval) if self._verdicts[id].interval else None,
                "paper": claim.paper,
            }
            for id, claim in self._claims.items()
        }

    def table(self) -> "ClaimTable":
        """Return the verdicts as a table; printed it holds words only, so that its text can be checked."""
        return ClaimTable([(claim, self._verdicts.get(id)) for id, claim in self._claims.items()])

    def _of_kind(self, id: str, kind: Kind) -> Claim:
        if id not in self._claims:
            raise LookupError(
                f"no claim {id!r} in the card of {self.card.slug}. {nearest(id, self._claims)}"
                f"It has: {', '.join(self._claims)}",
            )
        claim = self._claims[id]
        if claim.kind != kind:
            raise ValueError(f"claim {id} is {claim.kind}; decide it with claims.{claim.kind}(...)")
        return claim

    def _decide(self, verdict: Verdict) -> Verdict:
        self._verdicts[verdict.claim.id] = verdict
        return verdict


class ClaimTable:
    """Claims and verdicts: HTML with the figures in a notebook, words alone when printed."""

    def __init__(self, rows: list[tuple[Claim, Verdict | None]]) -> None:
        self.rows = rows

    def __repr__(self) -> str:
        width = max(len(claim.id) for claim, _ in self.rows)
        lines = [f"{claim.id:{width}}  {claim.kind:11}  {_word(verdict)}" for claim, verdict in self.rows]
        found = {claim.id: {"verdict": verdict.verdict} for claim, verdict in self.rows if verdict}
        return "\n".join([*lines, count_verdicts(found)])

    def _repr_html_(self) -> str:
        start = '<td style="text-align:left">'
        heads = ("claim", "kind", "in the paper", "measured here", "verdict")
        body = ""
        for claim, verdict in self.rows:
            source = f"{claim.source}: {claim.paper}" if claim.paper else claim.source
            measured = _measured(verdict) if verdict else ""
            texts = [html.escape(text) for text in (claim.sentence, claim.kind, source, measured)]
            body += (
                "<tr>" + "".join(f"{start}{cell}</td>" for cell in (*texts, badge(_word(verdict)))) + "</tr>"
            )
        head = "".join(f'<th style="text-align:left">{name}</th>' for name in heads)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _word(verdict: Verdict | None) -> str:
    return verdict.verdict if verdict else NOT_YET


def _measured(verdict: Verdict) -> str:
    if verdict.interval is None:
        return verdict.detail
    low, high = verdict.interval
    return f"{verdict.effect:+.3g} [{low:+.3g}, {high:+.3g}]; {verdict.detail}"


def _array(value: object) -> np.ndarray:
    if isinstance(value, (str, bytes)):
        raise TypeError("words are compared by equality")
    if hasattr(value, "detach"):  # a tensor, maybe on another device or in bfloat16
        value = value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=np.float64)
