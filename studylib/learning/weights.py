"""Weights and modules of a pipeline by name, "unet.conv_in.weight": put in for a block, and back bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from studylib.denoisers.forward import check_unwrapped, is_offloaded, uncompiled
from studylib.denoisers.sites import check_unfused
from studylib.errors import StudyError

LEFT_BY_FUSION = ("to_qkv", "to_kv", "to_added_qkv")  # layers that stay, unread, when projections are unfused


def named_weights(pipe: Any, parts: Sequence[str]) -> dict[str, Tensor]:
    """Every weight of these parts of a pipeline that is read, by name, as `fit` trains them.

    Raises StudyError for a pipeline that cannot be trained as it is now, see `check_trainable`, for fused projections
    and for a loaded adapter, whose weights are not the model's.
    """
    check_trainable(pipe)
    for part in parts:
        check_unfused(getattr(pipe, part))
        check_no_adapter(getattr(pipe, part))
    return {
        f"{part}.{name}": weight
        for part in parts for name, weight in getattr(pipe, part).named_parameters()
        if not set(LEFT_BY_FUSION) & set(name.split("."))
    }  # fmt: skip


def weight_of(pipe: Any, name: str) -> Tensor:
    """The weight or buffer called "part.rest", under a loaded adapter the model's own; LookupError if there is none."""
    module, _, last = name.rpartition(".")
    owner = submodule(pipe, module)
    owner = owner.get_base_layer() if isinstance(owner, BaseTunerLayer) else owner
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
    """Put these weights back from copies when the block ends, whatever has been done to them.

    Raises StudyError for weights that wait elsewhere until they are used.
    """
    check_here(weights)
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

    Raises LookupError for a weight that it has not, ValueError for one of another shape and StudyError where the model
    would not read it, before any is changed.
    """
    check_read(pipe, weights)
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

    Blocks nest. Raises LookupError for a name that it has not and StudyError where the model would not read it, before
    any is replaced.
    """
    before = {name: submodule(pipe, name) for name in modules}
    check_read(pipe, modules)
    check_here({f"{name}.{own}": weight for name, old in before.items() for own, weight in old.named_parameters()})
    try:
        for name, module in modules.items():
            _put(pipe, name, module)
        with uncompiled():
            yield
    finally:
        for name, module in reversed(before.items()):
            _put(pipe, name, module)


def file_size(save: Callable[[Path], Path]) -> int:
    """Bytes of the file that `save(folder)` writes and whose path it returns; the folder is removed again."""
    with tempfile.TemporaryDirectory() as folder:
        return save(Path(folder)).stat().st_size


@contextmanager
def frozen_model(pipe: Any) -> Iterator[None]:
    """A pipeline to train beside: no weight of it gathers gradients inside the block, and compiled parts run plainly.

    `fit` asks for the gradients of what it trains. Raises StudyError for a pipeline that cannot be trained as it is.
    """
    check_trainable(pipe)
    weights = [weight for part in _networks(pipe).values() for weight in part.parameters()]
    before = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        with uncompiled():
            yield
    finally:
        for weight, required in zip(weights, before, strict=True):
            weight.requires_grad_(required)


def check_trainable(pipe: Any) -> None:
    """Raise StudyError for a pipeline whose parts wait on the CPU for their turn, since what is trained would move
    away, for wrapped parts, and inside `torch.inference_mode()`."""
    parts = _networks(pipe)
    for part in parts.values():
        check_unwrapped(part)
    waiting = [name for name, part in parts.items() if is_offloaded(part)]
    if waiting:
        raise StudyError(
            f"this pipeline is offloaded ({', '.join(waiting)} wait on the CPU), and cannot be trained so",
            "Call pipe.remove_all_hooks() and move it to a device that holds it whole, or load a smaller model",
        )
    if torch.is_inference_mode_enabled():
        raise StudyError("nothing can be trained inside torch.inference_mode()", "Use torch.no_grad(), or leave it")


def check_no_adapter(network: nn.Module) -> None:
    """Raise StudyError for a network with an adapter of peft, such as `load_lora_weights` puts there."""
    layers = [name for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)]
    if layers:
        raise StudyError(
            f"{type(network).__name__} has an adapter on {len(layers)} layers, such as {layers[0]}",
            "Call pipe.unload_lora_weights() first, and pipe.fuse_lora() before it to keep what the adapter does",
        )


def check_read(pipe: Any, names: Iterable[str]) -> None:
    """Raise StudyError for projections that attention does not read, since others are fused from them."""
    owners = {part for part, _, rest in (name.partition(".") for name in names) if ".to_" in rest}
    for part in sorted(owners):
        check_unfused(getattr(pipe, part))


def check_here(weights: Mapping[str, Tensor]) -> None:
    """Raise StudyError for weights that wait elsewhere and are put into their layers only while these run."""
    away = [name for name, weight in weights.items() if weight.is_meta]
    if away:
        raise StudyError(
            f"{len(away)} weights, such as {away[0]}, are offloaded one by one and cannot be changed from here",
            "Call pipe.remove_all_hooks() first, or pipe.enable_model_cpu_offload() in place of the sequential one",
        )


def _networks(pipe: Any) -> dict[str, nn.Module]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}


def _put(pipe: Any, name: str, module: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(submodule(pipe, owner) if owner else pipe, last, module)
