"""A grid of parameters as a command line gives it: values of each knob, as lists and ranges, and all their points."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from studylib.errors import StudyError, cut
from studylib.running.parameters import parse_assignments

MAX_POINTS = 10_000
DIGITS = 18  # of a number in a range; a record holds 64 bits
RANGE = re.compile(r"([+-]?\d+)\.\.([+-]?\d+)(?:\.\.([+-]?\d+))?")


def parse_grid(slug: str, texts: list[str]) -> dict[str, list[Any]]:
    """Read `name=a,b,c`, `name=0..4` or `name=0..20..5` (whole numbers, both ends included) or `name=["a, b", "c"]`.

    Each value is checked as `-p name=value` is. StudyError for a name given twice, an empty range or a value that does
    not fit.
    """
    texts_of: dict[str, Sequence[str]] = {}
    for text in texts:
        name, equals, values = (part.strip() for part in text.partition("="))
        if not equals or not values:
            raise StudyError(f"-g {text} has no values", "Write -g name=a,b or -g name=0..4")
        if name in texts_of:
            raise StudyError(f"{name} is given twice", "Put all its values into one -g")
        texts_of[name] = split_values(values)
    check_size(texts_of)
    return {name: parse_values(slug, name, values) for name, values in texts_of.items()}


def check_size(grid: Mapping[str, Sequence[Any]]) -> int:
    """Return the number of points of a grid; StudyError for more than MAX_POINTS."""
    size = math.prod(map(len, grid.values()))
    if size > MAX_POINTS:
        raise StudyError(f"the grid has {size:,} points, more than {MAX_POINTS:,}", "Leave some values out")
    return size


def parse_values(slug: str, name: str, texts: Sequence[str]) -> list[Any]:
    """Return the values of one knob, each checked as `-p name=value` is; StudyError for one that stands there twice."""
    values = [parse_assignments(slug, [f"{name}={text}"])[name] for text in texts]
    twice = [str(value) for value, count in Counter(values).items() if count > 1]
    if twice:
        raise StudyError(f"-g {name} has {cut(', '.join(twice))} twice", "Keep one of the two")
    return values


def split_values(text: str) -> Sequence[str]:
    """The single values of one knob, as texts; StudyError for a range of more than MAX_POINTS numbers."""
    if text.startswith("["):
        try:
            return [value if isinstance(value, str) else json.dumps(value) for value in json.loads(text)]
        except (ValueError, RecursionError) as error:
            cause = f"{cut(text)} is no JSON list: {error}"
            raise StudyError(cause, 'Write ["a, b", "c"], quoted for the shell') from error
    match = RANGE.fullmatch(text)
    if not match:
        return [value.strip() for value in text.split(",")]
    if max(map(len, filter(None, match.groups()))) > DIGITS:
        raise StudyError(f"{cut(text)} holds a number of more than {DIGITS} digits", "Write smaller ones")
    first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
    if step <= 0 or last < first:
        raise StudyError(f"{text} holds no number", "Write first..last or first..last..step, first the smaller")
    count = (last - first) // step + 1
    if count > MAX_POINTS:
        raise StudyError(f"{text} has {count:,} values, more than {MAX_POINTS:,}", "Write a smaller range or a step")
    return [str(number) for number in range(first, last + 1, step)]


def expand(grid: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """All combinations, the last knob changing fastest."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))
