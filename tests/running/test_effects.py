"""Claims about trainings: measured over seeds by `study render --full`, read by the notebook unless stale."""

import json

import pytest
from mini_workspace import PARAMETERS, RECORD, WORK, code, make_workspace, records, write_notebook
from typer.testing import CliRunner

from studylib.cli.main import app
from studylib.errors import StudyError
from studylib.evidence.card import load_card
from studylib.evidence.claims import Claims
from studylib.reports.readme import README_END, README_START
from studylib.running import effects, render, runs
from studylib.running.fingerprint import EFFECTS

FULL = "\nseed: int = 0\nfull: bool = False  # train for every claim, at this seed"
DECIDE = """
from studylib.running.effects import stored_effects
found = stored_effects("mini", globals())
claims.trained("rises", found)
claims.trained("falls", found)
"""
# the effect of a "training" at this seed; `falls` goes against its claim
TRAIN = """
trained = {"rises": {p: 1.0 + seed / 10 for p in "ab"}, "falls": {p: 2.0 + seed for p in "ab"}} if full else {}
"""
KEEP = RECORD.replace("claims=claims)", "claims=claims, effects=trained)")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    root = make_workspace(tmp_path)
    monkeypatch.setenv("STUDY_ROOT", str(root))
    write_cells(root)
    return root


def write_cells(root, train=TRAIN, parameters=PARAMETERS + FULL):
    cells = [code(parameters, "parameters"), code(WORK), code(DECIDE), code(train), code(KEEP)]
    write_notebook(root / "notebooks" / "mini.ipynb", cells)


def test_render_full_measures_at_five_seeds_and_decides(workspace):
    """Before, a claim about trainings is not measured; after, it is held or reversed with its interval, for good."""
    before = render.render("mini")["claims"]
    assert before["rises"]["verdict"] == "not measured yet" and before["rises"]["interval"] is None
    (workspace / "README.md").write_text(f"{README_START}\n{README_END}\n")
    result = CliRunner().invoke(app, ["render", "--full", "mini"])
    assert result.exit_code == 0, result.output
    stored = json.loads((workspace / "papers" / "mini" / EFFECTS).read_text())
    assert stored["effects"]["falls"] == {str(seed): {"a": 2.0 + seed, "b": 2.0 + seed} for seed in range(5)}
    assert "seed" not in stored["params"] and "full" not in stored["params"]
    after = json.loads((workspace / "papers" / "mini" / "results.json").read_text())["claims"]
    assert after["rises"]["verdict"] == "held" and after["rises"]["effect"] == pytest.approx(1.2)
    assert after["falls"]["verdict"] == "reversed" and after["falls"]["interval"][0] > 2


def test_an_interrupted_measurement_goes_on_where_it_was(workspace):
    """Five seeds of trainings are long: what is done is not done again, and measuring does not depend on the past."""
    write_cells(workspace, train=TRAIN + "\nassert seed != 3, 'seed three'")
    with pytest.raises(StudyError, match="seed: 3|seed 3.*seed three"):
        effects.measure_effects("mini")
    assert len(records("mini")) == 4 and not (workspace / "papers" / "mini" / EFFECTS).exists()
    write_cells(workspace)
    effects.measure_effects("mini")
    first = {record["run_id"] for record in records("mini")}
    effects.measure_effects("mini")
    assert {record["run_id"] for record in records("mini")} == first


def test_effects_of_other_parameters_or_weights_are_not_used(workspace):
    """A verdict must belong to the run that shows it: a moved knob or a retrained model has none yet."""
    effects.measure_effects("mini")
    assert runs.run("mini", {"seed": 7}).record["claims"]["rises"]["verdict"] == "held"
    assert runs.run("mini", {"strength": 0.25}).record["claims"]["rises"]["verdict"] == "not measured yet"
    path = workspace / "papers" / "mini" / EFFECTS
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"weights": {"studylib/other": "0"}}))
    assert runs.run("mini").record["claims"]["rises"]["verdict"] == "not measured yet"
    path.write_text('{"params": 1}')
    with pytest.raises(StudyError, match="effects.json is damaged.*render --full mini"):
        effects.stored_effects("mini", {"full": False})


def test_effects_of_earlier_code_are_no_verdict(workspace):
    """A layer multiplied by zero after the measurement must not keep its claims held; prose may change."""
    effects.measure_effects("mini")
    write_cells(workspace, train=TRAIN + "# other words\n")
    found = effects.stored_effects("mini", {"full": False, **runs.checked("mini", {})})
    assert not found and found.why_none == "measured by earlier code"
    assert "measured by earlier code" in Claims(load_card("mini")).trained("rises", found).detail
    write_cells(workspace)
    assert effects.stored_effects("mini", runs.checked("mini", {}))
    (workspace / "papers" / "mini" / "method.py").write_text("SCALE = 0\n")
    assert not effects.stored_effects("mini", runs.checked("mini", {}))


def test_what_cannot_be_measured_is_said(workspace):
    """A notebook without the parameters, or whose runs record nothing or other claims, ends in one clear error."""
    write_cells(workspace, train="trained = {'rises' if seed else 'falls': {'a': 1.0}} if full else {}")
    with pytest.raises(StudyError, match="the same claims at every seed"):
        effects.measure_effects("mini")
    write_cells(workspace, train="trained = {'rises': {'a': float('nan')}} if full else {}")
    with pytest.raises(StudyError, match="rises, a"):
        effects.measure_effects("mini")
    write_notebook(workspace / "notebooks" / "mini.ipynb", [code(PARAMETERS, "parameters"), code(WORK), code(RECORD)])
    with pytest.raises(StudyError, match="no parameters `full` and `seed`"):
        effects.measure_effects("mini")


def test_fewer_seeds_than_a_claim_needs_are_refused(workspace):
    """A hand-made file with three seeds must not become a verdict."""
    claims = Claims(load_card("mini"))
    with pytest.raises(ValueError, match="3 training seeds; it needs 5"):
        claims.trained("rises", {"rises": {seed: {"a": 1.0} for seed in range(3)}})
    with pytest.raises(ValueError, match="is exact"):
        claims.trained("identity", {})
    assert "takes 5 trainings" in claims.trained("rises", {}).detail


DRAW = TRAIN + """
from PIL import Image
pictures = {"full_variants": Image.new("RGB", (8, 8), (seed, 200, 0)), "own": Image.new("RGB", (8, 8))} if full else {}
"""


def test_pictures_of_the_first_seed_are_kept(workspace):
    """Trainings that no reader repeats are shown by the pictures they left; the other figures are the rendering's."""
    write_cells(workspace, train=DRAW)
    cells = [code(PARAMETERS + FULL, "parameters"), code(WORK), code(DECIDE), code(DRAW),
             code(KEEP.replace("effects=trained", "effects=trained, figures=pictures"))]  # fmt: skip
    write_notebook(workspace / "notebooks" / "mini.ipynb", cells)
    values = {"full": False, **runs.checked("mini", {})}
    assert effects.stored_picture("mini", "variants", values) is None
    effects.measure_effects("mini")
    figures = workspace / "papers" / "mini" / "figures"
    assert [path.name for path in figures.iterdir()] == ["full_variants.webp"]
    shown = effects.stored_picture("mini", "variants", values)
    assert shown.data.startswith(b"\xff\xd8") and list(shown._repr_mimebundle_()[0]) == ["image/jpeg"]
    assert effects.stored_picture("mini", "variants", values | {"steps": 4}) is None  # those of another run
