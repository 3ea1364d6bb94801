"""The one handle of a notebook: what it opens, what it refuses, what it records."""

import json

import pytest
from mini_workspace import PARAMETERS, PRESETS, WORK, code, write_notebook

from studylib.errors import StudyError
from studylib.evidence.card import load_card
from studylib.running import runs
from studylib.running.paper import open_paper

VALUES = {"share": True, "steps": 3, "strength": 0.5, "mode": "plain", "limit": None}
OPEN = """
from studylib.running.paper import open_paper
paper = open_paper("mini", globals())
steps = 99  # a later cell may use the name
claims = paper.claims
claims.exact("identity", paper.parameters["steps"], 4)
"""


@pytest.fixture(autouse=True)
def two_presets(workspace):
    (workspace / "papers" / "mini" / "presets.toml").write_text(PRESETS.partition("[broken]")[0])


def test_it_holds_what_is_known_of_the_paper(workspace):
    """Card, presets, claims and effects come by one name, typed once."""
    paper = open_paper("mini", VALUES | {"torch": object(), "steps": 4})
    assert paper.card == load_card("mini") and paper.presets == {"weak": {"strength": 0.25}}
    assert dict(paper.parameters) == VALUES | {"steps": 4} and paper.claims.card is paper.card
    assert not paper.effects and paper.picture("anything") is None
    with pytest.raises(TypeError):
        paper.parameters["steps"] = 5


def test_it_refuses_what_a_run_would_refuse(workspace):
    """A cell edited by hand is checked as the command line is."""
    with pytest.raises(StudyError, match="strength is between 0 and 1"):
        open_paper("mini", VALUES | {"strength": 2.0})
    with pytest.raises(StudyError, match="share takes true or false, not 'false'. Plain papermill .*: write False"):
        open_paper("mini", VALUES | {"share": "false"})
    with pytest.raises(StudyError, match="opened without mode.*parameters cell"):
        open_paper("mini", {name: value for name, value in VALUES.items() if name != "mode"})


def test_a_notebook_records_through_it(workspace):
    """The record has the parameters as they were given, whatever later cells do with their names."""
    work = WORK.replace("claims = Claims(load_card(\"mini\"))", "")
    work = work.replace('claims.exact("identity", steps, steps)', "")
    cells = [code(PARAMETERS, "parameters"), code(OPEN), code(work), code("paper.record(metrics={'x': 1.0})")]
    write_notebook(workspace / "notebooks" / "mini.ipynb", cells)
    done = runs.run("mini", {"steps": 4})
    assert done.record["claims"]["identity"]["verdict"] == "held" and done.record["metrics"] == {"x": 1.0}
    assert json.loads((done.folder / "record.json").read_text())["params"]["steps"] == 4
