"""Rows under named columns, printed for a terminal or a log, or written as CSV, JSON or Markdown."""

import csv
import datetime
import decimal
import io
import json
import math
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

UNLIMITED = 100_000  # a log has no width: one row stays one line
GAP = 2


@dataclass(frozen=True)
class Listing:
    """Rows of plain values under named columns, which may share a name."""

    columns: list[str]
    rows: list[tuple[Any, ...]]

    def show(self, *, whole: bool = True) -> None:
        """Print the rows; on a terminal too narrow for all columns in blocks that each begin with the first.

        Not `whole`, only the first block, with a line that names the columns it leaves out.
        """
        cells = [[shown(value) for value in row] for row in self.rows]
        width = terminal_width()
        blocks = [list(range(len(self.columns)))] if width is None else self._blocks(cells, width)
        for block in blocks if whole else blocks[:1]:
            table = plain_table()
            for column in block:
                numeric = any(is_number(row[column]) for row in self.rows)
                table.add_column(
                    Text(shown(self.columns[column])),
                    justify="right" if numeric else "left",
                    overflow="fold",
                    max_width=None if width is None else min(self._width(cells, column), width),
                )
            for row in cells:
                table.add_row(*(Text(row[column]) for column in block))
            show_table(table)
        if not whole and len(blocks) > 1:
            left = [self.columns[column] for block in blocks[1:] for column in block[1:]]
            print(f"{len(left)} more columns with --all: {shown(', '.join(left))}")

    def csv(self) -> str:
        """Return the rows as CSV under a line of names, numbers in full."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([plain(value) for value in row] for row in self.rows)
        return text.getvalue()

    def json(self) -> str:
        """Return the rows as a JSON list of objects; of columns that share a name the last one is kept."""
        rows = [dict(zip(self.columns, map(plain, row), strict=True)) for row in self.rows]
        return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def markdown(self) -> str:
        """Return the rows as a Markdown table."""
        lines = [self.columns, ["---"] * len(self.columns), *([shown(value) for value in row] for row in self.rows)]
        return "".join(f"| {' | '.join(map(markdown_cell, line))} |\n" for line in lines)

    def _width(self, cells: list[list[str]], column: int) -> int:
        """The width that keeps every cell on one line and every word of the heading whole."""
        words = self.columns[column].split() or [""]
        return max(map(len, [*words, *(row[column] for row in cells)]))

    def _blocks(self, cells: list[list[str]], width: int) -> list[list[int]]:
        """Split the columns into blocks that fit into `width`, the first column repeated in each."""
        widths = [self._width(cells, column) + GAP for column in range(len(self.columns))]
        blocks: list[list[int]] = [[0]] if self.columns else []
        for column in range(1, len(self.columns)):
            if len(blocks[-1]) > 1 and sum(widths[i] for i in blocks[-1]) + widths[column] > width:
                blocks.append([0])
            blocks[-1].append(column)
        return blocks


def terminal_width() -> int | None:
    """Return the width of the terminal that is printed to, None for a pipe or a file."""
    console = Console()
    return console.width if console.is_terminal else None


def plain_table() -> Table:
    """Return an empty rich table of the one look: no frame, bold headings."""
    return Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")


def show_table(table: Table) -> None:
    """Print a rich table: fitted to a terminal, or plain and unwrapped into a pipe or a file."""
    if terminal_width() is not None:
        Console(highlight=False).print(table)
        return
    console = Console(width=UNLIMITED, color_system=None, highlight=False, file=io.StringIO())
    console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in console.file.getvalue().splitlines()))


def shown(value: Any) -> str:
    """Return a value as a reader wants it: four digits, true and false, minutes, no control characters."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (float, decimal.Decimal)):
        return f"{value:.4g}"
    if isinstance(value, datetime.datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return printable(str(value))


def printable(text: str) -> str:
    """Return text in one line that cannot steer a terminal: control characters are written out, such as \\x1b."""
    return "".join(
        letter if letter.isprintable() else " " if letter.isspace() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def plain(value: Any) -> Any:
    """Return a value that JSON can hold, numbers in full; one that is not finite becomes None."""
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def is_number(value: Any) -> bool:
    """Tell whether a value is a number, which true and false are not."""
    return isinstance(value, (int, float, decimal.Decimal)) and not isinstance(value, bool)


def markdown_cell(text: str) -> str:
    """Return text that stays inside its cell of a Markdown table and is no HTML."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return printable(" ".join(text.replace("\\", "\\\\").replace("|", "\\|").split()))
