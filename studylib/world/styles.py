"""The six styles: each turns parts and a place into a picture in its own way."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from studylib.world.geometry import Part
from studylib.world.paint import (
    GLOW,
    HAIR_GLOW,
    INK,
    RGB,
    body_mask,
    byte,
    fill_of,
    grained,
    mixed,
    noise,
    paint,
    pattern_of,
    pixels_of,
    shadow_offset,
    silhouette,
    tinted,
)
from studylib.world.places import paint_place, sketch_place
from studylib.world.scene import Scene
from studylib.world.shapes import DARK

HATCH_PITCH = 12.0  # pixels from line to line


def flat(scene: Scene, shape: list[Part], rng: random.Random, size: int, scale: int) -> Image.Image:
    """Plain areas of colour, a hard shadow, a thin contour or none."""
    side = size * scale
    table = {name: tinted(rgb, scene.tint) for name, rgb in INK.items()}
    image = paint_place(scene, rng, side)
    dx, dy = shadow_offset(scene, 0.05 * side)
    image.paste(image.point(lambda v: int(0.74 * v)), (round(dx), round(dy)), silhouette(shape, side))
    outline = 0 if scene.line_width < 0.3 else scale * (0.8 + 2.2 * scene.line_width)
    paint(image, scene, shape, table, outline, scale * 2.2)
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
    pattern = pattern_of(scene, side, (0, 0, 0), (255, 255, 255))
    if pattern is not None:
        body.paste(hatched(pencil[scene.accent], scene.hatch_angle + 90), mask=pattern.convert("L"))
    pen = ImageDraw.Draw(image)
    for part in shape:
        points, colour = pixels_of(part, side), fill_of(part, scene, pencil)
        if part.kind == "line":
            pen.line(points, fill=mixed(colour, (24, 20, 40), 0.3), width=round(width * part.width), joint="curve")
            continue
        if part.fill in ("body", "shade"):
            image.paste(body, mask=body_mask(part, side))
        else:
            pen.polygon(points, fill=colour if part.detail else mixed(paper, colour, 0.72))
        if not part.detail or sum(colour) > 600:  # white parts need a line to be seen on paper
            pen.line([*points, *points[:2]], fill=mixed(colour, (24, 20, 40), 0.4), width=round(width), joint="curve")
    return grained(image.reduce(scale), rng, 8 * scene.grain)


def neon(scene: Scene, shape: list[Part], rng: random.Random, size: int, scale: int) -> Image.Image:
    """Glass tubes that glow in the dark; the pattern is a second tube inside the body."""
    side = size * scale
    tubes = Image.new("RGB", (side, side), (0, 0, 0))
    sketch_place(tubes, scene, rng, light_on_dark=True)
    pen = ImageDraw.Draw(tubes)
    width = scale * (1.7 + 1.5 * scene.line_width)
    figure = mixed(GLOW[scene.accent], (0, 0, 0), 0.4)  # dimmer than the contour, which tells the colour
    pattern = pattern_of(scene, side, mixed(GLOW[scene.colour], (0, 0, 0), 0.86), figure)
    for part in shape:
        points = pixels_of(part, side)
        colour = GLOW[scene.colour] if part.fill in ("body", "shade") else fill_of(part, scene, GLOW, HAIR_GLOW)
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
                tubes.paste(pattern, mask=body_mask(part, side))
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
    cut = silhouette(shape, side, border)
    dx, dy = shadow_offset(scene, 0.045 * side)
    shadow = (
        cut.reduce(2 * scale).filter(ImageFilter.GaussianBlur(1.6)).resize((side, side)).point(lambda v: int(0.55 * v))
    )
    image.paste((26, 22, 40), (round(dx), round(dy)), shadow)
    image.paste((253, 251, 245), mask=cut)
    paint(image, scene, shape, table, 0, scale * 2.2)
    return grained(image.reduce(scale), rng, 10 * scene.grain)


def watercolor(scene: Scene, shape: list[Part], rng: random.Random, size: int, scale: int) -> Image.Image:
    """Washes that pool at their edges, uneven pigment, white paper showing through."""
    side = size * scale
    table = {name: tinted(mixed(rgb, (255, 255, 255), 0.16), scene.tint) for name, rgb in INK.items()}
    ground = paint_place(scene, rng, side, pale=0.42)
    paint(ground, scene, shape, table, 0, scale * 2.4)
    colour = np.asarray(ground.reduce(scale).filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float32)
    body = silhouette(shape, side).reduce(scale)
    soft = np.asarray(body.filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float32) / 255
    wide = np.asarray(body.filter(ImageFilter.GaussianBlur(3.2)), dtype=np.float32) / 255
    rim = np.clip(soft - wide, 0, 1) * (0.7 + 0.7 * scene.line_width)  # pigment collects at the inner edge of a wash
    halo = np.clip(wide - soft, 0, 1)  # and the paper stays dry around it
    pigment = 0.8 * noise(rng, 5, size) + 0.2 * noise(rng, 10, size)
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
        image.paste(DARK, mask=silhouette(shape, side, round(outline)))
    paint(image, scene, shape, table, 0, side / 40)
    small = image.resize((size // 4, size // 4), Image.Resampling.BOX)
    levels = 28 - 12 * scene.grain
    small = small.point(lambda v: byte(round(v / levels) * levels))
    return small.resize((size, size), Image.Resampling.NEAREST)


RENDER: dict[str, Callable[[Scene, list[Part], random.Random, int, int], Image.Image]] = {
    "flat": flat,
    "sketch": sketch,
    "neon": neon,
    "papercut": papercut,
    "watercolor": watercolor,
    "pixel": pixel,
}
