"""A LoRA beside a network's weights, through peft: for methods that need one and are not about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from studylib.denoisers.forward import uncompiled
from studylib.denoisers.sites import check_unfused
from studylib.learning.weights import check_here, check_no_adapter

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class Adapter:
    """A LoRA that stands in a network: its layers by the names of those underneath."""

    layers: Mapping[str, LoraLayer]

    def parameters(self) -> dict[str, Tensor]:
        """The factors by name, as `fit` trains them: A (rank, in) and B (out, rank) of each layer."""
        return {
            f"{name}.{side}": getattr(layer, f"lora_{side}")["default"].weight
            for name, layer in self.layers.items() for side in "AB"
        }  # fmt: skip

    def weights(self) -> dict[str, Tensor]:
        """Copies of the factors, to be kept or saved."""
        return {name: weight.detach().clone() for name, weight in self.parameters().items()}

    def set_strength(self, strength: float) -> None:
        """Scale the update; 0 is the network without it, bit for bit."""
        for layer in self.layers.values():
            layer.set_scale("default", strength)


@contextmanager
def lora_adapter(
    network: nn.Module,
    *,
    rank: int = 8,
    alpha: float | None = None,
    targets: Sequence[str] = ATTENTION,
    seed: int = 0,
    weights: Mapping[str, Tensor] | None = None,
    strength: float = 1.0,
) -> Iterator[Adapter]:
    """Give every linear layer that ends in one of `targets` a LoRA inside the block; afterwards the layers are the very
    ones that were there.

    The update is alpha / rank * B A, alpha by default the rank. B starts at zero, so that nothing changes before
    training; random state: `seed` alone. weights: trained factors, from `Adapter.weights`. Raises LookupError if no
    layer matches or a factor has no layer, StudyError for a network that has an adapter, fused
    projections or weights that are offloaded one by one.
    """
    check_no_adapter(network)
    check_unfused(network)
    check_here(dict(network.named_parameters()))
    chosen = [
        name for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and any(name == end or name.endswith(f".{end}") for end in targets)
    ]  # fmt: skip
    if not chosen:
        raise LookupError(f"{type(network).__name__} has no linear layer that ends in {', '.join(targets)}")
    frozen = {name: weight.requires_grad for name, weight in network.named_parameters()}
    before = {name: network.get_submodule(name) for name in chosen}
    config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=chosen, bias="none")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, network)
        adapter = Adapter({name: network.get_submodule(name) for name in chosen})
        _fill(adapter, weights or {})
        adapter.set_strength(strength)
        with uncompiled():
            yield adapter
    finally:
        for name, layer in before.items():
            owner, _, last = name.rpartition(".")
            setattr(network.get_submodule(owner), last, layer)
        if hasattr(network, "peft_config"):
            del network.peft_config
        for name, weight in network.named_parameters():
            weight.requires_grad_(frozen[name])


@torch.no_grad()
def _fill(adapter: Adapter, weights: Mapping[str, Tensor]) -> None:
    own = adapter.parameters()
    strange = sorted(set(weights) - set(own))
    if strange:
        raise LookupError(f"the adapter has no factor {strange[0]!r}: it was trained on other layers")
    for name, weight in weights.items():
        own[name].copy_(weight)
    for weight in own.values():
        weight.requires_grad_(False)  # `fit` asks for gradients while it trains
