"""Sentences around the new word: it must learn what the pictures share whatever is said about them.

"object" and "style" are neutral sentences of the paper's kind, which go back to CLIP's prompts for ImageNet. "bare"
and "bare style" say as little as possible, for models whose captions are as short as the tiny world's.
"""

from __future__ import annotations

from itertools import product

_QUALITIES = ("clean", "dirty", "nice", "cool", "small", "large", "weird")
_KINDS = ("photo", "cropped photo", "close-up photo", "dark photo", "bright photo", "good photo", "rendition")
_WORKS = ("painting", "picture", "rendering", "rendition", *(f"{quality} painting" for quality in _QUALITIES))

TEMPLATES: dict[str, tuple[str, ...]] = {
    "object": (
        *(f"a {kind} of {article} {{}}" for kind, article in product(_KINDS, ("a", "the"))),
        *(f"a photo of {article} {quality} {{}}" for quality, article in product(_QUALITIES, ("a", "the"))),
        "a photo of my {}", "a photo of one {}",
    ),
    "style": (*(f"a {work} in the style of {{}}" for work in _WORKS), "the painting in the style of {}"),
    "bare": ("a {}", "the {}", "one {}", "a picture of a {}", "a drawing of a {}", "a painting of a {}"),
    "bare style": ("in {} style", "a picture in {} style", "a drawing in {} style", "a painting in {} style"),
}  # fmt: skip
