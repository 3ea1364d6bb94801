"""Read and edit the outputs of single modules and of norms, for the length of a `with` block; stop a pass early."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from studylib.denoisers.forward import check_unwrapped, forward_wrapped
from studylib.denoisers.steps import Clock


@dataclass
class FeatureCall:
    """One run of one module. step and timestep as in `Clock`: None for a module that is told none.

    output: whatever the module returned: a tensor, or a tuple as from a UNet's down blocks.
    """

    name: str
    module: nn.Module
    output: Any
    step: int | None
    timestep: float | None


@dataclass
class NormCall:
    """One run of one norm. forward: the norm's own computation, of a tensor of any size that the norm accepts, so that
    statistics can be taken over more than one picture. step and timestep as in `Clock`."""

    name: str
    norm: nn.Module
    hidden_states: Tensor
    forward: Callable[[Tensor], Tensor]
    step: int | None
    timestep: float | None


FeatureHook = Callable[[FeatureCall], Any]
NormHook = Callable[[NormCall], Tensor]


@contextmanager
def feature_hook(denoiser: nn.Module, hook: FeatureHook, *, where: str | Iterable[str]) -> Iterator[list[str]]:
    """Call `hook(call)` after every run of the modules called `where`; gives their names.

    What the hook returns replaces the output, None keeps it. A tensor must be replaced by a tensor of the same shape,
    otherwise ValueError. `denoiser` is what is told the timestep, or another module, which has no steps. Blocks nest:
    the inner hook comes first. Raises LookupError for a name that it has not.
    """
    modules = named_modules(denoiser, where)
    clock = Clock(denoiser)
    with clock.running(), ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(forward_wrapped(module, functools.partial(_run_feature, hook, name, module, clock)))
        yield list(modules)


@contextmanager
def norm_hook(
    denoiser: nn.Module,
    hook: NormHook,
    *,
    kind: type[nn.Module] | tuple[type[nn.Module], ...] = nn.GroupNorm,
) -> Iterator[list[str]]:
    """Run `hook(call)` in place of every norm of this kind; gives the norms' names.

    It returns a tensor of the shape of `call.hidden_states`, otherwise ValueError. Raises LookupError if there is no
    norm of this kind.
    """
    check_unwrapped(denoiser)
    norms = {name: module for name, module in denoiser.named_modules() if isinstance(module, kind)}
    if not norms:
        raise LookupError(_no_norm_message(denoiser, kind))
    clock = Clock(denoiser)
    with clock.running(), ExitStack() as stack:
        for name, norm in norms.items():
            stack.enter_context(forward_wrapped(norm, functools.partial(_run_norm, hook, name, norm, clock)))
        yield list(norms)


class _Stopped(BaseException):
    """Leaves a forward whose rest is not needed; no error, so that no `except Exception` takes it for one."""

    def __init__(self, block: object) -> None:
        self.block = block


@contextmanager
def stop_after(denoiser: nn.Module, where: str) -> Iterator[None]:
    """Leave the block as soon as the module called `where` has run: the rest of the pass is not computed.

    What stands behind the forward inside the block does not run, so that only the forward should stand there. Hooks
    of inner blocks and of the module itself have been called. Raises LookupError for a name that it has not.
    """
    module = named_modules(denoiser, where)[where]
    block = object()

    def run_and_leave(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        forward(*args, **kwargs)
        raise _Stopped(block)

    with forward_wrapped(module, run_and_leave):
        try:
            yield
        except _Stopped as stopped:
            if stopped.block is not block:
                raise


def read_features(
    denoiser: nn.Module, run: Callable[[], Any], *, where: str | Iterable[str], stop: bool = True
) -> dict[str, Any]:
    """Run a forward, such as `lambda: denoiser.predict(...)`, and give the outputs of the modules `where`, by name.

    With `stop` the pass ends when all of them have run. Gradients flow as in the forward; where a module runs several
    times its last output counts. Raises LookupError for one that did not run.
    """
    names = list(named_modules(denoiser, where))
    found: dict[str, Any] = {}
    block = object()

    def keep(call: FeatureCall) -> None:
        found[call.name] = call.output
        if stop and len(found) == len(names):
            raise _Stopped(block)

    try:
        with feature_hook(denoiser, keep, where=names):
            run()
    except _Stopped as stopped:
        if stopped.block is not block:
            raise
    missing = [name for name in names if name not in found]
    if missing:
        raise LookupError(f"in this forward {', '.join(missing)} did not run")
    return found


def named_modules(denoiser: nn.Module, where: str | Iterable[str]) -> dict[str, nn.Module]:
    """The modules called `where`, by name; LookupError with the nearest name for one that is not there."""
    if not isinstance(denoiser, nn.Module):
        raise TypeError(f"hooks are set in a denoiser's network, such as pipe.unet, not in a {type(denoiser).__name__}")
    check_unwrapped(denoiser)
    present = dict(denoiser.named_modules())
    names = [where] if isinstance(where, str) else list(where)
    for name in names:
        if name not in present:
            nearest = difflib.get_close_matches(name, present, n=1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise LookupError(f"{type(denoiser).__name__} has no module {name!r}.{hint}")
    if not names:
        raise LookupError("where names no module")
    return {name: present[name] for name in names}


def _run_feature(
    hook: FeatureHook,
    name: str,
    module: nn.Module,
    clock: Clock,
    forward: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    output = forward(*args, **kwargs)
    replacement = hook(FeatureCall(name, module, output, clock.step, clock.timestep))
    if replacement is None:
        return output
    if isinstance(output, Tensor):
        _check_same_shape(f"{type(module).__name__} {name}", replacement, output)
    return replacement


def _run_norm(
    hook: NormHook,
    name: str,
    norm: nn.Module,
    clock: Clock,
    forward: Callable[..., Tensor],
    hidden_states: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    # conditional norms take an embedding as well: it stays bound, so that the hook sees a function of one tensor
    own = functools.partial(_forward_of, forward, args, kwargs)
    output = hook(NormCall(name, norm, hidden_states, own, clock.step, clock.timestep))
    _check_same_shape(f"{type(norm).__name__} {name}", output, hidden_states)
    return output


def _forward_of(forward: Callable[..., Tensor], args: tuple, kwargs: dict[str, Any], edited: Tensor) -> Tensor:
    return forward(edited, *args, **kwargs)


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
