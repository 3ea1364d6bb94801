"""README's table of the tiny models, from the `metrics.json` that each recipe wrote beside its weights."""

from __future__ import annotations

from typing import Any

from studylib.errors import StudyError
from studylib.files import read_json
from studylib.models.files import WEIGHTS
from studylib.reports.readme import rewrite_section

MODELS_START, MODELS_END = "<!-- models:start -->", "<!-- models:end -->"
FOUR = ("noun", "colour", "style", "place")
PEOPLE = ("hair", "glasses", "beard", "expression")
JUDGED = (*FOUR, "pattern", "accent", "haircut", "hair_colour", *PEOPLE[1:])
ROWS: dict[str, tuple[str, str]] = {  # class, goal
    "sd": (
        "`StableDiffusionPipeline`",
        "98 % each; people 92 % each; pattern within 5 points of renders; Frechet 1.5 x; faces 95 %",
    ),
    "vae": ("`AutoencoderKL`", "33 dB"),
    "clip": ("`CLIPModel`", "97 %"),
    "judge": ("a small ResNet", "98 % each; 97 % on reconstructions"),
    "dino": ("`ViTModel`", "95 %; 85 %"),
    "style": ("a small ResNet", "80 %"),
    "face": ("a small ResNet", "0.99; 2.5 pixels"),
}


def models_table() -> str:
    """Return the table in Markdown. Raises StudyError for a metrics.json that is missing or damaged."""
    lines = [
        "| model | class | parameters | trained for | measured on held-out scenes | goal |",
        "|---|---|---|---|---|---|",
    ]
    for name, (kind, goal) in ROWS.items():
        path = WEIGHTS / name / "metrics.json"
        metrics = read_json(path, f"Train it: python -m studylib.recipes.{name}")
        try:
            size, time = f"{metrics['parameters'] / 1e6:.1f} M", f"{metrics['minutes']:.0f} min"
            lines.append(f"| {name} | {kind} | {size} | {time} | {measured(name, metrics)} | {goal} |")
        except (OverflowError, ValueError, KeyError, TypeError) as error:
            raise StudyError(f"{path} is damaged: {error!r}", f"Train it: python -m studylib.recipes.{name}") from error
    return "\n".join(lines) + "\n"


def measured(name: str, metrics: dict[str, Any]) -> str:
    """Say in words what a recipe measured at its end."""
    if name == "sd":
        return (
            f"{metrics['prompts']} prompts judged: {_shares(metrics, FOUR)}; of people {_shares(metrics, PEOPLE)}, "
            f"faces found {percent(metrics['faces_found'])}; "
            f"sure of the pattern {percent(metrics['pattern_sure'])} (renders "
            f"{percent(metrics['pattern_sure_renders'])}); Frechet distance {metrics['frechet']:.1f} (reconstructions "
            f"{metrics['frechet_reconstructions']:.1f}); "
            f'style of "a cat" {metrics["style_entropy_bits"]:.2f} of 2.58 bits'
        )
    if name == "vae":
        return f"{metrics['psnr_db']:.1f} dB on held-out pictures"
    if name == "clip":
        return f"zero-shot attributes {percent(metrics['attribute_accuracy'])} ({_shares(metrics, FOUR)})"
    if name == "dino":
        same, across = (percent(metrics[key]) for key in ("retrieval_top1", "retrieval_across_styles"))
        return f"same subject among 64 of its noun: {same}, across styles {across}"
    if name == "style":
        return f"same nuance, other noun, among 32 of the style: {percent(metrics['retrieval_top1'])}"
    if name == "face":
        same, across = (f"{metrics[key]:.3f}" for key in ("auc", "auc_across_styles"))
        return f"verification AUC {same}, across styles {across}; keypoints {metrics['keypoint_error_px']:.1f} pixels"
    least = min(JUDGED, key=lambda key: metrics[f"{key}_reconstructed"])
    again = f"on reconstructions least {least} {percent(metrics[f'{least}_reconstructed'])}"
    return f"{_shares(metrics, JUDGED)}; {again}"


def _shares(metrics: dict[str, Any], names: tuple[str, ...]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {percent(metrics[name])}" for name in names)


def percent(share: float) -> str:
    """0.975 as "97.5 %"."""
    return f"{100 * share:.1f} %"


def update_readme() -> bool | None:
    """Rewrite the table between README.md's markers; tell whether the file changed, None if it has no such place."""
    return rewrite_section(MODELS_START, MODELS_END, models_table(), "table of models", optional=True)
