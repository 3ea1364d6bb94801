"""The notebook as an experiment: it runs with other parameters and models, and what it commits is what it measures."""

import json
import sys

import pytest
import torch
from paper_checks import verdicts
from tiny_pipelines import sdxl

from papers.style_aligned import evaluation as ev
from papers.style_aligned.mass import look_from, record_reference_map
from papers.style_aligned.method import StyleAlignedConfig, starting_latents, style_aligned
from studylib.models.load import load
from studylib.running import runs

QUICK = {"num_inference_steps": 3, "seeds": 3}


@pytest.fixture(scope="module")
def pipe():
    return load("tiny", device="cpu")


@pytest.mark.parametrize("preset", [None, "no_sharing", "full_sharing", "reference_image"])
def test_notebook_runs_with_presets(preset, own_runs):
    """Every kind of preset must reach the end: a knob that breaks a later cell makes sweeps useless."""
    quick = QUICK | ({"reference_offset": 1} if preset == "reference_image" else {})
    done = runs.run("style_aligned", quick, preset=preset, timeout=300)
    assert verdicts(done.record, "exact") == {"held"}
    assert (done.folder / "figures" / "aligned.webp").exists()
    row = {None: "StyleAligned", "no_sharing": "no sharing", "full_sharing": "full sharing"}.get(preset, ev.OWN)
    own, rows = done.record["metrics"]["consistency"], done.record["metrics"]
    assert rows.get(f"consistency · {row}", own) == own and {"noun", "palette", "diversity"} <= set(rows)


def test_the_record_measures_the_parameters_that_were_given(own_runs):
    """A sweep compares these metrics: a knob that moves the pictures must move them, beside the paper's fixed rows."""
    one, other = (runs.run("style_aligned", QUICK | {"shared_score_shift": shift}, timeout=300).record["metrics"]
                  for shift in (0.0, 2.0))
    assert one["consistency"] == one["consistency · StyleAligned"] == other["consistency · StyleAligned"]
    assert other["consistency"] != one["consistency"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prewarmed kernels need Linux")
def test_a_prewarmed_kernel_computes_the_same(own_runs, environment):
    """Metrics, figures and the pictures in the notebook must be equal to the byte: a record does not say which kernel
    made it."""
    seen = []
    for prewarmed in (False, True):
        done = runs.run("style_aligned", QUICK, timeout=300, prewarmed=prewarmed, force=prewarmed)
        figures = {path.name: path.read_bytes() for path in (done.folder / "figures").iterdir()}
        cells = json.loads((done.folder / "notebook.ipynb").read_text())["cells"]
        outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
        pictures = [data[kind] for data in outputs for kind in sorted(data) if kind.startswith("image/")]
        seen.append((done.record["metrics"], done.record["claims"], figures, pictures))
    assert len(seen[0][3]) > 5 and seen[0][2] and seen[0] == seen[1]


def test_same_notebook_runs_sdxl(tmp_path, own_runs):
    """model="sdxl" must need no branch: a random pipeline of SDXL's very class runs through the same cells."""
    sdxl().save_pretrained(tmp_path / "sdxl")
    done = runs.run("style_aligned", QUICK | {"model": str(tmp_path / "sdxl")}, timeout=300)
    assert done.record["status"] == "finished" and done.record["claims"]["layer_norm_noop"]["verdict"] == "held"


def test_measures_see_what_they_are_named_after(pipe):
    """A set that repeats its reference is most consistent and leaks fully; measures must say so."""
    sets = ev.draw_sets(pipe, StyleAlignedConfig.off(), [0, 1], num_inference_steps=3, guidance_scale=5.0)
    copies = ev.Drawn({seed: [images[0]] * len(images) for seed, images in sets.images.items()}, sets.mass)
    plain, copied = (ev.measure(drawn, ev.Encoders()) for drawn in (sets, copies))
    assert min(copied["consistency"].values()) > 0.999 and max(copied["palette"].values()) < 1e-6
    assert ev.mean_of(plain["consistency"]) < 0.999 and ev.mean_of(plain["palette"]) > 0
    assert ev.mean_of(copied["noun"]) <= ev.mean_of(copied["leakage"])
    assert set(plain["noun"]) == {(seed, prompt) for seed in (0, 1) for prompt in ev.PROMPTS[1:]}
    values, seeds, prompts = ev.effects(copied["consistency"], plain["consistency"])
    assert len(values) == len(seeds) == len(prompts) == 16 and sum(values) > 0


def test_reference_map_shows_where_a_target_looks(pipe):
    """The map must be rows of attention weights, finest first to be shown, and need sharing to exist."""
    noise = starting_latents(pipe, 3, 0)
    with record_reference_map(pipe, set_size=3, target=2, step=1) as maps:
        with style_aligned(pipe, StyleAlignedConfig(), set_size=3):
            images = pipe(list(ev.PROMPTS[:3]), latents=noise, num_inference_steps=2, guidance_scale=5.0).images
    assert set(maps) == {256, 64, 16} and all(m.shape == (n, n) for n, m in maps.items())
    assert all(bool((m >= 0).all()) and bool((m.sum(-1) < 1).all()) for m in maps.values())
    look = look_from(maps, images[0])
    assert look(0, 0).tobytes() != look(64, 64).tobytes() and look(127, 127).size == (128, 128)
    with pytest.raises(ValueError, match="no map was recorded"):
        look_from({}, images[0])


def test_drift_is_zero_without_sharing(pipe):
    """What is reported as the reference's drift must come from sharing alone."""
    settings = {"guidance_scale": 5.0, "num_inference_steps": 2}
    still = ev.reference_drift(pipe, StyleAlignedConfig.off(), [0], **settings)
    moved = ev.reference_drift(pipe, StyleAlignedConfig.off(full_attention_share=True), [0], **settings)
    assert set(still.values()) == {0.0} and min(moved.values()) > 0
    assert torch.tensor(list(moved.values())).isfinite().all() and len(moved) == len(ev.PROMPTS)


def test_unknown_encoders_are_refused():
    """A typing error must not silently measure with the wrong network."""
    with pytest.raises(ValueError, match="tiny, hub"):
        ev.Encoders.named("dinov2")
