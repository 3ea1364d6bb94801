"""The six styles: each turns parts and a place into a picture in its own way."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from studylib.world.geometry import Part
from studylib.world.places import paint_place, sketch_place
from studylib.world.scene import Scene
from studylib.world.shapes import DARK

RGB = tuple[int, int, int]
HATCH_PITCH = 12.0  # pixels from line to line
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
    return (_byte(rgb[0] + d), _byte(rgb[1] + 0.2 * d), _byte(rgb[2] - d))


def mixed(a: RGB, b: RGB, share: float) -> RGB:
    """`share` of b and the rest of a."""
    return tuple(_byte((1 - share) * p + share * q) for p, q in zip(a, b, strict=True))


def _byte(value: float) -> int:
    return max(0, min(255, round(value)))


def _fill(part: Part, scene: Scene, table: dict[str, RGB], hair: dict[str, RGB] = HAIR) -> RGB:
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


def _points(part: Part, side: int) -> list[tuple[float, float]]:
    return [(x * side, y * side) for x, y in part.points]


def _pattern(scene: Scene, side: int, ground: RGB, figure: RGB) -> Image.Image | None:
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
    line: float,
) -> None:
    """Fill all parts in order on `image`; `outline` is the width of the contour (0: none), `line` that of lines."""
    side = image.width
    pen = ImageDraw.Draw(image)
    pattern = _pattern(scene, side, table[scene.colour], table[scene.accent])
    for part in shape:
        points, colour = _points(part, side), _fill(part, scene, table)
        if part.kind == "line":
            pen.line(points, fill=colour, width=round(line * part.width), joint="curve")
            continue
        pen.polygon(points, fill=colour)
        if part.fill == "body" and pattern is not None:
            image.paste(pattern, mask=_body_mask(part, side))
        if outline and not part.detail:
            ink = mixed(colour, (18, 14, 34), 0.55)
            pen.line([*points, *points[:2]], fill=ink, width=round(outline), joint="curve")


def _noise(rng: random.Random, cells: int, side: int) -> np.ndarray:
    """Smooth noise in [-1, 1], (side, side), with about `cells` bumps a side."""
    raw = np.frombuffer(rng.randbytes(cells * cells), dtype=np.uint8).reshape(cells, cells)
    return np.asarray(Image.fromarray(raw).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32) / 127.5 - 1


def _grain(image: Image.Image, rng: random.Random, amount: float) -> Image.Image:
    """Paper grain of at most `amount` of 255, in bumps of five pixels."""
    if amount < 1:
        return image
    out = np.asarray(image, dtype=np.float32) + amount * _noise(rng, image.width // 5, image.width)[:, :, None]
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
    outline = 0 if scene.line_width < 0.3 else scale * (0.8 + 2.2 * scene.line_width)
    _paint(image, scene, shape, table, outline, scale * 2.2)
    return image.reduce(scale)


def sketch(scene: Scene, shape: list[Part], rng: random.Random, size: int, scale: int) -> Image.Image:
    """Coloured pencil on paper: a contour, a pale tone and wide hatching in the object's colour."""
    side = size * scale
    paper = tinted((250, 248, 242), scene.tint, 8)
    image = Image.new("RGB", (side, side), paper)
    sketch_place(image, scene, rng, light_on_dark=False)
    width = scale * (1.6 + 1.4 * scene.line_width)

    def hatched(rgb: RGB, angle: float) -> Image.Image:
        layer = Image.new("RGB", (side, side), mixed(paper, rgb, 0.32))
        pen = ImageDraw.Draw(layer)
        a = math.radians(angle)
        ux, uy, reach, gap = math.cos(a), math.sin(a), 0.75 * side, HATCH_PITCH * scale
        for i in range(-9, 10):
            cx, cy = scene.x * side - uy * i * gap, scene.y * side + ux * i * gap
            ends = [(cx - ux * reach, cy - uy * reach), (cx + ux * reach, cy + uy * reach)]
            pen.line(ends, fill=mixed(paper, rgb, 0.76), width=round(width + 2.4 * scale))
        return layer

    pencil = {name: mixed(rgb, (24, 20, 40), 0.1) for name, rgb in INK.items()}
    body = hatched(pencil[scene.colour], scene.hatch_angle)
    pattern = _pattern(scene, side, (0, 0, 0), (255, 255, 255))
    if pattern is not None:
        body.paste(hatched(pencil[scene.accent], scene.hatch_angle + 90), mask=pattern.convert("L"))
    pen = ImageDraw.Draw(image)
    for part in shape:
        points, colour = _points(part, side), _fill(part, scene, pencil)
        if part.kind == "line":
            pen.line(points, fill=mixed(colour, (24, 20, 40), 0.3), width=round(width * part.width), joint="curve")
            continue
        if part.fill in ("body", "shade"):
            image.paste(body, mask=_body_mask(part, side))
        else:
            pen.polygon(points, fill=colour if part.detail else mixed(paper, colour, 0.72))
        if not part.detail or sum(colour) > 600:  # white parts need a line to be seen on paper
            pen.line([*points, *points[:2]], fill=mixed(colour, (24, 20, 40), 0.4), width=round(width), joint="curve")
    return _grain(image.reduce(scale), rng, 8 * scene.grain)


def neon(scene: Scene, shape: list[Part], rng: random.Random, size: int, scale: int) -> Image.Image:
    """Glass tubes that glow in the dark; the pattern is a second tube inside the body."""
    side = size * scale
    tubes = Image.new("RGB", (side, side), (0, 0, 0))
    sketch_place(tubes, scene, rng, light_on_dark=True)
    pen = ImageDraw.Draw(tubes)
    width = scale * (1.7 + 1.5 * scene.line_width)
    figure = mixed(GLOW[scene.accent], (0, 0, 0), 0.4)  # dimmer than the contour, which tells the colour
    pattern = _pattern(scene, side, mixed(GLOW[scene.colour], (0, 0, 0), 0.86), figure)
    for part in shape:
        points = _points(part, side)
        colour = GLOW[scene.colour] if part.fill in ("body", "shade") else _fill(part, scene, GLOW, HAIR_GLOW)
        if part.kind == "line":
            lit = mixed(colour, (255, 255, 255), 0.55) if max(colour) < 120 else colour
            pen.line(points, fill=lit, width=round(width * (0.5 + 0.5 * part.width)), joint="curve")
        elif part.detail:
            pen.polygon(points, fill=colour)
        else:
            if not isinstance(part.fill, str) and max(colour) < 120:
                colour = mixed(colour, (255, 255, 255), 0.35)
            pen.polygon(points, fill=mixed(colour, (0, 0, 0), 0.86))
            if part.fill == "body" and pattern is not None:
                tubes.paste(pattern, mask=_body_mask(part, side))
            pen.line([*points, *points[:2]], fill=colour, width=round(width), joint="curve")
    tubes = tubes.reduce(scale)
    wall = tinted((16, 14, 26), scene.tint, 10)
    glow = tubes.filter(ImageFilter.GaussianBlur(2.0 + 4.0 * scene.grain)).point(lambda v: min(255, int(1.25 * v)))
    image = ImageChops.add(Image.new("RGB", (size, size), wall), glow)
    return ImageChops.lighter(ImageChops.add(image, tubes.point(lambda v: int(0.45 * v))), tubes)


def papercut(scene: Scene, shape: list[Part], rng: random.Random, size: int, scale: int) -> Image.Image:
    """Cut paper in layers: a white border, soft drop shadows, paper grain."""
    side = size * scale
    table = {name: tinted(mixed(rgb, (255, 250, 240), 0.12), scene.tint) for name, rgb in INK.items()}
    image = paint_place(scene, rng, side, layered=True)
    border = round(scale * (4.0 + 6.0 * scene.line_width))
    cut = _silhouette(shape, side, border)
    dx, dy = _shadow_offset(scene, 0.045 * side)
    shadow = (
        cut.reduce(2 * scale).filter(ImageFilter.GaussianBlur(1.6)).resize((side, side)).point(lambda v: int(0.55 * v))
    )
    image.paste((26, 22, 40), (round(dx), round(dy)), shadow)
    image.paste((253, 251, 245), mask=cut)
    _paint(image, scene, shape, table, 0, scale * 2.2)
    return _grain(image.reduce(scale), rng, 10 * scene.grain)


def watercolor(scene: Scene, shape: list[Part], rng: random.Random, size: int, scale: int) -> Image.Image:
    """Washes that pool at their edges, uneven pigment, white paper showing through."""
    side = size * scale
    table = {name: tinted(mixed(rgb, (255, 255, 255), 0.16), scene.tint) for name, rgb in INK.items()}
    ground = paint_place(scene, rng, side, pale=0.42)
    _paint(ground, scene, shape, table, 0, scale * 2.4)
    colour = np.asarray(ground.reduce(scale).filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float32)
    body = _silhouette(shape, side).reduce(scale)
    soft = np.asarray(body.filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float32) / 255
    wide = np.asarray(body.filter(ImageFilter.GaussianBlur(3.2)), dtype=np.float32) / 255
    rim = np.clip(soft - wide, 0, 1) * (0.7 + 0.7 * scene.line_width)  # pigment collects at the inner edge of a wash
    halo = np.clip(wide - soft, 0, 1)  # and the paper stays dry around it
    pigment = 0.8 * _noise(rng, 5, size) + 0.2 * _noise(rng, 10, size)
    strength = (1.0 + (0.10 + 0.26 * scene.grain) * pigment + 1.2 * rim - 0.9 * halo).clip(0.2, 1.8)[:, :, None]
    paper = np.array(tinted((252, 249, 243), scene.tint, 5), dtype=np.float32)
    out = paper - (paper - colour) * strength
    return Image.fromarray(out.clip(0, 255).astype(np.uint8))


def pixel(scene: Scene, shape: list[Part], rng: random.Random, size: int, scale: int) -> Image.Image:
    """A 32x32 picture in few colours, each pixel a 4x4 block, dark contour as in old games."""
    side = size * scale
    table = {name: tinted(rgb, scene.tint) for name, rgb in INK.items()}
    image = paint_place(scene, rng, side)
    outline = 0 if scene.line_width < 0.3 else side / 32
    if outline:
        image.paste(DARK, mask=_silhouette(shape, side, round(outline)))
    _paint(image, scene, shape, table, 0, side / 40)
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
