"""The course at a glance: its papers in order with links, and a square for every claim."""

from __future__ import annotations

import html
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from studylib.evidence.course import CourseEntry, course
from studylib.evidence.verdicts import NOT_YET, VERDICTS
from studylib.reports.scoreboard import Line, counts, scoreboard
from studylib.showing.figures import DPI, FAINT, FONT, INK, LOOK
from studylib.workspace import notebook_path


class CourseMap:
    """The papers in course order: an HTML table with links in a notebook, lines when printed."""

    def __init__(self, rows: list[tuple[CourseEntry, str]]) -> None:
        self.rows = rows

    def __repr__(self) -> str:
        width = max(len(entry.slug) for entry, _ in self.rows)
        return "\n".join(f"{entry.order:2}  {entry.slug:{width}}  {state}" for entry, state in self.rows)

    def _repr_html_(self) -> str:
        left = 'style="text-align:left"'
        head = "".join(f"<th {left}>{name}</th>" for name in ("", "paper", "year", "idea", "claims"))
        body = ""
        for entry, state in self.rows:
            title = html.escape(entry.title)
            if notebook_path(entry.slug).is_file():
                title = f'<a href="{html.escape(entry.slug)}.ipynb">{title}</a>'
            cells = (str(entry.order), title, str(entry.year), html.escape(entry.one_line), html.escape(state))
            body += "<tr>" + "".join(f"<td {left}>{cell}</td>" for cell in cells) + "</tr>"
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def course_map() -> CourseMap:
    """Return the map of the course: each paper with what became of its claims, or that it is planned."""
    lines = scoreboard()
    return CourseMap([(entry, state_of(entry, lines)) for entry in course()])


def state_of(entry: CourseEntry, lines: list[Line]) -> str:
    """Say how a paper's claims fared, or that it is planned."""
    return counts(line for line in lines if line.paper == entry.slug) if entry.written else "planned"


def scoreboard_figure(lines: list[Line] | None = None, *, width: float = 7.2) -> Figure:
    """Draw a square for each claim, coloured by its verdict, a row for each paper in course order."""
    lines = scoreboard() if lines is None else lines
    entries = course()
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(width, 0.8 + 0.25 * len(entries)), layout="constrained", dpi=DPI)
        ax = figure.subplots()
        longest = 12
        for row, entry in enumerate(entries):
            verdicts = [line.verdict for line in lines if line.paper == entry.slug]
            longest = max(longest, len(verdicts))
            if not verdicts:
                ax.text(0.1, row, "written" if entry.written else "planned", color=FAINT, va="center", style="italic")
            for column, verdict in enumerate(sorted(verdicts, key=list(VERDICTS).index)):
                ax.add_patch(Rectangle((column + 0.06, row - 0.42), 0.88, 0.84, **face(verdict)))
                sign = VERDICTS[verdict].sign  # beside the colour, for who cannot tell these
                ax.text(column + 0.5, row, sign, color="white", va="center", ha="center", fontsize=FONT - 1)
        ax.set(xlim=(0, longest), ylim=(len(entries) - 0.4, -0.6), xticks=[])
        ax.set_yticks(range(len(entries)), [f"{entry.slug}  {entry.order:\u2007>2}" for entry in entries])
        ax.tick_params(axis="y", length=0)
        for entry, label in zip(entries, ax.get_yticklabels(), strict=True):
            label.set_color(INK if entry.written else FAINT)
        for spine in ax.spines.values():
            spine.set_visible(False)
        found = {verdict: sum(line.verdict == verdict for line in lines) for verdict in VERDICTS}
        patches = [
            Patch(label=f"{VERDICTS[verdict].sign} {verdict}: {count}", **face(verdict))
            for verdict, count in found.items()
            if count
        ]
        if patches:
            figure.legend(handles=patches, loc="outside upper left", ncols=3, fontsize=FONT)
    return figure


def face(verdict: str) -> dict[str, Any]:
    """Return how a verdict's square is drawn: in its colour, or empty while nothing is measured."""
    colour = "white" if verdict == NOT_YET else VERDICTS[verdict].colour
    return {"facecolor": colour, "edgecolor": FAINT, "linewidth": 0.4}
