"""Makes notebooks ready to be read without a kernel, and checks that they still say the same."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, TextIO

from studylib.errors import StudyError
from studylib.files import write_atomically
from studylib.running import runs
from studylib.running.fingerprint import weight_hashes
from studylib.running.notebook import METADATA, cell_source, read_notebook
from studylib.running.scratch import scratch_folder
from studylib.workspace import find_root, import_paths, notebook_path, paper_folder

MAX_BYTES = 1_000_000
INDEX = "index"  # the one notebook that is no paper's
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
RUN_TAGS = {"injected-parameters", "papermill-error-cell-tag"}


def render(slug: str, *, timeout: int = 600, stream: TextIO | None = None) -> dict[str, Any]:
    """Execute a notebook with its defaults, in place; write and return `papers/<slug>/results.json`.

    What it recorded as figures goes to `papers/<slug>/figures`.

    The notebook loses what a reader does not need: widget state, timings, paths of this machine.
    StudyError, with the committed notebook left as it was, when a cell fails or the result is over 1 MB,
    naming its biggest outputs.
    """
    folder = paper_folder(slug)
    parameters = runs.checked(slug, {})
    commit = runs.git_commit()  # before the notebook is rewritten
    with scratch_folder("study-render-") as temporary:
        try:
            seconds, outcome = runs.execute(
                slug, temporary, {}, model=parameters.get("model"), timeout=timeout, stream=stream
            )
        except StudyError as error:
            again = f"`study run {slug}` keeps the notebook up to that cell"
            raise StudyError(
                error.cause, f"{error.remedy}. {again}" if error.remedy else again, exit_code=1
            ) from error
        notebook = clean(read_notebook(temporary / "notebook.ipynb"), temporary)
        figures = {path.name: path.read_bytes() for path in sorted((temporary / "figures").glob("*.webp"))}
    text = notebook_text(slug, notebook)
    results = {
        "slug": slug,
        "params": parameters,
        "claims": outcome["claims"],
        "metrics": outcome["metrics"],
        "seconds": round(seconds),
        "peak_memory_mib": round(outcome["peak_memory_mib"], -1),
        "device": outcome["device"],
        "versions": outcome["versions"],
        "hardware": outcome["hardware"],
        "weights": weight_hashes(slug, parameters.get("model")),
        "git_commit": commit,
    }
    for name, content in figures.items():
        write_atomically(folder / "figures" / name, content)
    write_atomically(notebook_path(slug), text)
    write_atomically(folder / "results.json", json.dumps(results, indent=2, allow_nan=False) + "\n")
    return results


def render_index(*, timeout: int = 600, stream: TextIO | None = None) -> bool:
    """Execute `notebooks/index.ipynb`, the map of the course, in place; tell whether there is one that changed."""
    from studylib.running import engine  # papermill takes a second and a half to import

    path = notebook_path(INDEX)
    if not path.is_file():
        return False
    with scratch_folder("study-render-") as temporary:
        engine.execute(path, temporary, {}, timeout=timeout, model=None, stream=stream)
        notebook = clean(read_notebook(temporary / "notebook.ipynb"), temporary)
    text, before = notebook_text(INDEX, notebook), path.read_text(encoding="utf-8")
    if text != before:
        write_atomically(path, text)
    return text != before


def notebook_text(name: str, notebook: dict[str, Any]) -> str:
    """Return a notebook as it is committed; StudyError names the biggest outputs of one over 1 MB."""
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if len(text.encode()) > MAX_BYTES:
        raise StudyError(
            f"{name}.ipynb would have {len(text.encode()) // 1000} kB, over {MAX_BYTES // 1000}; "
            f"its biggest outputs: {biggest_outputs(notebook)}",
            "Show fewer or smaller pictures there, as JPEG or WebP",
            exit_code=1,
        )
    return text


def clean(notebook: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """Return an executed notebook without widget state, run marks, timings and this machine's paths."""
    cells = []
    for cell in notebook["cells"]:
        tags = [tag for tag in cell["metadata"].get("tags", []) if tag not in RUN_TAGS]
        if len(tags) < len(cell["metadata"].get("tags", [])):
            continue  # a cell that papermill added
        dropped = ("papermill", "execution", "tags")
        metadata = {name: value for name, value in cell["metadata"].items() if name not in dropped}
        cell["metadata"] = metadata | ({"tags": tags} if tags else {})
        if cell["cell_type"] == "code":
            outputs = (without_widget(output) for output in cell["outputs"])
            cell["outputs"] = [without_paths(output, run_dir) for output in outputs if output]
        cells.append(cell)
    return {
        "cells": cells,
        "metadata": METADATA,
        "nbformat": 4,
        "nbformat_minor": max(5, notebook.get("nbformat_minor", 5)),
    }


def without_widget(output: dict[str, Any]) -> dict[str, Any] | None:
    """Return an output without its live widget, an error box without a kernel; None if that was all."""
    if WIDGET_VIEW not in output.get("data", {}):
        return output
    data = {kind: value for kind, value in output["data"].items() if kind != WIDGET_VIEW}
    return output | {"data": data} if set(data) - {"text/plain"} else None


def without_paths(output: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """Return an output whose text names no folder of this machine."""
    places = {str(run_dir): "<run>", str(find_root()): ".", sys.prefix: "<python>", str(Path.home()): "~"}

    def shorten(value: Any) -> Any:
        if isinstance(value, list):
            return [shorten(item) for item in value]
        if not isinstance(value, str):
            return value
        for place, short in places.items():
            if len(place) > 1:  # a home folder of "/" is no place to hide
                value = re.sub(rf"(?<![\w.]){re.escape(place)}(?=[/\\\s'\":,;)\]]|$)", short, value)
        return value

    changed = {name: shorten(output[name]) for name in ("text", "traceback", "evalue") if name in output}
    if "data" in output:
        changed["data"] = {
            kind: shorten(value) if kind.startswith("text/") else value
            for kind, value in output["data"].items()
        }
    return output | changed


def biggest_outputs(notebook: dict[str, Any], count: int = 3) -> str:
    """Name the cells with the biggest outputs: number, kB and first line of code."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    sizes = [(len(json.dumps(cell["outputs"])), number, cell) for number, cell in enumerate(cells, start=1)]
    sizes.sort(key=lambda entry: -entry[0])
    return ", ".join(
        f"cell {number} {size // 1000} kB ({cell_source(cell).strip().splitlines()[0][:50]})"
        for size, number, cell in sizes[:count]
        if size
    )


def check(slugs: list[str]) -> int:
    """Run notebooks again with nbval and compare the cells marked for it; return pytest's exit code."""
    notebooks = []
    for slug in slugs:
        if slug != INDEX:
            paper_folder(slug)
        if not notebook_path(slug).is_file():
            raise StudyError(f"{notebook_path(slug)} is missing", "Write it, or remove the paper's folder")
        notebooks.append(str(notebook_path(slug)))
    # no configuration file: the workspace's own asks for plugins that only the tests need
    options = ["-c", os.devnull, f"--rootdir={find_root()}", "-p", "no:cacheprovider", "-q"]
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", *options, *notebooks]
    return subprocess.run(command, cwd=find_root(), env=os.environ | import_paths()).returncode
