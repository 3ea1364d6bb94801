"""The table of methods that learned the same subject: made once, from what each paper's rendered notebook recorded.

`papers/LESSON.md` and its picture hold it; the notebooks and README show them. No notebook reads another paper's
results, so that all of them show the same table, whichever was rendered last.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from studylib.evidence.course import course
from studylib.evidence.paper import load_results
from studylib.files import write_atomically
from studylib.measuring.lesson import PICTURE, PREFIX, SHOWN
from studylib.reports.readme import replaced_section
from studylib.running.notebook import cell_source, read_notebook
from studylib.running.render import notebook_text
from studylib.showing import figures
from studylib.workspace import find_root, notebook_path, written_papers
from studylib.world.subjects import CONTEXTS

PAGE, SHEET = "LESSON.md", "lesson.webp"
START, END = "<!-- lesson:start -->", "<!-- lesson:end -->"  # around the table in a notebook's cell of text
HEAD = """\
# One subject, taught by every method that learns one

Written by `study render`, from what each paper recorded.
"""
LESSON = (  # parameters that make the lesson: rows that differ in one of them are not compared
    "model", "seed", "subject", "images", "num_images", "class_noun", "num_inference_steps", "guidance_scale",
    "encoders",
)


@dataclass
class Methods:
    """Rows and strips of pictures by paper, in course order, and why the others were left out."""

    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    strips: dict[str, list[Image.Image]] = field(default_factory=dict)
    omitted: list[str] = field(default_factory=list)


def methods() -> Methods:
    """Collect what the papers recorded of one lesson: that which most of them were given, of several the first.

    A paper whose parameters or weights differ from it is left out, with the reason.
    """
    recorded = {slug: results for slug, results in _results().items() if _row(results) and _strip_path(slug).is_file()}
    given = {slug: _given(results) for slug, results in recorded.items()}
    counts = Counter(json.dumps(lesson, sort_keys=True) for lesson in given.values())
    found = Methods()
    if not counts:
        return found
    common = json.loads(counts.most_common(1)[0][0])
    for slug, results in recorded.items():
        if given[slug] == common:
            found.rows[slug], found.strips[slug] = _row(results), _strip(slug)
        else:
            found.omitted.append(f"{slug} is left out: {_difference(given[slug], common)}.")
    return found


def markdown(found: Methods, folder: str = "") -> str:
    """The table, the picture as a file of `folder`, and what was left out."""
    columns = list(dict.fromkeys(column for row in found.rows.values() for column in row))
    lines = [f"| method | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for slug, row in found.rows.items():
        cells = [f"{row[column]:.3f}" if column in row else "" for column in columns]
        lines.append(f"| {slug.replace('_', ' ')} | {' | '.join(cells)} |")
    picture = f"![The subject as each method draws it: plain, then in contexts]({folder}{SHEET})"
    return "\n".join([*lines, "", picture, *(f"\n{reason}" for reason in found.omitted)]) + "\n"


def update_lesson() -> bool | None:
    """Write the page, its picture, and the table in each notebook that has a place for it; tell whether one changed.

    None, and nothing written, as long as no paper has recorded a row.
    """
    found, papers = methods(), find_root() / "papers"
    if not found.rows:
        return None
    changed = [_write(papers / PAGE, f"{HEAD}\n{markdown(found)}".encode()), _write(papers / SHEET, _sheet(found))]
    for slug in written_papers():
        if notebook_path(slug).is_file():
            text = with_table(slug, markdown(found, "../papers/"))
            changed.append(_write(notebook_path(slug), text.encode()))
    return any(changed)


def with_table(slug: str, table: str) -> str:
    """A paper's notebook as text, with the table in its cell of text that has a place for it."""
    notebook = read_notebook(notebook_path(slug))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown" and START in cell_source(cell)]
    if not cells:
        return notebook_path(slug).read_text(encoding="utf-8")
    for cell in cells:
        text = replaced_section(cell_source(cell), START, END, table, f"{slug}.ipynb", "table of methods")
        cell["source"] = text.splitlines(keepends=True)
    return notebook_text(slug, notebook)


def _results() -> dict[str, dict[str, Any]]:
    found = {entry.slug: load_results(entry.slug) for entry in course() if entry.written}
    return {slug: results for slug, results in found.items() if results}


def _row(results: dict[str, Any]) -> dict[str, float]:
    metrics = results.get("metrics", {})
    return {name.removeprefix(PREFIX): value for name, value in metrics.items() if name.startswith(PREFIX)}


def _given(results: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for all: the lesson's parameters, and the weights that ship with the library."""
    parameters = {name: results["params"].get(name) for name in LESSON}
    shipped = {name: digest for name, digest in results["weights"].items() if name.startswith("studylib/")}
    return parameters | {"weights": shipped}


def _difference(given: dict[str, Any], common: dict[str, Any]) -> str:
    named = [f"{name}={given[name]!r} instead of {common[name]!r}" for name in LESSON if given[name] != common[name]]
    if given["weights"] != common["weights"]:
        named.append("other weights, until it is rendered again")
    return f"it was measured with {', '.join(named)}"


def _strip(slug: str) -> list[Image.Image]:
    """The pictures of the strip that a notebook recorded: the bare subject, then contexts."""
    count = 1 + len(SHOWN)
    with Image.open(_strip_path(slug)) as strip:
        side = strip.width // count
        return [strip.crop((i * side, 0, (i + 1) * side, strip.height)).convert("RGB") for i in range(count)]


def _strip_path(slug: str) -> Path:
    return find_root() / "papers" / slug / "figures" / f"{PICTURE}.webp"


def _sheet(found: Methods) -> bytes:
    """All strips, one below another, with titles, as a WebP file."""
    titles: Sequence[str] = ["plain", *(CONTEXTS[i].words.replace("{}", "…") for i in SHOWN)]
    rows = {slug.replace("_", " "): strip for slug, strip in found.strips.items()}
    content = io.BytesIO()
    figures.comparison(rows, titles, reference=None).savefig(content, format="webp", bbox_inches="tight", dpi=80)
    return content.getvalue()


def _write(path: Path, content: bytes) -> bool:
    if path.is_file() and path.read_bytes() == content:
        return False
    write_atomically(path, content)
    return True
