"""README's table of the tiny models, from the `metrics.json` that each recipe wrote beside its weights."""

from __future__ import annotations

import json
from typing import Any

from studylib.errors import StudyError
from studylib.models.files import WEIGHTS
from studylib.reports.readme import rewrite_section

MODELS_START, MODELS_END = "<!-- models:start -->", "<!-- models:end -->"
FOUR = ("noun", "colour", "style", "place")
ROWS: dict[str, tuple[str, str]] = {  # class, goal
    "sd": ("`StableDiffusionPipeline`", "90, 85, 95, 95 %"),
    "vae": ("`AutoencoderKL`", "30 dB"),
    "clip": ("`CLIPModel`", "95 %"),
    "judge": ("a small ResNet", "98 % each"),
    "dino": ("`ViTModel`", "90 %"),
}


def models_table() -> str:
    """Return the table in Markdown. Raises StudyError for a metrics.json that is missing or damaged."""
    lines = [
        "| model | class | parameters | trained for | measured on held-out scenes | goal |",
        "|---|---|---|---|---|---|",
    ]
    for name, (kind, goal) in ROWS.items():
        path = WEIGHTS / name / "metrics.json"
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            size, time = f"{metrics['parameters'] / 1e6:.1f} M", f"{metrics['minutes']:.0f} min"
            lines.append(f"| {name} | {kind} | {size} | {time} | {measured(name, metrics)} | {goal} |")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StudyError(f"{path} is damaged: {error!r}", f"Train it: python -m studylib.recipes.{name}") from error
    return "\n".join(lines) + "\n"


def measured(name: str, metrics: dict[str, Any]) -> str:
    """Say in words what a recipe measured at its end."""
    shares = ", ".join(f"{a} {percent(metrics[a])}" for a in FOUR if a in metrics)
    if name == "sd":
        return f'600 prompts judged: {shares}; style of "a cat" {metrics["style_entropy_bits"]:.2f} of 2.58 bits'
    if name == "vae":
        return f"{metrics['psnr_db']:.1f} dB on held-out pictures"
    if name == "clip":
        return f"zero-shot attributes {percent(metrics['attribute_accuracy'])} ({shares})"
    if name == "dino":
        return f"same subject among 64 of its noun: {percent(metrics['retrieval_top1'])}"
    return shares


def percent(share: float) -> str:
    """0.975 as "97.5 %"."""
    return f"{100 * share:.1f} %"


def update_readme() -> bool | None:
    """Rewrite the table between README.md's markers; tell whether the file changed, None if it has no such place."""
    return rewrite_section(MODELS_START, MODELS_END, models_table(), "table of models", optional=True)
