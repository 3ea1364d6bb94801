"""The tiny world: scenes that are fully known, their pictures, captions and ground truth."""

from studylib.world.draw import draw, edges, mask, palette
from studylib.world.people import EXPRESSIONS, HAIR_COLOURS, HAIRCUTS, Person, sample_person
from studylib.world.scene import (
    COLOURS,
    NOUNS,
    PATTERNS,
    PLACES,
    STYLES,
    THINGS,
    Scene,
    attributes,
    caption,
    sample_scene,
)
from studylib.world.shapes import keypoints, strokes

__all__ = [
    "COLOURS",
    "EXPRESSIONS",
    "HAIRCUTS",
    "HAIR_COLOURS",
    "NOUNS",
    "PATTERNS",
    "PLACES",
    "STYLES",
    "THINGS",
    "Person",
    "Scene",
    "attributes",
    "caption",
    "draw",
    "edges",
    "keypoints",
    "mask",
    "palette",
    "sample_person",
    "sample_scene",
    "strokes",
]
