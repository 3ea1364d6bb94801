"""Weights and modules of a pipeline by name, "unet.conv_in.weight": put in for a block, and back bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from studylib.denoisers.forward import is_offloaded
from studylib.errors import StudyError


def named_weights(pipe: Any, parts: Sequence[str]) -> dict[str, Tensor]:
    """Every weight of these parts of a pipeline, by name, as `fit` trains them.

    Raises StudyError for an offloaded pipeline.
    """
    check_not_offloaded(pipe)
    return {f"{part}.{name}": weight for part in parts for name, weight in getattr(pipe, part).named_parameters()}


def weight_of(pipe: Any, name: str) -> Tensor:
    """The weight or buffer called "part.rest"; LookupError if there is none."""
    module, _, last = name.rpartition(".")
    owner = submodule(pipe, module)
    for kind in (owner._parameters, owner._buffers):
        if kind.get(last) is not None:
            return kind[last]
    raise LookupError(f"{module} has no weight {last!r}")


def submodule(pipe: Any, name: str) -> nn.Module:
    """The module called "part" or "part.rest"; LookupError if there is none."""
    part, _, rest = name.partition(".")
    module = getattr(pipe, part, None)
    try:
        if isinstance(module, nn.Module):
            return module.get_submodule(rest)
    except AttributeError:
        pass
    raise LookupError(f"{type(pipe).__name__} has no module {name!r}")


@contextmanager
def restored(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Put these weights back from copies when the block ends, whatever has been done to them."""
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])


@contextmanager
def swapped(pipe: Any, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Give the pipeline other weights inside the block, by name; afterwards it has its own, bit for bit.

    Raises LookupError for a weight that it has not and ValueError for one of another shape, before any is changed.
    """
    own = {name: weight_of(pipe, name) for name in weights}
    for name, weight in own.items():
        if weight.shape != weights[name].shape:
            raise ValueError(f"{name} has the shape {tuple(weight.shape)}, not {tuple(weights[name].shape)}")
    with restored(own):
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(weights[name])
        yield


@contextmanager
def replaced(pipe: Any, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put other modules in the pipeline inside the block, by name; afterwards the very ones that were there.

    Blocks nest. Raises LookupError for a name that it has not, before any is replaced.
    """
    before = {name: submodule(pipe, name) for name in modules}
    try:
        for name, module in modules.items():
            _put(pipe, name, module)
        yield
    finally:
        for name, module in reversed(before.items()):
            _put(pipe, name, module)


def file_size(save: Callable[[Path], Path]) -> int:
    """Bytes of the file that `save(folder)` writes and whose path it returns; the folder is removed again."""
    with tempfile.TemporaryDirectory() as folder:
        return save(Path(folder)).stat().st_size


def check_not_offloaded(pipe: Any) -> None:
    """Raise StudyError for a pipeline whose parts wait on the CPU for their turn: what is trained would move away."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    waiting = [name for name, part in parts.items() if is_offloaded(part)]
    if waiting:
        raise StudyError(
            f"this pipeline is offloaded ({', '.join(waiting)} wait on the CPU), and cannot be trained so",
            "Load a smaller model, or one whole on a GPU with more memory",
        )


def _put(pipe: Any, name: str, module: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(submodule(pipe, owner) if owner else pipe, last, module)
