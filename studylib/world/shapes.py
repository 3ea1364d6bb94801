"""The geometry of every noun as polygons and lines, placed in the picture. No pixel is drawn here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from studylib.world.people import Point, face_points, portrait
from studylib.world.scene import Scene

DARK, LIGHT, WOOD, LEAF, GLASS = (44, 40, 52), (252, 250, 244), (134, 92, 58), (74, 146, 74), (196, 228, 244)


@dataclass(frozen=True)
class Part:
    """One polygon ("area") or open line ("line"). `fill` is an RGB colour or a role: "body" (the scene's colour and
    pattern), "shade" (a darker body), "accent". `points` are in picture widths, x right, y down."""

    points: tuple[Point, ...]
    fill: object
    kind: str = "area"


def parts(scene: Scene) -> list[Part]:
    """The parts of the scene's noun, back to front, moved to the scene's place, size, rotation and mirror."""
    raw = portrait(scene.person) if scene.person else _THINGS[scene.noun]()
    a = math.radians(scene.rotation)
    cos, sin, flip = math.cos(a) * scene.size, math.sin(a) * scene.size, -1.0 if scene.mirror else 1.0
    return [
        Part(
            tuple((scene.x + flip * x * cos - y * sin, scene.y + flip * x * sin + y * cos) for x, y in points),
            fill,
            kind,
        )
        for points, fill, kind in raw
    ]


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
        n: (scene.x + flip * x * scene.size, scene.y + y * scene.size)
        for n, (x, y) in face_points(scene.person).items()
    }
    if scene.mirror:  # what was on the left is now seen on the right
        swap = {
            "left_eye": "right_eye",
            "right_eye": "left_eye",
            "left_mouth": "right_mouth",
            "right_mouth": "left_mouth",
        }
        points = {n: points[swap.get(n, n)] for n in points}
    return points


def _oval(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360, n: int = 26) -> list[Point]:
    """An ellipse, or the part of it between two angles in degrees (0 is right, 90 is down)."""
    steps = n if stop - start >= 360 else n - 1
    return [
        (
            x + rx * math.cos(math.radians(start + (stop - start) * i / steps)),
            y + ry * math.sin(math.radians(start + (stop - start) * i / steps)),
        )
        for i in range(n)
    ]


def _star(x: float, y: float, outer: float, inner: float, points: int = 5) -> list[Point]:
    corners = []
    for i in range(2 * points):
        r, a = (outer if i % 2 == 0 else inner), math.pi * (i / points - 0.5)
        corners.append((x + r * math.cos(a), y + r * math.sin(a)))
    return corners


def _box(x0: float, y0: float, x1: float, y1: float) -> list[Point]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _ball():
    return [
        (_oval(0, 0, 0.88, 0.88, n=34), "body", "area"),
        (_oval(-1.02, 0, 0.75, 0.95, -52, 52, 14), DARK, "line"),
        (_oval(1.02, 0, 0.75, 0.95, 128, 232, 14), DARK, "line"),
        (_oval(0.0, 0.0, 0.2, 0.2, n=18), "accent", "area"),
        (_oval(-0.36, -0.48, 0.15, 0.09, n=12), LIGHT, "area"),
    ]


def _gift():
    return [
        (_box(-0.76, -0.3, 0.76, 0.8), "body", "area"),
        (_box(-0.86, -0.55, 0.86, -0.22), "shade", "area"),
        (_box(-0.15, -0.55, 0.15, 0.8), "accent", "area"),
        (_oval(-0.32, -0.72, 0.3, 0.19, n=16), "accent", "area"),
        (_oval(0.32, -0.72, 0.3, 0.19, n=16), "accent", "area"),
        (_oval(0, -0.66, 0.12, 0.13, n=12), DARK, "area"),
    ]


def _five_star():
    return [(_star(0, 0.06, 1.0, 0.46), "body", "area"), (_star(0, 0.06, 0.4, 0.19), "accent", "area")]


def _heart_points(scale: float, dy: float = 0.0) -> list[Point]:
    points = []
    for i in range(34):
        t = 2 * math.pi * i / 34
        points.append(
            (
                scale * math.sin(t) ** 3,
                dy
                - scale
                * (
                    0.8125 * math.cos(t) - 0.3125 * math.cos(2 * t) - 0.125 * math.cos(3 * t) - 0.0625 * math.cos(4 * t)
                ),
            )
        )
    return points


def _heart():
    return [
        (_heart_points(0.92), "body", "area"),
        (_heart_points(0.34, -0.08), "accent", "area"),
        (_oval(-0.5, -0.42, 0.14, 0.1, n=12), LIGHT, "area"),
    ]


def _tree():
    crown = []
    for i in range(48):  # a round crown with seven lobes
        a = 2 * math.pi * i / 48
        r = 0.66 + 0.07 * math.cos(7 * a)
        crown.append((1.12 * r * math.cos(a), -0.3 + r * math.sin(a)))
    fruit = [
        (_oval(x, y, 0.105, 0.105, n=12), "accent", "area")
        for x, y in ((-0.36, -0.36), (0.1, -0.64), (0.4, -0.24), (-0.06, -0.1))
    ]
    return [([(-0.13, 0.2), (0.13, 0.2), (0.2, 0.95), (-0.2, 0.95)], WOOD, "area"), (crown, "body", "area"), *fruit]


def _house():
    return [
        (_box(0.3, -0.86, 0.52, -0.3), "shade", "area"),
        (_box(-0.66, -0.16, 0.66, 0.86), "body", "area"),
        ([(-0.92, -0.12), (0, -0.94), (0.92, -0.12)], "shade", "area"),
        (_box(-0.2, 0.28, 0.18, 0.86), "accent", "area"),
        (_box(0.3, 0.1, 0.54, 0.38), GLASS, "area"),
        (_box(-0.54, 0.1, -0.3, 0.38), GLASS, "area"),
        (_oval(0.1, 0.58, 0.04, 0.04, n=8), DARK, "area"),
    ]


def _car():
    cabin = [(-0.56, -0.12), (-0.36, -0.56), (0.3, -0.56), (0.6, -0.12)]
    body = [(-0.98, 0.36), (-0.98, 0.02), (-0.86, -0.12), (0.62, -0.14), (0.94, -0.02), (1.0, 0.14), (1.0, 0.36)]
    wheels = []
    for x in (-0.54, 0.54):
        wheels += [
            (_oval(x, 0.38, 0.25, 0.25, n=20), DARK, "area"),
            (_oval(x, 0.38, 0.12, 0.12, n=14), "accent", "area"),
        ]
    return [
        (cabin, "shade", "area"),
        ([(-0.42, -0.14), (-0.28, -0.46), (-0.04, -0.46), (-0.04, -0.14)], GLASS, "area"),
        ([(0.06, -0.14), (0.06, -0.46), (0.24, -0.46), (0.44, -0.14)], GLASS, "area"),
        (body, "body", "area"),
        (_oval(0.9, 0.08, 0.09, 0.09, n=12), "accent", "area"),
        *wheels,
    ]


def _fish():
    return [
        ([(-0.5, 0), (-1.02, -0.46), (-0.88, 0), (-1.02, 0.46)], "shade", "area"),
        ([(-0.25, -0.36), (0.0, -0.72), (0.34, -0.34)], "accent", "area"),
        (_oval(0.14, 0, 0.82, 0.48, n=32), "body", "area"),
        ([(0.0, 0.1), (-0.3, 0.38), (0.16, 0.34)], "accent", "area"),
        (_oval(0.58, -0.12, 0.13, 0.13, n=14), LIGHT, "area"),
        (_oval(0.61, -0.12, 0.065, 0.065, n=10), DARK, "area"),
        (_oval(1.0, 0.16, 0.2, 0.12, 110, 190, 8), DARK, "line"),
    ]


def _cat():
    tail = [
        (0.4, 0.62),
        (0.66, 0.56),
        (0.76, 0.28),
        (0.68, 0.04),
        (0.84, -0.04),
        (0.96, 0.3),
        (0.84, 0.68),
        (0.5, 0.84),
    ]
    body = _oval(0.02, 0.42, 0.5, 0.54, n=26)
    head = _oval(-0.06, -0.34, 0.5, 0.42, n=26)
    face = []
    for x in (-0.25, 0.13):
        face += [
            (_oval(x, -0.38, 0.095, 0.115, n=14), LIGHT, "area"),
            (_oval(x + 0.01, -0.37, 0.05, 0.085, n=12), DARK, "area"),
        ]
    whiskers = [
        ([(x0, -0.2 + dy), (x1, -0.22 + 2.2 * dy)], DARK, "line")
        for x0, x1 in ((-0.3, -0.66), (0.18, 0.54))
        for dy in (-0.02, 0.06)
    ]
    return [
        (tail, "body", "area"),
        (body, "body", "area"),
        ([(-0.5, -0.46), (-0.46, -0.98), (-0.12, -0.7)], "shade", "area"),
        ([(0.0, -0.7), (0.34, -0.98), (0.38, -0.46)], "shade", "area"),
        (_oval(-0.18, 0.9, 0.17, 0.09, n=14), "shade", "area"),
        (_oval(0.2, 0.9, 0.17, 0.09, n=14), "shade", "area"),
        ([(-0.4, 0.0), (0.3, 0.0), (0.26, 0.14), (-0.36, 0.14)], "accent", "area"),
        (head, "body", "area"),
        *face,
        ([(-0.12, -0.2), (0.0, -0.2), (-0.06, -0.12)], (206, 104, 112), "area"),
        *whiskers,
    ]


def _flower():
    petals = [
        (_oval(0.43 * math.cos(a), -0.34 + 0.43 * math.sin(a), 0.285, 0.285, n=18), "body", "area")
        for a in (math.radians(90 + 60 * i) for i in range(6))
    ]
    return [
        ([(-0.05, -0.2), (0.05, -0.2), (0.06, 1.0), (-0.06, 1.0)], LEAF, "area"),
        ([(0.0, 0.82), (0.16, 0.52), (0.5, 0.42), (0.4, 0.72)], LEAF, "area"),
        ([(0.0, 0.9), (-0.16, 0.64), (-0.48, 0.56), (-0.38, 0.82)], LEAF, "area"),
        *petals,
        (_oval(0, -0.34, 0.26, 0.26, n=18), "accent", "area"),
    ]


def _boat():
    return [
        (_box(-0.06, -0.98, 0.04, 0.4), WOOD, "area"),
        ([(0.1, -0.9), (0.78, 0.18), (0.1, 0.18)], "accent", "area"),
        ([(-0.12, -0.7), (-0.12, 0.18), (-0.62, 0.18)], LIGHT, "area"),
        ([(-0.98, 0.3), (0.98, 0.3), (0.66, 0.84), (-0.62, 0.84)], "body", "area"),
    ]


def _cup():
    steam = [
        ([(x, -0.62), (x + 0.08, -0.74), (x - 0.02, -0.86), (x + 0.06, -0.98)], (150, 150, 160), "line")
        for x in (-0.3, 0.06)
    ]
    handle = _oval(0.56, 0.16, 0.4, 0.38, -80, 80, 14) + _oval(0.56, 0.16, 0.22, 0.2, 80, -80, 14)
    return [
        (handle, "shade", "area"),
        ([(-0.68, -0.4), (0.62, -0.4), (0.5, 0.82), (-0.56, 0.82)], "body", "area"),
        (_oval(-0.03, -0.4, 0.65, 0.17, n=24), "shade", "area"),
        (_oval(-0.03, -0.38, 0.53, 0.11, n=20), (92, 60, 42), "area"),
        (_heart_points(0.22, 0.26), "accent", "area"),
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
