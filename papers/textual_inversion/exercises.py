"""Exercises that check themselves: each runs your function on fresh inputs and says what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from papers.textual_inversion.method import token_names
from studylib.showing.exercises import close, expect


def check_rate(your_rate: Callable[[float, int, int, int, bool], float]) -> None:
    """A: what the optimiser gets; AssertionError says what is wrong.

    your_rate(learning_rate, train_batch_size, gradient_accumulation_steps, processes, scale_lr).
    """
    for base, batch, accumulation, processes, scale in (
        (1e-4, 3, 5, 7, True), (5e-3, 4, 1, 2, True), (5e-4, 1, 4, 1, True), (5e-3, 4, 2, 2, False),
    ):
        yours = your_rate(base, batch, accumulation, processes, scale)
        case = f"base {base:g}, batch {batch}, accumulation {accumulation}, {processes} processes, scale_lr={scale}"
        expect(isinstance(yours, int | float | Tensor), f"{case}: return a number, not {yours!r}")
        samples = batch * accumulation * processes if scale else 1
        hints = {
            base: "that is the base rate; scale_lr multiplies it",
            base * batch * processes: "the batches that are accumulated belong to one step as well",
            base * batch * accumulation: "every process adds a batch of its own to the step",
            base / samples: "more samples make the step larger, not smaller",
            base * batch * accumulation * processes: "without scale_lr the base rate is used as it stands",
        }
        said = next((hint for rate, hint in hints.items() if close(yours, rate)), "how many samples make a step?")
        expect(close(yours, base * samples), f"{case}: sought {base * samples:g}, not {float(yours):g}: {said}")
    print("A: right. The paper's 0.005 is 0.04 in its optimiser: four pictures on each of two GPUs.")


def check_expand(your_expand: Callable[[str, str, int], str]) -> None:
    """B: a prompt with a word of several vectors, as the text encoder is given it; AssertionError says what is wrong.

    your_expand(prompt, token, count) returns the prompt.
    """
    for prompt, token, count in (
        ("a <cat> in snow", "<cat>", 1), ("a <cat> in snow", "<cat>", 3), ("a photo of <art>, at night", "<art>", 2),
        ("a <cat> beside a <cat>", "<cat>", 2), ("a cat in snow", "<cat>", 3),
    ):
        right = prompt.replace(token, " ".join(token_names(token, count)))
        yours = your_expand(prompt, token, count)
        case = f"{prompt!r} with {token} of {count} vectors"
        expect(isinstance(yours, str), f"{case}: return the new prompt as text, not {yours!r}")
        expect(token in prompt or yours == prompt, f"{case}: a prompt without the word stays as it is")
        expect(f"{token}_0" not in yours, f"{case}: the first vector keeps the bare name, the second is {token}_1")
        expect(f"{token}_{count}" not in yours, f"{case}: one token too many; {count} vectors end at _{count - 1}")
        expect(
            yours.count(token) == prompt.count(token) * count,
            f"{case}: sought {prompt.count(token) * count} tokens of the word, not {yours.count(token)}",
        )
        expect(yours == right, f"{case}: sought {right!r}, not {yours!r}")
    print("B: right. The words behind move to the right by count - 1, and what passes the last token is cut off.")


def check_blend(your_blend: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """C: a word between two words; AssertionError says what is wrong.

    your_blend(v, w, share), both (D,): direction of the straight mixture, norm the mixture of the norms.
    """
    for share in (0.0, 0.25, 0.5, 1.0):
        v, w = torch.randn(64), 3 * torch.randn(64)
        straight = torch.lerp(v, w, share)  # (D,)
        length = torch.lerp(v.norm(), w.norm(), share)
        yours = your_blend(v, w, share)
        expect(isinstance(yours, Tensor) and yours.shape == v.shape, f"return a vector like v, {tuple(v.shape)}")
        swapped = torch.lerp(w, v, share)
        expect(
            share == 0.5 or not _same_direction(yours, swapped), f"share {share:g}: share 0 is v and share 1 is w"
        )
        expect(_same_direction(yours, straight), f"share {share:g}: the direction is that of (1 - share) v + share w")
        expect(
            0 < share < 1 or torch.allclose(yours, straight, atol=1e-4), f"share {share:g}: the ends are the words"
        )
        expect(
            close(yours.norm(), length),
            f"share {share:g}: norm {yours.norm():.3g}, sought {length:.3g}; unlike vectors shorten their mean",
        )
    print("C: right. Midway between unlike words of one norm a plain mean has 0.71 of it; that has to be put back.")


def _same_direction(a: Tensor, b: Tensor) -> bool:
    return torch.cosine_similarity(a, b, dim=0).item() > 1 - 1e-4
