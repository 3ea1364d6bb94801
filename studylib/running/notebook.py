"""Reads notebooks as JSON, without a kernel."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studylib.errors import StudyError
from studylib.files import read_once

METADATA = {  # of a committed notebook: what every kernel says of itself is left out
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


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


@dataclass(frozen=True)
class NotebookCode:
    """The code of a notebook: all its code cells, and those of them that are tagged `parameters`."""

    cells: tuple[str, ...]
    parameters: tuple[str, ...]


@read_once
def notebook_code(path: Path) -> NotebookCode:
    """Read the code of a notebook; as long as the file stays as it is, it is parsed once."""
    code = [cell for cell in read_notebook(path)["cells"] if cell.get("cell_type") == "code"]
    tagged = [cell for cell in code if "parameters" in cell.get("metadata", {}).get("tags", [])]
    return NotebookCode(tuple(map(cell_source, code)), tuple(map(cell_source, tagged)))
