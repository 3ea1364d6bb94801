"""The one error type that commands report, and the nearest known name for a mistyped one."""

import difflib
import functools
from collections.abc import Iterable
from typing import Any

LONGEST = 4000  # letters of an error that is shown


class StudyError(Exception):
    """Something a user can mend: a cause in one line and what to do about it.

    `exit_code` is what the command line returns: 2 for bad input, 1 for a run that failed.
    """

    def __init__(self, cause: str, remedy: str = "", *, exit_code: int = 2) -> None:
        self.cause = cause.rstrip(".")
        self.remedy = remedy
        self.exit_code = exit_code
        super().__init__(f"{self.cause}. {remedy}" if remedy else self.cause)

    def __reduce__(self) -> tuple[Any, ...]:
        """Whole across processes: an exception's own way would lose the remedy and the exit code."""
        return functools.partial(type(self), exit_code=self.exit_code), (self.cause, self.remedy)


def cut(text: str) -> str:
    """Return a text for an error, without its middle where it is too long to be read."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} [...] {text[-half:]}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean x? " when a known name is close to `name`, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean {close[0]}? " if close else ""
