"""People: a parametric face is an identity; pose and expression vary; captions tell part of it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

HAIRCUTS = ("short", "long", "curly", "bun", "spiky")
HAIR_COLOURS = ("black", "brown", "blond", "red", "gray")
FACES = ("round", "oval", "square")
EXPRESSIONS = ("smiling", "neutral", "surprised")

SKIN = ((255, 224, 196), (240, 196, 160), (214, 160, 118), (166, 112, 76), (112, 72, 50))
HAIR_RGB = {
    "black": (38, 34, 40),
    "brown": (108, 68, 40),
    "blond": (236, 200, 98),
    "red": (190, 78, 34),
    "gray": (164, 164, 172),
}
EYE_RGB = ((70, 46, 30), (58, 104, 160), (66, 118, 72))

Point = tuple[float, float]


@dataclass(frozen=True)
class Person:
    """An identity (skin to beard) with a pose and an expression. `turn` in [-1, 1] is left to right, `tilt`
    in degrees; `eye_gap, nose_length, mouth_width, brow` in [0, 1] are the fine geometry of the face."""

    skin: int
    face: str
    haircut: str
    hair_colour: str
    eye_colour: int
    eye_gap: float
    nose_length: float
    mouth_width: float
    brow: float
    glasses: bool
    beard: bool
    turn: float = 0.0
    tilt: float = 0.0
    expression: str = "neutral"


def sample_person(rng: random.Random) -> Person:
    """A random identity in a random pose."""
    return Person(
        skin=rng.randrange(len(SKIN)),
        face=rng.choice(FACES),
        haircut=rng.choice(HAIRCUTS),
        hair_colour=rng.choice(HAIR_COLOURS),
        eye_colour=rng.randrange(len(EYE_RGB)),
        eye_gap=rng.random(),
        nose_length=rng.random(),
        mouth_width=rng.random(),
        brow=rng.random(),
        glasses=rng.random() < 0.35,
        beard=rng.random() < 0.3,
        turn=rng.uniform(-1, 1),
        tilt=rng.uniform(-10, 10),
        expression=rng.choice(EXPRESSIONS),
    )


def describe_person(person: Person, colour: str, rng: random.Random | None = None) -> str:
    """A noun phrase: hair, glasses, beard, shirt colour (if given) and expression; with `rng` each part but
    the colour is left out a third of the time."""
    keep = (lambda: True) if rng is None else (lambda: rng.random() >= 1 / 3)
    mood = person.expression if person.expression != "neutral" and keep() else ""
    features = []
    if keep():
        cut = person.haircut if person.haircut != "bun" else ""
        hair = " ".join(w for w in (cut, person.hair_colour, "hair") if w)
        features.append(hair + (" in a bun" if person.haircut == "bun" else ""))
    if person.glasses and keep():
        features.append("glasses")
    if person.beard and keep():
        features.append("a beard")
    words = f"a {mood} person" if mood else "a person"
    if features:
        words += " with " + " and ".join(features)
    if colour:
        words += f" in {'an' if colour[0] in 'aeiou' else 'a'} {colour} shirt"
    return words


def face_points(person: Person) -> dict[str, Point]:
    """The five keypoints in the portrait's own frame (x right, y down, the picture spans about [-1, 1])."""
    shift = 0.16 * person.turn
    gap = 0.17 + 0.06 * person.eye_gap
    mouth = 0.13 + 0.08 * person.mouth_width
    nose_y = 0.0 + 0.10 * person.nose_length
    points = {
        "left_eye": (shift - gap, -0.16),
        "right_eye": (shift + gap, -0.16),
        "nose": (1.45 * shift, nose_y),
        "left_mouth": (shift - mouth, 0.24),
        "right_mouth": (shift + mouth, 0.24),
    }
    return {name: _tilt(p, person.tilt) for name, p in points.items()}


def portrait(person: Person) -> list[tuple[list[Point], object, str]]:
    """The portrait as parts `(points, fill, kind)`, back to front; kind is "area" or "line"; a fill is RGB or a
    role ("body" is the shirt)."""
    skin, hair = SKIN[person.skin], HAIR_RGB[person.hair_colour]
    shade = tuple(int(0.86 * c) for c in skin)
    shift = 0.16 * person.turn
    wide, tall, power = {"round": (0.44, 0.47, 2.0), "oval": (0.38, 0.53, 2.0), "square": (0.42, 0.5, 3.2)}[person.face]
    parts: list[tuple[list[Point], object, str]] = []

    def head(points: list[Point], fill: object, kind: str = "area") -> None:
        parts.append(([_tilt(p, person.tilt) for p in points], fill, kind))

    if person.haircut == "long":
        head(_blob(0, 0.12, wide + 0.16, 0.74, 2.6), hair)
    if person.haircut == "curly":
        for angle in range(150, 391, 30):
            a = math.radians(angle)
            head(_blob(0.48 * math.cos(a), -0.14 + 0.46 * math.sin(a), 0.2, 0.2), hair)
    if person.haircut == "bun":
        head(_blob(-0.1 * person.turn, -0.76, 0.19, 0.18), hair)
    parts.append(([(-0.15, 0.3), (0.15, 0.3), (0.17, 0.72), (-0.17, 0.72)], shade, "area"))
    parts.append((_shirt(), "body", "area"))
    for side in (-1, 1):
        head(_blob(side * (wide - 0.01) - 0.06 * person.turn, -0.04, 0.08, 0.11), shade)
    head(_blob(0, -0.02, wide, tall, power), skin)
    if person.beard:
        head(
            [
                (shift * 0.5 + wide * 0.97 * math.cos(a), 0.04 + (tall + 0.0) * 0.95 * math.sin(a))
                for a in _arc(8, 172, 14)
            ]
            + [
                (-wide * 0.72 + shift * 0.5, 0.1),
                (shift - 0.24, 0.14),
                (shift, 0.12),
                (shift + 0.24, 0.14),
                (wide * 0.72 + shift * 0.5, 0.1),
            ],
            hair,
        )
    _hair_front(person, head, hair, wide, tall)
    _features(person, head, hair, shift)
    return parts


def _features(person: Person, head, hair, shift: float) -> None:
    """Eyes, brows, nose, mouth and glasses, moved sideways by `shift` as the head turns."""
    dark = (44, 34, 36)
    gap = 0.17 + 0.06 * person.eye_gap
    for side in (-1, 1):
        ex = shift + side * gap
        open_eye = 0.082 if person.expression == "surprised" else 0.066
        head(_blob(ex, -0.16, 0.086, open_eye), (250, 250, 250))
        head(_blob(ex + 0.03 * person.turn, -0.16, 0.05, 0.056), EYE_RGB[person.eye_colour])
        head(_blob(ex + 0.03 * person.turn, -0.16, 0.024, 0.028), (20, 18, 20))
        lift = -0.31 - 0.04 * (person.expression == "surprised")
        slope = 0.05 * (person.brow - 0.5)
        brow = tuple(int(0.7 * c) for c in hair)
        head([(ex - 0.10, lift + side * slope), (ex + 0.10, lift - side * slope)], brow, "line")
        if person.glasses:
            head(_blob(ex, -0.16, 0.145, 0.125, 2.6) + [(ex + 0.145, -0.16)], dark, "line")
    if person.glasses:
        head([(shift - gap + 0.145, -0.17), (shift + gap - 0.145, -0.17)], dark, "line")
    nose_y = 0.10 * person.nose_length
    shade = tuple(int(0.66 * c) for c in SKIN[person.skin])
    head(
        [
            (1.2 * shift, -0.10),
            (1.45 * shift + 0.06 * (1 if person.turn >= 0 else -1), nose_y),
            (1.45 * shift - 0.02, nose_y + 0.02),
        ],
        shade,
        "line",
    )
    half = 0.13 + 0.08 * person.mouth_width
    if person.expression == "surprised":
        head(_blob(shift, 0.27, 0.075, 0.1), (120, 36, 44))
    elif person.expression == "smiling":
        upper = [(shift - half, 0.22), (shift + half, 0.22)]
        head(upper + [(shift + half * math.cos(a), 0.22 + 0.15 * math.sin(a)) for a in _arc(0, 180, 10)], (150, 40, 50))
        head(
            [
                (shift - half * 0.8, 0.225),
                (shift + half * 0.8, 0.225),
                (shift + half * 0.65, 0.265),
                (shift - half * 0.65, 0.265),
            ],
            (250, 250, 250),
        )
    else:
        head([(shift - half, 0.25), (shift, 0.262), (shift + half, 0.25)], (140, 56, 58), "line")


def _hair_front(person: Person, head, hair, wide: float, tall: float) -> None:
    """The hair that lies over the forehead."""
    top = [((wide + 0.05) * math.cos(a), -0.04 + (tall + 0.07) * math.sin(a)) for a in _arc(188, 352, 16)]
    part = 0.10 * person.turn
    if person.haircut == "spiky":
        spikes = []
        for i, a in enumerate(_arc(185, 355, 15)):
            r = 1.0 if i % 2 == 0 else 1.34
            spikes.append((r * (wide + 0.04) * math.cos(a), -0.08 + r * (tall + 0.04) * math.sin(a)))
        head(spikes + [(0.28 + part, -0.34), (0.12, -0.27), (part, -0.38), (-0.15, -0.27), (-0.28 + part, -0.34)], hair)
    elif person.haircut == "bun":
        head(top + [(0.22, -0.36), (part, -0.42), (-0.22, -0.36)], hair)
    elif person.haircut == "curly":
        head(top + [(0.26, -0.36), (part, -0.33), (-0.26, -0.36)], hair)
        for x in (-0.24, -0.08, 0.08, 0.24):
            head(_blob(x + part, -0.38, 0.12, 0.1), hair)
    elif person.haircut == "long":
        head(top + [(wide - 0.02, -0.1), (0.3, -0.28), (part + 0.12, -0.42), (-0.24, -0.3), (-wide + 0.02, -0.1)], hair)
    else:
        head(
            top + [(wide - 0.03, -0.22), (0.24, -0.3), (-0.05 + part, -0.32), (-0.3, -0.36), (-wide + 0.03, -0.22)],
            hair,
        )


def _shirt() -> list[Point]:
    """Shoulders and collar, cut off by the lower edge of the picture."""
    return [
        (-0.17, 0.6),
        (0.0, 0.72),
        (0.17, 0.6),
        (0.42, 0.68),
        (0.66, 0.84),
        (0.76, 1.5),
        (-0.76, 1.5),
        (-0.66, 0.84),
        (-0.42, 0.68),
    ]


def _arc(start: float, stop: float, n: int) -> list[float]:
    """`n` angles in radians from `start` to `stop` degrees."""
    return [math.radians(start + (stop - start) * i / (n - 1)) for i in range(n)]


def _blob(x: float, y: float, rx: float, ry: float, power: float = 2.0, n: int = 22) -> list[Point]:
    """A superellipse as a polygon; power 2 is an ellipse, larger is squarer."""
    points = []
    for i in range(n):
        a = 2 * math.pi * i / n
        c, s = math.cos(a), math.sin(a)
        points.append(
            (x + rx * math.copysign(abs(c) ** (2 / power), c), y + ry * math.copysign(abs(s) ** (2 / power), s))
        )
    return points


def _tilt(point: Point, degrees: float, pivot: Point = (0.0, 0.4)) -> Point:
    """`point` rotated about the neck."""
    a = math.radians(degrees)
    x, y = point[0] - pivot[0], point[1] - pivot[1]
    return (pivot[0] + x * math.cos(a) - y * math.sin(a), pivot[1] + x * math.sin(a) + y * math.cos(a))
