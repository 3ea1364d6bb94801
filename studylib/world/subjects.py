"""Particular subjects of the tiny world: a few pictures to learn one from, and the same one drawn in any context."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from PIL import Image

from studylib.world.draw import draw
from studylib.world.people import Person, sample_pose
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
    """Where a subject is to be shown: words with a gap for the subject, and what of the scene or person they change."""

    words: str  # "{} in snow"; before the gap stands what is said of the noun: "smiling {}"
    changes: tuple[tuple[str, str], ...] = ()
    person: tuple[tuple[str, str | float], ...] = ()

    def prompt(self, subject: str) -> str:
        """The words with `subject`, such as "a sks cat", in their gap."""
        before, _, after = self.words.partition("{}")
        article, _, noun = subject.partition(" ")
        return f"{article} {before}{noun}{after}"

    @property
    def asked(self) -> dict[str, str]:
        """What the words ask for, by attribute that a judge can name."""
        return dict(self.changes) | {name: value for name, value in self.person if isinstance(value, str)}


_PLACES_AND_STYLES = (  # none was seen in training
    Context("{} at night", (("place", "night"),)),
    Context("{} in snow", (("place", "snow"),)),
    Context("{} in sketch style", (("style", "sketch"),)),
    Context("{} in neon style", (("style", "neon"),)),
    Context("{} in papercut style", (("style", "papercut"),)),
    Context("{} in watercolor style", (("style", "watercolor"),)),
)
CONTEXTS: tuple[Context, ...] = (
    *_PLACES_AND_STYLES,
    Context("{} in pixel style", (("style", "pixel"),)),
    Context("{} on the beach in watercolor style", (("place", "beach"), ("style", "watercolor"))),
    Context("{} in snow in sketch style", (("place", "snow"), ("style", "sketch"))),
    Context("{} at night in papercut style", (("place", "night"), ("style", "papercut"))),
)
PEOPLE_CONTEXTS: tuple[Context, ...] = (
    *_PLACES_AND_STYLES,
    Context("smiling {}", person=(("expression", "smiling"),)),
    Context("surprised {}", person=(("expression", "surprised"),)),
    Context("{} looking left", person=(("turn", -0.8),)),
    Context("{} looking right", person=(("turn", 0.8),)),
)


def contexts_for(subject: Scene) -> tuple[Context, ...]:
    """The ten contexts of a subject: places and styles; for a person also two expressions and two poses."""
    return CONTEXTS if subject.person is None else PEOPLE_CONTEXTS


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
    """The very subject drawn in a context, as a perfect method would; what is not asked for varies with `seed`.

    Raises ValueError for a context of people and a subject that is none.
    """
    if context.person and subject.person is None:
        raise ValueError(f"{context.prompt('a ' + subject.noun)!r} asks for a person; the subject is a {subject.noun}")
    rng = random.Random(f"{subject} {context} {seed}")
    asked = {"place": rng.choice(TRAINING_PLACES), "style": TRAINING_STYLE} | dict(context.changes)
    scene = _elsewhere(subject, rng, **asked)
    if context.person:
        scene = replace(scene, person=replace(scene.person, **dict(context.person)), mirror=False)
    return draw(scene, seed=seed)


def _elsewhere(subject: Scene, rng: random.Random, **asked: str) -> Scene:
    person = None if subject.person is None else replace(subject.person, **sample_pose(rng))
    return replace(subject, person=person, **sample_placement(rng, subject.noun), **sample_nuance(rng), **asked)
