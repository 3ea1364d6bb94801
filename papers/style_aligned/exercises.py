"""Exercises that check themselves: each runs your function on fresh inputs and says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from papers.style_aligned.method import adain, share_norm
from studylib.denoisers.hooks import NormCall
from studylib.showing.exercises import close, expect, shape_of, tensors

Statistics = Callable[[Tensor, Tensor, int | None], tuple[Tensor, Tensor]]


def check_shared_statistics(your_statistics: Statistics) -> None:
    """A: which mean and variance a shared norm uses on a target; AssertionError says what is wrong.

    your_statistics(target, reference, groups) returns (mean, variance). groups None is a layer norm on tokens
    (B, N, C), both (B, N, 1); groups g is a group norm on feature maps (B, C, h, w), both (B, g).
    """
    target, reference = torch.randn(2, 12, 8), torch.randn(2, 12, 8) * 3 + 2  # (B, N, C)
    mean, variance = _pair(your_statistics(target, reference, None), (2, 12, 1), "of a layer norm")
    expect(
        close(mean, target.mean(-1, keepdim=True)),
        "a layer norm takes its mean over the channels of one token; the reference's tokens are other rows",
    )
    spread = target.var(-1, correction=0, keepdim=True)
    hint = _variance_hint(variance, spread, 8, "over the channels of one token")
    expect(close(variance, spread), hint)
    shown = _shared(nn.LayerNorm(8, elementwise_affine=False), target, reference)
    normal = (target - mean) / (variance + 1e-5).sqrt()  # (B, N, C)
    expect(close(shown, normal), "these do not give the shared layer norm")

    groups, shape = 4, (2, 8, 6, 6)
    target, reference = torch.randn(shape), torch.randn(shape) * 2 + 3  # (B, C, h, w)
    mean, variance = _pair(your_statistics(target, reference, groups), (2, groups), "of a group norm")
    parts = [x.reshape(2, groups, -1) for x in (target, reference)]  # (B, g, n)
    joint = torch.cat(parts, dim=-1)  # (B, g, 2n)
    expect(
        not close(mean, parts[0].mean(-1)),
        "a group norm's mean runs over the whole map: the reference's half of the joint map counts as well",
    )
    expect(close(mean, joint.mean(-1)), "the group norm's mean is that of target and reference together")
    spread = joint.var(-1, correction=0)
    averaged = sum(part.var(-1, correction=0) for part in parts) / 2
    expect(
        not close(variance, averaged),
        "a union varies more than its parts do on average: the distance between the two means counts",
    )
    hint = _variance_hint(variance, spread, joint.shape[-1], "over target and reference")
    expect(close(variance, spread), hint)
    shown = _shared(nn.GroupNorm(groups, 8, affine=False), target, reference)
    normal = (parts[0] - mean[..., None]) / (variance[..., None] + 1e-5).sqrt()  # (B, g, n)
    expect(close(shown, normal.reshape(shape)), "these do not give the shared group norm")
    print("A: right. A layer norm cannot see the reference, so its flag changes nothing; a group norm must.")


def check_shift_for_copies(your_shift: Callable[[float], float]) -> None:
    """B: the shared_score_shift that counts the reference as m copies; AssertionError says what is wrong."""
    for copies in (1, 2, 3, 8):
        shift = your_shift(copies)
        expect(isinstance(shift, int | float | Tensor), f"for m = {copies} return a number, not {shift!r}")
        query, key, value = torch.randn(3, 1, 1, 10, 6).unbind(0)  # (1, 1, tokens, d)
        own, reference = slice(0, 5), slice(5, 10)
        bias = torch.zeros(1, 10)
        bias[:, reference] = float(shift)
        shifted = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        shown = [own] + [reference] * copies
        keys, values = (torch.cat([x[..., part, :] for part in shown], dim=-2) for x in (key, value))
        copied = F.scaled_dot_product_attention(query, keys, values)  # against 5 + 5 m tokens
        if not close(shifted, copied):
            amount = "much" if float(shift) > math.log(copies) else "little"
            raise AssertionError(
                f"m = {copies}: a shift of {float(shift):.3g} weighs the reference's tokens "
                f"{math.exp(float(shift)):.3g} times, too {amount}; "
                "what must be added to a logit for its exponential to grow m times?",
            )
    print("B: right. A shift of log m shows the reference m times, also for m that are no whole numbers.")


def check_colour_shift(your_shift: Callable[[Tensor, Tensor], Tensor]) -> None:
    """C: how far adain_values moves the mean value of a target; AssertionError says what is wrong.

    your_shift(target, reference), both (tokens, channels), returns (channels,), before tokens are mixed.
    """
    for _ in range(3):
        target, reference = torch.randn(2, 40, 5) * (torch.rand(2, 1, 5) + 0.5) + 2 * torch.randn(2, 1, 5)
        pair = torch.stack([reference, target])[:, None]  # (set, 1 head, tokens, channels)
        true = adain(pair, set_size=2)[1, 0].mean(0) - target.mean(0)  # (channels,)
        yours = your_shift(target, reference)
        expect(
            isinstance(yours, Tensor) and yours.shape == true.shape,
            f"return one number a channel, shape {tuple(true.shape)}, not {shape_of(yours)}",
        )
        expect(not close(yours, -true), "the sign is wrong: the target moves towards the reference")
        expect(not close(yours, reference.mean(0)), "that is where the mean arrives, not how far it went")
        expect(yours.abs().max() > 0, "AdaIN replaces the mean as well as the spread, so the mean moves")
        gap = (yours - true).abs().max().item()
        expect(close(yours, true), f"off by {gap:.3g}: new mean minus old mean, channel by channel")
    print("C: right. The target's values take on the reference's mean colour, whatever the target shows.")


def _shared(norm: nn.Module, target: Tensor, reference: Tensor) -> Tensor:
    """The target as `share_norm` normalises it beside this reference, pair by pair."""
    pairs = torch.stack([reference, target], dim=1).flatten(0, 1)  # (B * 2, ...)
    return share_norm(2)(NormCall("", norm, pairs, norm, None, None))[1::2]  # (B, ...)


def _pair(answer: object, shape: tuple[int, ...], what: str) -> tuple[Tensor, Tensor]:
    mean, variance = tensors(answer, ("mean", "variance"))
    for name, statistic in (("mean", mean), ("variance", variance)):
        shapes = f"the {name} {what} has {shape_of(statistic)}, sought {shape}"
        expect(statistic.numel() == math.prod(shape), f"{shapes}: is it taken over the right axes?")
    return mean.reshape(shape), variance.reshape(shape)


def _variance_hint(variance: Tensor, spread: Tensor, count: int, where: str) -> str:
    if close(variance, spread * count / (count - 1)):
        return "norms take the biased variance, which divides by n and not by n - 1"
    if close(variance, spread.sqrt()):
        return "that is the standard deviation; return its square, the variance"
    return f"the variance is taken {where}"
