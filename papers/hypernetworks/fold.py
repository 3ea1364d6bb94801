"""Without an activation a hypernetwork is a weight edit: it folds into W_K and W_V. With one it does not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from papers.hypernetworks.method import Hypernetwork, HypernetworkConfig, Target, hypernetwork, targets
from studylib.denoisers.forward import uncompiled
from studylib.learning.weights import check_no_adapter, restored

Affine = tuple[Tensor, Tensor]  # A (d, d) and b (d,): f(c) = A c + b


@dataclass(frozen=True)
class Projection:
    """A linear projection with the correction of its input folded in: weight (out, d), bias (out,)."""

    weight: Tensor
    bias: Tensor


def affine_map(correction: nn.Module) -> Affine:
    """W_2 W_1 and W_2 b_1 + b_2, and so on for deeper ones; ValueError for what has an activation or a layer norm."""
    layers = [layer for layer in correction.linear if not isinstance(layer, nn.Dropout)]
    bent = [type(layer).__name__ for layer in layers if not isinstance(layer, nn.Linear)]
    if bent:
        raise ValueError(f"f is not affine, it has {', '.join(dict.fromkeys(bent))}: no W_K' does the same")
    matrix, offset = layers[0].weight.double(), layers[0].bias.double()
    for layer in layers[1:]:
        weight = layer.weight.double()
        matrix, offset = weight @ matrix, weight @ offset + layer.bias.double()
    return matrix, offset  # (d, d), (d,)


def fold_projection(weight: Tensor, matrix: Tensor, offset: Tensor, strength: float) -> Projection:
    """W_K' = W_K (I + m A) and the bias m W_K b: what W_K (c + m (A c + b)) is, as one linear layer."""
    exact = weight.double()
    folded = exact + strength * exact @ matrix  # (out, d)
    return Projection(folded.to(weight), (strength * exact @ offset).to(weight))


def fold(
    pipe: Any, nets: Hypernetwork, strength: float = 1.0, *,
    affine: Callable[[Target], Affine] | None = None, **parts: Sequence[str],
) -> dict[str, Projection]:
    """Every corrected projection with the correction folded in, by its name in the denoiser.

    `parts` are those of `hypernetwork`. `affine(target)` replaces f where it is not affine, as `fit_affine` does.
    Raises StudyError for a denoiser with an adapter, which would read the uncorrected context.
    """
    check_no_adapter(pipe.unet)
    found = {}
    for target in targets(pipe.unet, nets.config, **parts):
        matrix, offset = affine(target) if affine else affine_map(nets[target.pair][target.projection])
        weight = pipe.unet.get_submodule(target.module).weight
        found[target.module] = fold_projection(weight, matrix.to(weight.device), offset.to(weight.device), strength)
    return found


@contextmanager
def folded(pipe: Any, projections: Mapping[str, Projection]) -> Iterator[None]:
    """The denoiser with these projections inside the block; afterwards it is what it was, bit for bit.

    The projections of Stable Diffusion have no bias, so one is added and taken away again.
    """
    modules = {name: pipe.unet.get_submodule(name) for name in projections}
    weights = {f"unet.{name}.weight": module.weight for name, module in modules.items()}
    biases = {name: module.bias for name, module in modules.items()}
    with restored(weights), uncompiled():
        try:
            with torch.no_grad():
                for name, module in modules.items():
                    module.weight.copy_(projections[name].weight)
                    own = 0 if module.bias is None else module.bias
                    module.bias = nn.Parameter(own + projections[name].bias, requires_grad=False)
            yield
        finally:
            for name, module in modules.items():
                module.bias = biases[name]


def fit_affine(nets: Hypernetwork, contexts: Mapping[str, Tensor]) -> Callable[[Target], Affine]:
    """The affine map nearest to f on the contexts that each projection really sees, by least squares.

    contexts: name of the projection -> (N, d). Better than one map a pair, since the fold is by layer.
    """

    def affine(target: Target) -> Affine:
        correction, seen = nets[target.pair][target.projection], contexts[target.module]
        with torch.no_grad():
            wanted = correction(seen).double().cpu()  # (N, d)
        inputs = torch.cat([seen.double().cpu(), torch.ones(len(seen), 1, dtype=torch.float64)], dim=1)  # (N, d + 1)
        solution = torch.linalg.lstsq(inputs, wanted, driver="gelsd").solution  # (d + 1, d)
        return solution[:-1].T, solution[-1]

    return affine


def singular_values(nets: Hypernetwork, pair: str, projection: str) -> Tensor:
    """Singular values of W_2 W_1, (d,), the largest first; an activation between the two is left out."""
    weights = [layer.weight.double().cpu() for layer in nets[pair][projection].linear if isinstance(layer, nn.Linear)]
    return torch.linalg.svdvals(functools.reduce(lambda product, weight: weight @ product, weights)).float()


def is_affine(config: HypernetworkConfig) -> bool:
    """Whether f has neither activation nor layer norm, so that it folds."""
    return config.activation_func == "linear" and not config.layer_norm


@contextmanager
def applied(
    pipe: Any, nets: Hypernetwork, strength: float, *, as_weights: bool, **parts: Sequence[str]
) -> Iterator[None]:
    """The hypernetwork inside the block, as corrections or folded into the weights; `parts` as in `hypernetwork`."""
    as_corrections = hypernetwork(pipe, nets, strength, **parts)
    with folded(pipe, fold(pipe, nets, strength, **parts)) if as_weights else as_corrections:
        yield
