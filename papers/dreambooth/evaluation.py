"""The paper's comparisons at small scale: trainings that differ in one thing, measured from the same noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from papers.dreambooth.method import DreamBoothConfig, Tuned, draw_batches, dreambooth_loss, train
from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.latents import LatentDistribution
from studylib.denoisers.noise import denoising_errors, min_snr_weights
from studylib.learning.training import Batch, History
from studylib.learning.weights import named_weights, swapped, weight_of
from studylib.measuring.encoders import Encoders
from studylib.measuring.lesson import Lesson
from studylib.measuring.subject import Measured, difference, likeness, means, measure_views, prediction_drift
from studylib.measuring.views import Views, draw_pictures
from studylib.showing import figures
from studylib.world.scene import THINGS
from studylib.world.subjects import CONTEXTS, SUBJECTS, subject_in

PAPER: dict[str, dict[str, float]] = {  # table 1, 30 subjects with 25 prompts [verified in two transcriptions]
    "paper: real images": {"DINO": 0.774, "CLIP-I": 0.885},
    "paper: DreamBooth (SD)": {"DINO": 0.668, "CLIP-I": 0.803, "CLIP-T": 0.305},
    "paper: Textual Inversion (SD)": {"DINO": 0.569, "CLIP-I": 0.780, "CLIP-T": 0.255},
}
COMMON, LETTERS = "red", "xxy5syt00"  # identifiers that are a word, and that fall into single letters


@dataclass(frozen=True)
class Trial:
    """One training and what came of it; `drift` is the prediction's, by picture of the class."""

    config: DreamBoothConfig
    tuned: Tuned
    views: Views
    measured: Measured
    drift: dict[str, float]


def run_trial(
    lesson: Lesson, class_pictures: Sequence[Image.Image], config: DreamBoothConfig, label: str, **options: Any
) -> Trial:
    """Train, draw the views, measure. `options` go to `train`."""
    pipe, asked = lesson.pipe, in_words_of(lesson, config)
    learned = train(pipe, lesson.photos, class_pictures, config, label=label, **options)
    views = asked.views(swapped(pipe, learned.weights))
    return Trial(config, learned, views, asked.measure(views), asked.drift(swapped(pipe, learned.weights)))


def in_words_of(lesson: Lesson, config: DreamBoothConfig) -> Lesson:
    """The same lesson with this configuration's words: trainings differ in identifier and class noun as well."""
    return replace(lesson, subject=config.subject, class_prompt=config.class_prompt)


def upper_bound(subject: str, photos: Sequence[Image.Image], class_prompt: str, encoders: Encoders) -> Measured | None:
    """The true subject drawn in every context, as a perfect method would; None for a subject that is not in SUBJECTS.

    `plain` is the photos' likeness to each other; one photo has none.
    """
    if subject not in SUBJECTS:
        return None
    true = [subject_in(SUBJECTS[subject], context).resize(photos[0].size) for context in CONTEXTS]
    measured = measure_views(Views(list(photos), list(photos), true), photos, class_prompt, encoders)
    own = {name: values for name, values in measured.items() if name not in ("plain", "PRES")}
    if len(photos) == 1:
        return own
    among = (likeness(photos, photos, encoders.dino) * len(photos) - 1) / (len(photos) - 1)  # (N,), without itself
    return own | {"plain": {str(i): value for i, value in enumerate(among.tolist())}}


def blend(
    pipe: Any, learned: Mapping[str, Tensor], *, strength: float = 1.0, parts: Sequence[str] = ("unet", "text_encoder")
) -> dict[str, Tensor]:
    """Weights between the pipeline's own (strength 0) and the learned ones (1), or beyond, for the named parts only."""
    mixed = {}
    for name, weight in learned.items():
        if name.partition(".")[0] in parts:
            own = weight_of(pipe, name).detach()
            mixed[name] = torch.lerp(own, weight.to(own), strength)
    return mixed


def change_by_kind(pipe: Any, learned: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative change |new - old| / |old| of the weights, by what they belong to."""
    sums: dict[str, list[float]] = {}
    for name, weight in learned.items():
        own = weight_of(pipe, name).detach()
        both = sums.setdefault(_kind(name), [0.0, 0.0])
        both[0] += (weight.to(own) - own).square().sum().item()
        both[1] += own.square().sum().item()
    return {kind: (moved / size) ** 0.5 for kind, (moved, size) in sums.items()}


def _kind(name: str) -> str:
    if name.startswith("text_encoder."):
        return "text: embeddings" if "embedding" in name else "text: layers"
    for words, kind in (
        (("norm",), "norms"), (("attn2.to_k", "attn2.to_v"), "cross: keys, values"), (("attn2",), "cross: rest"),
        (("attn1",), "self-attention"), (("time_emb",), "time embedding"), (("ff.", "proj_"), "feed-forward"),
    ):  # fmt: skip
        if any(word in name for word in words):
            return kind
    return "convolutions"


def ablations(config: DreamBoothConfig) -> dict[str, DreamBoothConfig]:
    """The trainings that `full` adds. Nouns and identifiers are compared without prior preservation, which would
    anchor each noun to its own class."""
    alone = replace(config, with_prior_preservation=False)
    return {
        "wrong noun": replace(alone, class_noun=_wrong(config.class_noun)),
        "no noun": replace(alone, class_noun=""),
        "common identifier": replace(alone, identifier=COMMON),
        "letters": replace(alone, identifier=LETTERS),
        "text encoder frozen" if config.train_text_encoder else "text encoder trained": replace(
            config, train_text_encoder=not config.train_text_encoder
        ),
    }


def effects(
    lesson: Lesson, own: Trial, alone: Trial, others: Mapping[str, Trial], untouched: Measured, early: Measured
) -> dict[str, dict[str, float]]:
    """What `full` measures for each claim, picture by picture: the training with prior preservation (`own`) against
    the one without (`alone`), against its variants, the untouched model and its own first snapshot (`early`)."""
    frozen, trained = others.get("text encoder frozen", own), others.get("text encoder trained", own)
    mine, without = own.measured, alone.measured
    wrong, none, letters = (others[name].measured for name in ("wrong noun", "no noun", "letters"))
    rare, common = (identifier_drift(lesson, trial) for trial in (alone, others["common identifier"]))
    return {
        "learns_subject": difference(mine["plain"], untouched["plain"]),
        "keeps_subject_in_contexts": difference(mine["DINO"], untouched["DINO"]),
        "prior_lowers_pres": difference(mine["PRES"], without["PRES"]),
        "prior_lowers_drift": difference(own.drift, alone.drift),
        "prior_raises_diversity": difference(mine["DIV"], without["DIV"]),
        "prior_costs_fidelity": difference(mine["plain"], without["plain"]),
        "prior_keeps_prompt": difference(mine["CLIP-T"], without["CLIP-T"]),
        "right_noun_beats_wrong": difference(without["DINO"], wrong["DINO"]),
        "wrong_noun_beats_none": difference(wrong["DINO"], none["DINO"]),
        "rare_beats_letters": difference(without["DINO"], letters["DINO"]),
        "common_word_loses_meaning": difference(common, rare),
        "text_encoder_helps": difference(trained.measured["DINO"], frozen.measured["DINO"]),
        "more_steps_more_subject": difference(mine["DINO"], early["DINO"]),
        "more_steps_less_prompt": difference(mine["CLIP-T"], early["CLIP-T"]),
    }


def identifier_drift(lesson: Lesson, trial: Trial) -> dict[str, float]:
    """How far a training has moved the predictions for prompts of the common word alone, by prompt."""
    nouns = [noun for noun in THINGS if noun != trial.config.class_noun][:8]
    prompts = [f"a {COMMON} {noun}" for noun in nouns]
    pictures = draw_pictures(lesson.pipe, prompts, range(len(prompts)), **lesson.sampling)
    latents = Denoiser(lesson.pipe).encode(pictures)
    return {
        prompt: prediction_drift(lesson.pipe, swapped(lesson.pipe, trial.tuned.weights), one, prompt).item()
        for prompt, one in zip(prompts, _singly(latents), strict=True)
    }


def _singly(latents: LatentDistribution) -> list[LatentDistribution]:
    pairs = zip(latents.mean.split(1), latents.std.split(1), strict=True)
    return [LatentDistribution(mean, std) for mean, std in pairs]


def _wrong(noun: str) -> str:
    """A class that the subject is not of."""
    return "car" if noun != "car" else "cat"


def over_steps(lesson: Lesson, trial: Trial) -> tuple[Measured, dict[int, dict[str, float]]]:
    """The contexts measured at each kept step: those of the first one, picture by picture, and every step's means."""
    curve: dict[int, dict[str, float]] = {}
    first: Measured = {}
    asked = in_words_of(lesson, trial.config)
    for step, weights in sorted(trial.tuned.snapshots.items()):
        if step == trial.config.max_train_steps:
            measured = trial.measured
        else:
            measured = asked.measure(asked.views(swapped(lesson.pipe, weights), count=0))
        first = first or measured
        curve[step] = means(measured)
    return first, curve


def overview(models: Mapping[str, Views], contexts: int = 6) -> Figure:
    """One row a model: the bare class, the bare subject, and the first contexts."""
    shown = next(iter(models.values())).contexts[:contexts]
    titles = ["class", "subject", *(context.words.replace("{}", "…") for context in shown)]
    rows = {name: [v.of_class[0], v.of_subject[0], *v.in_contexts[:contexts]] for name, v in models.items()}
    return figures.comparison(rows, titles, reference=None, size=1.2)


def smoothed(histories: Mapping[str, History], windows: int = 12) -> tuple[list[float], dict[str, list[float]]]:
    """Steps, and the mean error on the subject around each, for every training: what `figures.curve` takes."""
    count = min(len(history.rows) for history in histories.values())
    width = max(1, count // windows)
    starts = range(0, count - width + 1, width)
    lines = {
        name: [float(np.mean(history.column("instance")[start : start + width])) for start in starts]
        for name, history in histories.items()
    }
    return [start + width / 2 for start in starts], lines


def moved(pipe: Any, learned: Mapping[str, Tensor]) -> int:
    """How many weight tensors of the denoiser differ from the pipeline's."""
    return sum(not torch.equal(weight, learned[name]) for name, weight in named_weights(pipe, ["unet"]).items())


def save_half(weights: Mapping[str, Tensor], folder: Path) -> Path:
    """Write these weights in half precision, as they are shared, and return the file's path."""
    path = folder / "weights.safetensors"
    save_file({name: weight.half().contiguous() for name, weight in weights.items()}, path)
    return path


@torch.no_grad()
def loss_identities(
    lesson: Lesson, class_pictures: Sequence[Image.Image], config: DreamBoothConfig
) -> list[tuple[str, tuple[Any, Any], float]]:
    """Claim, (measured, expected) and tolerance of what holds exactly of the loss, on one batch."""
    pipe, denoiser = lesson.pipe, Denoiser(lesson.pipe)
    own, prior = denoiser.encode(lesson.photos), denoiser.encode(class_pictures)
    config = replace(config, with_prior_preservation=True, train_batch_size=3, snr_gamma=0.0)

    def batch(class_latents: LatentDistribution | None) -> Batch:
        return draw_batches(pipe, own, class_latents, config)(torch.Generator().manual_seed(config.seed))

    def value(data: Batch, **changes: float) -> Tensor:
        return dreambooth_loss(pipe, replace(config, **changes))(data)["loss"]

    both, single = batch(prior), batch(None)
    names = sorted(single)
    flat = [torch.cat([data[name].double().flatten() for name in names]) for data in (both, single)]
    halves = {}
    for half, prompt in (("instance", config.subject), ("class", config.class_prompt)):
        latents, noise, timesteps = (both[f"{half}_{part}"] for part in ("latents", "noise", "timesteps"))
        halves[half] = denoising_errors(denoiser, latents, denoiser.prompt([prompt]), noise, timesteps)  # (3,)
    snr = [min_snr_weights(denoiser, both["instance_timesteps"][i : i + 1], 5.0) for i in range(3)]
    weighted = sum(snr[i] * halves["instance"][i] for i in range(3)) / 3  # (1,)
    weighted = weighted.squeeze() + config.prior_loss_weight * halves["class"].mean()
    return [
        ("class_has_own_noise", (flat[0], flat[1]), 0.0),
        ("lambda_zero_is_no_prior", (value(both, prior_loss_weight=0.0), value(single)), 1e-5),
        ("snr_weighs_subject_only", (value(both, snr_gamma=5.0), weighted), 1e-5),
    ]
