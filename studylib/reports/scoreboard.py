"""The scoreboard: how every claim of every paper fared, for a terminal, as a page and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from pydantic import ValidationError
from rich.text import Text

from studylib.errors import StudyError
from studylib.evidence.card import Kind, load_card
from studylib.evidence.course import CourseEntry, course
from studylib.evidence.paper import load_results
from studylib.evidence.verdicts import NOT_YET, VERDICTS, count_verdicts
from studylib.files import write_atomically
from studylib.running.records import ClaimFound
from studylib.showing.listing import markdown_cell, plain_table, show_table, terminal_width
from studylib.workspace import find_root, paper_folder

PAGE = "CLAIMS.md"  # beside the papers
HEAD = """# How each claim fared

Written by `study render` from what the notebooks measured on the tiny world; `study claims` adds the papers' own
figures. Open a paper for its claims with a sign.
"""
ID_WIDTH = 20  # of a claim's id on a narrow terminal
WIDE = 130


@dataclass(frozen=True)
class Line:
    """One claim: what the paper says and what `study render` last measured for it."""

    paper: str
    claim: str
    kind: Kind
    sentence: str
    source: str
    in_the_paper: str
    verdict: str
    effect: float | None
    interval: tuple[float, float] | None

    @property
    def measured(self) -> str:
        """The effect with its interval, in words; empty without one."""
        if self.effect is None:
            return ""
        if self.interval is None:
            return f"{self.effect:.3g}"
        low, high = self.interval
        return f"{self.effect:+.3f} [{low:+.3f}, {high:+.3f}]"


def scoreboard(slugs: Sequence[str] | None = None) -> list[Line]:
    """Return the claims of some papers, of all written ones without `slugs`, in course and card order.

    A claim that the card has and `results.json` has not is not measured yet; one that only `results.json`
    has is left out, since the card no longer makes it. Raises StudyError for an unknown paper or a damaged
    results.json.
    """
    for slug in slugs or ():
        paper_folder(slug)
    written = [entry.slug for entry in course() if entry.written]
    return [line for slug in written if not slugs or slug in slugs for line in paper_lines(slug)]


def paper_lines(slug: str) -> list[Line]:
    """Return the claims of one paper in the card's order."""
    found = verdicts(slug)
    return [
        Line(
            slug,
            claim.id,
            claim.kind,
            claim.sentence,
            claim.source,
            claim.paper,
            found[claim.id].verdict if claim.id in found else NOT_YET,
            found[claim.id].effect if claim.id in found else None,
            found[claim.id].interval if claim.id in found else None,
        )
        for claim in load_card(slug).claims
    ]


def verdicts(slug: str) -> dict[str, ClaimFound]:
    """Return what `study render` last wrote for each claim of a paper; nothing before the first time."""
    results = load_results(slug)
    if results is None:
        return {}
    try:
        found = {id: ClaimFound.model_validate_json(json.dumps(claim)) for id, claim in results["claims"].items()}
        strange = [claim.verdict for claim in found.values() if claim.verdict not in VERDICTS]
        said = f"{strange[0]!r} is no verdict" if strange else ""
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it has no table of claims"
    if said:
        raise StudyError(f"papers/{slug}/results.json is damaged: {said}", f"Run `study render {slug}`")
    return found


def counts(lines: Iterable[Line]) -> str:
    """Summarise claims in words: "9 held, 7 undecided, 3 not testable here"."""
    return count_verdicts({f"{line.paper} {line.claim}": {"verdict": line.verdict} for line in lines})


def summary(lines: Sequence[Line]) -> str:
    """Say in one line how many papers have claims here and how the claims fared; of some papers, only the latter."""
    papers, written = len({line.paper for line in lines}), len([entry for entry in course() if entry.written])
    if papers < written:
        return f"{papers} of {written} written papers, {len(lines)} claims: {counts(lines)}"
    return f"{papers} of {len(course())} papers written, {len(lines)} claims: {counts(lines)}"


def show(lines: Sequence[Line]) -> None:
    """Print a table for each paper: it wraps on a terminal and is one line per claim in a pipe."""
    narrow = (terminal_width() or WIDE) < WIDE
    for entry in course():
        own = [line for line in lines if line.paper == entry.slug]
        if not own:
            continue
        print(f"{entry.order}  {entry.slug}: {counts(own)}")
        table = plain_table()
        for name in ("claim", "verdict", "measured here"):
            table.add_column(name, no_wrap=True)
        table.add_column("in the paper")
        for line in own:
            claim, verdict, measured = line.claim, line.verdict, line.measured
            if narrow:
                claim, verdict = break_id(claim), verdict.replace("testable ", "testable\n")
                measured = measured.replace(" ", "\n", 1)
            style = VERDICTS[line.verdict].style
            table.add_row(Text(claim), Text(verdict, style=style), Text(measured), Text(line.in_the_paper))
        show_table(table)
        print()
    print(summary(lines))


def break_id(id: str) -> str:
    """Break a long id into lines, after underscores."""
    lines = [""]
    for part in id.replace("_", "_ ").split():
        if lines[-1] and len(lines[-1]) + len(part) > ID_WIDTH:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def as_json(lines: Sequence[Line]) -> str:
    """Return the claims as a JSON list of objects."""
    return json.dumps([asdict(line) for line in lines], indent=2, ensure_ascii=False) + "\n"


def markdown(lines: Sequence[Line]) -> str:
    """Return the page of claims: a fold for each paper with its directional claims, the exact ones in one line."""
    parts = [HEAD, f"{summary(lines)}.\n"]
    for entry in course():
        own = [line for line in lines if line.paper == entry.slug]
        if own:
            parts.append(_paper_markdown(entry, own))
    return "\n".join(parts)


def update_page() -> bool:
    """Rewrite `papers/CLAIMS.md`; tell whether the file changed."""
    path, text = find_root() / "papers" / PAGE, markdown(scoreboard())
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_atomically(path, text)
    return True


def _paper_markdown(entry: CourseEntry, lines: list[Line]) -> str:
    head = f"<b>{entry.order}. {markdown_cell(entry.title)}</b>: {counts(lines)}"
    directional = [line for line in lines if line.kind == "directional"]
    rows = [f"| {markdown_cell(line.sentence)} | {line.verdict} | {line.measured} |\n" for line in directional]
    table = "| claim with a sign | verdict | effect [95 % interval] |\n| --- | --- | --- |\n" + "".join(rows)
    body = [table] if rows else []
    for kind, what in (("exact", "Exact"), ("beyond", "Beyond the tiny world")):
        own = [line for line in lines if line.kind == kind]
        if own:
            named = ", ".join(f"`{line.claim}`" for line in own)
            body.append(f"{what}: {counts(own)} ({named}).\n")
    return "\n".join([f"<details><summary>{head}</summary>\n", *body, "</details>\n"])
