"""The papers in the order of the course, written ones and planned ones."""

from pydantic import Field

from studylib.errors import StudyError
from studylib.evidence.card import Strict, load_card, read_toml, shown_path, validated
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
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise StudyError(f"{shown_path(path)} lists no papers", "Begin each with a line [[papers]]")
    written = written_papers()
    entries = [
        validated(CourseEntry, {**row, "order": number, "written": row.get("slug") in written}, path)
        for number, row in enumerate(rows, start=1)
    ]
    slugs = [entry.slug for entry in entries]
    known = set(slugs)
    if len(known) < len(slugs):
        twice = ", ".join(sorted(slug for slug in known if slugs.count(slug) > 1))
        raise StudyError(f"{shown_path(path)} lists {twice} twice", "Keep one of the two rows")
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
