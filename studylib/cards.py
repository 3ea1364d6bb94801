"""Reads and checks what is written about a paper: its card, its presets, its place in the course."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from studylib.workspace import StudyError, find_root, paper_folder, write_atomically, written_papers

NOT_YET = "not measured yet"
README_START, README_END = "<!-- papers:start -->", "<!-- papers:end -->"
MARKS = ("verified", "recalled", "measured")
Kind = Literal["exact", "directional", "beyond"]


class Strict(BaseModel):
    """A record that refuses unknown keys and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Knob(Strict):
    """What a card says about one notebook parameter; its type and default stay in the notebook."""

    help: str = ""
    min: float | None = None
    max: float | None = None
    choices: list[str | int | float] | None = None
    symbol: str = ""

    @model_validator(mode="after")
    def _range_has_an_inside(self) -> "Knob":
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        if self.choices is not None and not self.choices:
            raise ValueError("choices is empty")
        return self


class Claim(Strict):
    """One checkable sentence of a paper; `paper` holds its own figures, each marked verified or recalled."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    sentence: str = Field(min_length=1)
    source: str = Field(min_length=1)
    paper: str = ""
    kind: Kind
    how: str = Field(min_length=1)

    @field_validator("paper")
    @classmethod
    def _figures_carry_a_mark(cls, figures: str) -> str:
        if re.search(r"\d", figures) and not any(mark in figures for mark in MARKS):
            raise ValueError(f"figures need a mark, one of: {', '.join(MARKS)}")
        return figures


class Card(Strict):
    """Everything a reader needs to know about a paper before opening its notebook."""

    slug: str
    title: str
    authors: str
    year: int = Field(ge=1990, le=2100)
    venue: str
    arxiv: str = Field(default="", pattern=r"^(\d{4}\.\d{4,5})?$")
    code: str
    licence: str
    order: int = Field(ge=1)
    question: str
    knobs: dict[str, Knob] = {}
    claims: list[Claim] = Field(min_length=5)

    @field_validator("claims")
    @classmethod
    def _ids_differ(cls, claims: list[Claim]) -> list[Claim]:
        ids = [claim.id for claim in claims]
        twice = sorted({id for id in ids if ids.count(id) > 1})
        if twice:
            raise ValueError(f"claim ids used twice: {', '.join(twice)}")
        return claims


class CourseEntry(Strict):
    """One row of the course: what is known of a paper before its folder is written."""

    slug: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    year: int
    arxiv: str = ""
    one_line: str
    order: int
    written: bool = False


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; StudyError gives its name and the line that does not parse."""
    shown = _shown(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StudyError(f"{shown} is missing", "Restore it, or start a paper with `study new`") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"{shown} is not valid TOML: {error}", "Mend that line") from error


def load_card(slug: str) -> Card:
    """Read and check `papers/<slug>/card.toml`; StudyError lists every field that is wrong."""
    path = paper_folder(slug) / "card.toml"
    card = _checked(Card, read_toml(path), path)
    if card.slug != slug:
        raise StudyError(
            f"{_shown(path)} says slug = {card.slug!r}", f"Write slug = {slug!r}, the folder's name"
        )
    return card


def load_presets(slug: str) -> dict[str, dict[str, Any]]:
    """Read `papers/<slug>/presets.toml`: preset name -> parameter name -> value. No file means no presets."""
    path = paper_folder(slug) / "presets.toml"
    presets = read_toml(path) if path.is_file() else {}
    loose = [name for name, values in presets.items() if not isinstance(values, dict)]
    if loose:
        raise StudyError(
            f"{_shown(path)} sets {', '.join(loose)} outside a preset",
            "Put it under a [name] line",
        )
    return presets


def course() -> list[CourseEntry]:
    """List the papers in course order; papers with a card but no row in `papers/course.toml` come last."""
    path = find_root() / "papers" / "course.toml"
    rows = read_toml(path).get("papers", [])
    written = written_papers()
    entries = [
        _checked(CourseEntry, {**row, "order": number, "written": row.get("slug") in written}, path)
        for number, row in enumerate(rows, start=1)
    ]
    known = {entry.slug for entry in entries}
    for slug in written:
        if slug in known:
            continue
        card = load_card(slug)
        entries.append(
            CourseEntry(
                slug=slug,
                title=card.title,
                year=card.year,
                arxiv=card.arxiv,
                one_line=card.question,
                order=len(entries) + 1,
                written=True,
            ),
        )
    return entries


def load_results(slug: str) -> dict[str, Any] | None:
    """Read what `study render` last wrote to `papers/<slug>/results.json`; None before the first time."""
    path = find_root() / "papers" / slug / "results.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudyError(
            f"{_shown(path)} is not valid JSON: {error}", f"Run `study render {slug}`"
        ) from error


def count_verdicts(claims: dict[str, dict[str, Any]]) -> str:
    """Summarise verdicts in words, most hopeful first: "3 held, 1 undecided"."""
    order = ("held", "reversed", "undecided", "failed", "not testable here", NOT_YET)
    verdicts = [claim["verdict"] for claim in claims.values()]
    return ", ".join(f"{verdicts.count(name)} {name}" for name in order if name in verdicts) or "none"


def papers_table() -> str:
    """Return the course as a Markdown table: paper, year, idea, verdicts measured on the tiny world."""
    lines = ["| # | Paper | Year | Idea | Claims on the tiny world |", "| --- | --- | --- | --- | --- |"]
    for entry in course():
        arxiv = f" ([{entry.arxiv}](https://arxiv.org/abs/{entry.arxiv}))" if entry.arxiv else ""
        title = entry.title.replace("|", "\\|")
        if entry.written:
            title = f"[{title}](notebooks/{entry.slug}.ipynb)"
        results = load_results(entry.slug) if entry.written else None
        state = (
            count_verdicts(results["claims"])
            if results
            else "not rendered yet"
            if entry.written
            else "planned"
        )
        idea = entry.one_line.replace("|", "\\|")
        lines.append(f"| {entry.order} | {title}{arxiv} | {entry.year} | {idea} | {state} |")
    return "\n".join(lines) + "\n"


def update_readme() -> bool | None:
    """Rewrite the table of papers between README.md's markers; tell whether the file changed."""
    return rewrite_section(README_START, README_END, papers_table(), "table of papers")


def rewrite_section(start: str, end: str, content: str, what: str, *, optional: bool = False) -> bool | None:
    """Write `content` between two marker lines of README.md; tell whether the file changed.

    Raises StudyError, naming `what` was not written, without the file or with anything but one of each marker; for an
    `optional` section without file or markers the answer is None.
    """
    path = find_root() / "README.md"
    if optional and not (path.is_file() and {start, end} & set(path.read_text(encoding="utf-8").splitlines())):
        return None
    if not path.is_file():
        raise StudyError(
            f"{_shown(path)} is missing, so its {what} was not written", f"Create it with the lines {start} and {end}"
        )
    text = path.read_text(encoding="utf-8")
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise StudyError(
            f"README.md has no place for the {what}", f"Add one line {start} and, below it, one line {end}"
        )
    before, rest = text.split(start)
    after = rest.split(end)[1]
    new = f"{before}{start}\n{content}{end}{after}"
    if new != text:
        write_atomically(path, new)
    return new != text


def _checked(kind: type[Strict], values: dict[str, Any], path: Path) -> Any:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'the card'}: {fault['msg']}" for fault in error.errors()
        ]
        raise StudyError(f"{_shown(path)} does not fit: {'; '.join(faults)}", "Mend these fields") from error


def _shown(path: Path) -> str:
    root = find_root()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
