"""A trained LoRA as data: its factors, what can be computed from them without any model, and its file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers.utils import convert_state_dict_to_diffusers
from safetensors.torch import save_file
from torch import Tensor

FILE = "pytorch_lora_weights.safetensors"
FEATURES = "lora_adapter_metadata"  # where diffusers keeps rank and alpha in the file's header


@dataclass(frozen=True)
class Lora:
    """A (r, k) and B (d, r) of each adapted layer, by name; the weight's change is scale * B A."""

    factors: dict[str, tuple[Tensor, Tensor]]
    scale: float = 1.0

    @property
    def ranks(self) -> set[int]:
        return {len(a) for a, _ in self.factors.values()}

    @property
    def parameters(self) -> int:
        return sum(a.numel() + b.numel() for a, b in self.factors.values())

    def delta(self, name: str) -> Tensor:
        """The change of one layer's weight, (d, k)."""
        a, b = self.factors[name]
        return self.scale * (b @ a)

    def only(self, keep: Callable[[str], bool]) -> Lora:
        """The part on layers whose name `keep` accepts."""
        return replace(self, factors={name: pair for name, pair in self.factors.items() if keep(name)})

    def norm(self) -> float:
        """Frobenius norm of all changes together."""
        return float(sum(self.delta(name).double().square().sum() for name in self.factors) ** 0.5)


def singular_values(lora: Lora, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """U (d, m), singular values (m,) and V^T (m, k) of one layer's change, m = min(r, d, k), from the thin factors."""
    a, b = lora.factors[name]
    left, upper = torch.linalg.qr(b.double())  # (d, p), (p, r)
    right, lower = torch.linalg.qr(a.double().T)  # (k, q), (q, r)
    u, s, vh = torch.linalg.svd(lora.scale * upper @ lower.T, full_matrices=False)  # (p, m), (m,), (m, q)
    return left @ u, s, vh @ right.T


def truncated(lora: Lora, rank: int) -> Lora:
    """The best approximation of every layer's change by `rank` directions; its factors share the singular values."""
    factors = {}
    for name in lora.factors:
        u, s, vh = (x[:, :rank] if i == 0 else x[:rank] for i, x in enumerate(singular_values(lora, name)))
        root = s.sqrt()
        factors[name] = ((root[:, None] * vh).float(), (u * root).float())  # (rank, k), (d, rank)
    return Lora(factors, 1.0)


def extracted(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A (rank, k) and B (d, rank) whose product is nearest to `change` (d, k): a LoRA out of any tuned weight."""
    u, s, vh = torch.linalg.svd(change.double(), full_matrices=False)
    root = s[:rank].sqrt()
    return (root[:, None] * vh[:rank]).float(), (u[:, :rank] * root).float()


def summed(loras: Sequence[tuple[Lora, float]]) -> Lora:
    """One LoRA whose change is the weighted sum of the given ones': their factors stacked, so that the ranks add up."""
    factors = {}
    for name in dict.fromkeys(name for lora, _ in loras for name in lora.factors):
        present = [(lora, weight) for lora, weight in loras if name in lora.factors]
        a = torch.cat([lora.factors[name][0] for lora, _ in present])  # (sum of ranks, k)
        b = torch.cat([weight * lora.scale * lora.factors[name][1] for lora, weight in present], dim=1)  # (d, sum)
        factors[name] = a, b
    return Lora(factors, 1.0)


def joined(loras: Sequence[tuple[Lora, float]]) -> Lora:
    """Factors averaged one by one, as cloneofsimo's in-place joining does: NOT the sum of the changes.

    (sum of w_i B_i) (sum of w_j A_j): each weight enters squared, and B_i A_j of different LoRAs appear. A scale goes
    half into either factor. Raises ValueError for ranks that differ.
    """
    if len({frozenset(lora.ranks) for lora, _ in loras}) > 1:
        raise ValueError(f"joining factor by factor needs LoRAs of one rank, not {[lora.ranks for lora, _ in loras]}")
    factors = {}
    for name in dict.fromkeys(name for lora, _ in loras for name in lora.factors):
        present = [(lora, weight) for lora, weight in loras if name in lora.factors]
        factors[name] = tuple(
            sum(weight * lora.scale**0.5 * lora.factors[name][side] for lora, weight in present) for side in (0, 1)
        )
    return Lora(factors, 1.0)


def cross_terms(one: Lora, other: Lora, name: str) -> Tensor:
    """What joining adds: B_one A_other + B_other A_one, each scaled, (d, k)."""
    (a, b), (c, d) = one.factors[name], other.factors[name]
    return (one.scale * other.scale) ** 0.5 * (b @ c + d @ a)


def subspace_similarity(one: Tensor, other: Tensor) -> Tensor:
    """phi(i, j) = ||U_i^T U_j||^2 / min(i, j) in [0, 1] (the paper's equation 4), (m, n).

    `one` (m, k) and `other` (n, k) hold orthonormal directions as rows, the most important first: phi compares the
    span of the first i with that of the first j. 1: the smaller lies within the larger. 0: they are orthogonal.
    """
    overlap = (one @ other.T).square().cumsum(0).cumsum(1)  # (m, n)
    i, j = torch.arange(1, len(one) + 1)[:, None], torch.arange(1, len(other) + 1)[None]
    return overlap / torch.minimum(i, j)


def amplification(change: Tensor, weight: Tensor, rank: int) -> dict[str, float]:
    """||U^T W V^T|| for the first `rank` directions of the change, of W and of random ones (the paper's table 7).

    `factor`: how much longer the change is in its own directions than W is there.
    """
    generator = torch.Generator().manual_seed(0)
    change, weight = (matrix.detach().cpu().double() for matrix in (change, weight))
    noise = torch.randn(change.shape, generator=generator, dtype=torch.float64)
    lengths = {}
    for name, matrix in (("change", change), ("weight", weight), ("random", noise)):
        u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
        lengths[name] = float((u[:, :rank].T @ weight @ vh[:rank].T).norm())
    return lengths | {"factor": float(change.norm()) / lengths["change"]}


def save_lora(lora: Lora, folder: str | Path, alpha_in_file: bool = True) -> Path:
    """Write the file that `pipe.load_lora_weights(folder)` reads; rank and alpha go to its header.

    Without `alpha_in_file` readers take alpha for the rank, and are right only if the scale is 1.
    """
    tensors, header = {}, {}
    for name, (a, b) in lora.factors.items():
        tensors |= {f"{name}.lora_A.weight": a.float().contiguous(), f"{name}.lora_B.weight": b.float().contiguous()}
    for part in dict.fromkeys(name.split(".")[0] for name in lora.factors):
        names = [name.partition(".")[2] for name in lora.factors if name.startswith(f"{part}.")]
        ranks = {name: len(lora.factors[f"{part}.{name}"][0]) for name in names}
        common = ranks[names[0]]
        header |= {f"{part}.r": common, f"{part}.lora_alpha": lora.scale * common, f"{part}.target_modules": names}
        others = {name: rank for name, rank in ranks.items() if rank != common}
        if others:  # truncated and joined LoRAs have layers of different ranks
            header[f"{part}.rank_pattern"] = others
            header[f"{part}.alpha_pattern"] = {name: lora.scale * rank for name, rank in others.items()}
    metadata = {"format": "pt"} | ({FEATURES: json.dumps(header, sort_keys=True)} if alpha_in_file else {})
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    save_file(convert_state_dict_to_diffusers(tensors), path / FILE, metadata=metadata)  # its scripts' names
    return path / FILE
