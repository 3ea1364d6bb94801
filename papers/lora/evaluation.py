"""What the paper reports, the architecture its sizes are counted on, and the checks that a notebook makes of a LoRA."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from papers.lora.factors import Lora, save_lora, summed
from papers.lora.method import (
    LoRAConfig,
    LoRALinear,
    adapted,
    adapted_layers,
    count_parameters,
    new_layers,
    trained_layers,
)
from papers.lora.subject import draw_batches, subject_loss
from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.latents import LatentDistribution
from studylib.denoisers.prompts import Prompt
from studylib.learning.weights import replaced
from studylib.measuring.subject import difference, likeness
from studylib.models.hub import quiet_loading
from studylib.showing.tables import Table
from studylib.world.draw import draw
from studylib.world.scene import COLOURS, THINGS, Scene, caption, sample_placement
from studylib.world.subjects import CONTEXTS

PAPER: dict[str, dict[str, float]] = {  # GPT-3 175B, table 4 [verified]: WikiSQL and MNLI-m accuracy, in percent
    "full tuning, 175,255 M": {"WikiSQL": 73.8, "MNLI-m": 89.5},
    "adapters, 40.1 M": {"WikiSQL": 73.2, "MNLI-m": 91.5},
    "LoRA, 4.7 M": {"WikiSQL": 73.4, "MNLI-m": 91.7},
    "LoRA, 37.7 M": {"WikiSQL": 74.0, "MNLI-m": 91.6},
}


def attention_parameters(unet: nn.Module, rank: int) -> int:
    """Parameters of a LoRA on q, k, v and out of every attention of this denoiser."""
    return count_parameters(adapted_layers({"unet": unet}, LoRAConfig(train_text_encoder=False)), rank)


def size_table(unet: nn.Module, ranks: Iterable[int], config: LoRAConfig) -> Table:
    """Trainable parameters of a LoRA in this denoiser, rank by rank, their float32 file and share of all weights."""
    layers = adapted_layers({"unet": unet}, replace(config, train_text_encoder=False))
    total = sum(weight.numel() for weight in unet.parameters())
    counts = {rank: count_parameters(layers, rank) for rank in ranks}
    return Table({
        f"r = {rank}": {"parameters (k)": n / 1000, "file (MB)": 4 * n / 1e6, "share (%)": 100 * n / total}
        for rank, n in counts.items()
    })


def who_moves(pipe: Any, photos: LatentDistribution, config: LoRAConfig, *, zero_both: bool = False) -> str:
    """Which factors have a gradient at the start: "A", "B", "A and B" or "none".

    The gradient of A is a product with B and the other way round, so that a zero factor keeps the other one still.
    """
    layers = new_layers(pipe, config)
    weights = [getattr(layer, side) for layer in layers.values() for side in "AB"]
    batch = draw_batches(pipe, photos, None, config)(torch.Generator().manual_seed(config.seed))
    with replaced(pipe, layers), torch.enable_grad():
        for weight in weights:
            weight.data.mul_(not zero_both)
            weight.requires_grad_(True)
        loss = subject_loss(pipe, [config.subject] * len(photos) + [config.class_prompt], config)(batch)["loss"]
        gradients = torch.autograd.grad(loss, weights)
    moving = {side: any(bool(g.any()) for g in gradients[i :: 2]) for i, side in enumerate("AB")}
    return " and ".join(side for side, moves in moving.items() if moves) or "none"


def predicted_noise(pipe: Any, prompt: Prompt, seed: int = 0) -> Tensor:
    """The denoiser's prediction for one fixed noise in mid-schedule, (1, C, h, w)."""
    denoiser = Denoiser(pipe)
    noise = torch.randn(1, *denoiser.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return denoiser.predict(noise.to(denoiser.device), 500, prompt)


def merge_gaps(pipe: Any, lora: Lora, prompt: str) -> tuple[float, float]:
    """How far merged weights are from the layers beside them, in the predicted noise; and how far unmerging them again
    misses the old weights. The pipeline is put back from copies."""
    layers = trained_layers(pipe, lora)
    before = {name: layer.weight.clone() for name, layer in layers.items()}
    with replaced(pipe, layers):
        beside = predicted_noise(pipe, Denoiser(pipe).prompt([prompt]))
        for layer in layers.values():
            layer.merge()
        gap = float((predicted_noise(pipe, Denoiser(pipe).prompt([prompt])) - beside).abs().max())
        for layer in layers.values():
            layer.unmerge()
    missed = max(float((layer.weight - before[name]).abs().max()) for name, layer in layers.items())
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight.copy_(before[name])
    return gap, missed


def gap_to_peft(rank: int = 4, alpha: float = 8.0, seed: int = 0) -> float:
    """Largest difference between our layer and peft's with the same weights, on random ones."""
    from peft.tuners.lora import Linear

    generator = torch.Generator().manual_seed(seed)
    base = nn.Linear(24, 40)
    ours = LoRALinear(base, rank, alpha / rank)
    ours.A.data, ours.B.data = (torch.randn(x.shape, generator=generator) for x in (ours.A, ours.B))
    theirs = Linear(base, "default", _peft_config(rank, alpha), r=rank, lora_alpha=alpha)
    theirs.lora_A["default"].weight.data, theirs.lora_B["default"].weight.data = ours.A.data, ours.B.data
    x = torch.randn(3, 7, 24, generator=generator)
    with torch.no_grad():
        return float((ours(x) - theirs(x)).abs().max())


def _peft_config(rank: int, alpha: float) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=alpha)


def file_gap(pipe: Any, lora: Lora, prompt: str, *, alpha_in_file: bool = True, **sampling: Any) -> float:
    """How far latents drawn from the saved file, loaded by diffusers, are from ours."""

    def latents() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return pipe(prompt, generator=generator, output_type="latent", **sampling).images.float().cpu()

    with tempfile.TemporaryDirectory() as folder:
        path = save_lora(lora, folder, alpha_in_file)
        with adapted(pipe, lora):
            ours = latents()
        with quiet_loading():
            pipe.load_lora_weights(folder, weight_name=path.name)
        try:
            theirs = latents()
        finally:
            pipe.unload_lora_weights()
    return float((ours - theirs).abs().max())


def one_step_ratio(config: LoRAConfig, train_one: Any, factor: float = 0.5) -> float:
    """Length of the first Adam step's change with alpha times `factor`, over that with the rate times `factor`: 1.

    Adam's epsilon is put out of the way: beside it the smallest gradients are not small in the same way for both.
    `train_one(config)` trains for one step and returns the Lora.
    """
    step = replace(config, max_train_steps=1, adam_epsilon=1e-20)
    by_alpha = train_one(replace(step, lora_alpha=factor * config.lora_alpha))
    by_rate = train_one(replace(step, learning_rate=factor * config.learning_rate))
    return by_alpha.norm() / by_rate.norm()


def style_pictures(
    style: str, count: int, size: int, without: Sequence[str] = ()
) -> tuple[list[Image.Image], list[str]]:
    """Pictures of many nouns in one nuance of one style, and captions that tell everything but the style.

    What a caption leaves unsaid is what there is to learn: noun, colour and place are told. `without`: nouns left out,
    such as that of the subject. Random state: its own.
    """
    rng = random.Random(f"{style} {count}")
    nuance = {"line_width": 0.8, "hatch_angle": 30.0, "tint": 0.9, "shadow": 0.2, "grain": 0.1}
    nouns = [noun for noun in THINGS if noun not in without]
    scenes = [
        Scene(nouns[i % len(nouns)], rng.choice(COLOURS), rng.choice(("grass", "beach", "night", "snow")), style,
              **sample_placement(rng, "thing"), **nuance)
        for i in range(count)
    ]  # fmt: skip
    captions = [caption(scene).removesuffix(f" in {style} style") for scene in scenes]
    return [draw(scene, seed=i).resize((size, size)) for i, scene in enumerate(scenes)], captions


def part(lora: Lora, *, text_encoder: bool = True, self_attention: bool = True, cross_attention: bool = True) -> Lora:
    """The LoRA without the parts that are switched off."""
    off = {"text_encoder.": text_encoder, ".attn1.": self_attention, ".attn2.": cross_attention}
    return lora.only(lambda name: not any(piece in name and not on for piece, on in off.items()))


def likenesses(images: Sequence[Image.Image], photos: Sequence[Image.Image], dino: Any = None) -> dict[str, float]:
    """DINO likeness of each context's picture to the photos, by the context's words."""
    values = likeness(images, photos, dino).tolist()
    return {context.words: value for context, value in zip(CONTEXTS, values, strict=True)}


def effects_of_trainings(
    found: Mapping[str, Mapping[str, float]], above_chance: dict[str, float], lengths: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Effects of the claims that compare trainings, by picture or by layer.

    `found`: likenesses of "untouched", the whole training "LoRA", and after half the steps "half" and the variants.
    Rank 1 is compared with the point half-way between untouched and rank 64. The other two are by layer: how far
    phi(1, 1) is above chance, and how much longer W is in the change's directions than in random ones.
    """

    untouched, wide = found["untouched"], found["rank 64"]
    half_way = {picture: (value + wide[picture]) / 2 for picture, value in untouched.items()}
    return {
        "teaches_the_subject": difference(found["LoRA"], untouched),
        "rank_one_gets_most": difference(found["rank 1"], half_way),
        "spread_beats_query": difference(found["half"], found["q alone"]),
        "needs_larger_rate": difference(found["half"], found["low rate"]),
        "top_directions_shared": above_chance,
        "change_is_no_noise": {name: row["change"] - row["random"] for name, row in lengths.items()},
    }


def strength_effects(
    draw_contexts: Callable[..., list[Image.Image]], lora: Lora, photos: Sequence[Image.Image], seeds: Iterable[int],
    dino: Any = None, **sampling: Any,
) -> tuple[list[float], list[int], list[str]]:
    """Likeness at strength 1 minus that at 0.5, with seeds and contexts: what `Claims.directional` takes.

    `draw_contexts(lora, first=seed, **sampling)` draws the subject in every context.
    """
    effects, used, words = [], [], []
    for seed in seeds:
        one, half = (
            likenesses(draw_contexts(summed([(lora, s)]), first=seed, **sampling), photos, dino) for s in (1.0, 0.5)
        )
        effects += difference(one, half).values()
        used, words = used + [seed] * len(one), words + list(one)
    return effects, used, words
