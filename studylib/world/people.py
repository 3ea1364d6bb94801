"""People: a parametric face is an identity; pose and expression vary; captions tell part of it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from studylib.world.geometry import Part, Point, arc, blob

HAIRCUTS = ("short", "long", "curly", "bun", "spiky")
HAIR_COLOURS = ("black", "brown", "blond", "red", "gray")
FACES = ("round", "oval", "square")
EXPRESSIONS = ("smiling", "neutral", "surprised")
LOOKING = 0.4  # a head turned further than this looks to a side, and captions may say so

SKIN = ((255, 224, 196), (240, 196, 160), (214, 160, 118), (166, 112, 76), (112, 72, 50))
EYE_RGB = ((70, 46, 30), (58, 104, 160), (66, 118, 72))

_WHITE, _PUPIL, _FRAME, _LIPS, _MOUTH = (250, 250, 250), (24, 20, 24), (44, 34, 36), (176, 62, 66), (124, 34, 44)
_EYE_Y, _MOUTH_Y = -0.09, 0.29
_FACE_SHAPES = {"round": (0.50, 0.49, 2.0), "oval": (0.43, 0.55, 2.0), "square": (0.46, 0.51, 3.4)}


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
        **sample_pose(rng),
    )


def sample_pose(rng: random.Random) -> dict[str, object]:
    """Turn, tilt and expression: what differs between two pictures of one person."""
    return {"turn": rng.uniform(-1, 1), "tilt": rng.uniform(-10, 10), "expression": rng.choice(EXPRESSIONS)}


def describe_person(person: Person, shirt: str, rng: random.Random | None = None, mirror: bool = False) -> str:
    """A noun phrase: hair, glasses, beard, `shirt` (such as "red shirt", or nothing), expression, and to which side
    of the picture a turned head looks. With `rng` each part but the shirt is left out a third of the time, the side
    two thirds; without it the side is never told."""
    keep = (lambda share=2 / 3: True) if rng is None else (lambda share=2 / 3: rng.random() < share)
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
    if shirt:
        words += f" in {'an' if shirt[0] in 'aeiou' else 'a'} {shirt}"
    if rng is not None and abs(person.turn) > LOOKING and keep(1 / 3):
        words += " looking " + ("right" if (person.turn > 0) != mirror else "left")
    return words


def face_points(person: Person) -> dict[str, Point]:
    """The five keypoints in the portrait's own frame (x right, y down, the picture spans about [-1, 1])."""
    left, right = _eyes(person)
    shift, half = _shift(person), _mouth_half(person)
    points = {
        "left_eye": (left, _EYE_Y),
        "right_eye": (right, _EYE_Y),
        "nose": _nose_tip(person),
        "left_mouth": (shift - half, _MOUTH_Y),
        "right_mouth": (shift + half, _MOUTH_Y),
    }
    return {name: _tilt(p, person.tilt) for name, p in points.items()}


def _shift(person: Person) -> float:
    """How far the middle of the face moves sideways as the head turns."""
    return 0.13 * person.turn


def _eyes(person: Person) -> tuple[float, float]:
    """x of the left and of the right eye; the far one comes closer to the nose as the head turns."""
    gap = 0.18 + 0.07 * person.eye_gap
    return tuple(_shift(person) + side * gap * (1 - 0.18 * side * person.turn) for side in (-1, 1))


def _mouth_half(person: Person) -> float:
    return 0.12 + 0.11 * person.mouth_width


def _nose_tip(person: Person) -> Point:
    return 1.5 * _shift(person) + (0.06 if person.turn >= 0 else -0.06), 0.06 + 0.10 * person.nose_length


def portrait(person: Person) -> list[Part]:
    """The portrait's parts, back to front, in its own frame."""
    skin = SKIN[person.skin]
    shade = tuple(int(0.84 * c) for c in skin)
    wide, tall, power = _FACE_SHAPES[person.face]
    parts: list[Part] = []

    def head(points: list[Point], fill: object, kind: str = "area", width: float = 1.0, detail: bool = False) -> None:
        parts.append(Part(tuple(_tilt(p, person.tilt) for p in points), fill, kind, width, detail))

    if person.haircut == "long":
        head(blob(0, 0.14, wide + 0.19, 0.76, 2.8), "hair")
    elif person.haircut == "curly":
        head(_curls(wide + 0.17, tall + 0.13, -0.08), "hair")
    elif person.haircut == "bun":
        head(blob(-0.1 * person.turn, -0.67, 0.23, 0.2), "hair")
    parts.append(Part(((-0.19, 0.36), (0.19, 0.36), (0.2, 0.72), (-0.2, 0.72)), shade))
    parts.append(Part(_SHIRT, "body"))
    for side in (-1, 1):
        head(blob(side * (wide + 0.01) - 0.06 * person.turn, 0.0, 0.09, 0.13), shade)
    head(blob(0, 0, wide, tall, power), skin)
    if person.beard:
        _beard(person, head, wide, tall, power)
    _hair_front(person, head, wide, tall)
    _features(person, head, skin)
    return parts


def _beard(person: Person, head, wide: float, tall: float, power: float) -> None:
    """The lower part of the face, with a wave under the nose as its upper edge."""
    shift = _shift(person)
    jaw = [p for p in blob(0, 0.0, wide * 0.99, tall * 1.02, power, n=44) if p[1] > 0.1]
    jaw.sort(key=lambda p: math.atan2(p[1], p[0]))  # from the right ear round the chin to the left one
    edge = [(-0.28 + shift, 0.22), (shift, 0.16), (0.28 + shift, 0.22)]
    head([*jaw, *edge], "hair")


def _features(person: Person, head, skin: tuple[int, int, int]) -> None:
    """Eyes, brows, nose, mouth and glasses; each is several latent cells wide."""
    shift, half = _shift(person), _mouth_half(person)
    surprised = person.expression == "surprised"
    for side, x in zip((-1, 1), _eyes(person), strict=True):
        look = x + 0.025 * person.turn
        head(blob(x, _EYE_Y, 0.115, 0.125 if surprised else 0.095), _WHITE, detail=True)
        head(blob(look, _EYE_Y, 0.072, 0.08), EYE_RGB[person.eye_colour], detail=True)
        head(blob(look, _EYE_Y, 0.036, 0.042, n=12), _PUPIL, detail=True)
        lift = -0.30 if surprised else -0.26
        slope = side * 0.10 * (person.brow - 0.5)
        head([(x - 0.11, lift + slope), (x + 0.11, lift - slope)], "brow", "line", 2.2)
    if person.glasses:
        left, right = _eyes(person)
        for x in (left, right):
            rim = blob(x, _EYE_Y, 0.168, 0.15, 2.8)
            head([*rim, rim[0], rim[1]], _FRAME, "line", 1.7)
        head([(left + 0.168, _EYE_Y), (right - 0.168, _EYE_Y)], _FRAME, "line", 1.7)
    tip, dark = _nose_tip(person), tuple(int(0.62 * c) for c in skin)
    direction = 1 if person.turn >= 0 else -1
    head([(1.1 * shift, -0.03), tip, (tip[0] - 0.09 * direction, tip[1] + 0.02)], dark, "line", 1.5)
    if surprised:
        head(blob(shift, _MOUTH_Y + 0.03, 0.1, 0.12), _MOUTH, detail=True)
    elif person.expression == "smiling":
        smile = [(shift + half * math.cos(a), _MOUTH_Y - 0.03 + 0.17 * math.sin(a)) for a in arc(0, 180, 11)]
        head(smile, _MOUTH, detail=True)
        teeth = [(-0.82, 0.0), (0.82, 0.0), (0.66, 0.065), (-0.66, 0.065)]
        head([(shift + half * x, _MOUTH_Y - 0.03 + y) for x, y in teeth], _WHITE, detail=True)
    else:
        head([(shift - half, _MOUTH_Y - 0.005), (shift, _MOUTH_Y + 0.012), (shift + half, _MOUTH_Y - 0.005)],
             _LIPS, "line", 2.2)  # fmt: skip


def _hair_front(person: Person, head, wide: float, tall: float) -> None:
    """The hair that lies over the forehead."""
    top = [((wide + 0.05) * math.cos(a), -0.03 + (tall + 0.07) * math.sin(a)) for a in arc(188, 352, 16)]
    part = 0.10 * person.turn
    if person.haircut == "spiky":
        spikes = []
        for i, a in enumerate(arc(186, 354, 13)):
            r = 1.0 if i % 2 == 0 else 1.42
            spikes.append((r * (wide + 0.05) * math.cos(a), -0.06 + r * (tall + 0.04) * math.sin(a)))
        fringe = [(0.3 + part, -0.34), (0.14 + part, -0.27), (part, -0.4), (-0.14 + part, -0.27), (-0.3 + part, -0.34)]
        head(spikes + fringe, "hair")
    elif person.haircut == "bun":
        head([*top, (0.24, -0.36), (part, -0.42), (-0.24, -0.36)], "hair")
    elif person.haircut == "curly":
        curls = [(0.34 - 0.17 * i + part, -0.32 + 0.055 * math.cos(math.pi * i)) for i in range(5)]
        head([*top, *curls], "hair")
    elif person.haircut == "long":
        head([*top, (wide - 0.02, -0.04), (0.3, -0.26), (part + 0.1, -0.42), (-0.26, -0.28), (-wide + 0.02, -0.04)],
             "hair")  # fmt: skip
    else:
        head([*top, (wide - 0.02, -0.2), (0.28, -0.31), (-0.06 + part, -0.32), (-0.3, -0.38), (-wide + 0.02, -0.2)],
             "hair")  # fmt: skip


_SHIRT: tuple[Point, ...] = (  # shoulders and collar, cut off by the lower edge of the picture
    (-0.2, 0.5), (0.0, 0.66), (0.2, 0.5), (0.52, 0.57), (0.8, 0.74),
    (0.92, 1.6), (-0.92, 1.6), (-0.8, 0.74), (-0.52, 0.57),
)  # fmt: skip


def _curls(rx: float, ry: float, y: float) -> list[Point]:
    """A cloud of hair: an oval with nine round lobes, open below the cheeks."""
    points = []
    for i in range(73):
        a = math.radians(150 + 240 * i / 72)
        r = 1 + 0.1 * abs(math.sin(9 * math.pi * i / 72))
        points.append((r * rx * math.cos(a), y + r * ry * math.sin(a)))
    return points



def _tilt(point: Point, degrees: float, pivot: Point = (0.0, 0.4)) -> Point:
    """`point` rotated about the neck."""
    a = math.radians(degrees)
    x, y = point[0] - pivot[0], point[1] - pivot[1]
    return (pivot[0] + x * math.cos(a) - y * math.sin(a), pivot[1] + x * math.sin(a) + y * math.cos(a))
