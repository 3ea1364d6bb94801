"""Exercises that check themselves: each runs your function on fresh inputs and says what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from papers.lora.factors import extracted
from studylib.showing.exercises import expect, tensors


def check_extraction(your_extraction: Callable[[Tensor, float], tuple[Tensor, Tensor]]) -> None:
    """A: the smallest LoRA that keeps a share of a tuned weight's change; AssertionError says what is wrong.

    your_extraction(change, share) returns A (r, k) and B (d, r); `share` is of the squared length, in (0, 1).
    """
    for share, seed in ((0.5, 0), (0.9, 1), (0.99, 2)):
        generator = torch.Generator().manual_seed(seed)
        decay = 0.75 ** torch.arange(12.0)
        change = torch.randn(30, 12, generator=generator) * decay @ torch.randn(12, 20, generator=generator)  # (30, 20)
        a, b = tensors(your_extraction(change, share), ("A", "B"))
        expect(a.ndim == b.ndim == 2, "A and B are matrices")
        swapped = a.shape[0] == 30 and b.shape[1] == 20
        expect(not swapped, "A reads the input and B writes the output: A is (r, 20), B is (30, r)")
        shapes = f"A has shape {tuple(a.shape)} and B {tuple(b.shape)}, sought (r, 20) and (30, r)"
        expect(a.shape[1] == 20 and b.shape[0] == 30 and a.shape[0] == b.shape[1], shapes)
        energy = torch.linalg.svdvals(change).square()
        kept = energy.cumsum(0) / energy.sum()
        rank = int((kept < share).sum()) + 1
        product, best = b @ a, torch.matmul(*extracted(change, len(a))[::-1])
        expect(
            (product - best).norm() <= 1e-3 * change.norm(),
            f"B A is off by {(product - best).norm() / change.norm():.2g} of the change's length from the best "
            f"product of rank {len(a)}: where did the singular values go? They belong into B A once",
        )
        expect(
            len(a) >= rank,
            f"rank {len(a)} keeps {kept[len(a) - 1]:.3f} of the squared length, sought {share}; "
            "lengths are squared before they are added",
        )
        expect(len(a) == rank, f"rank {len(a)} is more than needed: {rank} keeps {kept[rank - 1]:.3f}")
    print("A: right. That is how a LoRA is extracted from a fully tuned model; its spectrum says how much is lost.")


def check_scale(your_scale: Callable[[int, str], float]) -> None:
    """B: what must multiply B A for a first step that helps as much at every rank; AssertionError says what is wrong.

    your_scale(rank, optimiser), optimiser "sgd" or "adam", up to a constant.
    """
    for optimiser in ("sgd", "adam"):
        gains = {rank: first_gain(rank, float(your_scale(rank, optimiser)), optimiser) for rank in (1, 4, 16, 64)}
        growth = gains[64] / gains[1] if gains[1] else 0.0
        if not 0.6 < growth < 1.7:
            hint = {
                "sgd": "the scale counts twice: once in the gradient of B, once in the change",
                "adam": "Adam divides the gradient by its own size: the scale counts once",
            }[optimiser]
            raise AssertionError(
                f"{optimiser}: rank 64 gains {growth:.3g} times what rank 1 gains with your scale, sought 1; {hint}"
            )
    print("B: right. Adam needs alpha / r; plain gradient descent needs alpha / sqrt(r), as rsLoRA has it.")


def first_gain(rank: int, scale: float, optimiser: str, width: int = 256, draws: int = 8) -> float:
    """How much the first step lowers the loss to first order, -<change, gradient>: mean of random gradients.

    The weight's gradient G is random; A is kaiming-uniform and B zero. Plain descent steps by the gradient of B, which
    is scale * G A^T, Adam by its signs.
    """
    total = 0.0
    for draw in range(draws):
        generator = torch.Generator().manual_seed(draw)
        gradient = torch.randn(width, width, generator=generator)
        a = (2 * torch.rand(rank, width, generator=generator) - 1) / width**0.5  # (r, k)
        of_b = scale * gradient @ a.T  # (d, r)
        step = of_b if optimiser == "sgd" else of_b.sign()
        total += float((scale * step @ a * gradient).sum())  # -<change, G> at rate 1
    return total / draws
