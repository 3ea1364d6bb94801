"""What a notebook hands over at its end: metrics, verdicts, figures, and the machine it ran on."""

import html
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studylib.evidence.claims import Claims
from studylib.evidence.verdicts import count_verdicts
from studylib.files import disk_errors, write_atomically
from studylib.machine import device_name, hardware, peak_memory_mib, versions
from studylib.showing.listing import printable

OUTCOME = "outcome.json"  # in the run's folder until the record takes its content over


@dataclass(frozen=True)
class Summary:
    """What a notebook measured, shown as its last output; the text holds no time, path or machine."""

    slug: str
    metrics: dict[str, float]
    claims: dict[str, dict[str, Any]]

    def __repr__(self) -> str:
        lines = [f"{self.slug}: {count_verdicts(self.claims)}"]
        return "\n".join(lines + [f"  {printable(name)} = {value:.4g}" for name, value in self.metrics.items()])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(name)}</td><td>{value:.4g}</td></tr>"
            for name, value in self.metrics.items()
        )
        return f"<p><b>{html.escape(self.slug)}</b>: {count_verdicts(self.claims)}</p><table>{rows}</table>"


def record(
    slug: str,
    *,
    metrics: dict[str, float] | None = None,
    claims: Claims | None = None,
    figures: dict[str, Any] | None = None,
    effects: dict[str, dict[str, float]] | None = None,
) -> Summary:
    """Record what a notebook measured, as its last cell; without STUDY_RUN_DIR only show the summary.

    `metrics` are finite numbers by name, `claims` the card's claims, each decided, `figures` matplotlib
    figures or PIL pictures by file name without ending, saved as WebP, `effects` what a run with `full`
    measured of a claim, by prompt. Raises ValueError for a number that is not finite and for claims not
    measured, naming them.
    """
    numbers = {name: float(value) for name, value in (metrics or {}).items()}
    measured = {id: {str(p): float(v) for p, v in values.items()} for id, values in (effects or {}).items()}
    all_numbers = numbers | {f"{id}, {p}": v for id, values in measured.items() for p, v in values.items()}
    strange = [name for name, number in all_numbers.items() if not math.isfinite(number)]
    if strange:
        raise ValueError(
            f"metrics that are not finite numbers: {', '.join(strange)}; drop or mend them before record()"
        )
    if claims is not None and claims.card.slug != slug:
        raise ValueError(f"claims of {claims.card.slug} given to record({slug!r})")
    summary = Summary(slug, numbers, claims.results() if claims is not None else {})
    run_dir = os.environ.get("STUDY_RUN_DIR")
    if run_dir:
        for name, figure in (figures or {}).items():
            save_figure(figure, Path(run_dir) / "figures" / f"{name}.webp")
        outcome = {
            "metrics": summary.metrics,
            "claims": summary.claims,
            "peak_memory_mib": peak_memory_mib(),
            "device": device_name(),
            "versions": versions(),
            "hardware": hardware(),
        }
        if measured:
            outcome["effects"] = measured
        write_atomically(Path(run_dir) / OUTCOME, json.dumps(outcome, indent=2, allow_nan=False))
    return summary


def save_figure(figure: Any, path: Path) -> None:
    """Save a matplotlib figure or a PIL picture as a small WebP file."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if hasattr(figure, "savefig"):
            figure.savefig(path, format="webp", bbox_inches="tight", dpi=80)
        else:
            figure.save(path, format="WEBP", quality=85)


