"""Tests of studylib.reports.lesson: methods stand side by side only if they were given the same lesson."""

import json

import numpy as np
import pytest
from mini_workspace import make_workspace
from PIL import Image

from studylib.learning.training import History
from studylib.measuring.views import Views
from studylib.reports import lesson
from studylib.running.fingerprint import weight_hashes
from studylib.running.paper import OpenPaper
from studylib.world.subjects import CONTEXTS

LESSON = {"model": "tiny", "seed": 0, "subject": "cat", "num_inference_steps": 12}


def pictures(shade: int, count: int) -> list[Image.Image]:
    return [Image.fromarray(np.full((8, 8, 3), shade, np.uint8)) for _ in range(count)]


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Two papers of one course: `mini`, and `other`, rendered with LESSON."""
    root = make_workspace(tmp_path)
    monkeypatch.setenv("STUDY_ROOT", str(root))
    folder = root / "papers" / "other"
    (folder / "figures").mkdir(parents=True)
    card = (root / "papers" / "mini" / "card.toml").read_text()
    (folder / "card.toml").write_text(card.replace('slug = "mini"', 'slug = "other"'))
    write_results(root, LESSON)
    strip = Image.new("RGB", (8 * 6, 8), (200, 200, 200))
    strip.save(folder / "figures" / "lesson.webp", lossless=True)
    return root


def write_results(root, params, **changed):
    metrics = {"lesson: DINO": 0.5, "lesson: parameters (k)": 4.0, "unrelated": 1.0}
    results = {"slug": "other", "params": params, "claims": {}, "metrics": metrics}
    results["weights"] = weight_hashes("other", "tiny") | changed
    (root / "papers" / "other" / "results.json").write_text(json.dumps(results))


def close(**values):
    views = Views(pictures(10, 2), pictures(20, 2), pictures(30, 8), CONTEXTS)
    measured = {"DINO": {"a": 0.25, "b": 0.75}, "PRES": {"0": 0.1}}
    history = History([{"step": 1, "loss": 1.0, "seconds": 3.0}], parameters=2000, memory_mib=7.0)
    return lesson.close_lesson(
        OpenPaper("mini", LESSON | values), views, measured, history=history, file_bytes=9000, drift=0.125
    )


def test_rows_of_all_methods_and_what_is_recorded(workspace):
    """The own row is measured now, the other's read from its rendering; both have their pictures."""
    found = close()
    assert found.table.rows["mini"]["DINO"] == 0.5 and found.table.rows["mini"]["file (kB)"] == 9.0
    assert found.table.rows["mini"]["training (s)"] == 3.0 and found.table.rows["mini"]["memory (MiB)"] == 7.0
    assert found.table.rows["other"] == {"DINO": 0.5, "parameters (k)": 4.0}
    assert found.metrics["lesson: drift"] == 0.125 and not found.omitted
    assert found.figures["lesson"].size == (48, 8) and len(found.grid.axes) == 12
    assert found.grid.axes[0].images[0].get_array()[0, 0, 0] != found.grid.axes[6].images[0].get_array()[0, 0, 0]


def test_another_lesson_is_not_compared(workspace):
    """A row measured with another seed or subject would be a comparison of lessons, not of methods."""
    found = close(seed=3)
    assert "other" not in found.table.rows and "seed=0" in found.omitted[0] and "other" in repr(found)
    write_results(workspace, LESSON | {"subject": "boat"})
    assert "subject='boat'" in close().omitted[0]


def test_what_other_papers_recorded_is_text(workspace):
    """Results come with a checkout of somebody else: a script in them ran in the browser, codes in the terminal."""
    write_results(workspace, LESSON | {"subject": "<script>alert(1)</script>\x1b[31m"})
    found = close()
    assert "<script>" not in found._repr_html_() and "&lt;script&gt;" in found._repr_html_()
    assert "\x1b" not in repr(found)


def test_rows_of_other_weights_are_left_out(workspace):
    """After a training of the base the other notebooks show the old one until they are rendered: no row of a table may
    be of another model."""
    write_results(workspace, LESSON, **{"studylib/sd/unet/diffusion_pytorch_model.safetensors": "0" * 64})
    found = close()
    assert set(found.table.rows) == {"mini"} and "other weights" in found.omitted[0]


def test_alone_it_is_a_table_of_one(workspace):
    """The first of the papers to be rendered must not need the others."""
    (workspace / "papers" / "other" / "results.json").unlink()
    assert set(close().table.rows) == {"mini"} and len(close().grid.axes) == 6
