"""Compares two runs: where their parameters, metrics and verdicts differ, and which pictures belong together."""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studylib.errors import StudyError
from studylib.reports.records import run_folders
from studylib.reports.results import SHORT
from studylib.running.notebook import cell_source, read_notebook
from studylib.running.records import Record, read_run
from studylib.showing.listing import Listing

ABSENT = "absent"
MARKS = {  # how the formats that a page can show begin
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n": "image/png",
    b"RIFF": "image/webp",
    b"<?xml": "image/svg+xml",
    b"<svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Difference:
    """One thing in which two runs differ; `a` and `b` are None where a run lacks it."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Pair:
    """Two pictures that belong together, as data addresses, None where a run lacks it."""

    name: str
    note: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class Comparison:
    """Two runs and what differs between them: settings in words, metrics as numbers, claims as found."""

    a: Record
    b: Record
    about: list[Difference]
    params: list[Difference]
    metrics: list[Difference]
    claims: list[Difference]

    def show(self) -> None:
        """Print the parameters, metrics and verdicts that differ."""
        heads = [short(self.a), short(self.b)]
        for what, found in (("parameter", self.params), ("about the run", self.about)):
            if found:
                Listing([what, *heads], [(row.name, row.a, row.b) for row in found]).show()
                print()
        if self.metrics:
            rows = [(row.name, present(row.a), present(row.b), difference(row), ratio(row)) for row in self.metrics]
            Listing(["metric", *heads, "difference", "ratio"], rows).show()
            print()
        if self.claims:
            rows = [(row.name, verdict(row.a), verdict(row.b)) for row in self.claims]
            Listing(["claim", *heads], rows).show()
            print()
        if not (self.params or self.metrics or self.claims):
            print("no parameter, metric or verdict differs")


def find_run(beginning: str) -> Record:
    """Read the one run whose id, or `<slug>/<id>`, begins so; StudyError names the candidates."""
    names = {f"{folder.parent.name}/{folder.name}": folder for folder in run_folders()}
    whole = [name for name, folder in names.items() if beginning in (name, folder.name)]
    found = whole or [name for name, folder in names.items() if name_begins(name, folder.name, beginning)]
    if not found:
        raise StudyError(f"no run begins with {beginning!r}", "`study results` with a paper's name lists its runs")
    if len(found) > 1:
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise StudyError(f"{len(found)} runs begin with {beginning!r}", f"Write more of {', '.join(found[:8])}{more}")
    return read_run(names[found[0]])


def name_begins(name: str, id: str, beginning: str) -> bool:
    """Tell whether a run's id, or its paper and id, begin so; a paper's name alone is no beginning."""
    return id.startswith(beginning) or ("/" in beginning and name.startswith(beginning))


def compare(a: Record, b: Record) -> Comparison:
    """Compare two runs; StudyError if they are one."""
    if a.folder == b.folder:
        raise StudyError(f"both names mean the run {a.slug}/{a.run_id}", "Name two different runs")
    about = [
        ("paper", a.slug, b.slug),
        ("preset", a.preset or "none", b.preset or "none"),
        ("device", a.device, b.device),
        ("commit", a.git_commit or "none", b.git_commit or "none"),
    ]
    for one, other in ((a.hardware, b.hardware), (a.versions, b.versions)):
        about += [(name, one.get(name, ABSENT), other.get(name, ABSENT)) for name in dict.fromkeys([*one, *other])]
    params = {name: (worded(a.params, name), worded(b.params, name)) for name in (*a.params, *b.params)}
    metrics = {name: (a.metrics.get(name), b.metrics.get(name)) for name in (*a.metrics, *b.metrics)}
    claims = {name: (a.claims.get(name), b.claims.get(name)) for name in (*a.claims, *b.claims)}
    return Comparison(
        a,
        b,
        [Difference(*row) for row in about if row[1] != row[2]],
        [Difference(name, *pair) for name, pair in params.items() if pair[0] != pair[1]],
        [Difference(name, *pair) for name, pair in metrics.items() if pair[0] != pair[1]],
        [Difference(name, *pair) for name, pair in claims.items() if verdict(pair[0]) != verdict(pair[1])],
    )


def worded(values: dict[str, Any], name: str) -> str:
    """Return a parameter as one would type it, all digits kept."""
    if name not in values:
        return ABSENT
    value = values[name]
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def present(number: float | None) -> float | str:
    """Return a number, `absent` without one."""
    return ABSENT if number is None else number


def verdict(claim: Any) -> str:
    """Return the verdict of a claim, `absent` without one."""
    return claim.verdict if claim is not None else ABSENT


def difference(row: Difference) -> float | None:
    """Return the second number minus the first, if there are two."""
    return None if row.a is None or row.b is None else row.b - row.a


def ratio(row: Difference) -> float | None:
    """Return the second number over the first, if there are two and the first is not 0."""
    return None if row.a is None or row.b is None or row.a == 0 else row.b / row.a


def short(record: Record) -> str:
    """Return the beginning of a run's id."""
    return record.run_id[:SHORT]


def figure_pairs(a: Path, b: Path) -> list[Pair]:
    """Pair the figures that two runs recorded, by file name."""
    found = [{path.stem: address(path.read_bytes()) for path in figures(folder)} for folder in (a, b)]
    return [Pair(name, "", found[0].get(name), found[1].get(name)) for name in dict.fromkeys([*found[0], *found[1]])]


def figures(folder: Path) -> Iterable[Path]:
    """List a run's recorded figures by name."""
    return sorted(path for path in (folder / "figures").glob("[!.]*.webp") if path.is_file())


def notebook_pairs(a: Path, b: Path) -> list[Pair]:
    """Pair the pictures in two runs' notebooks: those of the nth code cell with those of the nth."""
    cells = [notebook_cells(folder / "notebook.ipynb") for folder in (a, b)]
    pairs = []
    for number in range(max(map(len, cells))):
        (code_a, seen_a), (code_b, seen_b) = (found[number] if number < len(found) else ("", []) for found in cells)
        note = (code_a or code_b).strip().partition("\n")[0]
        if code_a != code_b and code_a and code_b:
            note += "  (the code of this cell differs)"
        for place in range(max(len(seen_a), len(seen_b))):
            ends = [seen[place] if place < len(seen) else None for seen in (seen_a, seen_b)]
            pairs.append(Pair(f"cell {number + 1}" + (f", picture {place + 1}" if place else ""), note, *ends))
    return pairs


def notebook_cells(path: Path) -> list[tuple[str, list[str | None]]]:
    """Return the code of each code cell with its pictures; the cell that papermill adds is left out.

    A notebook that is missing or damaged has no cells.
    """
    try:
        return [
            (cell_source(cell), [picture for output in cell["outputs"] for picture in output_pictures(output)])
            for cell in read_notebook(path)["cells"]
            if cell["cell_type"] == "code" and "injected-parameters" not in cell["metadata"].get("tags", [])
        ]
    except (StudyError, KeyError, TypeError, AttributeError):
        return []


def output_pictures(output: dict[str, Any]) -> list[str | None]:
    """Return the one picture of a cell's output, in the first format that a page can show, or nothing."""
    for kind, content in output.get("data", {}).items():
        if kind not in MARKS.values():
            continue
        text = content if isinstance(content, str) else "".join(content)
        try:
            return [address(text.encode() if kind == "image/svg+xml" else base64.b64decode(text))]
        except binascii.Error:
            return [None]
    return []


def address(content: bytes) -> str | None:
    """Return a picture as a data address, named by what it is and not by its file name; None for no picture."""
    kind = next((kind for mark, kind in MARKS.items() if content.lstrip().startswith(mark)), None)
    return None if kind is None else f"data:{kind};base64,{base64.b64encode(content).decode()}"
