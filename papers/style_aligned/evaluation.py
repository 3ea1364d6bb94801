"""The paper's evaluation at small scale: sets of prompts that leave the style unsaid, measured target by target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from papers.style_aligned.mass import record_reference_mass
from papers.style_aligned.method import StyleAlignedConfig, generate, starting_latents, style_aligned
from studylib.denoisers.prompts import listed
from studylib.measuring import metrics
from studylib.measuring.encoders import Encoders, judge_network
from studylib.measuring.subject import difference, mean_of
from studylib.showing.tables import Table

NOUNS = ("cat", "car", "house", "fish", "tree", "boat", "cup", "flower", "star")  # the first is the reference
PROMPTS = tuple(f"a {noun}" for noun in NOUNS)

_ATTENTION_ONLY = {"share_group_norm": False, "share_layer_norm": False}  # as in the paper's SDXL notebook
ROWS: dict[str, StyleAlignedConfig] = {
    "no sharing": StyleAlignedConfig.off(),
    "no AdaIN": StyleAlignedConfig(adain_queries=False, adain_keys=False, **_ATTENTION_ONLY),
    "StyleAligned": StyleAlignedConfig(**_ATTENTION_ONLY),
    "full sharing": StyleAlignedConfig.off(full_attention_share=True),
    "TTT": StyleAlignedConfig(),  # group norm, layer norm, attention; AdaIN stays on in all four
    "FFF": StyleAlignedConfig(share_attention=False, **_ATTENTION_ONLY),
}
OWN = "these parameters"  # the row of a notebook whose parameters are none of the above
PAPER: dict[str, tuple[float, float]] = {  # CLIP text, DINO set consistency: the paper's appendix table [verified]
    "no AdaIN": (0.289, 0.428),
    "StyleAligned": (0.287, 0.51),
    "full sharing": (0.28, 0.55),
}


@dataclass(frozen=True)
class Drawn:
    """One method's sets, by seed, and the attention mass its targets paid to the reference, by (seed, site)."""

    images: dict[int, list[Image.Image]]
    mass: dict[tuple[int, str], float]


def row_name(config: StyleAlignedConfig, given: dict[str, Any]) -> str:
    """The row of `ROWS` that these parameters are; `OWN` for none, or where a reference picture is given."""
    return next((name for name, row in ROWS.items() if row == config and not given), OWN)


def draw_sets(
    pipe: Any, config: StyleAlignedConfig, seeds: Sequence[int], *, label: str = "", **sampling: Any
) -> Drawn:
    """Draw the set of `PROMPTS` once a seed and record the attention mass on the reference, mean over steps."""
    images, mass = {}, {}
    for seed in tqdm(seeds, desc=label or "sets", leave=False):
        with record_reference_mass(pipe, set_size=len(PROMPTS), every=4) as recorded:
            images[seed] = generate(pipe, PROMPTS, config, seed=seed, **sampling)
        for site in dict.fromkeys(site for site, _ in recorded):
            mass[seed, site] = float(np.mean([value for (name, _), value in recorded.items() if name == site]))
    return Drawn(images, mass)


def measure(drawn: Drawn, encoders: Encoders) -> dict[str, dict[tuple[int, str], float]]:
    """Each measure of each target, by (seed, prompt).

    consistency: mean DINO cosine to the rest of its set, [-1, 1]. text: CLIP cosine to its prompt, [-1, 1].
    noun: probability that it shows what was asked, leakage: that it shows the reference's noun, both [0, 1].
    palette: colour distance to the reference, [0, 1], needs no model. diversity: 1 - mean DINO cosine to the same
    prompt's pictures of the other seeds, [0, 2].
    """
    found: dict[str, dict[tuple[int, str], float]] = {
        name: {} for name in ("consistency", "text", "noun", "leakage", "palette", "diversity")
    }
    count = len(PROMPTS)
    features = {seed: metrics.image_features(images, encoders.dino) for seed, images in drawn.images.items()}
    for seed, images in drawn.images.items():
        cosines = features[seed] @ features[seed].T  # (N, N)
        text = metrics.text_similarities(images, PROMPTS, encoders.clip)
        nouns = noun_probabilities(images, encoders)  # (N, nouns)
        for i in range(1, count):
            key = (seed, PROMPTS[i])
            found["consistency"][key] = (cosines[i].sum().item() - cosines[i, i].item()) / (count - 1)
            found["text"][key] = text[i].item()
            found["noun"][key], found["leakage"][key] = nouns[i][i].item(), nouns[i][0].item()
            found["palette"][key] = metrics.palette_distance([images[i], images[0]])
            others = [other for other in features if other != seed]
            alike = [(features[seed][i] @ features[other][i]).item() for other in others]
            found["diversity"][key] = 1 - float(np.mean(alike)) if alike else 0.0
    return found


def noun_probabilities(images: Sequence[Image.Image], encoders: Encoders) -> Tensor:
    """Probability of each of `NOUNS`, (N, nouns), rows summing to at most 1: the judge's, or a hub CLIP's choice."""
    if encoders.clip is None:
        classes = judge_network().heads["noun"]
        return metrics.judge_probabilities(images, "noun")[:, [classes.index(noun) for noun in NOUNS]]
    rows = [metrics.text_similarities(images, [prompt] * len(images), encoders.clip) for prompt in PROMPTS]
    return torch.stack(rows, dim=1).mul(100).softmax(dim=-1)  # (N, nouns)


def reference_drift(
    pipe: Any, config: StyleAlignedConfig, seeds: Sequence[int], *, guidance_scale: float, num_inference_steps: int = 6
) -> dict[tuple[int, str], float]:
    """How far sharing moves the reference's latents from their unshared selves: RMS difference, by (seed, prompt).

    Every prompt is once the reference, in a set of two with the next one; few steps are enough to see it move.
    """
    pairs = [prompt for i, first in enumerate(PROMPTS) for prompt in (first, PROMPTS[(i + 1) % len(PROMPTS)])]
    settings = {"set_size": 2, "guidance_scale": guidance_scale, "num_inference_steps": num_inference_steps}
    drift = {}
    for seed in seeds:
        noise = starting_latents(pipe, len(pairs), seed)
        moved, still = (set_latents(pipe, c, pairs, noise, **settings) for c in (config, None))
        rms = (moved - still)[::2].square().mean(dim=(1, 2, 3)).sqrt()  # (references,)
        drift |= {(seed, prompt): value for prompt, value in zip(PROMPTS, rms.tolist(), strict=True)}
    return drift


def set_latents(
    pipe: Any,
    config: StyleAlignedConfig | None,
    prompts: Sequence[str],
    noise: Tensor,
    *,
    set_size: int | None = None,
    **sampling: Any,
) -> Tensor:
    """The finished latents of one set, or of several of `set_size` in a row, float32 on the CPU.

    config None: the pipeline with nothing attached, which "off" is compared with.
    """
    sharing = nullcontext() if config is None else style_aligned(pipe, config, set_size=set_size or len(prompts))
    with sharing:
        output = pipe(listed(prompts), latents=noise.to(pipe.unet.dtype), output_type="latent", **sampling)
    return output.images.float().cpu()


def shift_against_copies(copies: Sequence[int] = (1, 2, 3), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Attention with a shift of log m, and with m copies of the reference's tokens: (m, 1, heads, tokens, d)."""
    query, key, value, key_r, value_r = torch.randn(5, 1, 2, 12, 8, generator=torch.Generator().manual_seed(seed))
    shifted, copied = [], []
    for m in copies:
        bias = torch.cat([torch.zeros(12), torch.full((12,), math.log(m))]).expand(12, 24)
        keys, values = torch.cat([key, key_r], dim=-2), torch.cat([value, value_r], dim=-2)  # (1, heads, 24, d)
        shifted.append(F.scaled_dot_product_attention(query, keys, values, attn_mask=bias))
        keys, values = torch.cat([key, *[key_r] * m], dim=-2), torch.cat([value, *[value_r] * m], dim=-2)
        copied.append(F.scaled_dot_product_attention(query, keys, values))
    return torch.stack(shifted), torch.stack(copied)


def effects(method: dict, baseline: dict) -> tuple[list[float], list[int], list[str]]:
    """Method minus baseline on pairs that share seed and prompt (or layer): what `Claims.directional` takes."""
    found = difference(method, baseline)
    return list(found.values()), [seed for seed, _ in found], [prompt for _, prompt in found]


def table(measured: dict[str, dict], drawn: dict[str, Drawn]) -> Table:
    """One row a method: every measure's mean, and the attention mass."""
    return Table(
        {
            name: {measure: mean_of(values) for measure, values in found.items()} | {"mass": mean_of(drawn[name].mass)}
            for name, found in measured.items()
        }
    )
