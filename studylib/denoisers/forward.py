"""A module's forward, wrapped for the length of a block, and whether the module waits elsewhere between its runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.hooks import AlignDevicesHook, CpuOffload, SequentialHook
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


def is_offloaded(module: nn.Module) -> bool:
    """Whether the module, or one inside it, is moved to its device only while it runs, as accelerate does it."""
    hooks = [one._hf_hook for one in module.modules() if hasattr(one, "_hf_hook")]
    hooks += [one for hook in hooks if isinstance(hook, SequentialHook) for one in hook.hooks]
    return any(isinstance(one, CpuOffload) or isinstance(one, AlignDevicesHook) and one.offload for one in hooks)
