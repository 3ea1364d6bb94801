"""The closing section of papers that learn a subject: the same lesson for each method, in one table and one picture.

A paper's notebook measures its own method and records it; the other papers' rows are those of their rendered
notebooks, as long as these were given the same lesson.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from studylib.evidence.course import course
from studylib.evidence.paper import load_results
from studylib.learning.training import History
from studylib.measuring.subject import Measured, means
from studylib.measuring.views import Views
from studylib.running.fingerprint import weight_hashes
from studylib.running.paper import OpenPaper
from studylib.showing import figures
from studylib.showing.listing import printable
from studylib.showing.tables import Table
from studylib.workspace import find_root

PREFIX, PICTURE = "lesson: ", "lesson"  # of what a notebook records
LESSON = (  # parameters that make the lesson: rows that differ in one of them are not compared
    "model", "seed", "subject", "images", "num_images", "class_noun", "num_inference_steps", "guidance_scale",
    "encoders",
)
SHOWN = (0, 2, 3, 4, 5)  # contexts in the picture, after the bare subject


@dataclass(frozen=True)
class Closing:
    """Table and picture of all methods, and what `record` keeps of this one."""

    table: Table
    grid: Figure
    metrics: dict[str, float]
    figures: dict[str, Image.Image]
    omitted: tuple[str, ...]

    def __repr__(self) -> str:
        left_out = "".join(f"\n{printable(reason)}" for reason in self.omitted)
        return f"{self.table!r}{left_out}"

    def _repr_html_(self) -> str:
        return self.table._repr_html_() + "".join(f"<p>{html.escape(reason)}</p>" for reason in self.omitted)


def close_lesson(
    paper: OpenPaper, views: Views, measured: Measured, *, history: History, file_bytes: int, drift: float,
) -> Closing:
    """Put this notebook's method beside the other papers' that learned the same subject.

    `measured` is of `views`; `drift` the mean of `prediction_drift`. Columns beyond the measures: trainable
    parameters, size of the saved file, seconds and memory of the training.
    """
    slug, values = paper.slug, paper.parameters
    columns = ("DINO", "CLIP-I", "CLIP-T", "judged", "PRES")
    found = means(measured)
    row = {name: found[name] for name in columns if name in found} | {
        "drift": drift,
        "parameters (k)": history.parameters / 1000,
        "file (kB)": file_bytes / 1000,
        "training (s)": history.seconds,
        "memory (MiB)": history.memory_mib,
    }
    strip = [views.of_subject[0], *(views.in_contexts[i] for i in SHOWN)]
    lesson = {name: values[name] for name in LESSON if name in values}
    rows, strips, omitted = {slug: row}, {slug: strip}, []
    shipped = {name: digest for name, digest in weight_hashes(slug, None).items() if name.startswith("studylib/")}
    for other, results in _others(slug):
        differing = [n for n, v in lesson.items() if n in results["params"] and results["params"][n] != v]
        if differing:
            asked = ", ".join(f"{name}={results['params'][name]!r}" for name in differing)
            omitted.append(f"{other} was measured with {asked}: not compared")
            continue
        if results.get("weights", {}) | shipped != results.get("weights"):
            omitted.append(f"{other} was measured with other weights: not compared until it is rendered again")
            continue
        rows[other] = {
            name.removeprefix(PREFIX): value for name, value in results["metrics"].items() if name.startswith(PREFIX)
        }
        strips[other] = _cut(other, len(strip))
    order = [entry.slug for entry in course() if entry.slug in rows]
    titles = ["plain", *(views.contexts[i].words.replace("{}", "…") for i in SHOWN)]
    return Closing(
        table=Table({name: rows[name] for name in order}),
        grid=figures.comparison({name.replace("_", " "): strips[name] for name in order}, titles, reference=None),
        metrics={PREFIX + name: value for name, value in row.items()},
        figures={PICTURE: figures.sheet(strip, gap=0)},
        omitted=tuple(omitted),
    )


def _others(slug: str) -> list[tuple[str, dict[str, Any]]]:
    """Rendered papers that learned a subject, with their results, in course order."""
    found = []
    for entry in course():
        results = load_results(entry.slug) if entry.written and entry.slug != slug else None
        if results and any(name.startswith(PREFIX) for name in results["metrics"]) and _path(entry.slug).is_file():
            found.append((entry.slug, results))
    return found


def _cut(slug: str, count: int) -> Sequence[Image.Image]:
    """The pictures of a strip that another notebook left."""
    with Image.open(_path(slug)) as strip:
        side = strip.width // count
        return [strip.crop((i * side, 0, (i + 1) * side, strip.height)).convert("RGB") for i in range(count)]


def _path(slug: str) -> Path:
    return find_root() / "papers" / slug / "figures" / f"{PICTURE}.webp"
