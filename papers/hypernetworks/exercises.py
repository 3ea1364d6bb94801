"""Exercises that check themselves: each runs your function on fresh inputs and says what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from studylib.showing.exercises import close, expect, shape_of, tensors

Fold = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


def check_fold(your_fold: Fold) -> None:
    """A: (W_K', bias) from (W_K, W_1, b_1, W_2, b_2, m); AssertionError says what is wrong.

    W_K (out, d), W_1 (2d, d), b_1 (2d,), W_2 (d, 2d), b_2 (d,); the answer (out, d) and (out,).
    """
    for strength in (1.0, 0.4):
        width, out = 6, 5
        key, first, second = torch.randn(out, width), torch.randn(2 * width, width), torch.randn(width, 2 * width)
        offset_1, offset_2 = torch.randn(2 * width), torch.randn(width)
        weight, bias = _two(
            your_fold(key, first, offset_1, second, offset_2, strength), [(out, width), (out,)], ["W_K'", "the bias"]
        )
        expect(not close(weight, strength * key @ second @ first), "that is the change of W_K; W_K itself is missing")
        if strength != 1:
            expect(not close(weight, key + key @ second @ first), "the strength m multiplies f, so it is in W_K' too")
            expect(not close(bias, key @ (second @ offset_1 + offset_2)), "the strength m multiplies f's bias, too")
        expect(close(weight, key + strength * key @ second @ first), "W_K' = W_K + m W_K W_2 W_1; mind the order")
        expect(
            not close(bias, strength * (second @ offset_1 + offset_2)),
            "the bias is added before W_K, so W_K has to carry it to the key",
        )
        context = torch.randn(7, width)  # (tokens, d)
        corrected = context + strength * ((context @ first.T + offset_1) @ second.T + offset_2)
        expect(close(context @ weight.T + bias, corrected @ key.T), "the bias is m W_K (W_2 b_1 + b_2)")
    print("A: right. Without an activation a hypernetwork is a weight edit, with a bias that W_K did not have.")


def check_low_rank(your_factors: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]) -> None:
    """B: (B, A) of rank r nearest to the change W_K W_2 W_1; AssertionError says what is wrong.

    your_factors(W_K (out, d), W_2 W_1 (d, d), r) returns B (out, r) and A (r, d).
    """
    for rank in (1, 3):
        key, matrix = torch.randn(5, 8) * torch.logspace(0, 1, 5)[:, None], torch.randn(8, 8)
        up, down = _two(your_factors(key, matrix, rank), [(5, rank), (rank, 8)], ["B", "A"])
        change = key @ matrix  # (out, d)
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        best = values[rank:].norm()
        gap = (up @ down - change).norm()
        cut = torch.linalg.svd(matrix)
        first_cut = key @ (cut[0][:, :rank] * cut[1][:rank]) @ cut[2][:rank]
        expect(
            not close(up @ down, first_cut) or gap <= 1.001 * best,
            "you cut W_2 W_1 and multiplied by W_K then: the best cut of a product is not the product of a cut",
        )
        expect(not close(up @ down, left[:, :rank] @ right[:rank]), "right directions, but no singular values")
        expect(
            gap <= 1.001 * best,
            f"rank {rank}: B A misses the change by {gap:.3g}, the best of that rank by {best:.3g}; try an SVD of it",
        )
    print("B: right. Cut to rank r the change is a LoRA; all layers of a width share W_2 W_1, a LoRA has one a layer.")


def check_stack(your_stack: Callable[[Sequence[tuple[Tensor, float]]], Tensor]) -> None:
    """C: the one matrix that stacked hypernetworks multiply a context by; AssertionError says what is wrong.

    your_stack([(A_1, m_1), (A_2, m_2), ...]) returns (d, d); A_i = W_2 W_1 of the i-th, applied in this order to c, and
    there are no biases.
    """
    for count in (1, 2, 3):
        parts = [(torch.randn(5, 5), 0.3 + 0.5 * i) for i in range(count)]
        matrix = your_stack(parts)
        expect(isinstance(matrix, Tensor) and matrix.shape == (5, 5), f"return a (5, 5) matrix, not {shape_of(matrix)}")
        eye, forward, backward = torch.eye(5), torch.eye(5), torch.eye(5)
        for change, strength in parts:
            forward, backward = (eye + strength * change) @ forward, backward @ (eye + strength * change)
        added = eye + sum(strength * change for change, strength in parts)
        if count > 1:
            expect(not close(matrix, added), "corrections do not just add up: the second corrects the first as well")
            expect(not close(matrix, backward), "the order: the first acts on c first, so it stands on the right")
        expect(close(matrix, forward), f"off with {count} stacked: each multiplies what it is given by I + m A")
    print("C: right. Two hypernetworks multiply, so that swapping them changes the picture.")


def _two(answer: object, shapes: Sequence[tuple[int, ...]], names: Sequence[str]) -> tuple[Tensor, Tensor]:
    first, second = tensors(answer, names)
    for tensor, shape, name in zip((first, second), shapes, names, strict=True):
        expect(tuple(tensor.shape) == shape, f"{name} has {shape_of(tensor)}, sought {shape}")
    return first, second
