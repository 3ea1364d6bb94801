"""Measures of pictures: pure functions from images and texts to numbers, each with its range.

Encoders come from `studylib.models.load`, loaded at first use: by default those of the tiny world. `clip` and
`dino` take a hub model's name or what `load_clip` and `load_dino` return, `judge_model` a loaded network.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from studylib.measuring.encoders import Encoder, dino_features, judge_logits, judge_network, text_image_features

# Oklab, after Bjorn Ottosson (2020): a colour space whose distances are close to those people see.
RGB_TO_CONES = torch.tensor([
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])
CONES_TO_OKLAB = torch.tensor([
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])


def image_features(images: Sequence[Image.Image], dino: Encoder = None) -> Tensor:
    """Return the L2-normalised DINO class token of each picture, (N, D)."""
    _need(images, 1, "image_features")
    return dino_features(images, dino)


def pairwise_similarity(images: Sequence[Image.Image], dino: Encoder = None) -> Tensor:
    """Return the DINO cosine of every pair of pictures, (N, N), in [-1, 1] with a diagonal of 1."""
    features = image_features(images, dino)  # (N, D)
    return (features @ features.T).clamp(-1, 1)  # (N, N)


def set_consistency(images: Sequence[Image.Image], dino: Encoder = None) -> float:
    """Return the mean DINO cosine over all pairs of different pictures of a set, in [-1, 1].

    The set includes its reference, as in StyleAligned (arXiv 2312.02133, section 4). Raises ValueError below
    two pictures.
    """
    _need(images, 2, "set_consistency")
    return _mean_of_pairs(pairwise_similarity(images, dino))


def diversity(images: Sequence[Image.Image], dino: Encoder = None) -> float:
    """Return 1 - `set_consistency`, in [0, 2]: how far pictures that should differ do differ."""
    _need(images, 2, "diversity")
    return 1.0 - set_consistency(images, dino)


def text_similarities(images: Sequence[Image.Image], texts: Sequence[str], clip: Encoder = None) -> Tensor:
    """Return the CLIP cosine of each picture with its own text, (N,), in [-1, 1]."""
    _need(images, 1, "text_alignment")
    _same_count(images, texts, "texts")
    pictures, sentences = text_image_features(images, texts, clip)  # (N, D) each
    return (pictures * sentences).sum(dim=-1).clamp(-1, 1)  # (N,)


def text_alignment(images: Sequence[Image.Image], texts: Sequence[str], clip: Encoder = None) -> float:
    """Return the mean CLIP cosine of pictures and their texts, in [-1, 1].

    StyleAligned's text score uses the object text only ("a cat"), not the words for the style; pass what you
    want compared.
    """
    return text_similarities(images, texts, clip).mean().item()


def judge_probabilities(images: Sequence[Image.Image], attribute: str,
                        judge_model: nn.Module | None = None) -> Tensor:
    """Return the judge's probability of each class of `attribute`, (N, classes), rows summing to 1.

    Raises ValueError for an attribute that the judge has no head for.
    """
    _need(images, 1, "judge_probabilities")
    network = judge_network(judge_model)
    _known(attribute, network.heads, "attribute")
    return judge_logits(images, network)[attribute].softmax(dim=-1)  # (N, classes)


def judge(images: Sequence[Image.Image], judge_model: nn.Module | None = None) -> list[dict[str, str]]:
    """Return what the judge sees in each picture: attribute -> most probable class."""
    _need(images, 1, "judge")
    network = judge_network(judge_model)
    best = {name: logits.argmax(dim=-1).tolist() for name, logits in judge_logits(images, network).items()}
    return [{name: network.heads[name][best[name][i]] for name in network.heads} for i in range(len(images))]


def accuracy(images: Sequence[Image.Image], expected: Sequence[Mapping[str, str]],
             judge_model: nn.Module | None = None) -> float:
    """Return the share of expected attributes that the judge sees, in [0, 1].

    `expected`: for each picture only the attributes its prompt asks for, such as {"noun": "cat", "style":
    "sketch"}.
    """
    right = [hit for hits in _hits(images, expected, judge_model).values() for hit in hits]
    return sum(right) / len(right)


def accuracy_by_attribute(images: Sequence[Image.Image], expected: Sequence[Mapping[str, str]],
                          judge_model: nn.Module | None = None) -> dict[str, float]:
    """Return `accuracy` for each attribute that is expected anywhere, each in [0, 1]."""
    return {name: sum(hits) / len(hits) for name, hits in _hits(images, expected, judge_model).items()}


def content_leakage(images: Sequence[Image.Image], reference_noun: str,
                    judge_model: nn.Module | None = None) -> float:
    """Return the mean probability, in [0, 1], that the judge sees the reference's noun in the targets.

    `images` are the targets alone, none of which was asked to show `reference_noun`; high is bad.
    """
    _need(images, 1, "content_leakage")
    network = judge_network(judge_model)
    _known("noun", network.heads, "attribute")
    _known(reference_noun, network.heads["noun"], "noun")
    probabilities = judge_probabilities(images, "noun", network)  # (N, classes)
    return probabilities[:, network.heads["noun"].index(reference_noun)].mean().item()


def entropy(labels: Sequence[Hashable]) -> float:
    """Return the entropy of the labels' frequencies in bits: 0 if all are alike, log2(n) if all n differ."""
    _need(labels, 1, "entropy", "labels")
    shares = [count / len(labels) for count in Counter(labels).values()]
    return abs(sum(share * math.log2(share) for share in shares))


def style_entropy(images: Sequence[Image.Image], judge_model: nn.Module | None = None) -> float:
    """Return the entropy of the judged styles of a set in bits, in [0, log2(styles)]; 0: one style."""
    _need(images, 2, "style_entropy")
    return entropy([seen["style"] for seen in judge(images, judge_model)])


def palette_distance(images: Sequence[Image.Image]) -> float:
    """Return the mean distance of two pictures' colours over all pairs of a set, in [0, 1]; lower: more
    alike.

    Sliced Wasserstein distance of the pixels' Oklab colours (13 fixed directions, pictures shrunk to 32x32):
    how far colour must be moved, wherever it stands in the picture. Needs no model.
    """
    _need(images, 2, "palette_distance")
    steps = [(x, y, z) for x in (0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) > (0, 0, 0)]
    directions = F.normalize(torch.tensor(steps, dtype=torch.float32), dim=-1)  # (13, 3)
    small = [image.convert("RGB").resize((32, 32), Image.Resampling.BOX) for image in images]
    colours = torch.stack([_oklab(picture) for picture in small])  # (N, 1024, 3)
    sorted_colours = (colours @ directions.T).sort(dim=1).values  # (N, 1024, 13)
    rows = [(sorted_colours - one).abs().mean(dim=(-2, -1)) for one in sorted_colours]  # N times (N,)
    distances = torch.stack(rows)  # (N, N)
    return _mean_of_pairs(distances)


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Return the peak signal-to-noise ratio of two pictures in dB, in [0, inf]; inf if they are equal."""
    if a.size != b.size:
        raise ValueError(f"psnr: pictures of one size needed, got {a.size} and {b.size}; resize one first")
    first, second = (np.asarray(image.convert("RGB"), dtype=np.float64) for image in (a, b))  # (H, W, 3)
    error = float(np.mean((first - second) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def pixel_gap(images: Sequence[Image.Image], others: Sequence[Image.Image]) -> int:
    """Return the largest difference of two sets of pictures, picture by picture, in steps of a colour, 0 to 255."""
    _need(images, 1, "pixel_gap")
    pairs = zip(images, others, strict=True)
    return max(int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max()) for a, b in pairs)


def reference_mass(weights: Tensor, reference: slice) -> float:
    """Return the mean attention mass on the reference's key tokens, in [0, 1].

    `weights`: attention weights (..., queries, keys) whose rows sum to 1; `reference`: the slice of key
    tokens.
    """
    sums = weights.float().sum(dim=-1)  # (..., queries)
    if weights.numel() == 0 or not torch.allclose(sums, torch.ones_like(sums), atol=2e-2):
        raise ValueError("reference_mass: rows of weights must sum to 1; pass attention weights, not logits")
    if len(range(*reference.indices(weights.shape[-1]))) == 0:
        raise ValueError(f"reference_mass: {reference} selects none of the {weights.shape[-1]} key tokens")
    return weights[..., reference].float().sum(dim=-1).mean().item()


def _hits(images: Sequence[Image.Image], expected: Sequence[Mapping[str, str]],
          judge_model: nn.Module | None) -> dict[str, list[bool]]:
    _need(images, 1, "accuracy")
    _same_count(images, expected, "expected descriptions")
    network = judge_network(judge_model)
    hits: dict[str, list[bool]] = {}
    for seen, wanted in zip(judge(images, network), expected, strict=True):
        for name, value in wanted.items():
            _known(name, network.heads, "attribute")
            _known(value, network.heads[name], name)
            hits.setdefault(name, []).append(seen[name] == value)
    if not hits:
        raise ValueError("accuracy: no attribute is expected of any picture; name one, such as the noun")
    return hits


def _oklab(image: Image.Image) -> Tensor:
    """Oklab colours of an RGB picture, (pixels, 3): lightness in [0, 1], axes in [-0.4, 0.4]."""
    rgb = torch.from_numpy(np.asarray(image).reshape(-1, 3).copy()).float() / 255  # (pixels, 3)
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return (linear @ RGB_TO_CONES.T).pow(1 / 3) @ CONES_TO_OKLAB.T  # (pixels, 3)


def _mean_of_pairs(matrix: Tensor) -> float:
    """Mean of the entries above the diagonal of an (N, N) matrix."""
    rows, columns = torch.triu_indices(len(matrix), len(matrix), offset=1)
    return matrix[rows, columns].mean().item()


def _need(given: Sequence[Any], least: int, function: str, unit: str = "pictures") -> None:
    if len(given) < least:
        raise ValueError(f"{function}: sought at least {least} {unit}, got {len(given)}")


def _same_count(items: Sequence[Any], others: Sequence[Any], what: str) -> None:
    if len(items) != len(others):
        raise ValueError(f"{len(others)} {what} for {len(items)} items; give one for each")


def _known(name: str, known: Any, what: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(str(name), list(known), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"the judge knows no {what} {name!r}, only {', '.join(known)}{hint}")
