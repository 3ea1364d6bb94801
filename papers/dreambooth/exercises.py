"""Exercises that check themselves: each runs your function on fresh inputs and says what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from studylib.showing.exercises import close, expect, shape_of
from studylib.world.scene import Scene
from studylib.world.subjects import SUBJECTS


def check_weighted_loss(your_loss: Callable[[Tensor, Tensor, float, Tensor], Tensor]) -> None:
    """A: min-SNR weights beside prior preservation; AssertionError says what is wrong.

    your_loss(instance_errors, class_errors, prior_loss_weight, weights): errors (B,) each, weights (2B,) in the
    batch's order, subject first.
    """
    for count in (1, 3):
        own, prior, weights = torch.rand(count) + 0.5, torch.rand(count) + 0.5, torch.rand(2 * count)
        try:
            yours = your_loss(own, prior, 0.7, weights)
        except NotImplementedError:
            raise
        except RuntimeError as error:
            raise AssertionError(
                f"B = {count} fails ({error}): there are 2B weights and B errors of the subject; which are its own?"
            ) from error
        expect(isinstance(yours, Tensor) and yours.numel() == 1, f"return one number, not {shape_of(yours)}")
        mine, other = weights[:count], weights[count:]
        plain, weighted = prior.mean(), (mine * own).mean()
        answers = {
            "the weights of a single subject's picture were broadcast over both halves: B = 1 does that silently": (
                (weights * own[:1]).mean() + 0.7 * plain
            ),
            "those are the class's weights: the subject comes first in the batch": (other * own).mean() + 0.7 * plain,
            "the class keeps its plain mean; only the subject's errors are weighted": (
                weighted + 0.7 * (other * prior).mean()
            ),
            "no weight was applied": own.mean() + 0.7 * plain,
            "prior_loss_weight is missing": weighted + plain,
        }
        right = weighted + 0.7 * plain
        for reason, wrong in answers.items():
            expect(close(yours, right) or not close(yours, wrong), f"B = {count}: {reason}")
        expect(close(yours, right), f"B = {count}: {float(yours):.4f}, sought {float(right):.4f}")
    print("A: right. One weight for each picture of the subject, from its own timestep; lambda weighs the class.")


def check_class_scenes(your_scenes: Callable[[Scene, int], Sequence[Scene]]) -> None:
    """B: real pictures of the class in place of generated ones; AssertionError says what is wrong."""
    for name in ("cat", "boat"):
        subject = SUBJECTS[name]
        scenes = list(your_scenes(subject, 24))
        expect(len(scenes) == 24, f"{len(scenes)} scenes, sought 24")
        strange = [scene for scene in scenes if not isinstance(scene, Scene)]
        expect(not strange, f"return scenes, not {strange[:1]!r}; dataclasses.replace makes one from another")
        others = {scene.noun for scene in scenes} - {subject.noun}
        expect(not others, f"the class of {name} is {subject.noun}, there is also {', '.join(sorted(others))}")
        looks = [(scene.colour, scene.pattern, scene.accent) for scene in scenes]
        expect(
            (subject.colour, subject.pattern, subject.accent) not in looks,
            "the subject itself is among them: the prior would teach it as what every one of its class looks like",
        )
        for field in ("colour", "place", "style"):
            kinds = len({getattr(scene, field) for scene in scenes})
            expect(kinds >= 3, f"only {kinds} kinds of {field}: whatever the set never shows, the class forgets")
    print("B: right. Train with them, and look whether `a cat` stays as varied as these are.")
