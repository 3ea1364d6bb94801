"""The verdicts a claim can have: their names, their order, their colours."""

from __future__ import annotations

from html import escape
from typing import Any

NOT_YET = "not measured yet"

VERDICT_COLOURS = {  # dark enough for white text: contrast of at least 4.5
    "held": "#00734F",
    "reversed": "#B0460A",
    "undecided": "#8A6100",
    "failed": "#B00020",
    "not testable here": "#666666",
}


def badge(verdict: str) -> str:
    """Return the verdict as a small coloured HTML label; one without a colour of its own is grey."""
    colour = VERDICT_COLOURS.get(verdict, VERDICT_COLOURS["not testable here"])
    style = f"background:{colour};color:#fff;border-radius:3px;padding:1px 7px;white-space:nowrap"
    return f'<span style="{style}">{escape(verdict)}</span>'


def count_verdicts(claims: dict[str, dict[str, Any]]) -> str:
    """Summarise verdicts in words, most hopeful first: "3 held, 1 undecided"."""
    order = ("held", "reversed", "undecided", "failed", "not testable here", NOT_YET)
    verdicts = [claim["verdict"] for claim in claims.values()]
    return ", ".join(f"{verdicts.count(name)} {name}" for name in order if name in verdicts) or "none"
