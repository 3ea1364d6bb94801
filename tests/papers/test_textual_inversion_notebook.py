"""The notebook as an experiment: it runs with other parameters, presets and models, and commits what it measures."""

from paper_checks import verdicts

from papers.textual_inversion import evaluation as ev
from studylib.evidence.card import load_card
from studylib.running import runs

QUICK = {
    "num_inference_steps": 2, "max_train_steps": 3, "contrast_steps": 2, "style_steps": 2, "train_batch_size": 1,
    "num_images": 3,
}  # fmt: skip
LETTERS = {  # a byte-level tokenizer knows single letters only
    "initializer_token": "c", "unrelated_token": "h", "style_initializer": "f",
    "placeholder_token": "<x>",
}  # fmt: skip


def test_full_notebook_runs_on_another_pipeline_and_own_photos(tmp_path, model_folder, own_runs):
    """model=folder, images=folder and full: a random pipeline with another tokenizer and width, anyone's photos, and
    the run that `study render --full` makes at each seed, which must leave effects of every claim."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, picture in enumerate(ev.style_pictures("flat", ev.SHOWN[:3], 48)):
        picture.save(photos / f"{i}.png")
    knobs = {"full": True, "norm_target": 0.4, "scale_lr": False, "seed": 1, "num_vectors": 2, "more_vectors": 2}
    given = QUICK | LETTERS | knobs | {"model": model_folder, "images": str(photos)}
    done = runs.run("textual_inversion", given, timeout=300)
    assert done.record["status"] == "finished" and verdicts(done.record, "exact") == {"held"}
    with_a_sign = {claim.id for claim in load_card("textual_inversion").claims if claim.kind == "directional"}
    assert set(done.record["effects"]) == with_a_sign and all(done.record["effects"].values())
    assert done.record["metrics"]["lesson: drift"] == 0
    assert {"learned.webp", "plane.webp", "lesson.webp"} <= {path.name for path in (done.folder / "figures").iterdir()}
