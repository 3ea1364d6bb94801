"""A workspace with one small paper that needs no torch, to test cards, runs and commands on."""

import json
import textwrap
from pathlib import Path

from studylib.running.folder import RECORD as RECORD_FILE
from studylib.running.records import read_record
from studylib.workspace import runs_folder

CARD = """
slug = "mini"
title = "A Small Study"
authors = "A. Author"
year = 2024
venue = "none"
arxiv = ""
code = "none"
licence = "none"
order = 1
question = "Does it run?"

[knobs.strength]
help = "how strong"
min = 0.0
max = 1.0

[knobs.mode]
choices = ["plain", "rich"]
"""
CLAIM = """
[[claims]]
id = "{id}"
sentence = "{id} holds."
source = "table 1"
paper = "{paper}"
kind = "{kind}"
how = "look at it"
"""
KINDS = {
    "identity": "exact",
    "count": "exact",
    "rises": "directional",
    "falls": "directional",
    "liked": "beyond",
}
PRESETS = "[weak]\nstrength = 0.25\n\n[broken]\nsteps = 'many'\n"
PARAMETERS = """
from typing import Optional

share: bool = True  # whether targets see the reference
steps: int = 3  # denoising steps
strength: float = 0.5
mode: str = "plain"
limit: Optional[int] = None  # none for no limit
"""
WORK = """
from studylib.evidence.card import load_card
from studylib.evidence.claims import Claims
from studylib.evidence.outcome import record

claims = Claims(load_card("mini"))
claims.exact("identity", steps, steps)
claims.exact("count", 2, 3)
claims.directional("rises", [strength] * 24, [0, 1, 2] * 8, [i // 3 for i in range(24)])
pairs = range(24)
claims.directional("falls", [1.0, -1.0] * 12, [i // 8 for i in pairs], [i % 8 for i in pairs])
claims.table()
"""
RECORD = 'record("mini", metrics={"strength": strength, "steps": steps}, claims=claims)'


def card_text(kinds: dict[str, str] | None = None, paper: str = "0.5 [verified]") -> str:
    kinds = KINDS if kinds is None else kinds
    signs = {"falls": "sign = -1\n"}
    claims = (CLAIM.format(id=id, kind=kind, paper=paper) + signs.get(id, "") for id, kind in kinds.items())
    return CARD + "".join(claims)


def code(source: str, *tags: str) -> dict:
    metadata = {"tags": list(tags)} if tags else {}
    return {
        "cell_type": "code",
        "metadata": metadata,
        "source": textwrap.dedent(source).strip(),
        "execution_count": None,
        "outputs": [],
    }


def prose(source: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def write_notebook(path: Path, cells: list[dict]) -> None:
    cells = [{**cell, "id": f"cell-{number}"} for number, cell in enumerate(cells)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook), encoding="utf-8")


def standard_cells(*extra: str) -> list[dict]:
    return [
        prose("# A small study"),
        code(PARAMETERS, "parameters"),
        code(WORK),
        *map(code, extra),
        code(RECORD),
    ]


def make_workspace(root: Path) -> Path:
    """Write the workspace below `root` and return it."""
    for folder in ("papers/mini", "notebooks", "tests/papers"):
        (root / folder).mkdir(parents=True)
    (root / "papers" / "course.toml").write_text(
        '[[papers]]\nslug = "mini"\ntitle = "A Small Study"\nyear = 2024\none_line = "It runs."\n\n'
        '[[papers]]\nslug = "later"\ntitle = "A Later Study"\nyear = 2025\narxiv = "2501.00001"\n'
        'one_line = "It will | run."\n',
    )
    (root / "papers" / "mini" / "card.toml").write_text(card_text())
    (root / "papers" / "mini" / "presets.toml").write_text(PRESETS)
    (root / "papers" / "mini" / "method.py").write_text("SCALE = 1\n")
    write_notebook(root / "notebooks" / "mini.ipynb", standard_cells())
    return root


def write_work(root: Path, *sources: str) -> None:
    """Write the workspace's notebook with these cells between its work and its record."""
    cells = [code(PARAMETERS, "parameters"), code(WORK), *map(code, sources), code(RECORD)]
    write_notebook(root / "notebooks" / "mini.ipynb", cells)


def records(slug: str) -> list[dict]:
    """The records of all finished runs of a paper, oldest first."""
    folders = sorted((runs_folder() / slug).glob(f"[!.]*/{RECORD_FILE}"))
    return sorted((read_record(path.parent) for path in folders), key=lambda record: record["started_at"])
