"""The geometry of every noun as polygons and lines, placed in the picture. No pixel is drawn here.

A thing's half-extent is about 50 pixels, so 0.1 here is 5 pixels there. Parts that tell one thing from another are 8
pixels wide and more, a cell of the shipped latents; pupils and whiskers are finer.
"""

from __future__ import annotations

import math

from studylib.world.geometry import Part, Point, area, box, heart, line, oval, star
from studylib.world.people import face_points, portrait
from studylib.world.scene import Scene

DARK, LIGHT, WOOD, LEAF, GLASS = (44, 40, 52), (252, 250, 244), (134, 92, 58), (74, 146, 74), (196, 228, 244)
_NOSE, _COFFEE, _STEAM = (206, 104, 112), (92, 60, 42), (150, 150, 160)


def parts(scene: Scene) -> list[Part]:
    """The parts of the scene's noun, back to front, moved to the scene's place, size, rotation and mirror.
    Points are in picture widths."""
    raw = portrait(scene.person) if scene.person else _THINGS[scene.noun]()
    a = math.radians(scene.rotation)
    cos, sin, flip = math.cos(a) * scene.size, math.sin(a) * scene.size, -1.0 if scene.mirror else 1.0

    def moved(point: Point) -> Point:
        x, y = flip * point[0], point[1]
        return scene.x + x * cos - y * sin, scene.y + x * sin + y * cos

    return [Part(tuple(moved(p) for p in part.points), part.fill, part.kind, part.width, part.detail) for part in raw]


def strokes(scene: Scene) -> list[tuple[Point, ...]]:
    """Every outline of the noun as a polyline in picture widths: what a pen would draw."""
    return [p.points if p.kind == "line" else (*p.points, p.points[0]) for p in parts(scene)]


def keypoints(scene: Scene) -> dict[str, Point]:
    """The five face keypoints in picture widths; left and right are as seen in the picture.

    Raises ValueError for a scene without a person.
    """
    if scene.person is None:
        raise ValueError(f"keypoints need a person; this scene shows a {scene.noun}")
    flip = -1.0 if scene.mirror else 1.0
    points = {
        name: (scene.x + flip * x * scene.size, scene.y + y * scene.size)
        for name, (x, y) in face_points(scene.person).items()
    }
    if scene.mirror:  # what was on the left is now seen on the right
        other = {"left": "right", "right": "left"}
        sides = {name: name.partition("_") for name in points}
        points = {name: points["_".join((other[a], b)) if b else name] for name, (a, _, b) in sides.items()}
    return points


def _ball() -> list[Part]:
    return [
        area(oval(0, 0, 0.88, 0.88, n=34), "body"),
        line(oval(-1.05, 0, 0.72, 0.95, -50, 50, 14), DARK, 1.5),
        line(oval(1.05, 0, 0.72, 0.95, 130, 230, 14), DARK, 1.5),
        area(oval(0.0, 0.0, 0.26, 0.26, n=20), "accent"),
        area(oval(-0.36, -0.52, 0.17, 0.11, n=14), LIGHT, detail=True),
    ]


def _gift() -> list[Part]:
    return [
        area(box(-0.78, -0.3, 0.78, 0.84), "body"),
        area(box(-0.9, -0.55, 0.9, -0.2), "shade"),
        area(box(-0.17, -0.55, 0.17, 0.84), "accent"),
        area(oval(-0.36, -0.74, 0.34, 0.22, n=18), "accent"),
        area(oval(0.36, -0.74, 0.34, 0.22, n=18), "accent"),
        area(oval(0, -0.66, 0.14, 0.15, n=14), DARK, detail=True),
    ]


def _five_star() -> list[Part]:
    return [area(star(0, 0.06, 1.0, 0.5), "body"), area(star(0, 0.06, 0.44, 0.22), "accent")]


def _heart() -> list[Part]:
    return [
        area(heart(0.92), "body"),
        area(heart(0.38, -0.08), "accent"),
        area(oval(-0.52, -0.46, 0.16, 0.11, n=14), LIGHT, detail=True),
    ]


def _tree() -> list[Part]:
    crown = []
    for a in (2 * math.pi * i / 48 for i in range(48)):  # a round crown with six lobes
        r = 0.66 + 0.07 * math.cos(6 * a)
        crown.append((1.16 * r * math.cos(a), -0.28 + r * math.sin(a)))
    fruit = [area(oval(x, y, 0.14, 0.14, n=16), "accent") for x, y in ((-0.4, -0.34), (0.06, -0.66), (0.42, -0.22))]
    return [area([(-0.16, 0.2), (0.16, 0.2), (0.23, 0.95), (-0.23, 0.95)], WOOD), area(crown, "body"), *fruit]


def _house() -> list[Part]:
    return [
        area(box(0.32, -0.88, 0.58, -0.3), "shade"),
        area(box(-0.7, -0.16, 0.7, 0.88), "body"),
        area([(-0.96, -0.1), (0, -0.94), (0.96, -0.1)], "shade"),
        area(box(-0.18, 0.3, 0.2, 0.88), "accent"),
        area(box(0.34, 0.12, 0.6, 0.42), GLASS),
        area(box(-0.58, 0.12, -0.32, 0.42), GLASS),
    ]


def _car() -> list[Part]:
    wheels = []
    for x in (-0.54, 0.54):
        wheels.append(area(oval(x, 0.4, 0.28, 0.28, n=22), DARK))
        wheels.append(area(oval(x, 0.4, 0.13, 0.13, n=16), "accent", detail=True))
    body = [(-1.0, 0.4), (-1.0, 0.02), (-0.88, -0.12), (0.62, -0.14), (0.94, -0.02), (1.0, 0.14), (1.0, 0.4)]
    return [
        area([(-0.62, -0.1), (-0.4, -0.62), (0.34, -0.62), (0.66, -0.1)], "shade"),
        area([(-0.44, -0.13), (-0.3, -0.5), (-0.06, -0.5), (-0.06, -0.13)], GLASS),
        area([(0.08, -0.13), (0.08, -0.5), (0.27, -0.5), (0.48, -0.13)], GLASS),
        area(body, "body"),
        area(oval(0.88, 0.08, 0.12, 0.12, n=14), "accent", detail=True),
        *wheels,
    ]


def _fish() -> list[Part]:
    return [
        area([(-0.5, 0), (-1.02, -0.5), (-0.86, 0), (-1.02, 0.5)], "shade"),
        area([(-0.3, -0.4), (0.02, -0.8), (0.4, -0.36)], "accent"),
        area(oval(0.14, 0, 0.84, 0.54, n=32), "body"),
        area([(-0.02, 0.12), (-0.34, 0.46), (0.2, 0.42)], "accent"),
        area(oval(0.58, -0.12, 0.17, 0.17, n=16), LIGHT, detail=True),
        area(oval(0.62, -0.12, 0.09, 0.09, n=12), DARK, detail=True),
        line(oval(1.0, 0.19, 0.22, 0.13, 110, 190, 8), DARK, 1.5),
    ]


def _cat() -> list[Part]:
    tail = [
        (0.36, 0.62), (0.64, 0.56), (0.74, 0.28), (0.66, 0.02), (0.88, -0.06), (0.98, 0.3), (0.86, 0.7), (0.48, 0.88),
    ]  # fmt: skip
    face = []
    for x in (-0.28, 0.16):
        face += [
            area(oval(x, -0.38, 0.13, 0.14, n=16), LIGHT, detail=True),
            area(oval(x + 0.01, -0.37, 0.075, 0.105, n=14), DARK, detail=True),
        ]
    ends = (((-0.32, -0.13), (-0.78, y)) for y in (-0.21, 0.0)), (((0.2, -0.13), (0.66, y)) for y in (-0.21, 0.0))
    whiskers = [line(pair, DARK, 1.1) for side in ends for pair in side]
    return [
        area(tail, "body"),
        area(oval(0.02, 0.42, 0.52, 0.54, n=26), "body"),
        area([(-0.56, -0.46), (-0.5, -1.02), (-0.1, -0.72)], "shade"),
        area([(-0.02, -0.72), (0.38, -1.02), (0.44, -0.46)], "shade"),
        area(oval(-0.18, 0.9, 0.19, 0.11, n=14), "shade"),
        area(oval(0.22, 0.9, 0.19, 0.11, n=14), "shade"),
        area([(-0.44, 0.0), (0.34, 0.0), (0.3, 0.19), (-0.4, 0.19)], "accent"),
        area(oval(-0.06, -0.34, 0.56, 0.46, n=28), "body"),
        *face,
        *whiskers,
        area([(-0.16, -0.19), (0.04, -0.19), (-0.06, -0.07)], _NOSE, detail=True),
    ]


def _flower() -> list[Part]:
    around = (math.radians(90 + 60 * i) for i in range(6))
    petals = [area(oval(0.45 * math.cos(a), -0.32 + 0.45 * math.sin(a), 0.31, 0.31, n=20), "body") for a in around]
    return [
        area([(-0.09, -0.2), (0.09, -0.2), (0.1, 1.0), (-0.1, 1.0)], LEAF),
        area([(0.0, 0.88), (0.16, 0.56), (0.6, 0.42), (0.48, 0.8)], LEAF),
        area([(0.0, 0.94), (-0.16, 0.66), (-0.58, 0.54), (-0.46, 0.88)], LEAF),
        *petals,
        area(oval(0, -0.32, 0.29, 0.29, n=20), "accent"),
    ]


def _boat() -> list[Part]:
    return [
        area(box(-0.08, -0.98, 0.06, 0.4), WOOD),
        area([(0.13, -0.92), (0.82, 0.18), (0.13, 0.18)], "accent"),
        area([(-0.15, -0.74), (-0.15, 0.18), (-0.7, 0.18)], LIGHT),
        area([(-1.0, 0.28), (1.0, 0.28), (0.68, 0.88), (-0.64, 0.88)], "body"),
    ]


def _cup() -> list[Part]:
    wave = ((0.0, -0.62), (0.1, -0.74), (-0.02, -0.86), (0.08, -0.98))
    steam = [line([(x + dx, y) for dx, y in wave], _STEAM, 1.6) for x in (-0.32, 0.1)]
    handle = oval(0.56, 0.18, 0.44, 0.42, -80, 80, 14) + oval(0.56, 0.18, 0.22, 0.2, -80, 80, 14)[::-1]
    return [
        area(handle, "shade"),
        area([(-0.7, -0.4), (0.64, -0.4), (0.52, 0.86), (-0.58, 0.86)], "body"),
        area(oval(-0.03, -0.4, 0.67, 0.2, n=26), "shade"),
        area(oval(-0.03, -0.38, 0.52, 0.12, n=20), _COFFEE),
        area(heart(0.27, 0.28), "accent"),
        *steam,
    ]


_THINGS = {
    "ball": _ball,
    "box": _gift,
    "star": _five_star,
    "heart": _heart,
    "tree": _tree,
    "house": _house,
    "car": _car,
    "fish": _fish,
    "cat": _cat,
    "flower": _flower,
    "boat": _boat,
    "cup": _cup,
}
