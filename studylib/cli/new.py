"""Starts a paper from the template: a working miniature that runs at once and is rewritten step by step."""

import json
import keyword
import re
from pathlib import Path
from typing import Any

from studylib.errors import StudyError
from studylib.evidence.card import strange_letters
from studylib.evidence.course import course
from studylib.files import remove, write_atomically
from studylib.workspace import find_root

TEMPLATE = Path(__file__).resolve().parent / "template"
TARGETS = {
    "card.toml": "papers/{slug}/card.toml",
    "presets.toml": "papers/{slug}/presets.toml",
    "method.py.txt": "papers/{slug}/method.py",
    "exercises.py.txt": "papers/{slug}/exercises.py",
    "notes.md": "papers/{slug}/notes.md",
    "test.py.txt": "tests/papers/test_{slug}.py",
}
CELL = re.compile(r"^# %%(?: \[(?P<kind>markdown)\])?(?: tags=(?P<tags>\[.*\]))?$", re.MULTILINE)


def create(slug: str, title: str) -> list[Path]:
    """Write a paper's folder, notebook and test; return their paths, which must not exist before.

    Raises StudyError for a slug that is no Python name, an empty title, or a paper that is there already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", slug) or keyword.iskeyword(slug):
        raise StudyError(
            f"{slug!r} is no short name for a paper", "Use small letters, digits and _, first a letter"
        )
    title = " ".join(title.split())
    if not title or '"' in title or "\\" in title or strange_letters(title):
        raise StudyError(
            f"the title {title!r} is empty or holds a quote, backslash or control character", "Give --title another one"
        )
    root = find_root()
    targets = {name: root / path.format(slug=slug) for name, path in TARGETS.items()}
    notebook = root / "notebooks" / f"{slug}.ipynb"
    there = [path for path in (*targets.values(), notebook) if path.exists()]
    if there:
        raise StudyError(
            f"{there[0].relative_to(root)} is there already", "Choose another name, or remove the paper"
        )
    row = next((entry for entry in course() if entry.slug == slug), None)
    words = {
        "SLUG": slug,
        "CLASS": "".join(part.capitalize() for part in slug.split("_")),
        "TITLE": title,
        "YEAR": str(row.year if row else 2024),
        "ARXIV": row.arxiv if row else "",
        "ORDER": str(row.order if row else len(course()) + 1),
    }
    texts = {path: fill((TEMPLATE / name).read_text(encoding="utf-8"), words) for name, path in targets.items()}
    cells = to_cells(fill((TEMPLATE / "notebook.py.txt").read_text(encoding="utf-8"), words))
    texts[notebook] = json.dumps(as_notebook(cells), indent=1, ensure_ascii=False) + "\n"
    write_all(texts)
    return list(texts)


def write_all(texts: dict[Path, str]) -> None:
    """Write all files or, where one cannot be written, none: half a paper would be in the way of the next try."""
    fresh = [folder for folder in dict.fromkeys(path.parent for path in texts) if not folder.exists()]
    try:
        for path, text in texts.items():
            write_atomically(path, text)
    except BaseException:
        for path in (*texts, *fresh):
            remove(path)
        raise


def fill(text: str, words: dict[str, str]) -> str:
    """Replace every `__WORD__` of the template."""
    for name, word in words.items():
        text = text.replace(f"__{name}__", word)
    return text


def to_cells(script: str) -> list[dict[str, Any]]:
    """Split a script with `# %%` lines into notebook cells; Markdown lines start with "# "."""
    marks = list(CELL.finditer(script))
    ends = [mark.start() for mark in marks[1:]] + [len(script)]
    cells = []
    for number, (mark, end) in enumerate(zip(marks, ends, strict=True), start=1):
        lines = script[mark.end() : end].strip().splitlines()
        cell: dict[str, Any] = {
            "cell_type": mark["kind"] or "code",
            "id": f"cell-{number:02}",
            "metadata": {},
        }
        if mark["tags"]:
            cell["metadata"]["tags"] = json.loads(mark["tags"])
        if mark["kind"]:
            lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
        else:
            cell |= {"execution_count": None, "outputs": []}
        cells.append(cell | {"source": [f"{line}\n" for line in lines[:-1]] + lines[-1:]})
    return cells


def as_notebook(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a notebook of these cells for the plain Python kernel."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
