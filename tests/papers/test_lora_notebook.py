"""The notebook as an experiment: it runs with other parameters and models, and what it commits is what it measures."""

import pytest
from paper_checks import verdicts

from studylib.models.load import load
from studylib.running import runs
from studylib.world.subjects import CONTEXTS

QUICK = {"num_inference_steps": 2, "max_train_steps": 2, "num_class_images": 2, "num_images": 3}


@pytest.mark.parametrize("preset", ["paper_placement", "text_encoder_alone"])
def test_presets_reach_the_end_on_another_model(preset, model_folder, own_runs):
    """A knob that breaks a later cell makes sweeps useless: the narrowest presets, on a folder in diffusers format."""
    done = runs.run("lora", QUICK | {"model": model_folder}, preset=preset, timeout=300)
    assert verdicts(done.record, "exact") == {"held"}, done.record["claims"]
    assert {"DINO", "lesson: drift", "lesson: file (kB)"} <= set(done.record["metrics"])
    assert (done.folder / "figures" / "lesson.webp").exists()


def test_full_records_the_effects_of_every_training_claim(model_folder, own_runs):
    """`study render --full` takes its effects from such runs: one number a picture or layer for each claim."""
    done = runs.run("lora", QUICK | {"model": model_folder, "full": True}, timeout=300)
    effects = done.record["effects"]
    pending = [id for id, claim in done.record["claims"].items() if claim["verdict"] == "not measured yet"]
    assert set(effects) == set(pending) and len(pending) == 6
    assert len(effects["rank_one_gets_most"]) == len(CONTEXTS) and len(effects["change_is_no_noise"]) > 8


def test_photos_of_ones_own(tmp_path, model_folder, own_runs):
    """A folder of photos takes the place of the tiny world's subject."""
    pipe = load(model_folder, device="cpu")
    for i in range(3):
        pipe("a dog", num_inference_steps=1).images[0].resize((40, 30)).save(tmp_path / f"{i}.png")
    done = runs.run("lora", QUICK | {"model": model_folder, "images": str(tmp_path), "class_noun": "dog"}, timeout=300)
    assert done.record["status"] == "finished"
