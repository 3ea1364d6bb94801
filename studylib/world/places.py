"""The five places, painted as areas or hinted with a few lines."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

from studylib.world.scene import Scene

RGB = tuple[int, int, int]
_SKY: dict[str, RGB] = {
    "grass": (172, 216, 246),
    "night": (28, 30, 78),
    "beach": (140, 206, 244),
    "snow": (206, 220, 236),
    "plain": (232, 226, 216),
}
_GROUND: dict[str, RGB] = {
    "grass": (122, 194, 92),
    "night": (40, 44, 70),
    "beach": (242, 220, 160),
    "snow": (248, 250, 253),
}
_PENCIL: dict[str, RGB] = {
    "grass": (96, 168, 84),
    "night": (70, 76, 140),
    "beach": (70, 150, 200),
    "snow": (142, 172, 206),
}
_TUBE: dict[str, RGB] = {
    "grass": (44, 176, 66),
    "night": (150, 140, 220),
    "beach": (34, 156, 214),
    "snow": (170, 200, 230),
}


def _shift(rgb: RGB, tint: float, pale: float) -> RGB:
    d = 18 * (2 * tint - 1)
    warm = (rgb[0] + d, rgb[1] + 0.2 * d, rgb[2] - d)
    return tuple(max(0, min(255, round((1 - pale) * v + pale * 255))) for v in warm)


def _hill(rng: random.Random, side: int, level: float, height: float) -> list[tuple[float, float]]:
    """A wavy strip from `level` down to the lower edge."""
    phase, waves = rng.uniform(0, 6.28), rng.uniform(0.6, 1.4)
    top = [(side * i / 16, side * (level + height * math.sin(phase + waves * 6.28 * i / 16))) for i in range(17)]
    return [*top, (side, side), (0, side)]


def paint_place(scene: Scene, rng: random.Random, side: int, layered: bool = False, pale: float = 0.0) -> Image.Image:
    """The place as areas of colour, (side, side) RGB. `layered` gives each strip of land a shadow above its edge, as
    cut paper has; `pale` in [0, 1] washes everything toward white."""

    def c(rgb: RGB) -> RGB:
        return _shift(rgb, scene.tint, pale if scene.place != "night" else 0.4 * pale)

    sky = _SKY[scene.place]
    image = Image.new("RGB", (side, side), c(sky))
    pen = ImageDraw.Draw(image)
    dot = side / 128

    def land(level: float, height: float, rgb: RGB) -> None:
        points = _hill(rng, side, level, height)
        if layered:
            dark = c(tuple(int(0.72 * v) for v in sky))
            pen.polygon([(x, y - 2.6 * dot) for x, y in points], fill=dark)
        pen.polygon(points, fill=c(rgb))

    if scene.place == "plain":
        spot = c((242, 238, 230))
        pen.ellipse([0.06 * side, 0.74 * side, 0.94 * side, 1.04 * side], fill=spot)
        return image
    level = rng.uniform(0.60, 0.70)
    if scene.place == "grass":
        _clouds(pen, rng, side, c((250, 252, 255)))
        land(level - 0.08, 0.04, (150, 208, 120))
        land(level, 0.025, _GROUND["grass"])
        for _ in range(5):
            x, y = rng.uniform(0, side), rng.uniform(level + 0.1, 1.0) * side
            pen.polygon(
                [(x + i * dot, y - j * dot) for i, j in ((-8, 0), (-7, 12), (0, 4), (7, 12), (8, 0))],
                fill=c((88, 162, 68)),
            )
    elif scene.place == "night":
        _stars(pen, rng, side, level, c((255, 246, 200)), dot)
        x, y, r = rng.choice((0.16, 0.84)) * side, rng.uniform(0.12, 0.22) * side, 0.085 * side
        pen.ellipse([x - r, y - r, x + r, y + r], fill=c((252, 240, 196)))
        pen.ellipse([x - r * 0.45, y - r * 1.15, x + r * 1.5, y + r * 0.8], fill=c(sky))
        land(level + 0.08, 0.03, _GROUND["night"])
    elif scene.place == "beach":
        x, y, r = rng.choice((0.14, 0.86)) * side, 0.15 * side, 0.08 * side
        pen.ellipse([x - r, y - r, x + r, y + r], fill=c((255, 232, 120)))
        land(level - 0.12, 0.004, (56, 150, 206))
        for _ in range(3):
            x, y = rng.uniform(0, side), rng.uniform(level - 0.08, level) * side
            pen.line([(x, y), (x + 22 * dot, y)], fill=c((130, 198, 232)), width=round(4 * dot))
        land(level + 0.04, 0.015, _GROUND["beach"])
        for _ in range(4):
            x, y = rng.uniform(0, side), rng.uniform(level + 0.1, 1.0) * side
            pen.ellipse([x, y, x + 9 * dot, y + 6 * dot], fill=c((214, 184, 120)))
    else:
        land(level - 0.06, 0.04, (226, 234, 244))
        land(level + 0.02, 0.02, _GROUND["snow"])
        for _ in range(9):
            x, y, r = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(4.0, 5.5) * dot
            pen.ellipse([x - r, y - r, x + r, y + r], fill=c((255, 255, 255)))
    return image


def _clouds(pen: ImageDraw.ImageDraw, rng: random.Random, side: int, fill: RGB) -> None:
    for _ in range(2):
        x, y = rng.uniform(0.05, 0.95) * side, rng.uniform(0.08, 0.26) * side
        for dx, r in ((-0.07, 0.045), (0.0, 0.065), (0.07, 0.045)):
            pen.ellipse([x + (dx - r) * side, y - r * 0.75 * side, x + (dx + r) * side, y + r * 0.75 * side], fill=fill)


def _stars(pen: ImageDraw.ImageDraw, rng: random.Random, side: int, level: float, fill: RGB, dot: float) -> None:
    for _ in range(6):
        x, y, r = rng.uniform(0, side), rng.uniform(0, level) * side, rng.uniform(3.0, 4.2) * dot
        reach = [(k * 0.7854, q * r) for k, q in enumerate((2, 0.9) * 4)]  # angle, radius
        tips = [(x + q * math.cos(a), y + q * math.sin(a)) for a, q in reach]
        pen.polygon(tips, fill=fill)


def sketch_place(image: Image.Image, scene: Scene, rng: random.Random, light_on_dark: bool) -> None:
    """The place hinted with a few lines on `image`: pencil on paper, or thin tubes in the dark."""
    if scene.place == "plain":
        return
    side = image.width
    dot = side / 128
    pen = ImageDraw.Draw(image)
    ink = (_TUBE if light_on_dark else _PENCIL)[scene.place]
    warm = (190, 150, 40) if light_on_dark else (226, 178, 70)
    width = max(1, round(dot * 3.2))
    level = rng.uniform(0.62, 0.72)

    def line(points: list[tuple[float, float]], fill: RGB = ink) -> None:
        pen.line(points, fill=fill, width=width, joint="curve")

    ground = _hill(rng, side, level, 0.015)[:17]
    if scene.place == "grass":
        line(ground)
        for _ in range(6):
            x, y = rng.uniform(0, side), rng.uniform(level + 0.1, 1.0) * side
            line([(x - 7 * dot, y - 12 * dot), (x, y), (x + 7 * dot, y - 12 * dot)])
    elif scene.place == "night":
        if not light_on_dark:  # an even tone of blue pencil for the sky
            pen.polygon([(0, 0), (side, 0), *reversed(ground)], fill=(160, 162, 210))
        _stars(pen, rng, side, level, (250, 236, 150) if light_on_dark else (252, 240, 160), dot)
        x, y, r = rng.choice((0.16, 0.84)) * side, 0.17 * side, 0.085 * side
        moon = [(x + r * math.cos(a), y + r * math.sin(a)) for a in (i * 6.2832 / 20 for i in range(14))]
        moon += [
            (x + 0.42 * r + 0.62 * r * math.cos(a), y - 0.36 * r + 0.62 * r * math.sin(a))
            for a in (4.1 - i * 0.42 for i in range(11))
        ]
        pen.polygon(moon, fill=(60, 54, 30) if light_on_dark else (254, 246, 200))
        line([*moon, moon[0]], warm)
        line(ground)
    elif scene.place == "beach":
        for k in range(2):
            y0 = level - 0.10 + 0.07 * k
            line([(side * i / 24, side * (y0 + 0.012 * math.sin(i * 1.57 + k))) for i in range(25)])
        line([(x, y + 0.06 * side) for x, y in ground], warm)
        x, y, r = rng.choice((0.14, 0.86)) * side, 0.16 * side, 0.075 * side
        line([(x + r * math.cos(a), y + r * math.sin(a)) for a in (i * 6.2832 / 20 for i in range(21))], warm)
        for i in range(8):
            a = i * 0.7854
            line(
                [
                    (x + 1.35 * r * math.cos(a), y + 1.35 * r * math.sin(a)),
                    (x + 1.75 * r * math.cos(a), y + 1.75 * r * math.sin(a)),
                ],
                warm,
            )
    else:
        line(ground)
        for _ in range(6):
            x, y, r = rng.uniform(0, side), rng.uniform(0, side), 8 * dot
            for a in (0.0, 1.047, 2.094):
                line([(x - r * math.cos(a), y - r * math.sin(a)), (x + r * math.cos(a), y + r * math.sin(a))])
