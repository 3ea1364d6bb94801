"""The papers in the order of the course, written ones and planned ones."""

from pydantic import Field

from studylib.evidence.card import Strict, load_card, read_toml, validated
from studylib.workspace import find_root, written_papers


class CourseEntry(Strict):
    """One row of the course: what is known of a paper before its folder is written."""

    slug: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    year: int
    arxiv: str = ""
    one_line: str
    order: int
    written: bool = False


def course() -> list[CourseEntry]:
    """List the papers in course order; papers with a card but no row in `papers/course.toml` come last."""
    path = find_root() / "papers" / "course.toml"
    rows = read_toml(path).get("papers", [])
    written = written_papers()
    entries = [
        validated(CourseEntry, {**row, "order": number, "written": row.get("slug") in written}, path)
        for number, row in enumerate(rows, start=1)
    ]
    known = {entry.slug for entry in entries}
    for slug in written:
        if slug in known:
            continue
        card = load_card(slug)
        entries.append(
            CourseEntry(
                slug=slug,
                title=card.title,
                year=card.year,
                arxiv=card.arxiv,
                one_line=card.question,
                order=len(entries) + 1,
                written=True,
            ),
        )
    return entries
