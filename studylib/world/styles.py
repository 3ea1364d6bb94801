"""The six styles: each turns parts and a place into a picture in its own way."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from studylib.world.places import paint_place, sketch_place
from studylib.world.scene import Scene
from studylib.world.shapes import DARK, Part

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


def tinted(rgb: RGB, tint: float, strength: float = 16.0) -> RGB:
    """`rgb` moved toward cool (tint 0) or warm (tint 1) by at most `strength` of 255."""
    d = strength * (2 * tint - 1)
    return (_byte(rgb[0] + d), _byte(rgb[1] + 0.2 * d), _byte(rgb[2] - d))


def mixed(a: RGB, b: RGB, share: float) -> RGB:
    """`share` of b and the rest of a."""
    return tuple(_byte((1 - share) * p + share * q) for p, q in zip(a, b, strict=True))


def _byte(value: float) -> int:
    return max(0, min(255, round(value)))


def _fill(part: Part, scene: Scene, table: dict[str, RGB]) -> RGB:
    """The colour of a part's role under a table of named colours."""
    if part.fill == "body":
        return table[scene.colour]
    if part.fill == "shade":
        return mixed(table[scene.colour], (20, 16, 40), 0.24)
    if part.fill == "accent":
        return table[scene.accent]
    return part.fill


def _points(part: Part, side: int) -> list[tuple[float, float]]:
    return [(x * side, y * side) for x, y in part.points]


def _pattern(scene: Scene, side: int, ground: RGB, figure: RGB) -> Image.Image | None:
    """The body's pattern as a full picture to be pasted through the body's outline; None for plain."""
    if scene.pattern == "plain":
        return None
    image = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(image)
    cx, cy, s = scene.x * side, scene.y * side, scene.size * side
    if scene.pattern == "stripes":
        for i in range(-4, 5):
            x = cx + i * 0.50 * s
            pen.line([(x - 0.5 * s, cy - 2 * s), (x + 0.5 * s, cy + 2 * s)], fill=figure, width=round(0.16 * s))
    elif scene.pattern == "spots":
        r = 0.135 * s
        for row in range(-5, 6):
            for column in range(-5, 6):
                x, y = cx + (column + 0.5 * (row % 2)) * 0.54 * s, cy + row * 0.46 * s
                pen.ellipse([x - r, y - r, x + r, y + r], fill=figure)
    else:  # band: one broad belt, lower on people, whose body is a shirt
        y = cy + (1.0 if scene.person else 0.28) * s
        pen.rectangle([0, y - 0.17 * s, side, y + 0.17 * s], fill=figure)
    return image


def _body_mask(part: Part, side: int) -> Image.Image:
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).polygon(_points(part, side), fill=255)
    return mask


def _silhouette(shape: list[Part], side: int, border: int = 0) -> Image.Image:
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    for part in shape:
        if part.kind == "area":
            points = _points(part, side)
            pen.polygon(points, fill=255)
            if border:
                pen.line([*points, *points[:2]], fill=255, width=border, joint="curve")
    return mask


def _paint(
    image: Image.Image,
    scene: Scene,
    shape: list[Part],
    table: dict[str, RGB],
    outline: float,
    line: int,
    ink: RGB | None = None,
) -> None:
    """Fill all parts in order on `image`; `outline` is the width of the contour (0: none), `line` that of lines."""
    side = image.width
    pen = ImageDraw.Draw(image)
    pattern = _pattern(scene, side, table[scene.colour], table[scene.accent])
    for part in shape:
        points, colour = _points(part, side), _fill(part, scene, table)
        if part.kind == "line":
            pen.line(points, fill=colour, width=line, joint="curve")
            continue
        pen.polygon(points, fill=colour)
        if part.fill == "body" and pattern is not None:
            image.paste(pattern, mask=_body_mask(part, side))
        if outline:
            pen.line(
                [*points, points[0]], fill=ink or mixed(colour, (18, 14, 34), 0.55), width=round(outline), joint="curve"
            )


def _noise(rng: random.Random, cells: int, side: int) -> np.ndarray:
    """Smooth noise in [-1, 1], (side, side), with about `cells` bumps a side."""
    raw = np.frombuffer(rng.randbytes(cells * cells), dtype=np.uint8).reshape(cells, cells)
    return np.asarray(Image.fromarray(raw).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32) / 127.5 - 1


def _grain(image: Image.Image, rng: random.Random, amount: float) -> Image.Image:
    """Paper grain of at most `amount` of 255."""
    if amount < 1:
        return image
    side = image.width
    noise = np.frombuffer(rng.randbytes(side * side), dtype=np.uint8).reshape(side, side)
    noise = np.asarray(Image.fromarray(noise).filter(ImageFilter.BoxBlur(1)), dtype=np.int16) - 128
    out = np.asarray(image, dtype=np.int16) + (noise * (amount / 64)).astype(np.int16)[:, :, None]
    return Image.fromarray(out.clip(0, 255).astype(np.uint8))


def _shadow_offset(scene: Scene, length: float) -> tuple[float, float]:
    """Where the shadow falls: from lower left (shadow 0) to lower right (shadow 1)."""
    a = math.radians(150 - 120 * scene.shadow)
    return length * math.cos(a), length * math.sin(a)


def flat(scene: Scene, shape: list[Part], rng: random.Random, size: int, scale: int) -> Image.Image:
    """Plain areas of colour, a hard shadow, a thin contour or none."""
    side = size * scale
    table = {name: tinted(rgb, scene.tint) for name, rgb in INK.items()}
    image = paint_place(scene, rng, side)
    dx, dy = _shadow_offset(scene, 0.05 * side)
    image.paste(image.point(lambda v: int(0.74 * v)), (round(dx), round(dy)), _silhouette(shape, side))
    outline = 0 if scene.line_width < 0.4 else scale * (0.6 + 1.4 * scene.line_width)
    _paint(image, scene, shape, table, outline, round(scale * 1.6))
    return image.reduce(scale)


def sketch(scene: Scene, shape: list[Part], rng: random.Random, size: int, scale: int) -> Image.Image:
    """Coloured pencil on paper: a contour, a pale tone and wide hatching in the object's colour."""
    side = size * scale
    paper = tinted((250, 248, 242), scene.tint, 8)
    image = Image.new("RGB", (side, side), paper)
    sketch_place(image, scene, rng, light_on_dark=False)
    width = max(1, round(scale * (1.2 + 1.2 * scene.line_width)))

    def hatched(rgb: RGB, lines: int, angle: float) -> Image.Image:
        layer = Image.new("RGB", (side, side), mixed(paper, rgb, 0.34))
        pen = ImageDraw.Draw(layer)
        a = math.radians(angle)
        ux, uy, reach, gap = math.cos(a), math.sin(a), 0.75 * side, side / lines
        for i in range(-lines, lines):
            cx, cy = scene.x * side - uy * i * gap, scene.y * side + ux * i * gap
            ends = [(cx - ux * reach, cy - uy * reach), (cx + ux * reach, cy + uy * reach)]
            pen.line(ends, fill=mixed(paper, rgb, 0.72), width=width + scale)
        return layer

    pencil = {name: mixed(rgb, (24, 20, 40), 0.12) for name, rgb in INK.items()}
    body, accent = hatched(pencil[scene.colour], 11, scene.hatch_angle), pencil[scene.accent]
    pattern = _pattern(scene, side, (0, 0, 0), (255, 255, 255))
    if pattern is not None:
        body.paste(hatched(accent, 14, scene.hatch_angle + 90), mask=pattern.convert("L"))
    pen = ImageDraw.Draw(image)
    for part in shape:
        points, colour = _points(part, side), _fill(part, scene, pencil)
        if part.kind == "area":
            if part.fill in ("body", "shade"):
                image.paste(body, mask=_body_mask(part, side))
            else:
                pen.polygon(points, fill=mixed(paper, colour, 0.6 if part.fill == "accent" else 0.45))
            points = [*points, *points[:2]]
        pen.line(points, fill=mixed(colour, (24, 20, 40), 0.4), width=width, joint="curve")
    return _grain(image.reduce(scale), rng, 3 * scene.grain)


def neon(scene: Scene, shape: list[Part], rng: random.Random, size: int, scale: int) -> Image.Image:
    """Glass tubes that glow in the dark; the pattern is a second tube inside the body."""
    side = size * scale
    tubes = Image.new("RGB", (side, side), (0, 0, 0))
    sketch_place(tubes, scene, rng, light_on_dark=True)
    pen = ImageDraw.Draw(tubes)
    width = round(scale * (1.3 + 1.5 * scene.line_width))
    figure = mixed(GLOW[scene.accent], (0, 0, 0), 0.45)  # dimmer than the contour, which tells the colour
    pattern = _pattern(scene, side, mixed(GLOW[scene.colour], (0, 0, 0), 0.88), figure)
    for part in shape:
        points = _points(part, side)
        colour = GLOW[scene.colour] if part.fill in ("body", "shade") else _fill(part, scene, GLOW)
        if not isinstance(part.fill, str):
            colour = mixed(colour, (255, 255, 255), 0.35) if max(colour) < 120 else colour
        if part.kind == "area":
            pen.polygon(points, fill=mixed(colour, (0, 0, 0), 0.88))
            if part.fill == "body" and pattern is not None:
                tubes.paste(pattern, mask=_body_mask(part, side))
            points = [*points, *points[:2]]
        pen.line(points, fill=colour, width=width, joint="curve")
    tubes = tubes.reduce(scale)
    wall = tinted((16, 14, 26), scene.tint, 10)
    glow = tubes.filter(ImageFilter.GaussianBlur(2.2 + 2.6 * scene.grain)).point(lambda v: min(255, int(1.25 * v)))
    image = ImageChops.add(Image.new("RGB", (size, size), wall), glow)
    return ImageChops.lighter(ImageChops.add(image, tubes.point(lambda v: int(0.45 * v))), tubes)


def papercut(scene: Scene, shape: list[Part], rng: random.Random, size: int, scale: int) -> Image.Image:
    """Cut paper in layers: a white border, soft drop shadows, paper grain."""
    side = size * scale
    table = {name: tinted(mixed(rgb, (255, 250, 240), 0.12), scene.tint) for name, rgb in INK.items()}
    image = paint_place(scene, rng, side, layered=True)
    border = round(scale * (5.0 + 4.0 * scene.line_width))
    cut = _silhouette(shape, side, border)
    dx, dy = _shadow_offset(scene, 0.045 * side)
    shadow = (
        cut.reduce(2 * scale).filter(ImageFilter.GaussianBlur(1.6)).resize((side, side)).point(lambda v: int(0.55 * v))
    )
    image.paste((26, 22, 40), (round(dx), round(dy)), shadow)
    image.paste((253, 251, 245), mask=cut)
    _paint(image, scene, shape, table, 0, round(scale * 1.8))
    return _grain(image.reduce(scale), rng, 4 * scene.grain)


def watercolor(scene: Scene, shape: list[Part], rng: random.Random, size: int, scale: int) -> Image.Image:
    """Washes that pool at their edges, uneven pigment, white paper showing through."""
    side = size * scale
    table = {name: tinted(mixed(rgb, (255, 255, 255), 0.16), scene.tint) for name, rgb in INK.items()}
    ground = paint_place(scene, rng, side, pale=0.42)
    _paint(ground, scene, shape, table, 0, round(scale * 1.5))
    colour = np.asarray(ground.reduce(scale).filter(ImageFilter.GaussianBlur(0.9)), dtype=np.float32)
    body = _silhouette(shape, side).reduce(scale)
    soft = np.asarray(body.filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float32) / 255
    wide = np.asarray(body.filter(ImageFilter.GaussianBlur(3.2)), dtype=np.float32) / 255
    rim = np.clip(soft - wide, 0, 1) * (0.7 + 0.7 * scene.line_width)  # pigment collects at the inner edge of a wash
    halo = np.clip(wide - soft, 0, 1)  # and the paper stays dry around it
    pigment = 0.8 * _noise(rng, 5, size) + 0.2 * _noise(rng, 12, size)
    strength = (1.0 + (0.14 + 0.16 * scene.grain) * pigment + 1.2 * rim - 0.9 * halo).clip(0.2, 1.8)[:, :, None]
    paper = np.array(tinted((252, 249, 243), scene.tint, 5), dtype=np.float32)
    out = paper - (paper - colour) * strength
    return _grain(Image.fromarray(out.clip(0, 255).astype(np.uint8)), rng, 2 * scene.grain)


def pixel(scene: Scene, shape: list[Part], rng: random.Random, size: int, scale: int) -> Image.Image:
    """A 32x32 picture in few colours, each pixel a 4x4 block, dark contour as in old games."""
    side = size * scale
    table = {name: tinted(rgb, scene.tint) for name, rgb in INK.items()}
    image = paint_place(scene, rng, side)
    outline = 0 if scene.line_width < 0.3 else side / 38
    if outline:
        image.paste(DARK, mask=_silhouette(shape, side, round(outline)))
    _paint(image, scene, shape, table, 0, round(side / 46))
    small = image.resize((size // 4, size // 4), Image.Resampling.BOX)
    levels = 28 - 12 * scene.grain
    small = small.point(lambda v: _byte(round(v / levels) * levels))
    return small.resize((size, size), Image.Resampling.NEAREST)


RENDER: dict[str, Callable[[Scene, list[Part], random.Random, int, int], Image.Image]] = {
    "flat": flat,
    "sketch": sketch,
    "neon": neon,
    "papercut": papercut,
    "watercolor": watercolor,
    "pixel": pixel,
}
