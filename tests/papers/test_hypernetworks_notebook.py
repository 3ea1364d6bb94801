"""The notebook as an experiment: it runs with other parameters, presets and models, and claims only what it did."""

import json

import pytest
from tiny_pipelines import sd

from studylib.evidence.card import load_card
from studylib.evidence.paper import load_presets
from studylib.running import runs
from studylib.running.effects import SEEDS
from studylib.world.subjects import CONTEXTS

QUICK = {"num_inference_steps": 2, "max_train_steps": 3, "contrast_steps": 2, "train_batch_size": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random pipeline of the real class, in diffusers format: text as wide as one of its levels."""
    path = tmp_path_factory.mktemp("sd")
    sd().save_pretrained(path)
    return str(path)


def exact_verdicts(record) -> set[str]:
    claims = {claim.id: claim for claim in load_card("hypernetworks").claims}
    assert set(record["claims"]) == set(claims)
    return {record["claims"][id]["verdict"] for id, claim in claims.items() if claim.kind == "exact"}


@pytest.mark.parametrize(("preset", "given"), [("swish_with_dropout", {}), ("by_layer", {"projections": "key, query"})])
def test_notebook_runs_with_presets_on_another_model(preset, given, folder, own_runs):
    """No cell may count on the default's widths, pairs or projections; identities hold whatever is trained."""
    done = runs.run("hypernetworks", QUICK | given | {"model": folder}, preset=preset, timeout=300)
    assert done.record["status"] == "finished" and exact_verdicts(done.record) == {"held"}, done.record["claims"]
    assert {"lesson: DINO", "lesson: PRES", "lesson: drift", "lesson: file (kB)"} <= set(done.record["metrics"])
    assert (done.folder / "figures" / "lesson.webp").exists()
    trained = [c for c in load_card("hypernetworks").claims if "five trainings" in c.how]
    assert {done.record["claims"][claim.id]["verdict"] for claim in trained} == {"not measured yet"}


@pytest.mark.parametrize("preset", load_presets("hypernetworks"))
def test_presets_are_parameters_of_the_notebook(preset):
    """A preset with a wrong name, type or range would only be noticed by who starts it on a GPU."""
    assert runs.checked("hypernetworks", {}, preset).items() >= load_presets("hypernetworks")[preset].items()


def test_a_full_run_measures_every_trained_claim(folder, own_runs):
    """`study render --full` collects these effects: each claim that takes trainings must be among them."""
    done = runs.run("hypernetworks", QUICK | {"model": folder, "full": True, "seed": SEEDS[1]}, timeout=300)
    assert exact_verdicts(done.record) == {"held"}
    trained = {claim.id for claim in load_card("hypernetworks").claims if "five trainings" in claim.how}
    assert set(done.record["effects"]) == trained and all(done.record["effects"].values())
    missed = done.record["effects"]["activation_has_no_fold"]
    assert len(missed) == len(CONTEXTS)
    assert set(done.record["effects"]["fits_the_photos"]) == {f"photo {i}" for i in range(5)}


def test_notebook_on_the_tiny_world(own_runs):
    """The default model at a few steps: knobs reach the record, and the printed verdicts are those recorded."""
    done = runs.run("hypernetworks", QUICK | {"strength": 0.5, "layer_norm": True}, timeout=300)
    assert exact_verdicts(done.record) == {"held"} and done.record["params"]["strength"] == 0.5
    cells = json.loads((done.folder / "notebook.ipynb").read_text())["cells"]
    printed = "".join(
        "".join(output.get("text", [])) for cell in cells for output in cell.get("outputs", [])
        if "NBVAL_CHECK_OUTPUT" in "".join(cell["source"])
    )  # fmt: skip
    assert all(f"{id} " in printed and found["verdict"] in printed for id, found in done.record["claims"].items())
