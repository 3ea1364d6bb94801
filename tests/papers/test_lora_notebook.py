"""The notebook as an experiment: it runs with other parameters and models, and what it commits is what it measures."""

import json
from pathlib import Path

import pytest
from tiny_pipelines import sd

from studylib.evidence.card import load_card
from studylib.evidence.paper import load_results
from studylib.models.load import load
from studylib.running import runs
from studylib.world.subjects import CONTEXTS

ROOT = Path(__file__).parents[2]
QUICK = {"num_inference_steps": 2, "max_train_steps": 2, "num_class_images": 2, "num_images": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random pipeline of the real one's class, with other widths, saved as a reader's own model would be."""
    folder = tmp_path_factory.mktemp("model") / "sd"
    sd().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("preset", ["paper_placement", "text_encoder_alone"])
def test_presets_reach_the_end_on_another_model(preset, folder, own_runs):
    """A knob that breaks a later cell makes sweeps useless: the narrowest presets, on a folder in diffusers format."""
    done = runs.run("lora", QUICK | {"model": str(folder)}, preset=preset, timeout=300)
    claims = {claim.id: claim for claim in load_card("lora").claims}
    assert set(done.record["claims"]) == set(claims) and len(claims) >= 8
    exact = {id: done.record["claims"][id]["verdict"] for id, claim in claims.items() if claim.kind == "exact"}
    assert set(exact.values()) == {"held"}, exact
    assert {"DINO", "lesson: drift", "lesson: file (kB)"} <= set(done.record["metrics"])
    assert (done.folder / "figures" / "lesson.webp").exists()


def test_full_records_the_effects_of_every_training_claim(folder, own_runs):
    """`study render --full` takes its effects from such runs: one number a picture or layer for each claim."""
    done = runs.run("lora", QUICK | {"model": str(folder), "full": True}, timeout=300)
    effects = done.record["effects"]
    pending = [id for id, claim in done.record["claims"].items() if claim["verdict"] == "not measured yet"]
    assert set(effects) == set(pending) and len(pending) == 6
    assert len(effects["rank_one_gets_most"]) == len(CONTEXTS) and len(effects["change_is_no_noise"]) > 8


def test_photos_of_ones_own(tmp_path, folder, own_runs):
    """A folder of photos takes the place of the tiny world's subject."""
    pipe = load(str(folder), device="cpu")
    for i in range(3):
        pipe("a dog", num_inference_steps=1).images[0].resize((40, 30)).save(tmp_path / f"{i}.png")
    done = runs.run("lora", QUICK | {"model": str(folder), "images": str(tmp_path), "class_noun": "dog"}, timeout=300)
    assert done.record["status"] == "finished"


def test_committed_results_match_the_card():
    """README and study list quote results.json: it must hold every claim of today's card, as the notebook prints it."""
    results = load_results("lora")
    assert set(results["claims"]) == {claim.id for claim in load_card("lora").claims}
    notebook = json.loads((ROOT / "notebooks" / "lora.ipynb").read_text())
    printed = json.dumps([cell.get("outputs") for cell in notebook["cells"]])
    assert all(id in printed for id in results["claims"])
