"""A module's forward, wrapped for the length of a block, and the states of modules that such blocks have to know."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, CpuOffload, SequentialHook
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

from studylib.errors import StudyError


class _Uncompiled:
    """Compiled code was traced without what a block has changed since, and would run on without it; so it waits."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.blocks = 0
        self.stance: Any = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Run what `torch.compile` has compiled as plain Python inside the block; blocks nest."""
        with self.lock:
            if not self.blocks:
                self.stance = torch.compiler.set_stance("force_eager")
            self.blocks += 1
        try:
            yield
        finally:
            with self.lock:
                self.blocks -= 1
                if not self.blocks:
                    self.stance.__exit__(None, None, None)


uncompiled = _Uncompiled()


@contextmanager
def forward_wrapped(module: nn.Module, wrapper: Callable[..., Any]) -> Iterator[None]:
    """Run `wrapper(forward, *args, **kwargs)` in place of `module.forward` inside the block.

    Blocks on the same module nest; each puts back exactly what it found, also after an exception. Compiled code runs
    plainly meanwhile, see `uncompiled`.
    """
    forward = module.forward
    before = module.__dict__.get("forward")  # None, unless someone else has wrapped it already

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrapper(forward, *args, **kwargs)

    module.forward = wrapped
    try:
        with uncompiled():
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


def check_unwrapped(module: nn.Module) -> None:
    """Raise StudyError for a module inside another that only passes calls on: its names are not the model's."""
    inner = "_orig_mod" if isinstance(module, OptimizedModule) else "module"
    if isinstance(module, OptimizedModule | nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise StudyError(
            f"this {type(getattr(module, inner)).__name__} is wrapped in a {type(module).__name__}",
            f"Take it out, such as pipe.unet = pipe.unet.{inner}; pipe.unet.compile() compiles it in place",
        )
