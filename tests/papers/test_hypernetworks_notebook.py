"""The notebook as an experiment: it runs with other parameters, presets and models, and claims only what it did."""

import json

import pytest
from paper_checks import verdicts

from studylib.evidence.card import load_card
from studylib.running import runs
from studylib.running.effects import SEEDS
from studylib.world.subjects import CONTEXTS

QUICK = {"num_inference_steps": 2, "max_train_steps": 3, "contrast_steps": 2, "train_batch_size": 2}


@pytest.mark.parametrize(("preset", "given"), [("swish_with_dropout", {}), ("by_layer", {"projections": "key, query"})])
def test_notebook_runs_with_presets_on_another_model(preset, given, model_folder, own_runs):
    """No cell may count on the default's widths, pairs or projections; identities hold whatever is trained."""
    done = runs.run("hypernetworks", QUICK | given | {"model": model_folder}, preset=preset, timeout=300)
    assert done.record["status"] == "finished" and verdicts(done.record, "exact") == {"held"}, done.record["claims"]
    assert {"lesson: DINO", "lesson: PRES", "lesson: drift", "lesson: file (kB)"} <= set(done.record["metrics"])
    assert (done.folder / "figures" / "lesson.webp").exists()
    trained = [c for c in load_card("hypernetworks").claims if "five trainings" in c.how]
    assert {done.record["claims"][claim.id]["verdict"] for claim in trained} == {"not measured yet"}


def test_a_full_run_measures_every_trained_claim(model_folder, own_runs):
    """`study render --full` collects these effects: each claim that takes trainings must be among them."""
    done = runs.run("hypernetworks", QUICK | {"model": model_folder, "full": True, "seed": SEEDS[1]}, timeout=300)
    assert verdicts(done.record, "exact") == {"held"}
    trained = {claim.id for claim in load_card("hypernetworks").claims if "five trainings" in claim.how}
    assert set(done.record["effects"]) == trained and all(done.record["effects"].values())
    missed = done.record["effects"]["activation_has_no_fold"]
    fitted = done.record["effects"]["fits_the_photos"]
    assert len(missed) == len(CONTEXTS) and set(fitted) == {f"photo {i}" for i in range(5)}


def test_notebook_on_the_tiny_world(own_runs):
    """The default model at a few steps: knobs reach the record, and the printed verdicts are those recorded."""
    done = runs.run("hypernetworks", QUICK | {"strength": 0.5, "layer_norm": True}, timeout=300)
    assert verdicts(done.record, "exact") == {"held"} and done.record["params"]["strength"] == 0.5
    cells = json.loads((done.folder / "notebook.ipynb").read_text())["cells"]
    printed = "".join(
        "".join(output.get("text", [])) for cell in cells for output in cell.get("outputs", [])
        if "NBVAL_CHECK_OUTPUT" in "".join(cell["source"])
    )  # fmt: skip
    assert all(f"{id} " in printed and found["verdict"] in printed for id, found in done.record["claims"].items())
