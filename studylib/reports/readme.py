"""Sections of README that are generated: each stands between two marker lines."""

from studylib.errors import StudyError
from studylib.evidence.card import load_card, shown_path
from studylib.evidence.course import course
from studylib.evidence.paper import load_results
from studylib.evidence.verdicts import count_verdicts
from studylib.files import read_text, write_atomically
from studylib.workspace import find_root

MEND = "Restore README.md"
PICTURES_START, PICTURES_END = "<!-- pictures:start -->", "<!-- pictures:end -->"
README_START, README_END = "<!-- papers:start -->", "<!-- papers:end -->"


def papers_table() -> str:
    """Return the course as a Markdown table: paper, year, idea, verdicts measured on the tiny world."""
    lines = ["| # | Paper | Year | Idea | Claims on the tiny world |", "| --- | --- | --- | --- | --- |"]
    for entry in course():
        arxiv = f" ([{entry.arxiv}](https://arxiv.org/abs/{entry.arxiv}))" if entry.arxiv else ""
        title = entry.title.replace("|", "\\|")
        if entry.written:
            title = f"[{title}](notebooks/{entry.slug}.ipynb)"
        results = load_results(entry.slug) if entry.written else None
        state = (
            count_verdicts(results["claims"])
            if results
            else "not rendered yet"
            if entry.written
            else "planned"
        )
        idea = entry.one_line.replace("|", "\\|")
        lines.append(f"| {entry.order} | {title}{arxiv} | {entry.year} | {idea} | {state} |")
    return "\n".join(lines) + "\n"


def hero_pictures() -> str:
    """Return the pictures that cards of written papers name for README, with their captions."""
    shown = []
    for card in (load_card(entry.slug) for entry in course() if entry.written):
        figure = f"papers/{card.slug}/figures/{card.hero}.webp"
        if card.hero and (find_root() / figure).is_file():
            shown.append(f"![{card.title}]({figure})\n\n*{card.hero_caption}*\n")
    return "\n".join(shown)


def update_readme() -> bool:
    """Rewrite the pictures and the table of papers between README.md's markers; tell whether the file changed."""
    shown = rewrite_section(PICTURES_START, PICTURES_END, hero_pictures(), "pictures of papers", optional=True)
    return rewrite_section(README_START, README_END, papers_table(), "table of papers") or bool(shown)


def rewrite_section(start: str, end: str, content: str, what: str, *, optional: bool = False) -> bool | None:
    """Write `content` between two marker lines of README.md; tell whether the file changed.

    Raises StudyError, naming `what` was not written, without the file or with anything but one of each marker; for an
    `optional` section without file or markers the answer is None.
    """
    path = find_root() / "README.md"
    if optional and not (path.is_file() and {start, end} & set(read_text(path, MEND).splitlines())):
        return None
    if not path.is_file():
        raise StudyError(
            f"{shown_path(path)} is missing, so its {what} was not written",
            f"Create it with the lines {start} and {end}",
        )
    text = read_text(path, MEND)
    new = replaced_section(text, start, end, content, "README.md", what)
    if new != text:
        write_atomically(path, new)
    return new != text


def replaced_section(text: str, start: str, end: str, content: str, file: str, what: str) -> str:
    """Return `text` with `content` between its two marker lines.

    Raises StudyError, naming the file and `what` was not written, with anything but one of each marker.
    """
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise StudyError(f"{file} has no place for the {what}", f"Add one line {start} and, below it, one line {end}")
    before, rest = text.split(start)
    return f"{before}{start}\n{content}{end}{rest.split(end)[1]}"
