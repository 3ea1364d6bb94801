"""A notebook's one handle of its paper: card, presets, parameters, claims, stored effects, and its record."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

from studylib.errors import StudyError
from studylib.evidence.card import load_card
from studylib.evidence.claims import Claims, Effects
from studylib.evidence.outcome import Summary, record
from studylib.evidence.paper import load_presets
from studylib.running.effects import stored_effects, stored_picture
from studylib.running.parameters import check_parameters, read_parameters
from studylib.workspace import notebook_path


class OpenPaper:
    """What `open_paper` returns; `parameters` are a snapshot, checked, of all that the notebook was given."""

    def __init__(self, slug: str, parameters: Mapping[str, Any]) -> None:
        self.slug = slug
        self.card = load_card(slug)
        self.presets = load_presets(slug)
        self.parameters = MappingProxyType(dict(parameters))
        self.claims = Claims(self.card)

    def __repr__(self) -> str:
        return f"{self.card.title} ({self.card.year}), {len(self.card.claims)} claims"

    @cached_property
    def effects(self) -> Effects:
        """What `study render --full` measured with these parameters, today's weights and code."""
        return stored_effects(self.slug, self.parameters)

    def picture(self, name: str) -> Any:
        """Return the picture that such a measurement left under `name`, None where there is none."""
        return stored_picture(self.slug, name, self.parameters)

    def record(
        self,
        *,
        metrics: dict[str, float] | None = None,
        figures: dict[str, Any] | None = None,
        effects: dict[str, dict[str, float]] | None = None,
    ) -> Summary:
        """Record what the notebook measured, as its last cell; the claims are the paper's, each decided."""
        return record(self.slug, metrics=metrics, claims=self.claims, figures=figures, effects=effects)


def open_paper(slug: str, values: Mapping[str, Any]) -> OpenPaper:
    """Open a paper in its notebook: `open_paper("my_paper", globals())`, once, after the parameters cell.

    `values` hold the parameters by name. Raises StudyError for one that is missing, of another type or out of range.
    """
    names = read_parameters(notebook_path(slug))
    missing = [name for name in names if name not in values]
    if missing:
        raise StudyError(f"{slug} was opened without {', '.join(missing)}", "Run the parameters cell first")
    return OpenPaper(slug, check_parameters(slug, {name: values[name] for name in names}))
