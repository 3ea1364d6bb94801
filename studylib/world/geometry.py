"""Points, parts and the few curves that shapes and faces are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Part:
    """One polygon ("area") or open line ("line"), x right and y down.

    `fill` is an RGB colour or a role: "body" (the scene's colour and pattern), "shade" (a darker body), "accent",
    "hair", "brow" (darker hair). `width` multiplies the style's line width. A `detail` is too small for a contour of
    its own: every style fills it.
    """

    points: tuple[Point, ...]
    fill: object
    kind: str = "area"
    width: float = 1.0
    detail: bool = False


def area(points: list[Point], fill: object, detail: bool = False) -> Part:
    """A filled polygon."""
    return Part(tuple(points), fill, "area", 1.0, detail)


def line(points: list[Point], fill: object, width: float = 1.0) -> Part:
    """An open line."""
    return Part(tuple(points), fill, "line", width)


def arc(start: float, stop: float, n: int) -> list[float]:
    """`n` angles in radians from `start` to `stop` degrees (0 is right, 90 is down)."""
    return [math.radians(start + (stop - start) * i / (n - 1)) for i in range(n)]


def oval(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360, n: int = 26) -> list[Point]:
    """An ellipse, or the part of it between two angles in degrees."""
    steps = n if stop - start >= 360 else n - 1
    angles = (math.radians(start + (stop - start) * i / steps) for i in range(n))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def blob(x: float, y: float, rx: float, ry: float, power: float = 2.0, n: int = 22) -> list[Point]:
    """A superellipse; power 2 is an ellipse, larger is squarer."""
    points = []
    for i in range(n):
        c, s = math.cos(2 * math.pi * i / n), math.sin(2 * math.pi * i / n)
        dx, dy = (math.copysign(abs(v) ** (2 / power), v) for v in (c, s))
        points.append((x + rx * dx, y + ry * dy))
    return points


def box(x0: float, y0: float, x1: float, y1: float) -> list[Point]:
    """A rectangle."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def star(x: float, y: float, outer: float, inner: float, points: int = 5) -> list[Point]:
    """A star with its first point up."""
    corners = []
    for i in range(2 * points):
        r, a = (outer if i % 2 == 0 else inner), math.pi * (i / points - 0.5)
        corners.append((x + r * math.cos(a), y + r * math.sin(a)))
    return corners


def heart(scale: float, dy: float = 0.0, n: int = 34) -> list[Point]:
    """A heart with its point down."""
    points = []
    for t in (2 * math.pi * i / n for i in range(n)):
        drop = 0.8125 * math.cos(t) - 0.3125 * math.cos(2 * t) - 0.125 * math.cos(3 * t) - 0.0625 * math.cos(4 * t)
        points.append((scale * math.sin(t) ** 3, dy - scale * drop))
    return points
