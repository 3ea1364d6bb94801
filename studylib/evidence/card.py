"""Reads and checks a paper's card: identity, knobs, claims as checkable sentences."""

import re
import tomllib
import unicodedata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from studylib.errors import StudyError, cut
from studylib.files import read_once, read_regular
from studylib.workspace import find_root, paper_folder

MARKS = ("verified", "recalled", "measured")
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # right-to-left marks
Kind = Literal["exact", "directional", "beyond"]


def strange_letters(text: str) -> list[str]:
    """The letters that would steer a terminal or turn the line around, and those that no file can hold."""
    return [letter for letter in text if unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\n\t"
            or letter in TURNING]  # fmt: skip


class Strict(BaseModel):
    """A record that refuses unknown keys and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _texts_cannot_steer(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (strange := strange_letters(text)):
                raise ValueError(f"has the control character {strange[0]!r}")
        return value


class Knob(Strict):
    """What a card says about one notebook parameter; its type and default stay in the notebook."""

    help: str = ""
    min: float | None = None
    max: float | None = None
    choices: list[str | int | float] | None = None
    symbol: str = ""
    folder: bool = False  # a text that names a folder, whose content decides what a run computes
    file: bool = False  # a text that names a file, likewise
    sentences: str = ""  # for a text that becomes a new word: the paper's module of sentences, which must not have it

    @model_validator(mode="after")
    def _range_has_an_inside(self) -> "Knob":
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        if self.choices is not None and not self.choices:
            raise ValueError("choices is empty")
        if self.choices is not None and (self.min is not None or self.max is not None):
            raise ValueError("choices and a range do not go together")
        return self


class Claim(Strict):
    """One checkable sentence of a paper; `paper` holds its own figures, each marked verified or recalled."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    sentence: str = Field(min_length=1)
    source: str = Field(min_length=1)
    paper: str = ""
    kind: Kind
    sign: Literal[1, -1] = 1  # of an effect: -1 where the source says that the measure falls
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
    hero: str = ""  # a recorded figure that README shows, by its name, and what it shows
    hero_caption: str = ""
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


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; StudyError gives its name and the line that does not parse."""
    shown = shown_path(path)
    try:
        return tomllib.loads(read_regular(path).decode("utf-8"))
    except FileNotFoundError as error:
        raise StudyError(f"{shown} is missing", "Restore it, or start a paper with `study new`") from error
    except OSError as error:
        raise StudyError(f"{shown} could not be read: {error.strerror}", "Restore it") from error
    except RecursionError as error:
        raise StudyError(f"{shown} is not valid TOML: its brackets nest too deep", "Mend it") from error
    except ValueError as error:  # also of bytes that are no text, and of a number with thousands of digits
        raise StudyError(f"{shown} is not valid TOML: {error}", "Mend that line") from error


@read_once
def _read_card(path: Path) -> Card:
    return validated(Card, read_toml(path), path)


def load_card(slug: str) -> Card:
    """Read and check `papers/<slug>/card.toml`; StudyError lists every field that is wrong."""
    path = paper_folder(slug) / "card.toml"
    card = _read_card(path)
    if card.slug != slug:
        raise StudyError(
            f"{shown_path(path)} says slug = {card.slug!r}", f"Write slug = {slug!r}, the folder's name"
        )
    return card


def validated(kind: type[Strict], values: dict[str, Any], path: Path) -> Any:
    """Return `values`, read from `path`, as a record of this kind; StudyError lists every field that is wrong."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'the card'}: {fault['msg']}" for fault in error.errors()
        ]
        raise StudyError(cut(f"{shown_path(path)} does not fit: {'; '.join(faults)}"), "Mend these fields") from error


def shown_path(path: Path) -> str:
    """Return a path for a message, from the workspace's root where it lies inside."""
    root = find_root()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
