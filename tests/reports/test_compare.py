"""Two runs compared: the differences and only they, pictures that belong together, a page that is safe to open."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from made_up_runs import CLAIMS, make_run, params
from mini_workspace import code, prose, write_notebook
from PIL import Image
from typer.testing import CliRunner

from studylib.cli.main import app
from studylib.errors import StudyError
from studylib.reports.compare import compare, figure_pairs, find_run, notebook_pairs
from studylib.reports.compare_page import comparison_page

EVIL = "<img src=x onerror=alert(1)>\"'&"


def study(*words):
    return CliRunner().invoke(app, ["compare", *map(str, words)])


def picture(colour, format="WEBP"):
    content = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(content, format)
    return content.getvalue()


def shows(source, *pictures, kind="image/png"):
    """A code cell with picture outputs."""
    outputs = [
        {"output_type": "display_data", "metadata": {}, "data": {"text/plain": "P", kind: base64.b64encode(p).decode()}}
        for p in pictures
    ]
    return code(source) | {"outputs": outputs, "execution_count": 1}


def two_runs(workspace):
    """Two runs that differ in a parameter, a metric, a verdict, a figure and one of two notebook pictures."""
    claims = CLAIMS | {"rises": {"verdict": "held", "effect": 0.5, "interval": [0.25, 0.75], "paper": ""}}
    a = make_run(workspace, "ab1" + "0" * 9)
    metrics = {"score": 0.75, "score · β": 2.0}
    b = make_run(workspace, "ab2" + "0" * 9, params=params(steps=5), metrics=metrics, claims=claims)
    for folder, colour in ((a, "red"), (b, "blue")):
        (folder / "figures").mkdir()
        (folder / "figures" / "set.webp").write_bytes(picture(colour))
        (folder / "figures" / "same.webp").write_bytes(picture("white"))
        cells = [shows("show(baseline)", picture("green", "PNG")), shows("show(drawn)", picture(colour, "PNG"))]
        write_notebook(folder / "notebook.ipynb", [prose("# Text"), *cells])
    (b / "figures" / "new.webp").write_bytes(picture("black"))
    return a, b


class Page(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, sorted(name for name, _ in attrs)))
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data):
        self.text += data


def test_only_differences_are_listed(workspace):
    """A reader asks what changed: equal lines would bury it."""
    two_runs(workspace)
    found = compare(find_run("ab1"), find_run("ab2"))
    assert [(row.name, row.a, row.b) for row in found.params] == [("steps", "3", "5")]
    assert [(row.name, row.a, row.b) for row in found.metrics] == [("score", 0.5, 0.75)]
    assert [row.name for row in found.claims] == ["rises"]
    result = study("ab1", "ab2")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["steps", "3", "5"] in lines and ["score", "0.5", "0.75", "0.25", "1.5"] in lines
    assert ["rises", "undecided", "held"] in lines
    for word in ("mode", "β", "identity", "device"):
        assert word not in result.stdout


def test_settings_that_look_alike_are_told_apart(workspace):
    """0.1 and 0.10000001 are two settings, and so are the text "3" and an absent parameter."""
    make_run(workspace, "a" * 12, params=params(strength=0.1), versions={"torch": "1"}, preset="weak")
    changed = params(strength=0.10000001)
    del changed["limit"]
    make_run(workspace, "b" * 12, params=changed, metrics={"score": 0.0}, versions={"torch": "2"})
    found = compare(find_run("b"), find_run("a"))
    assert [(row.name, row.a, row.b) for row in found.params] == [
        ("strength", "0.10000001", "0.1"),
        ("limit", "absent", "none"),
    ]
    assert [(row.name, row.a, row.b) for row in found.about] == [("preset", "none", "weak"), ("torch", "2", "1")]
    shown = study("b", "a").stdout
    assert re.search(r"score +0 +0.5 +0.5$", shown, re.M), "no ratio to nothing"
    assert re.search(r"score · β +absent +2$", shown, re.M)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ab", "b"), "2 runs begin with 'ab'. Write more of mini/ab1000000000, mini/ab2000000000"),
        (("ab1", "x"), "no run begins with 'x'"),
        (("", "ab1"), "runs begin with ''"),
        (("ab1", "mini/ab1"), "both names mean the run mini/ab1000000000"),
        (("ab1", "../mini/ab2"), "no run begins with"),
        (("ab1", "fail"), "no run begins with"),
        (("ab1", "damaged"), "record.json: Invalid JSON"),
    ],
)
def test_names_that_mean_no_run_or_several(workspace, words, said):
    """The wrong run compared without a word is worse than an error."""
    two_runs(workspace)
    make_run(workspace, "fail00.failed")
    (make_run(workspace, "damaged00000") / "record.json").write_text("{")
    result = study(*words)
    assert result.exit_code == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_whole_id_wins_over_a_longer_one(workspace):
    """A run must stay reachable when another's id begins with its own."""
    make_run(workspace, "abc")
    make_run(workspace, "abcd")
    make_run(workspace, "abc", slug="other")
    assert find_run("mini/abc").run_id == "abc" and find_run("abcd").run_id == "abcd"
    with pytest.raises(StudyError, match="2 runs begin with 'abc'. Write more of mini/abc, other/abc"):
        find_run("abc")


def test_pictures_are_paired_by_name_and_by_cell(workspace):
    """A picture beside the wrong one shows a difference that is none."""
    a, b = two_runs(workspace)
    assert [(pair.name, pair.a is None, pair.b is None) for pair in figure_pairs(a, b)] == [
        ("same", False, False),
        ("set", False, False),
        ("new", True, False),
    ]
    first, second = notebook_pairs(a, b)
    assert (first.name, first.note, first.a == first.b) == ("cell 1", "show(baseline)", True)
    assert (second.name, second.note, second.a == second.b) == ("cell 2", "show(drawn)", False)
    kind, _, content = second.a.partition(";base64,")
    shown = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == "data:image/png" and shown.getpixel((0, 0)) == (255, 0, 0)


def test_injected_parameters_do_not_shift_the_cells(workspace):
    """papermill adds a cell where parameters were given; without care every picture after it is paired wrongly."""
    a, b = two_runs(workspace)
    cells = [code("steps = 5", "injected-parameters"), shows("show(baseline)", picture("green", "PNG"))]
    cells.append(shows("show(drawn, 2)", picture("blue", "PNG"), picture("red", "PNG")))
    write_notebook(b / "notebook.ipynb", cells)
    first, second, third = notebook_pairs(a, b)
    assert first.a == first.b and first.note == "show(baseline)"
    assert second.note == "show(drawn)  (the code of this cell differs)"
    assert (third.name, third.a, third.b) == ("cell 2, picture 2", None, second.a)


@pytest.mark.parametrize("text", [None, "{", '{"cells": [{"cell_type": "code"}]}', '{"cells": [3]}'])
def test_damaged_notebook_leaves_the_rest(workspace, text):
    """The numbers are worth reading even if the pictures are gone."""
    a, b = two_runs(workspace)
    (a / "notebook.ipynb").unlink()
    if text is not None:
        (a / "notebook.ipynb").write_text(text)
    assert [pair.a for pair in notebook_pairs(a, b)] == [None, None]
    page = Page(comparison_page(compare(find_run("ab1"), find_run("ab2"))))
    assert "no picture here" in page.text and "steps" in page.text


def test_page_needs_nothing_else(workspace):
    """It is mailed and opened years later: no scripts, no links, every picture inside."""
    two_runs(workspace)
    path = workspace / "out" / "compare.html"
    result = study("ab1", "ab2", "-o", path)
    assert result.exit_code == 0 and result.stdout.splitlines()[-1] == str(path)
    page = Page(path.read_text())
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 7  # the equal ones once
    assert all(re.fullmatch(r"data:image/(webp|png);base64,[A-Za-z0-9+/=]+", source) for source in page.sources)
    assert not {"script", "link", "iframe", "a", "object"} & {tag for tag, _ in page.tags}
    assert "url(" not in path.read_text() and "http" not in path.read_text().replace("http-equiv", "")
    for words in ("1 of 2", "1 of 3", "rises holds.", "2 of 3 differ", "1 are the same in both", "+0.25", "1.500"):
        assert words in page.text, words


def test_names_from_records_are_text_on_the_page(workspace):
    """Records and notebooks come from elsewhere: a name that is HTML must be read, not obeyed."""
    claims = {EVIL: {"verdict": EVIL}}
    changed = {"metrics": {EVIL: 1.0}, "versions": {EVIL: EVIL}, "device": EVIL, "preset": EVIL, "git_commit": EVIL}
    a = make_run(workspace, "a" * 12, params={EVIL: EVIL, "equal" + EVIL: EVIL}, claims=claims, **changed)
    b = make_run(workspace, "b" * 12, params={EVIL: 2 * EVIL, "equal" + EVIL: EVIL})
    for folder, colour in ((a, "red"), (b, "blue")):
        (folder / "figures").mkdir()
        (folder / "figures" / f"{EVIL.replace('/', '')}.webp").write_bytes(picture(colour))
        (folder / "figures" / "fake.webp").write_bytes(b"<script>alert(1)</script>")
        write_notebook(folder / "notebook.ipynb", [shows(EVIL, picture(colour, "JPEG"), kind="image/jpeg")])
    page = Page(comparison_page(compare(find_run("aa"), find_run("bb"))))
    tags = {tag for tag, _ in page.tags}
    assert "script" not in tags and not [names for _, names in page.tags if any(n.startswith("on") for n in names)]
    assert all(source.startswith("data:image/") for source in page.sources) and len(page.sources) == 4
    assert page.text.count(EVIL) >= 10


def test_output_that_cannot_be_written(workspace):
    """A folder's name is a slip, and must not cost the folder."""
    two_runs(workspace)
    result = study("ab1", "ab2", "-o", workspace / "runs")
    assert result.exit_code == 2 and f"{workspace / 'runs'} is a folder" in result.stderr


def test_runs_of_two_papers_can_be_compared(workspace):
    """Later papers share metrics with earlier ones; a paper that is gone has no sentences for its claims."""
    make_run(workspace, "a" * 12)
    make_run(workspace, "b" * 12, slug="gone", claims={})
    found = compare(find_run("mini/a"), find_run("gone/b"))
    assert [(row.name, row.a, row.b) for row in found.about] == [("paper", "mini", "gone")]
    assert "rises holds." in Page(comparison_page(found)).text
