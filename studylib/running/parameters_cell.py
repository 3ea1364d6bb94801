"""Reads a notebook's `parameters` cell: names, types, defaults and helps, each written once, there."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studylib.errors import StudyError
from studylib.files import read_once
from studylib.running.notebook import notebook_code

TYPES = {"bool": bool, "int": int, "float": float, "str": str}


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell: `name: type = default  # help`."""

    name: str
    type: type
    optional: bool
    default: Any
    help: str

    @property
    def described(self) -> str:
        """The type in words, for messages."""
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[self.type]
        return f"{words} or none" if self.optional else words


def read_parameters(path: Path) -> dict[str, Parameter]:
    """Read the cell tagged `parameters`: bool, int, float, str or Optional of one, one per line.

    Raises StudyError naming the line that is anything else, because papermill would skip it without a word.
    """
    return dict(cell_of(path))


@read_once
def cell_of(path: Path) -> dict[str, Parameter]:
    """The same as `read_parameters`, and the very object of the last call as long as the file has not changed."""
    cells = notebook_code(path).parameters
    if len(cells) != 1:
        raise StudyError(f"{path} has {len(cells)} cells tagged `parameters`", "Tag exactly one code cell so")
    source = cells[0]
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise StudyError(
            f"the parameters cell of {path} does not parse: {error}", "Mend that line"
        ) from error
    lines = source.splitlines()
    found = {}
    for statement in statements:
        if isinstance(statement, ast.ImportFrom) and statement.module == "typing":
            continue
        parameter = _read_line(statement, lines[statement.lineno - 1])
        if parameter is None:
            raise StudyError(
                f"line {statement.lineno} of the parameters cell of {path.name} is no parameter: "
                f"{lines[statement.lineno - 1].strip()}",
                "Write `name: type = value  # help`: bool, int, float, str or Optional[...], a plain value",
            )
        found[parameter.name] = parameter
    return found


def _read_line(statement: ast.stmt, line: str) -> Parameter | None:
    if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
        return None
    words = ast.unparse(statement.annotation)
    inner = re.fullmatch(r"(?:typing\.)?Optional\[(\w+)\]", words)
    optional, name = bool(inner), inner.group(1) if inner else words
    if name not in TYPES or statement.value is None or statement.lineno != statement.end_lineno:
        return None
    try:
        default = ast.literal_eval(statement.value)
    except ValueError:
        return None
    if TYPES[name] is float and is_int(default):
        default = float(default)
    if type(default) is not TYPES[name] and not (optional and default is None):
        return None
    comment = line.encode()[statement.end_col_offset :].decode().strip()
    return Parameter(statement.target.id, TYPES[name], optional, default, comment.removeprefix("#").strip())


def is_int(value: Any) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)
