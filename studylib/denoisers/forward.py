"""A module's forward, wrapped for the length of a block: what all hooks are made of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def forward_wrapped(module: nn.Module, wrapper: Callable[..., Any]) -> Iterator[None]:
    """Run `wrapper(forward, *args, **kwargs)` in place of `module.forward` inside the block.

    Blocks on the same module nest; each puts back exactly what it found, also after an exception.
    """
    forward = module.forward
    before = module.__dict__.get("forward")  # None, unless someone else has wrapped it already

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrapper(forward, *args, **kwargs)

    module.forward = wrapped
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
