"""What a trained LoRA looks like from the inside: its spectra, what two of them share, and what W says of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from papers.lora.factors import Lora, amplification, cross_terms, joined, singular_values, subspace_similarity
from studylib.learning.weights import submodule


def spectra(lora: Lora, names: Iterable[str]) -> dict[str, list[float]]:
    """Singular values of each named layer's change, largest first, relative to the largest."""
    found = {}
    for name in names:
        values = singular_values(lora, name)[1]
        found[name] = (values / values[0].clamp(min=1e-12)).tolist()
    return found


def rank_beyond(lora: Lora, rank: int) -> float:
    """The largest singular value after the first `rank`, over the first one, of any layer's full-size change."""
    worst = 0.0
    for name in lora.factors:
        values = torch.linalg.svdvals(lora.delta(name).double())
        if len(values) > rank and values[0] > 0:
            worst = max(worst, float(values[rank] / values[0]))
    return worst


def similarities(one: Lora, other: Lora, least_width: int) -> dict[str, Tensor]:
    """phi of two LoRAs' input directions, (r, r'), layer by layer, where the input has `least_width` features or more.

    In narrower layers the larger LoRA spans (nearly) everything, and phi says nothing.
    """
    return {
        name: subspace_similarity(singular_values(one, name)[2], singular_values(other, name)[2]).cpu()
        for name, (a, _) in one.factors.items() if name in other.factors and a.shape[1] >= least_width
    }  # fmt: skip


def chance_similarity(features: int, shape: tuple[int, int]) -> Tensor:
    """What phi is between random subspaces of this many features, on average: max(i, j) / features, at most 1."""
    i, j = torch.arange(1, shape[0] + 1)[:, None], torch.arange(1, shape[1] + 1)[None]
    return (torch.maximum(i, j) / features).clamp(max=1.0)


def similarity_means(one: Lora, other: Lora, least_width: int = 128) -> tuple[dict[str, Tensor], dict[str, float]]:
    """phi, what chance gives, both as means over layers; and by layer, how far phi(1, 1) is above chance."""
    widest = max(a.shape[1] for a, _ in one.factors.values())
    found = similarities(one, other, min(least_width, widest))
    chance = {name: chance_similarity(one.factors[name][0].shape[1], phi.shape) for name, phi in found.items()}
    shape = min(phi.shape for phi in found.values())
    maps = {
        title: torch.stack([phi[: shape[0], : shape[1]] for phi in values.values()]).mean(0).numpy()
        for title, values in (("trained", found), ("random directions", chance))
    }
    return maps, {name: float(found[name][0, 0] - chance[name][0, 0]) for name in found}


def amplifications(pipe: Any, lora: Lora, rank: int) -> dict[str, dict[str, float]]:
    """`amplification` of each layer that the LoRA changes."""
    return {name: amplification(lora.delta(name), submodule(pipe, name).weight, rank) for name in lora.factors}


def mean_rows(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean over the layers, column by column."""
    columns = next(iter(rows.values()))
    return {column: sum(row[column] for row in rows.values()) / len(rows) for column in columns}


def share_by_kind(lora: Lora) -> dict[str, float]:
    """Share of the whole change's squared length that each kind of layer holds; the shares add up to 1."""
    total, shares = lora.norm() ** 2, {}
    for name in lora.factors:
        kind = "text encoder" if name.startswith("text_encoder") else name.split("transformer_blocks.0.")[-1]
        shares[kind] = shares.get(kind, 0.0) + float(lora.delta(name).double().square().sum()) / total
    return dict(sorted(shares.items()))


def short_name(name: str) -> str:
    """A layer's name as a figure shows it: "mid attn1.to_q", "text 2 q_proj"."""
    if name.startswith("text_encoder"):
        return f"text {name.split('layers.')[-1].split('.')[0]} {name.rpartition('.')[2]}"
    words = name.removeprefix("unet.").split(".")
    place = "mid" if words[0] == "mid_block" else f"{words[0].split('_')[0]} {words[1]}"
    return f"{place} {name.split('transformer_blocks.')[-1].partition('.')[2]}"


def joining_lengths(one: Lora, other: Lora, weight: float) -> dict[str, float]:
    """Lengths over the layers that both adapt, `other` used at `weight`: of the joined change, of its cross terms, of
    both changes, and of what is left of the joined one without them (nothing, up to rounding)."""
    mixed = joined([(one, 1.0), (other, weight)])
    rows = []
    for name in one.factors.keys() & other.factors.keys():
        whole, first, second = mixed.delta(name), one.delta(name), other.delta(name)
        cross = weight * cross_terms(one, other, name)
        rest = whole - first - weight**2 * second - cross
        rows.append([x.double().square().sum() for x in (whole, cross, first, weight * second, rest)])
    names = ("joined", "cross terms", "subject", "style", "rest")
    lengths = torch.tensor(rows, dtype=torch.float64).reshape(-1, len(names)).sum(0).sqrt()
    return dict(zip(names, lengths.tolist(), strict=True))
