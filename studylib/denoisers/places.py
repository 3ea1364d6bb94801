"""Where kinds of tokens lie among the keys of an attention call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_appended: ContextVar[Sequence[tuple[str, int]]] = ContextVar("_appended", default=())


@contextmanager
def appended_tokens(**counts: int) -> Iterator[None]:
    """Name the last tokens of the picture's sequence inside the block, such as `condition=16`, for attention hooks.

    For methods that put further tokens behind a transformer's own; of several names the last stands at the end.
    """
    token = _appended.set(tuple(counts.items()))
    try:
        yield
    finally:
        _appended.reset(token)


def image_counts(tokens: int) -> list[tuple[str, int]]:
    """Names and numbers of the tokens in the picture's sequence, in their order."""
    appended = _appended.get()
    return [("image", tokens - sum(count for _, count in appended)), *appended] if appended else [("image", tokens)]


def places_of(counts: Sequence[tuple[str, int]]) -> dict[str, slice]:
    """Slices of tokens that follow one another; names without tokens are left out."""
    places, start = {}, 0
    for name, count in counts:
        if count:
            places[name] = slice(start, start + count)
        start += count
    return places
