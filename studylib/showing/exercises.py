"""How a notebook tells a reader whether an exercise is solved, without ending the run when it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def try_answer(check: Callable[[Callable[..., Any]], None], answer: Callable[..., Any]) -> bool:
    """Run `check(answer)`, print "not yet" with the checker's reason if it objects, and return whether it was content.

    Only AssertionError and NotImplementedError count as objections; any other error of `answer` is shown as it is.
    """
    try:
        check(answer)
    except NotImplementedError:
        print(f"not yet: write {answer.__name__} first")
        return False
    except AssertionError as objection:
        print(f"not yet: {objection}")
        return False
    return True
