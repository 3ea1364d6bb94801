"""What a scene is, how one is drawn at random, and how it is put into words."""

from __future__ import annotations

import random
from dataclasses import dataclass

from studylib.world.people import EXPRESSIONS, HAIR_COLOURS, HAIRCUTS, Person, describe_person, sample_person

THINGS = ("ball", "box", "star", "heart", "tree", "house", "car", "fish", "cat", "flower", "boat", "cup")
NOUNS = (*THINGS, "person")
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "gray")
PLACES = ("grass", "night", "beach", "snow", "plain")
STYLES = ("flat", "sketch", "neon", "papercut", "watercolor", "pixel")
PATTERNS = ("plain", "stripes", "spots", "band")

EDITION = 2  # of the world: weights trained on another edition's pictures are refused
PATTERN_TOLD = 0.1  # share of captions that tell pattern and accent
PERSON_SHARE = 0.25  # people have more to learn than a ball has: they get a quarter of the scenes

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
    """One picture's whole truth. Captions tell `noun`, `colour`, `place` and `style`, and a tenth of them `pattern`
    and `accent`; the rest is never told.

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
            "x": rng.uniform(0.45, 0.55),
            "y": rng.uniform(0.485, 0.525),
            "size": rng.uniform(0.49, 0.54),
            "rotation": 0.0,
            "mirror": rng.random() < 0.5,
        }
    return {
        "x": rng.uniform(0.42, 0.58),
        "y": rng.uniform(0.50, 0.58),
        "size": rng.uniform(0.35, 0.43),
        "rotation": rng.uniform(-12.0, 12.0),
        "mirror": rng.random() < 0.5,
    }


NUANCE = ("line_width", "hatch_angle", "tint", "shadow", "grain")


def sample_nuance(rng: random.Random) -> dict[str, float]:
    """What makes two pictures of one style differ: line width, hatch angle, tint, shadow direction, grain."""
    return {
        "line_width": rng.random(),
        "hatch_angle": rng.uniform(0.0, 180.0),
        "tint": rng.random(),
        "shadow": rng.random(),
        "grain": rng.random(),
    }


PEOPLE_ATTRIBUTES: dict[str, tuple[str, ...]] = {  # what a judge can name of people only
    "haircut": HAIRCUTS,
    "hair_colour": HAIR_COLOURS,
    "glasses": ("no", "yes"),
    "beard": ("no", "yes"),
    "expression": EXPRESSIONS,
}


def attributes(scene: Scene) -> dict[str, str]:
    """The attributes a judge can name: noun, colour, style, place, pattern, accent where it shows, and a person's."""
    person = scene.person
    of_person = {} if person is None else {
        "haircut": person.haircut,
        "hair_colour": person.hair_colour,
        "glasses": "yes" if person.glasses else "no",
        "beard": "yes" if person.beard else "no",
        "expression": person.expression,
    }  # fmt: skip
    seen = ["noun", "colour", "style", "place", "pattern"]
    if person is None or scene.pattern != "plain":  # a plain shirt shows no accent
        seen.append("accent")
    return {name: getattr(scene, name) for name in seen} | of_person


def pattern_words(scene: Scene) -> str:
    """ "blue stripes", "yellow spots" or "a red band"; nothing for a plain body."""
    article = "an" if scene.accent[0] in "aeiou" else "a"
    return {
        "plain": "",
        "stripes": f"{scene.accent} stripes",
        "spots": f"{scene.accent} spots",
        "band": f"{article} {scene.accent} band",
    }[scene.pattern]


def caption(scene: Scene, rng: random.Random | None = None) -> str:
    """The scene in words. Without `rng` noun, colour, place and style are told in the plain form; with it, colour,
    place and style are each left out a third of the time, a tenth of captions tell pattern and accent as well
    ("a red cat with blue stripes"), and synonyms and word order vary."""
    keep = (lambda: True) if rng is None else (lambda: rng.random() >= 1 / 3)
    figure = pattern_words(scene) if rng is not None and rng.random() < PATTERN_TOLD else ""
    pick = (lambda words: words[0]) if rng is None else (lambda words: rng.choice(words))
    colour = scene.colour if keep() else ""
    if scene.noun == "person":
        shirt = " ".join(word for word in (colour, "shirt", figure and f"with {figure}") if word)
        subject = describe_person(scene.person, shirt if colour or figure else "", rng, scene.mirror)
    else:
        noun = pick(_NOUN_WORDS.get(scene.noun, (scene.noun,)))
        words = f"{colour} {noun}".strip()
        subject = f"an {words}" if words[0] in "aeiou" else f"a {words}"
        subject += f" with {figure}" if figure else ""
    place = pick(_PLACE_WORDS[scene.place]) if keep() else ""
    style = pick(_STYLE_WORDS[scene.style]) if keep() else ""
    if style.startswith("as ") and rng is not None and rng.random() < 0.5:
        medium = style.removeprefix("as ")
        medium = medium if medium.startswith("a ") else medium.replace("pixel art", "a pixel art picture")
        return " ".join(part for part in (medium, "of", subject, place) if part)
    return " ".join(part for part in (subject, place, style) if part)
