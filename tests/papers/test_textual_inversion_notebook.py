"""The notebook as an experiment: it runs with other parameters, presets and models, and commits what it measures."""

import json
import tomllib
from pathlib import Path

import pytest
from tiny_pipelines import sd

from papers.textual_inversion import evaluation as ev
from studylib.evidence.card import load_card
from studylib.evidence.paper import load_presets, load_results
from studylib.running import runs
from studylib.running.parameters import check_parameters

ROOT = Path(__file__).parents[2]
QUICK = {
    "num_inference_steps": 2, "max_train_steps": 3, "contrast_steps": 2, "style_steps": 2, "train_batch_size": 1,
    "num_images": 3,
}  # fmt: skip
LETTERS = {  # a byte-level tokenizer knows single letters only
    "initializer_token": "c", "unrelated_token": "h", "style_initializer": "f",
    "placeholder_token": "<x>",
}  # fmt: skip


def exact_verdicts(record) -> set[str]:
    kinds = {claim.id: claim.kind for claim in load_card("textual_inversion").claims}
    return {found["verdict"] for id, found in record["claims"].items() if kinds[id] == "exact"}


def test_full_notebook_runs_on_another_pipeline_and_own_photos(tmp_path, own_runs):
    """model=folder, images=folder and full: a random pipeline with another tokenizer and width, anyone's photos, and
    the run that `study render --full` makes at each seed, which must leave effects of every claim."""
    sd().save_pretrained(tmp_path / "sd")
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, picture in enumerate(ev.style_pictures("flat", ev.SHOWN[:3], 48)):
        picture.save(photos / f"{i}.png")
    knobs = {"full": True, "norm_target": 0.4, "scale_lr": False, "seed": 1, "num_vectors": 2, "more_vectors": 2}
    given = QUICK | LETTERS | knobs | {"model": str(tmp_path / "sd"), "images": str(photos)}
    done = runs.run("textual_inversion", given, timeout=300)
    assert done.record["status"] == "finished" and exact_verdicts(done.record) == {"held"}
    assert set(done.record["effects"]) == set(ev.SIGNS) and all(done.record["effects"].values())
    assert done.record["metrics"]["lesson: drift"] == 0
    assert {"learned.webp", "plane.webp", "lesson.webp"} <= {path.name for path in (done.folder / "figures").iterdir()}


@pytest.mark.parametrize("preset", sorted(load_presets("textual_inversion")))
def test_presets_are_legal(preset):
    """A preset with a misspelt knob or a value out of range would fail only when someone waits for it."""
    values = load_presets("textual_inversion")[preset]
    checked = check_parameters("textual_inversion", values)
    assert values and checked | values == checked


def test_signs_are_those_of_the_card():
    """Every directional claim must be decided, with a sign of its own, and no other."""
    directional = {claim.id for claim in load_card("textual_inversion").claims if claim.kind == "directional"}
    assert directional == set(ev.SIGNS) and set(ev.SIGNS.values()) == {1, -1}
    card = tomllib.loads((ROOT / "papers/textual_inversion/card.toml").read_text())
    negative = {claim["id"] for claim in card["claims"] if "sign is negative" in claim["how"]}
    assert negative | {"loss_falls"} == {id for id, sign in ev.SIGNS.items() if sign < 0}


def test_committed_results_match_the_card():
    """README and study list quote results.json: it must hold every claim of today's card."""
    results = load_results("textual_inversion")
    assert set(results["claims"]) == {claim.id for claim in load_card("textual_inversion").claims}
    notebook = json.loads((ROOT / "notebooks" / "textual_inversion.ipynb").read_text())
    printed = json.dumps([cell.get("outputs") for cell in notebook["cells"]])
    assert all(id in printed for id in results["claims"])
