"""Reads notebooks as JSON, without a kernel."""

import json
from pathlib import Path
from typing import Any

from studylib.errors import StudyError


def read_notebook(path: Path) -> dict[str, Any]:
    """Read a notebook's JSON; StudyError says what is wrong with the file."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StudyError(f"{path} is missing", "Write it, or start a paper with `study new`") from error
    except ValueError as error:
        raise StudyError(f"{path} is not a notebook: {error}", "Restore the file") from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise StudyError(f"{path} is not a notebook: it has no cells", "Restore the file")
    return notebook


def cell_source(cell: dict[str, Any]) -> str:
    """Return a cell's text, stored as one string or as a list of lines."""
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)
