"""How much attention a set's targets pay to its reference: the quantity that AdaIN is there to raise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from studylib.denoisers.attention import attention_hook
from studylib.denoisers.call import AttentionCall
from studylib.measuring.metrics import reference_mass
from studylib.showing.figures import blend_heat

MASS_QUERIES = 256  # of a picture's queries, evenly spaced, are looked at


@contextmanager
def record_reference_mass(pipe: Any, *, set_size: int, every: int = 1) -> Iterator[dict[tuple[str, int], float]]:
    """Record how much attention the targets pay to the reference: (site, step) -> mass in [0, 1].

    Open it around `generate` or `style_aligned`, to see the calls that sharing makes. The mean over halves,
    targets, heads and at most 256 evenly spaced queries a picture; 0 where nothing is shared. Weights are computed
    beside the fused attention and cost about as much: `every` looks at each n-th step only.
    """
    if set_size < 2:
        raise ValueError(f"a set of {set_size} has no target whose attention could be recorded")
    masses: dict[tuple[str, int], float] = {}

    def record(call: AttentionCall) -> None:
        if call.step % every:
            return
        tokens = call.hidden_states.shape[1]
        pooled = call.query.shape[-2] == set_size * tokens  # full sharing made one row of the whole set
        reference = slice(0, tokens) if pooled else slice(tokens, 2 * tokens)
        shared = call.key.shape[-2] > tokens
        weights = _target_weights(call, set_size, tokens, pooled) if shared else None
        masses[call.site.name, call.step] = reference_mass(weights, reference) if shared else 0.0

    with attention_hook(pipe.unet, record, where="self"):
        yield masses


def _target_weights(call: AttentionCall, set_size: int, tokens: int, pooled: bool) -> Tensor:
    """Attention weights (..., queries, keys) of the targets, at most MASS_QUERIES queries each."""
    stride = math.ceil(tokens / MASS_QUERIES)
    if pooled:
        rows = call.query[:, :, tokens::stride]  # (sets, heads, queries, d)
        return dataclasses.replace(call, query=rows).weights()
    targets = torch.arange(call.query.shape[0], device=call.query.device) % set_size > 0
    some = _items(call, targets)
    return dataclasses.replace(some, query=some.query[:, :, ::stride]).weights()  # (targets, heads, queries, keys)


def _items(call: AttentionCall, rows: Tensor | slice) -> AttentionCall:
    """The call for some items of the batch alone, with their part of the mask and of the shift it carries."""
    per_item = call.mask is not None and call.mask.ndim == 4 and call.mask.shape[0] == call.query.shape[0]
    mask = call.mask[rows] if per_item else call.mask
    return dataclasses.replace(call, query=call.query[rows], key=call.key[rows], mask=mask)


@contextmanager
def record_reference_map(pipe: Any, *, set_size: int, target: int, step: int) -> Iterator[dict[int, Tensor]]:
    """Record where one target looks on the reference at one step: tokens -> map (tokens, tokens), rows are queries.

    Means over heads and over the sites with this many tokens, in the last half of the batch (the conditional one).
    Only this target's rows are computed, so that a large model's maps fit. Open it around `style_aligned`.
    """
    found: dict[int, list[Tensor]] = {}

    def record(call: AttentionCall) -> None:
        tokens = call.hidden_states.shape[1]
        if call.step == step and call.key.shape[-2] == 2 * tokens:
            row = call.query.shape[0] - set_size + target
            weights = _items(call, slice(row, row + 1)).weights()[0].mean(dim=0)  # (N, 2N)
            found.setdefault(tokens, []).append(weights[:, tokens:].cpu())  # (N, N)

    maps: dict[int, Tensor] = {}
    with attention_hook(pipe.unet, record, where="self"):
        yield maps
    maps |= {tokens: torch.stack(parts).mean(dim=0) for tokens, parts in found.items()}


def look_from(maps: dict[int, Tensor], reference: Image.Image) -> Callable[[int, int], Image.Image]:
    """A function of a pixel (x, y) of the target that shows the finest map of its query on the reference."""
    if not maps:
        raise ValueError("no map was recorded: open record_reference_map around style_aligned, with attention shared")
    weights = maps[max(maps)]  # (N, N)
    side = math.isqrt(len(weights))  # square pictures only

    def look(x: int, y: int) -> Image.Image:
        row, column = y * side // reference.height, x * side // reference.width
        return blend_heat(reference, weights[row * side + column].reshape(side, side))

    return look
