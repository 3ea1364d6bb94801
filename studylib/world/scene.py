"""What a scene is, how one is drawn at random, and how it is put into words."""

from __future__ import annotations

import random
from dataclasses import dataclass

from studylib.world.people import Person, describe_person, sample_person

THINGS = ("ball", "box", "star", "heart", "tree", "house", "car", "fish", "cat", "flower", "boat", "cup")
NOUNS = (*THINGS, "person")
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "gray")
PLACES = ("grass", "night", "beach", "snow", "plain")
STYLES = ("flat", "sketch", "neon", "papercut", "watercolor", "pixel")
PATTERNS = ("plain", "stripes", "spots", "band")

PERSON_SHARE = 0.2  # people have more to learn than a ball has: they get more than 1/13 of the scenes

_PLACE_WORDS = {
    "grass": ("on grass", "on grass", "in a meadow"),
    "night": ("at night", "at night", "under the stars"),
    "beach": ("on the beach", "on the beach", "by the sea"),
    "snow": ("in snow", "in snow", "in the snow"),
    "plain": ("on a plain background", "on a plain background", "in a studio"),
}
_STYLE_WORDS = {
    "flat": ("in flat style", "in flat style", "as a flat drawing"),
    "sketch": ("in sketch style", "in sketch style", "as a pencil sketch"),
    "neon": ("in neon style", "in neon style", "as a neon sign"),
    "papercut": ("in papercut style", "in papercut style", "as a paper cutout"),
    "watercolor": ("in watercolor style", "in watercolor style", "as a watercolor painting"),
    "pixel": ("in pixel style", "in pixel style", "as pixel art"),
}
_NOUN_WORDS = {
    "box": ("box", "box", "gift box"),
    "house": ("house", "house", "cottage"),
    "cat": ("cat", "cat", "kitten"),
    "boat": ("boat", "boat", "ship"),
    "cup": ("cup", "cup", "mug"),
    "flower": ("flower", "flower", "blossom"),
}


@dataclass(frozen=True)
class Scene:
    """One picture's whole truth. Captions tell `noun`, `colour`, `place` and `style`; the rest is never told.

    `pattern` and `accent` are the identity of a thing, `person` that of a person (whose shirt has `colour`).
    `x, y` is the centre and `size` the half-extent, in picture widths; `rotation` in degrees.
    `line_width, tint, shadow, grain` in [0, 1] and `hatch_angle` in degrees are the nuance of the style.
    """

    noun: str
    colour: str
    place: str
    style: str
    pattern: str = "plain"
    accent: str = "yellow"
    x: float = 0.5
    y: float = 0.56
    size: float = 0.3
    rotation: float = 0.0
    mirror: bool = False
    line_width: float = 0.5
    hatch_angle: float = 45.0
    tint: float = 0.5
    shadow: float = 0.25
    grain: float = 0.3
    person: Person | None = None

    def __post_init__(self) -> None:
        for field, allowed in (
            ("noun", NOUNS),
            ("colour", COLOURS),
            ("place", PLACES),
            ("style", STYLES),
            ("pattern", PATTERNS),
            ("accent", COLOURS),
        ):
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(f"Scene.{field} is {value!r}; the world has {', '.join(allowed)}")
        if (self.noun == "person") != (self.person is not None):
            raise ValueError("Scene.person must be given for noun='person' and for no other noun")


def sample_scene(rng: random.Random) -> Scene:
    """A random scene: every attribute uniform, `PERSON_SHARE` of them people, no two attributes tied."""
    noun = "person" if rng.random() < PERSON_SHARE else rng.choice(THINGS)
    colour = rng.choice(COLOURS)
    return Scene(
        noun=noun,
        colour=colour,
        place=rng.choice(PLACES),
        style=rng.choice(STYLES),
        pattern=rng.choice(PATTERNS),
        accent=rng.choice([c for c in COLOURS if c != colour]),
        person=sample_person(rng) if noun == "person" else None,
        **sample_placement(rng, noun),
        **sample_nuance(rng),
    )


def sample_placement(rng: random.Random, noun: str) -> dict[str, float | bool]:
    """Position, size, rotation and mirror; people stand upright and fill the picture as portraits do."""
    if noun == "person":
        return {
            "x": rng.uniform(0.43, 0.57),
            "y": rng.uniform(0.50, 0.56),
            "size": rng.uniform(0.36, 0.44),
            "rotation": 0.0,
            "mirror": rng.random() < 0.5,
        }
    return {
        "x": rng.uniform(0.40, 0.60),
        "y": rng.uniform(0.50, 0.62),
        "size": rng.uniform(0.31, 0.40),
        "rotation": rng.uniform(-12.0, 12.0),
        "mirror": rng.random() < 0.5,
    }


def sample_nuance(rng: random.Random) -> dict[str, float]:
    """What makes two pictures of one style differ: line width, hatch angle, tint, shadow direction, grain."""
    return {
        "line_width": rng.random(),
        "hatch_angle": rng.uniform(0.0, 180.0),
        "tint": rng.random(),
        "shadow": rng.random(),
        "grain": rng.random(),
    }


def attributes(scene: Scene) -> dict[str, str]:
    """The attributes a judge can name: noun, colour, style, place, pattern."""
    return {
        "noun": scene.noun,
        "colour": scene.colour,
        "style": scene.style,
        "place": scene.place,
        "pattern": scene.pattern,
    }


def caption(scene: Scene, rng: random.Random | None = None) -> str:
    """The scene in words. Without `rng` all four attributes are told in the plain form; with it, colour,
    place and style are each left out a third of the time and synonyms and word order vary."""
    keep = (lambda: True) if rng is None else (lambda: rng.random() >= 1 / 3)
    pick = (lambda words: words[0]) if rng is None else (lambda words: rng.choice(words))
    colour = scene.colour if keep() else ""
    if scene.noun == "person":
        subject = describe_person(scene.person, colour, rng)
    else:
        noun = pick(_NOUN_WORDS.get(scene.noun, (scene.noun,)))
        words = f"{colour} {noun}".strip()
        subject = f"an {words}" if words[0] in "aeiou" else f"a {words}"
    place = pick(_PLACE_WORDS[scene.place]) if keep() else ""
    style = pick(_STYLE_WORDS[scene.style]) if keep() else ""
    if style.startswith("as ") and rng is not None and rng.random() < 0.5:
        medium = style.removeprefix("as ")
        medium = medium if medium.startswith("a ") else medium.replace("pixel art", "a pixel art picture")
        return " ".join(part for part in (medium, "of", subject, place) if part)
    return " ".join(part for part in (subject, place, style) if part)
