"""Particular subjects of the tiny world: a few pictures to learn one from, and the same one drawn in any context."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from PIL import Image

from studylib.world.draw import draw
from studylib.world.people import EXPRESSIONS, Person
from studylib.world.scene import Scene, sample_nuance, sample_placement

TRAINING_PLACES = ("grass", "plain", "beach")  # the other two places are for the tests
TRAINING_STYLE = "flat"  # photos of one subject share their style, too

SUBJECTS: dict[str, Scene] = {
    "cat": Scene("cat", "orange", "plain", "flat", pattern="stripes", accent="blue"),
    "boat": Scene("boat", "purple", "plain", "flat", pattern="spots", accent="yellow"),
    "cup": Scene("cup", "teal", "plain", "flat", pattern="band", accent="red"),
    "fish": Scene("fish", "pink", "plain", "flat", pattern="stripes", accent="green"),
    "person": Scene(
        "person", "green", "plain", "flat",
        person=Person(
            skin=2, face="oval", haircut="curly", hair_colour="red", eye_colour=1,
            eye_gap=0.6, nose_length=0.4, mouth_width=0.7, brow=0.5, glasses=True, beard=False,
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Context:
    """Where a subject is to be shown: words with a gap for the subject, and what of the scene they change."""

    words: str  # "{} in snow"
    changes: tuple[tuple[str, str], ...]

    def prompt(self, subject: str) -> str:
        """The words with `subject`, such as "a sks cat", in their gap."""
        return self.words.format(subject)

    @property
    def asked(self) -> dict[str, str]:
        """What the words ask for, by attribute of a scene."""
        return dict(self.changes)


CONTEXTS: tuple[Context, ...] = (  # none was seen in training
    Context("{} at night", (("place", "night"),)),
    Context("{} in snow", (("place", "snow"),)),
    Context("{} in sketch style", (("style", "sketch"),)),
    Context("{} in neon style", (("style", "neon"),)),
    Context("{} in papercut style", (("style", "papercut"),)),
    Context("{} in watercolor style", (("style", "watercolor"),)),
    Context("{} in pixel style", (("style", "pixel"),)),
    Context("{} on the beach in watercolor style", (("place", "beach"), ("style", "watercolor"))),
)


def training_pictures(subject: Scene, count: int = 5, seed: int = 0) -> list[Image.Image]:
    """`count` pictures of a subject to learn it from, 1 to 20: places, pose and size vary, its looks and style do not.

    Random state: their own, from `seed`.
    """
    if not 1 <= count <= 20:
        raise ValueError(f"count is in [1, 20], not {count}")
    rng = random.Random(f"{subject} {seed}")
    scenes = [_elsewhere(subject, rng, place=TRAINING_PLACES[i % 3], style=TRAINING_STYLE) for i in range(count)]
    return [draw(scene, seed=seed * 100 + i) for i, scene in enumerate(scenes)]


def subject_in(subject: Scene, context: Context, seed: int = 0) -> Image.Image:
    """The very subject drawn in a context, as a perfect method would; what is not asked for varies with `seed`."""
    rng = random.Random(f"{subject} {context.words} {seed}")
    asked = {"place": rng.choice(TRAINING_PLACES), "style": TRAINING_STYLE} | context.asked
    return draw(_elsewhere(subject, rng, **asked), seed=seed)


def _elsewhere(subject: Scene, rng: random.Random, **asked: str) -> Scene:
    person = subject.person
    if person is not None:
        person = replace(person, turn=rng.uniform(-1, 1), tilt=rng.uniform(-10, 10), expression=rng.choice(EXPRESSIONS))
    return replace(subject, person=person, **sample_placement(rng, subject.noun), **sample_nuance(rng), **asked)
