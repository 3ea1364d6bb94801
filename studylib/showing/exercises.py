"""How an exercise is checked, and how a notebook tells a reader whether it is solved, without ending the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


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


def expect(condition: object, reason: str) -> None:
    """Object to an answer: raise AssertionError with the reason unless the condition is true."""
    if not condition:
        raise AssertionError(reason)


def close(answer: Tensor | float, right: Tensor | float, tolerance: float = 1e-4) -> bool:
    """Whether a number or tensor has the right shape and is off by no more than `tolerance` of the largest value."""
    answer, right = (torch.as_tensor(value).double() for value in (answer, right))
    if answer.shape != right.shape:
        return False
    return bool((answer - right).abs().max() <= tolerance * right.abs().max())


def shape_of(answer: object) -> str:
    """What an answer is, for a message: the shape of a tensor, else the kind of thing."""
    return f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"


def tensors(answer: object, names: Sequence[str]) -> tuple[Tensor, ...]:
    """An answer of as many tensors as there are names; AssertionError says what should be returned."""
    right = isinstance(answer, tuple | list) and len(answer) == len(names)
    right = right and all(isinstance(tensor, Tensor) for tensor in answer)
    expect(right, f"return ({', '.join(names)}), each a tensor")
    return tuple(answer)
