"""A scene to pixels, and the ground truth that only the one who drew it can know."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from studylib.world.scene import Scene
from studylib.world.shapes import Part, parts
from studylib.world.styles import RENDER

SIZE = 128  # side of a picture in pixels
SCALE = 2  # drawn at twice the size and reduced: anti-aliasing


def draw(scene: Scene, seed: int = 0) -> Image.Image:
    """The picture, 128x128 RGB. `seed` fixes what the scene leaves open (stars, tufts, paper, pigment); the same
    scene and seed give the same bytes."""
    rng = random.Random(seed)
    return RENDER[scene.style](scene, parts(scene), rng, SIZE, SCALE)


def mask(scene: Scene) -> Image.Image:
    """The noun's silhouette, 128x128 "L", 255 inside."""
    return _silhouette(parts(scene), SIZE * SCALE).reduce(SCALE)


def edges(scene: Scene) -> Image.Image:
    """Every outline of the noun, 128x128 "L", white on black, two pixels wide; independent of the style."""
    image = Image.new("L", (SIZE * SCALE, SIZE * SCALE), 0)
    pen = ImageDraw.Draw(image)
    for part in parts(scene):
        points = [(x * SIZE * SCALE, y * SIZE * SCALE) for x, y in part.points]
        if part.kind == "area":  # a part in front hides the lines behind it
            pen.polygon(points, fill=0)
            points.append(points[0])
        pen.line(points, fill=255, width=2 * SCALE, joint="curve")
    return image.reduce(SCALE)


PART_CLASSES = ("background", "body", "shade", "accent", "hair", "other", "detail", "line")


def part_map(scene: Scene, cells: int = 16) -> np.ndarray:
    """What each cell of the picture shows, (classes, cells, cells) float32 shares that sum to 1; independent of the
    style. Classes are `PART_CLASSES`: "other" is every area with a colour of its own, such as a face or a window."""
    fine = 4 * cells
    image = Image.new("L", (fine, fine), 0)
    pen = ImageDraw.Draw(image)
    for part in parts(scene):
        points = [(x * fine, y * fine) for x, y in part.points]
        if part.kind == "line":
            pen.line(points, fill=PART_CLASSES.index("line"), width=round(part.width * fine / 64))
            continue
        role = "hair" if part.fill == "brow" else part.fill if isinstance(part.fill, str) else "other"
        pen.polygon(points, fill=PART_CLASSES.index("detail" if part.detail else role))
    one_hot = np.asarray(image)[None] == np.arange(len(PART_CLASSES), dtype=np.uint8)[:, None, None]
    return one_hot.reshape(len(PART_CLASSES), cells, 4, cells, 4).mean(axis=(2, 4), dtype=np.float32)


def palette(scene: Scene, seed: int = 0, colours: int = 6) -> np.ndarray:
    """The picture's main colours, (colours, 3) uint8, most frequent first."""
    quantised = draw(scene, seed).quantize(colours, method=Image.Quantize.MEDIANCUT)
    counts = sorted(quantised.getcolors(), reverse=True)
    table = np.array(quantised.getpalette()[: 3 * colours], dtype=np.uint8).reshape(-1, 3)
    return table[[index for _, index in counts]]


def edge_pixels(image: Image.Image) -> Image.Image:
    """Edges of any picture by its gradient, "L": for pictures whose scene is not known."""
    gray = image.convert("L").filter(ImageFilter.GaussianBlur(1))
    return ImageChops.multiply(gray.filter(ImageFilter.FIND_EDGES), Image.new("L", gray.size, 255))


def _silhouette(shape: list[Part], side: int) -> Image.Image:
    image = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(image)
    for part in shape:
        if part.kind == "area":
            pen.polygon([(x * side, y * side) for x, y in part.points], fill=255)
    return image
