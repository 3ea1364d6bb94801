"""The parameters cell and the checks that stop a run before its kernel starts."""

import pytest
from mini_workspace import PARAMETERS, card_text, code, write_notebook

from studylib.errors import StudyError
from studylib.running.parameters import (
    check_parameters,
    parameter_model,
    parse_assignments,
    preset_values,
    read_parameters,
)
from studylib.running.runs import checked
from studylib.running.sweeps import plan

DEFAULTS = {"share": True, "steps": 3, "strength": 0.5, "mode": "plain", "limit": None}


def write_parameters(workspace, source: str) -> None:
    write_notebook(workspace / "notebooks" / "mini.ipynb", [code(source, "parameters")])


def test_parameters_are_read_with_their_help(workspace):
    """The cell is the one place where a knob's type, default and meaning are written."""
    parameters = read_parameters(workspace / "notebooks" / "mini.ipynb")
    assert {name: parameter.default for name, parameter in parameters.items()} == DEFAULTS
    assert parameters["share"].help == "whether targets see the reference"
    assert (parameters["limit"].type, parameters["limit"].optional) == (int, True)


def test_defaults_and_given_values_are_merged(workspace):
    """A record holds every parameter, given or not."""
    assert check_parameters("mini", {}) == DEFAULTS
    assert check_parameters("mini", {"steps": 5, "limit": 2}) == DEFAULTS | {"steps": 5, "limit": 2}


def test_whole_number_is_a_number(workspace):
    """`-p strength=1` is meant as 1.0, and both must be the same run."""
    value = check_parameters("mini", {"strength": 1})["strength"]
    assert value == 1.0 and type(value) is float


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"shar": True}, "Did you mean share"),
        ({"share": "no"}, "share takes true or false, not 'no'"),
        ({"share": 1}, "share takes true or false, not 1"),
        ({"steps": True}, "steps takes a whole number, not True"),
        ({"steps": 3.0}, "steps takes a whole number, not 3.0"),
        ({"steps": None}, "steps takes a whole number, not None"),
        ({"limit": "none"}, "limit takes a whole number or none"),
        ({"strength": "0.5"}, "strength takes a number"),
        ({"strength": float("nan")}, "strength takes a number"),
        ({"strength": 1.5}, "strength is between 0 and 1, not 1.5"),
        ({"strength": -1}, "strength is between 0 and 1, not -1.0"),
        ({"mode": "loud"}, "mode is one of plain, rich, not 'loud'"),
        ({"mode": 3}, "mode takes a text, not 3"),
    ],
)
def test_wrong_value_is_refused(workspace, given, named):
    """papermill would inject any of these and run to the end."""
    with pytest.raises(StudyError) as caught:
        check_parameters("mini", given)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_all_faults_are_named_at_once(workspace):
    """Three slips should not take three tries."""
    with pytest.raises(StudyError) as caught:
        check_parameters("mini", {"shar": True, "steps": "x", "strength": 2.0})
    assert all(word in caught.value.cause for word in ("'shar'", "steps takes", "strength is between"))


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("share=no", False),
        ("share=True", True),
        ("share=off", False),
        ("steps=-2", -2),
        ("strength=1e-3", 1e-3),
        ("strength=.5", 0.5),
        ("mode=rich", "rich"),
        ("mode=", ""),
        ("mode=a=b", "a=b"),
        ("limit=none", None),
        ("limit=7", 7),
        ("steps = 4", 4),
    ],
)
def test_command_line_texts_get_the_parameters_type(workspace, assignment, value):
    """ "no" handed on as a text would be true."""
    (found,) = parse_assignments("mini", [assignment]).values()
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("assignments", "named"),
    [
        (["share=maybe"], "share takes true or false"),
        (["share=1"], "share takes true or false"),
        (["steps=1.5"], "steps takes a whole number"),
        (["steps=1e3"], "steps takes a whole number"),
        (["strength=nan"], "strength takes a number"),
        (["steps="], "steps takes a whole number"),
        (["steps"], "has no value"),
        (["stpes=1"], "Did you mean steps"),
        (["steps=1", "steps=2"], "given twice"),
    ],
)
def test_command_line_texts_that_do_not_fit(workspace, assignments, named):
    """The error names the parameter and what it takes."""
    with pytest.raises(StudyError, match=named):
        parse_assignments("mini", assignments)


@pytest.mark.parametrize(
    "line",
    [
        "x = 3",
        "x: int = 2 * 3",
        "x: list = []",
        "x: int",
        "print(1)",
        "x: int = True",
        "x: str = 1",
        "x: int | None = 1",
    ],
)
def test_line_that_is_no_parameter_is_refused(workspace, line):
    """papermill skips such a line without a word, and the knob can then never be set."""
    write_parameters(workspace, f"steps: int = 3\n{line}")
    with pytest.raises(StudyError, match="line 2"):
        read_parameters(workspace / "notebooks" / "mini.ipynb")


def test_import_of_optional_is_no_parameter(workspace):
    """`Optional` has to come from somewhere, and the cell should run on its own."""
    write_parameters(workspace, "from typing import Optional\nx: Optional[float] = 1  # one")
    parameters = read_parameters(workspace / "notebooks" / "mini.ipynb")
    assert parameters["x"].default == 1.0 and parameters["x"].help == "one"


@pytest.mark.parametrize("cells", [[], [code("x: int = 1", "parameters")] * 2])
def test_exactly_one_parameters_cell(workspace, cells):
    """With none, or two, it is open which values a run has."""
    write_notebook(workspace / "notebooks" / "mini.ipynb", cells)
    with pytest.raises(StudyError, match=f"{len(cells)} cells tagged"):
        read_parameters(workspace / "notebooks" / "mini.ipynb")


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_file_that_is_no_notebook(workspace, text):
    """A notebook cut short by a merge is named as such."""
    (workspace / "notebooks" / "mini.ipynb").write_text(text)
    with pytest.raises(StudyError, match="is not a notebook"):
        read_parameters(workspace / "notebooks" / "mini.ipynb")


def test_card_and_notebook_agree_on_the_knobs(workspace):
    """A knob renamed in one place only would lose its range."""
    card = workspace / "papers" / "mini" / "card.toml"
    card.write_text(card_text().replace("[knobs.mode]", "[knobs.mood]"))
    with pytest.raises(StudyError, match="does not have: mood"):
        parameter_model("mini")


def test_presets_are_checked_like_given_values(workspace):
    """A preset is typed by hand as well."""
    assert preset_values("mini", "weak") == {"strength": 0.25}
    assert preset_values("mini", None) == {}
    with pytest.raises(StudyError, match="Did you mean weak"):
        preset_values("mini", "week")
    with pytest.raises(StudyError, match="steps takes a whole number"):
        check_parameters("mini", preset_values("mini", "broken"))


def test_folders_are_seen_from_where_the_user_stands(workspace, tmp_path, monkeypatch):
    """The kernel runs in notebooks/: a relative path of the command line would name another folder there."""
    knob = "\n[knobs.images]\nfolder = true\n\n[knobs.mode]"
    (workspace / "papers" / "mini" / "card.toml").write_text(card_text().replace("\n[knobs.mode]", knob))
    write_parameters(workspace, PARAMETERS + '\nimages: str = ""')
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    absolute = str((tmp_path / "photos").resolve())
    assert checked("mini", {"images": "photos"})["images"] == absolute
    assert checked("mini", {})["images"] == "" and checked("mini", {"mode": "rich"})["mode"] == "rich"
    sweep = plan("mini", {"images": ["", "photos"]}, {})
    assert [point.given["images"] for point in sweep.points] == ["", absolute]
    with pytest.raises(StudyError, match="images: .*nowhere is no folder. Relative paths begin where you stand"):
        checked("mini", {"images": "nowhere"})
