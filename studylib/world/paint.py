"""What all styles paint with: tables of colours, patterns, outlines, paper."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageDraw

from studylib.world.geometry import Part
from studylib.world.scene import Scene

RGB = tuple[int, int, int]
INK: dict[str, RGB] = {
    "red": (222, 48, 46),
    "orange": (246, 136, 30),
    "yellow": (250, 208, 44),
    "green": (56, 164, 66),
    "teal": (28, 172, 178),
    "blue": (42, 92, 214),
    "purple": (134, 66, 184),
    "pink": (246, 128, 182),
    "brown": (132, 82, 44),
    "gray": (140, 142, 150),
}
GLOW: dict[str, RGB] = {  # neon light has no brown or gray: amber-dim and white take their part
    "red": (255, 42, 52),
    "orange": (255, 132, 10),
    "yellow": (255, 232, 40),
    "green": (58, 255, 70),
    "teal": (20, 238, 232),
    "blue": (50, 96, 255),
    "purple": (172, 66, 255),
    "pink": (255, 112, 200),
    "brown": (164, 92, 44),
    "gray": (214, 218, 228),
}
HAIR: dict[str, RGB] = {
    "black": (40, 36, 44),
    "brown": (118, 72, 42),
    "blond": (240, 204, 96),
    "red": (204, 80, 30),
    "gray": (172, 172, 182),
}
HAIR_GLOW: dict[str, RGB] = {  # black hair in the light of its surroundings, brown as amber
    "black": (84, 78, 150),
    "brown": (160, 90, 44),
    "blond": (255, 226, 96),
    "red": (255, 84, 34),
    "gray": (206, 210, 224),
}


def tinted(rgb: RGB, tint: float, strength: float = 20.0) -> RGB:
    """`rgb` moved toward cool (tint 0) or warm (tint 1) by at most `strength` of 255."""
    d = strength * (2 * tint - 1)
    return (byte(rgb[0] + d), byte(rgb[1] + 0.2 * d), byte(rgb[2] - d))


def mixed(a: RGB, b: RGB, share: float) -> RGB:
    """`share` of b and the rest of a."""
    return tuple(byte((1 - share) * p + share * q) for p, q in zip(a, b, strict=True))


def byte(value: float) -> int:
    """A colour value, rounded and kept within 0 to 255."""
    return max(0, min(255, round(value)))


def fill_of(part: Part, scene: Scene, table: dict[str, RGB], hair: dict[str, RGB] = HAIR) -> RGB:
    """The colour of a part's role under a table of named colours."""
    if part.fill == "body":
        return table[scene.colour]
    if part.fill == "shade":
        return mixed(table[scene.colour], (20, 16, 40), 0.24)
    if part.fill == "accent":
        return table[scene.accent]
    if part.fill == "hair":
        return hair[scene.person.hair_colour]
    if part.fill == "brow":
        return mixed(hair[scene.person.hair_colour], (20, 14, 20), 0.4)
    return part.fill


def pixels_of(part: Part, side: int) -> list[tuple[float, float]]:
    """A part's points in pixels of a picture with this side."""
    return [(x * side, y * side) for x, y in part.points]


def pattern_of(scene: Scene, side: int, ground: RGB, figure: RGB) -> Image.Image | None:
    """The body's pattern as a full picture to be pasted through the body's outline; None for plain. Its lines and
    spots are at least 10 pixels of 128 wide."""
    if scene.pattern == "plain":
        return None
    image = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(image)
    cx, cy, s = scene.x * side, scene.y * side, scene.size * side
    if scene.person is not None:  # on the shirt
        cy, s = cy + 0.76 * s, 0.72 * s
    if scene.pattern == "stripes":
        for i in range(-5, 6):
            x = cx + i * 0.58 * s
            pen.line([(x - 0.5 * s, cy - 2 * s), (x + 0.5 * s, cy + 2 * s)], fill=figure, width=round(0.25 * s))
    elif scene.pattern == "spots":
        r = 0.17 * s
        for row in range(-5, 6):
            for column in range(-5, 6):
                x, y = cx + (column + 0.5 * (row % 2)) * 0.62 * s, cy + row * 0.5 * s
                pen.ellipse([x - r, y - r, x + r, y + r], fill=figure)
    else:  # band: one broad belt
        y = cy + (0.05 if scene.person else 0.28) * s
        pen.rectangle([0, y - 0.19 * s, side, y + 0.19 * s], fill=figure)
    return image


def body_mask(part: Part, side: int) -> Image.Image:
    """One part as a mask, (side, side) "L"."""
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).polygon(pixels_of(part, side), fill=255)
    return mask


def silhouette(shape: list[Part], side: int, border: int = 0) -> Image.Image:
    """All areas together as a mask, grown by half of `border`."""
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    for part in shape:
        if part.kind == "area":
            points = pixels_of(part, side)
            pen.polygon(points, fill=255)
            if border:
                pen.line([*points, *points[:2]], fill=255, width=border, joint="curve")
    return mask


def paint(
    image: Image.Image,
    scene: Scene,
    shape: list[Part],
    table: dict[str, RGB],
    outline: float,
    line: float,
) -> None:
    """Fill all parts in order on `image`; `outline` is the width of the contour (0: none), `line` that of lines."""
    side = image.width
    pen = ImageDraw.Draw(image)
    pattern = pattern_of(scene, side, table[scene.colour], table[scene.accent])
    for part in shape:
        points, colour = pixels_of(part, side), fill_of(part, scene, table)
        if part.kind == "line":
            pen.line(points, fill=colour, width=round(line * part.width), joint="curve")
            continue
        pen.polygon(points, fill=colour)
        if part.fill == "body" and pattern is not None:
            image.paste(pattern, mask=body_mask(part, side))
        if outline and not part.detail:
            ink = mixed(colour, (18, 14, 34), 0.55)
            pen.line([*points, *points[:2]], fill=ink, width=round(outline), joint="curve")


def noise(rng: random.Random, cells: int, side: int) -> np.ndarray:
    """Smooth noise in [-1, 1], (side, side), with about `cells` bumps a side."""
    raw = np.frombuffer(rng.randbytes(cells * cells), dtype=np.uint8).reshape(cells, cells)
    return np.asarray(Image.fromarray(raw).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32) / 127.5 - 1


def grained(image: Image.Image, rng: random.Random, amount: float) -> Image.Image:
    """Paper grain of at most `amount` of 255, in bumps of five pixels."""
    if amount < 1:
        return image
    out = np.asarray(image, dtype=np.float32) + amount * noise(rng, image.width // 5, image.width)[:, :, None]
    return Image.fromarray(out.clip(0, 255).astype(np.uint8))


def shadow_offset(scene: Scene, length: float) -> tuple[float, float]:
    """Where the shadow falls: from lower left (shadow 0) to lower right (shadow 1)."""
    a = math.radians(150 - 120 * scene.shadow)
    return length * math.cos(a), length * math.sin(a)
