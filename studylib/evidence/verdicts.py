"""The verdicts a claim can have: their names, their order, and how each is shown."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, NamedTuple

HELD, REVERSED, UNDECIDED, FAILED = "held", "reversed", "undecided", "failed"
NOT_TESTABLE, NOT_YET = "not testable here", "not measured yet"


class Look(NamedTuple):
    """How a verdict is shown: colour behind white text (contrast of at least 4.5), sign beside it, terminal style."""

    colour: str
    sign: str
    style: str


VERDICTS = {  # the most hopeful first
    HELD: Look("#00734F", "✓", "green"),
    REVERSED: Look("#B0460A", "↔", "red"),
    UNDECIDED: Look("#8A6100", "?", "yellow"),
    FAILED: Look("#B00020", "✗", "bold red"),
    NOT_TESTABLE: Look("#666666", "·", "dim"),
    NOT_YET: Look("#666666", "", "dim"),
}
DECIDED = tuple(verdict for verdict in VERDICTS if verdict != NOT_YET)  # those a finished run may have


def badge(verdict: str) -> str:
    """Return the verdict as a small coloured HTML label; a word that is no verdict is grey."""
    colour = VERDICTS.get(verdict, VERDICTS[NOT_YET]).colour
    style = f"background:{colour};color:#fff;border-radius:3px;padding:1px 7px;white-space:nowrap"
    return f'<span style="{style}">{escape(verdict)}</span>'


def count_verdicts(claims: Mapping[str, Mapping[str, Any]]) -> str:
    """Summarise what was found for claims in words, most hopeful first: "3 held, 1 undecided"."""
    given = [claim["verdict"] for claim in claims.values()]
    return ", ".join(f"{given.count(name)} {name}" for name in VERDICTS if name in given) or "none"
