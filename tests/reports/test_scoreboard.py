"""The scoreboard: the same verdicts in the terminal, in README, as JSON and on the map; the map's own notebook."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mini_workspace import card_text, code, write_notebook
from typer.testing import CliRunner

from studylib.cli.main import app
from studylib.errors import StudyError
from studylib.reports import course_map, scoreboard
from studylib.reports.readme import README_END, README_START
from studylib.running import render
from studylib.workspace import written_papers

ROOT = Path(__file__).resolve().parents[2]
INDEX = ROOT / "notebooks" / "index.ipynb"
MEASURED = {
    "identity": {"verdict": "held", "effect": 0.0, "interval": None, "paper": ""},
    "rises": {"verdict": "held", "effect": 0.5, "interval": [0.25, 0.75], "paper": "0.5 [verified]"},
    "falls": {"verdict": "reversed", "effect": 0.125, "interval": [0.0625, 0.25], "paper": ""},
    "liked": {"verdict": "not testable here", "effect": None, "interval": None, "paper": ""},
    "long_gone": {"verdict": "failed", "effect": 1.0, "interval": None, "paper": ""},
}
COUNTED = "2 held, 1 reversed, 1 not testable here, 1 not measured yet"


def measure(workspace, claims=MEASURED):
    (workspace / "papers" / "mini" / "results.json").write_text(json.dumps({"claims": claims}))


def study(*words):
    return CliRunner().invoke(app, ["claims", *words])


def test_each_claim_of_the_card_is_listed(workspace):
    """The card decides what is claimed: a measurement without a claim is old, a claim without one is still open."""
    measure(workspace)
    lines = scoreboard.scoreboard()
    assert [(line.claim, line.verdict, line.effect) for line in lines] == [
        ("identity", "held", 0.0),
        ("count", "not measured yet", None),
        ("rises", "held", 0.5),
        ("falls", "reversed", 0.125),
        ("liked", "not testable here", None),
    ]
    assert scoreboard.summary(lines) == f"1 of 2 papers written, 5 claims: {COUNTED}"


def test_claims_of_one_paper_are_not_counted_as_the_course(workspace, monkeypatch):
    """`study claims lora` ended with "1 of 24 papers written"."""
    entry = scoreboard.course()[0]
    monkeypatch.setattr(scoreboard, "course", lambda: [entry, entry.model_copy(update={"slug": "two"})])
    assert scoreboard.summary(scoreboard.scoreboard(["mini"])).startswith("1 of 2 written papers, 5 claims: ")


def test_piped_table_is_one_line_a_claim(workspace):
    """It is read with grep and cut: nothing may wrap, and no colour codes."""
    measure(workspace)
    text = study("mini").stdout
    (line,) = [line for line in text.splitlines() if line.startswith("rises")]
    assert re.split(r"  +", line) == ["rises", "held", "+0.500 [+0.250, +0.750]", "0.5 [verified]"]
    assert text.splitlines()[0] == f"1  mini: {COUNTED}" and "\x1b" not in text


def test_terminal_table_fits_and_loses_nothing(workspace, monkeypatch, capsys):
    """Eighty columns are what a terminal has: long figures wrap, ids and intervals stay whole."""
    figures = " ".join(f"figure{number}" for number in range(20))
    (workspace / "papers" / "mini" / "card.toml").write_text(card_text(paper=f"{figures} [verified]"))
    measure(workspace)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    scoreboard.show(scoreboard.scoreboard())
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines[:-1])) <= 80  # the last is a sentence
    text = "\n".join(lines)
    assert text.count("figure19") == 5 and "[+0.250, +0.750]" in text and "not testable" in text


def test_json_holds_all_that_is_known(workspace):
    """For programs: full numbers, the sentence, and where the paper says it."""
    measure(workspace)
    (rises,) = [claim for claim in json.loads(study("--json").stdout) if claim["claim"] == "rises"]
    assert rises == {
        "paper": "mini",
        "claim": "rises",
        "kind": "directional",
        "sentence": "rises holds.",
        "source": "table 1",
        "in_the_paper": "0.5 [verified]",
        "verdict": "held",
        "effect": 0.5,
        "interval": [0.25, 0.75],
    }


def test_markdown_lists_effects_and_counts_the_rest(workspace):
    """The page stays short with 24 papers: a line for each claim with a sign, one line for the exact ones."""
    card = card_text().replace('sentence = "rises holds."', 'sentence = "a < b | c"')
    (workspace / "papers" / "mini" / "card.toml").write_text(card)
    measure(workspace)
    lines = study("--md").stdout.splitlines()
    assert "| a &lt; b \\| c | held | +0.500 [+0.250, +0.750] |" in lines
    assert "| falls holds. | reversed | +0.125 [+0.062, +0.250] |" in lines
    assert "Exact: 1 held, 1 not measured yet (`identity`, `count`)." in lines
    assert f"<details><summary><b>1. A Small Study</b>: {COUNTED}</summary>" in lines
    assert sum(line.startswith("|") for line in lines) == 4


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ("{", "not valid JSON"),
        ("{}", "claims: Field required"),
        ('{"claims": [1]}', "claims: Input should be"),
        ('{"claims": {"rises": {"verdict": "splendid"}}}', "'splendid' is no verdict"),
        ('{"claims": {"rises": {"verdict": "held", "effect": "big"}}}', "valid number"),
    ],
)
def test_damaged_results_are_named(workspace, results, said):
    """A verdict nobody measured must not reach the scoreboard."""
    (workspace / "papers" / "mini" / "results.json").write_text(results)
    result = study()
    assert result.exit_code == 2 and said in result.stderr
    assert "papers/mini/results.json" in result.stderr and "study render mini" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"), [(["mnii"], "Did you mean mini"), (["--md", "--json"], "do not go together")]
)
def test_bad_words_are_one_line(workspace, words, said):
    """A cause and a remedy."""
    result = study(*words)
    assert result.exit_code == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1


def test_claims_have_a_page_of_their_own(workspace):
    """README stays short; the page is written whole, and only when something changed."""
    measure(workspace)
    page = workspace / "papers" / "CLAIMS.md"
    assert scoreboard.update_page() is True
    assert page.read_text() == scoreboard.markdown(scoreboard.scoreboard()) and COUNTED in page.read_text()
    assert scoreboard.update_page() is False
    page.write_text("stale\n")
    assert scoreboard.update_page() is True and "stale" not in page.read_text()


def test_committed_page_is_the_scoreboard():
    """The page's verdicts are generated: new measurements must show there."""
    page = (ROOT / "papers" / scoreboard.PAGE).read_text()
    assert page == scoreboard.markdown(scoreboard.scoreboard())


def test_map_links_what_exists_and_names_what_is_planned(workspace):
    """A link to a notebook that is not there is the worst first impression."""
    measure(workspace)
    found = course_map.course_map()
    assert repr(found).splitlines() == [f" 1  mini   {COUNTED}", " 2  later  planned"]
    assert re.findall(r'href="(.*?)"', found._repr_html_()) == ["mini.ipynb"]
    (workspace / "notebooks" / "mini.ipynb").unlink()
    assert "href" not in course_map.course_map()._repr_html_()


def test_figure_has_a_square_for_each_claim(workspace):
    """The figure must count as the table does, and show papers without claims as planned or only written."""
    measure(workspace)
    (ax,) = course_map.scoreboard_figure().axes
    squares = [patch.get_facecolor() for patch in ax.patches]
    assert len(squares) == 5 and squares[0] == squares[1] and len(set(squares)) == 4
    assert [text.get_text() for text in ax.texts] == ["✓", "✓", "↔", "·", "", "planned"]
    legend = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert legend == ["✓ held: 2", "↔ reversed: 1", "· not testable here: 1", " not measured yet: 1"]
    (ax,) = course_map.scoreboard_figure([]).axes
    assert [text.get_text() for text in ax.texts] == ["written", "planned"]


def test_render_brings_readme_and_index_up_to_date(workspace):
    """The map shows verdicts: it must not keep those of the last rendering."""
    (workspace / "README.md").write_text(
        "\n".join([README_START, README_END, ""])
    )
    index = workspace / "notebooks" / "index.ipynb"
    write_notebook(index, [code("from studylib.reports.course_map import course_map\nprint(course_map())")])
    result = CliRunner().invoke(app, ["render", "index"])
    assert result.exit_code == 0 and "5 not measured yet" in index.read_text() and "mini:" not in result.stdout
    measure(workspace)
    result = CliRunner().invoke(app, ["render", "index"])
    assert result.exit_code == 0 and "index.ipynb: rewritten" in result.stdout
    assert COUNTED in index.read_text() and "2 held" in (workspace / "README.md").read_text()
    assert COUNTED in (workspace / "papers" / "CLAIMS.md").read_text()
    text = index.read_text()
    assert render.render_index() is False and index.read_text() == text, "rendering twice gives two files"
    write_notebook(index, [code("1 / 0")])
    before = index.read_text()
    with pytest.raises(StudyError, match="ZeroDivisionError"):
        render.render_index()
    assert index.read_text() == before


def test_index_is_short_and_executed():
    """The first page a reader opens: everything visible without a kernel, no code worth reading in it."""
    notebook = json.loads(INDEX.read_text())
    codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert INDEX.stat().st_size < 150_000 and notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert [cell["execution_count"] for cell in codes] == list(range(1, len(codes) + 1)) and len(codes) <= 6
    for cell in codes:
        source = "".join(cell["source"])
        assert len(source.splitlines()) <= 8
        assert not [n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.ClassDef, ast.FunctionDef))]
    outputs = [output for cell in codes for output in cell["outputs"]]
    assert any("image/jpeg" in output.get("data", {}) for output in outputs)
    shown = "".join("".join(output["data"].get("text/html", "")) for output in outputs if "data" in output)
    links = re.findall(r'href="(.*?)"', shown)
    assert links and [link for link in links if not (INDEX.parent / link).is_file()] == []
    assert {f"{slug}.ipynb" for slug in written_papers()} == set(links)


def test_index_runs_with_plain_papermill_and_says_the_same(tmp_path):
    """It needs neither this project's engine nor a model, and its committed line is that of today's measurements."""
    output = tmp_path / "out.ipynb"
    (tmp_path / "torch.py").write_text("raise ImportError('the map needs no torch')\n")
    command = [sys.executable, "-m", "papermill", "--cwd", str(INDEX.parent), str(INDEX), str(output)]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    printed = [
        [text for cell in json.loads(path.read_text())["cells"] for text in texts(cell)] for path in (INDEX, output)
    ]
    assert printed[0] == printed[1] and "claims" in printed[0][-1]


def texts(cell):
    outputs = cell.get("outputs", [])
    return ["".join(o.get("text", o.get("data", {}).get("text/plain", ""))) for o in outputs]
