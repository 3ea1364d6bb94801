"""A table of numbers that reads well in a notebook and, as text, in a diff."""

from __future__ import annotations

import html
from collections.abc import Mapping

from studylib.showing.listing import printable


class Table:
    """Rows of named numbers under common columns; a number that a row lacks is left blank.

    rows: row title -> {column: number}. digits: decimals shown.
    """

    def __init__(self, rows: Mapping[str, Mapping[str, float]], digits: int = 3) -> None:
        if not rows:
            raise ValueError("Table: no rows given; pass {title: {column: number}}")
        self.rows = {title: dict(cells) for title, cells in rows.items()}
        self.columns = list(dict.fromkeys(column for cells in self.rows.values() for column in cells))
        self._digits = digits

    def _cells(self, title: str) -> list[str]:
        row = self.rows[title]
        return [f"{row[column]:.{self._digits}f}" if column in row else "" for column in self.columns]

    def __repr__(self) -> str:
        heads = ["", *map(printable, self.columns)]
        lines = [heads, *([printable(title), *self._cells(title)] for title in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        return "\n".join(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(column)}</th>" for column in self.columns)
        body = "".join(
            f"<tr><th style='text-align:left'>{html.escape(title)}</th>"
            + "".join(f"<td>{cell}</td>" for cell in self._cells(title))
            + "</tr>"
            for title in self.rows
        )
        return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
