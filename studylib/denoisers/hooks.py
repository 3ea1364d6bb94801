"""Read and edit the outputs of single modules and of norms, for the length of a `with` block."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

NormHook = Callable[[nn.Module, Tensor, Callable[[Tensor], Tensor]], Tensor]


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


@contextmanager
def output_hook(module: nn.Module, fn: Callable[[Any], Any]) -> Iterator[None]:
    """Call `fn(output)` after every run of the module; what it returns replaces the output, None keeps it.

    The output is whatever the module returns: a tensor, or a tuple as from a UNet's down blocks. A tensor
    must be replaced by a tensor of the same shape, otherwise ValueError.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"output_hook needs a module, such as pipe.unet.mid_block, not a {type(module).__name__}.",
        )

    def wrapper(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        replacement = fn(output)
        if replacement is None:
            return output
        if isinstance(output, Tensor):
            _check_same_shape(type(module).__name__, replacement, output)
        return replacement

    with forward_wrapped(module, wrapper):
        yield


@contextmanager
def norm_hook(
    denoiser: nn.Module,
    fn: NormHook,
    *,
    kind: type[nn.Module] | tuple[type[nn.Module], ...] = nn.GroupNorm,
) -> Iterator[list[str]]:
    """Run `fn(norm, hidden_states, forward)` in place of every norm of this kind; gives the norms' names.

    `forward` is the norm's own computation and takes a tensor of any size that the norm accepts, so that
    statistics can be taken over more than one picture. `fn` returns a tensor of the shape of `hidden_states`,
    otherwise ValueError. Raises LookupError if there is no norm of this kind.
    """
    norms = {name: module for name, module in denoiser.named_modules() if isinstance(module, kind)}
    if not norms:
        raise LookupError(_no_norm_message(denoiser, kind))
    with ExitStack() as stack:
        for name, norm in norms.items():
            stack.enter_context(forward_wrapped(norm, functools.partial(_run_norm, fn, norm, name)))
        yield list(norms)


def _run_norm(
    fn: NormHook,
    norm: nn.Module,
    name: str,
    forward: Callable[..., Tensor],
    hidden_states: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    # conditional norms take an embedding as well: it stays bound, so that fn sees a function of one tensor
    output = fn(norm, hidden_states, lambda edited: forward(edited, *args, **kwargs))
    _check_same_shape(f"{type(norm).__name__} {name}", output, hidden_states)
    return output


def _check_same_shape(place: str, replacement: Any, original: Tensor) -> None:
    if not isinstance(replacement, Tensor):
        raise TypeError(f"The hook at {place} must return a Tensor, not a {type(replacement).__name__}.")
    if replacement.shape != original.shape:
        raise ValueError(
            f"The hook at {place} returned a tensor of shape {tuple(replacement.shape)}; "
            f"the shape there is {tuple(original.shape)} and must stay so.",
        )


def _no_norm_message(denoiser: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> str:
    sought = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
    present = sorted({name for module in denoiser.modules() if "Norm" in (name := type(module).__name__)})
    return (
        f"{type(denoiser).__name__} has no module of type {sought}. "
        f"Its norms are: {', '.join(present) or 'none'}; choose one of these with kind=."
    )
