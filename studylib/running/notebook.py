"""Reads notebooks as JSON, without a kernel."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studylib.errors import StudyError
from studylib.files import read_json, read_once

METADATA = {  # of a committed notebook: what every kernel says of itself is left out
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def read_notebook(path: Path) -> dict[str, Any]:
    """Read a notebook's JSON; StudyError says what is wrong with the file."""
    if not path.exists():
        raise StudyError(f"{path} is missing", "Write it, or start a paper with `study new`")
    try:
        notebook = read_json(path, "Restore the file")
    except StudyError as error:
        raise StudyError(f"{path} is not a notebook: {error.cause}", error.remedy) from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise StudyError(f"{path} is not a notebook: it has no cells", "Restore the file")
    for number, cell in enumerate(notebook["cells"], start=1):
        if not is_cell(cell):
            raise StudyError(f"{path} is not a notebook: cell {number} has no type, text or tags", "Restore the file")
    return notebook


def is_cell(cell: Any) -> bool:
    """Whether this is a cell as nbformat describes it, as far as this library reads one."""
    if not isinstance(cell, dict) or not isinstance(cell.get("metadata", {}), dict):
        return False
    source, tags = cell.get("source", ""), cell.get("metadata", {}).get("tags", [])
    lists = [value for value in (source, tags) if not isinstance(value, str)]
    return isinstance(cell.get("cell_type"), str) and all(
        isinstance(value, list) and all(isinstance(item, str) for item in value) for value in lists
    )


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
