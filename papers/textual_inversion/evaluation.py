"""What this paper looks at beside the common views: the loss on the pictures, the word among words, a style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from papers.textual_inversion.method import Word, new_word
from studylib.denoisers.attention import record_attention
from studylib.denoisers.latents import LatentDistribution
from studylib.measuring import metrics
from studylib.measuring.lesson import Lesson
from studylib.measuring.subject import Measured, difference, means, photo_errors
from studylib.measuring.views import Views, draw_pictures
from studylib.models.architectures import sd15_text_encoder
from studylib.showing import figures
from studylib.world import Scene, draw

PAPER: dict[str, dict[str, float]] = {  # on Stable Diffusion, DreamBooth's table 1 [verified in two transcriptions]
    "Textual Inversion": {"DINO": 0.569, "CLIP-I": 0.780, "CLIP-T": 0.255},
}
STYLE = Scene("cat", "red", "plain", "flat", line_width=0.9, tint=0.0, grain=0.9, shadow=0.2, hatch_angle=30.0)
PARTS = ("unet", "vae", "text_encoder")
Thing = tuple[str, str, str]  # noun, colour, place
SHOWN: tuple[Thing, ...] = (
    ("cat", "red", "grass"), ("boat", "teal", "plain"), ("house", "yellow", "snow"), ("flower", "purple", "beach"),
    ("car", "green", "plain"), ("box", "blue", "snow"),
)  # fmt: skip
NEW: tuple[Thing, ...] = (
    ("fish", "orange", "plain"), ("tree", "green", "snow"), ("star", "yellow", "plain"), ("cup", "pink", "beach"),
    ("heart", "red", "grass"), ("ball", "blue", "plain"),
)  # fmt: skip


def weights_of(pipe: Any) -> dict[str, Tensor]:
    """A copy of every weight of denoiser, autoencoder and text encoder, by name."""
    parts = {part: getattr(pipe, part).state_dict() for part in PARTS}
    return {f"{part}.{name}": value.clone() for part, weights in parts.items() for name, value in weights.items()}


def changed_weights(pipe: Any, before: Mapping[str, Tensor]) -> list[str]:
    """Names of the weights that differ in a single bit from those `before`, or are not there on one side."""
    now = weights_of(pipe)
    both = now.keys() & before.keys()
    return sorted({name for name in both if not torch.equal(now[name], before[name])} | (now.keys() ^ before.keys()))


def word_views(lesson: Lesson, word: Word, step: int = -1) -> Views:
    """The views of a word as it was after `step` steps.

    A prompt without the word draws the same pictures whatever was learned: those of the class are not drawn again.
    """
    known = new_word(lesson.pipe, word.token, word.trace[step].to(lesson.pipe.unet.device))
    return lesson.views(known, count=len(lesson.untouched.of_class), of_class=lesson.untouched.of_class)


def error_curve(pipe: Any, photos: LatentDistribution, word: Word, steps: Sequence[int], **how: int) -> Tensor:
    """The loss of the photos under "a <token>" after these steps, at fixed noise, (steps, N)."""
    rows = []
    for step in steps:
        known = new_word(pipe, word.token, word.trace[step].to(pipe.unet.device))
        rows.append(list(photo_errors(pipe, known, photos, f"a {word.token}", **how).values()))
    return torch.tensor(rows)


def nearest_words(pipe: Any, vector: Tensor, count: int = 3) -> dict[str, float]:
    """The tokens whose vectors have the largest cosine with `vector` (D,), and that cosine; "ca-" begins a word."""
    table = pipe.text_encoder.get_input_embeddings().weight.detach().float()  # (V, D)
    cosines = F.normalize(table, dim=1) @ F.normalize(vector.to(table), dim=0)  # (V,)
    cosines[pipe.tokenizer.all_special_ids] = -1.0
    best = cosines.topk(count).indices.tolist()
    tokens = pipe.tokenizer.convert_ids_to_tokens(best)
    names = [token.removesuffix("</w>") if token.endswith("</w>") else f"{token}-" for token in tokens]
    return dict(zip(names, cosines[best].tolist(), strict=True))


def describe_trace(pipe: Any, word: Word, steps: Sequence[int]) -> str:
    """A line for each of these steps: norm of the first vector, and the real words nearest to it."""
    lines = []
    for step in steps:
        vector = word.trace[step][0]
        words = ", ".join(f"{name} {cosine:.2f}" for name, cosine in nearest_words(pipe, vector).items())
        lines.append(f"step {step:4d}  norm {vector.norm():.2f}  nearest: {words}")
    return "\n".join(lines)


def reshaped(word: Word, step: int, strength: float = 1.0, norm: float = 1.0) -> Tensor:
    """The vectors (N, D) after `step`, `strength` of the way from the initial word's, their norms times `norm`."""
    return norm * torch.lerp(word.initial, word.trace[step], strength)


def word_maps(pipe: Any, prompt: str, seed: int, **sampling: Any) -> tuple[Image.Image, dict[str, Tensor]]:
    """Draw a prompt, and where the cross-attention at the finest layers looks for each of its tokens: maps (h, w)."""
    converted = pipe.maybe_convert_prompt(prompt, pipe.tokenizer)
    tokens = pipe.tokenizer.convert_ids_to_tokens(pipe.tokenizer(converted, truncation=True).input_ids)
    with record_attention(pipe.unet, where=lambda site: site.kind == "cross") as seen:
        image = draw_pictures(pipe, [prompt], [seed], **sampling)[0]
    side = pipe.unet.config.sample_size
    weights = seen.mean(tokens=side**2)[-1]  # (h * w, tokens): the last row of a batch is the prompt's own
    maps = weights.unflatten(0, (side, side))  # (h, w, tokens)
    return image, {f"{i} {token.removesuffix('</w>')}": maps[..., i] for i, token in enumerate(tokens) if 0 < i < 7}


def trade_off(lines: Mapping[str, Mapping[str, Measured]], editability: str) -> Figure:
    """The paper's plane: likeness of plain pictures over `editability`, a line per training, a point per snapshot."""
    figure = Figure(figsize=(5.6, 3.3), layout="constrained", dpi=figures.DPI)
    ax = figure.subplots()
    for name, snapshots in lines.items():
        found = [means(measured) for measured in snapshots.values()]
        x, y = [row[editability] for row in found], [row["plain"] for row in found]
        ax.plot(x, y, "o-", color=figures.colour_of(name), label=name, markersize=5)
        for step, at in zip(snapshots, zip(x, y, strict=True), strict=True):
            ax.annotate(step, at, (4, 5), textcoords="offset points", fontsize=figures.FONT - 1.5, color=figures.INK)
    words = {"judged": "share of what the contexts ask for, judged", "CLIP-T": "CLIP cosine of contexts and prompts"}
    ax.set(xlabel=f"editability: {words[editability]}", ylabel="likeness: DINO of plain pictures")
    ax.margins(0.12)
    ax.grid(color="#EDEDED", lw=0.7)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def style_pictures(style: str, things: Sequence[Thing], size: int) -> list[Image.Image]:
    """Pictures of things that share a style and its nuance, `size` pixels square."""
    scenes = [replace(STYLE, style=style, noun=noun, colour=colour, place=place) for noun, colour, place in things]
    return [draw(scene, seed=i).resize((size, size)) for i, scene in enumerate(scenes)]


def draw_in_style(pipe: Any, style: str, seed: int, **sampling: Any) -> list[Image.Image]:
    """Each of `NEW` "in ... style", from noise of its own."""
    prompts = [f"a {colour} {noun} in {style} style" for noun, colour, _ in NEW]
    return draw_pictures(pipe, prompts, [10_000 * seed + i for i in range(len(NEW))], **sampling)


def style_likeness(images: Sequence[Image.Image], true: Sequence[Image.Image], dino: Any = None) -> dict[str, float]:
    """DINO cosine of each picture with the true one of its thing in that style, by noun."""
    found = (metrics.image_features(images, dino) * metrics.image_features(true, dino)).sum(dim=1)  # (N,)
    return dict(zip((noun for noun, _, _ in NEW), found.tolist(), strict=True))


def training_effects(
    untouched: Measured, one: Measured, several: Measured, variants: Mapping[str, Measured], errors: Tensor,
    starts: Mapping[str, Tensor], styled: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, float]]:
    """Method minus baseline for every claim with a sign, picture by picture, from one seed's trainings.

    `errors` (steps, N) is the trace of `photo_errors`; `starts` the same of short trainings, the initial word's first
    and one "from random"; `styled` the likeness of pictures in style, with the initial word first, then the learned.
    """
    related, random = next(iter(starts.values())), starts["from random"]  # (steps, N)
    before, after = list(styled.values())[:2]
    return {
        "loss_falls": _by_number(errors[-1] - errors[0]),
        "likeness_rises": difference(one["plain"], untouched["plain"]),
        "related_word_is_faster": _by_number(related.mean(dim=0) - random.mean(dim=0)),
        "more_vectors_more_alike": difference(several["plain"], one["plain"]),
        "more_vectors_less_editable": difference(several["CLIP-T"], one["CLIP-T"]),
        "lower_rate_less_alike": difference(variants["low"]["plain"], one["plain"]),
        "lower_rate_more_editable": difference(variants["low"]["CLIP-T"], one["CLIP-T"]),
        "pull_less_alike": difference(variants["pulled"]["plain"], one["plain"]),
        "pull_more_editable": difference(variants["pulled"]["CLIP-T"], one["CLIP-T"]),
        "style_is_learned": difference(after, before),
    }


def _by_number(values: Tensor) -> dict[str, float]:
    return {f"photo {i}": value for i, value in enumerate(values.tolist())}


def sd15_counts(num_vectors: int = 1) -> list[int]:
    """Numbers that are learned, in the token table, and in the whole text encoder of SD 1.5."""
    encoder = sd15_text_encoder()
    table = encoder.get_input_embeddings().weight  # (V, D)
    learned = table[:1].repeat(num_vectors, 1)  # (N, D)
    return [learned.numel(), table.numel(), encoder.num_parameters()]
