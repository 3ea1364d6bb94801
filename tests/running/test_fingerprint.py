"""Run ids follow what a run depends on; weights missing or cut short are found without loading."""

import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from mini_workspace import code, make_workspace, prose, standard_cells, write_notebook
from safetensors.torch import save_file

from studylib.errors import StudyError
from studylib.models import files, hub
from studylib.models.table import MODELS
from studylib.running import fingerprint


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDY_ROOT", str(make_workspace(tmp_path / "root")))
    return tmp_path / "root"


@pytest.fixture
def pipeline(tmp_path) -> Path:
    """A folder in the layout of a diffusers pipeline with one model and one scheduler."""
    folder = tmp_path / "pipeline"
    for part, config in (("unet", "config.json"), ("scheduler", "scheduler_config.json")):
        (folder / part).mkdir(parents=True)
        (folder / part / config).write_text("{}")
    index = {
        "_class_name": "X",
        "unet": ["diffusers", "U"],
        "scheduler": ["diffusers", "S"],
        "extra": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    save_file({"weight": torch.zeros(4, 8)}, folder / "unet" / "model.safetensors")
    return folder


def test_whole_pipeline_passes(pipeline):
    """The checks must not refuse what diffusers wrote."""
    files.check_pipeline_folder(pipeline)


def test_the_shipped_pipeline_passes_by_its_path():
    """It borrows text encoder and autoencoder from its neighbours; "tiny" by name and by path must be one thing."""
    folder = str(files.WEIGHTS / "sd")
    assert files.check_model(folder, "tiny") == folder


def test_truncated_weights_are_found(pipeline):
    """A download cut short would otherwise fail deep inside the kernel."""
    path = pipeline / "unet" / "model.safetensors"
    whole = path.read_bytes()
    for length in (len(whole) - 1, 20, 4, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(StudyError, match="model.safetensors"):
            files.check_pipeline_folder(pipeline)


def test_pickled_weights_are_not_enough(pipeline):
    """Pickles are never loaded, so a folder that has nothing else has no weights."""
    (pipeline / "unet" / "model.safetensors").rename(pipeline / "unet" / "model.bin")
    with pytest.raises(StudyError, match="has no safetensors; it holds .*bin"):
        files.check_pipeline_folder(pipeline)


def test_folder_that_is_no_pipeline(workspace, pipeline):
    """The error says what is there, so that a neighbouring folder is soon found."""
    with pytest.raises(StudyError, match="no model_index.json and holds .*notebooks"):
        files.check_model(str(workspace), "tiny")
    (pipeline / "unet" / "model.safetensors").unlink()
    (pipeline / "unet" / "config.json").unlink()
    (pipeline / "unet").rmdir()
    with pytest.raises(StudyError, match="unet is missing"):
        files.check_pipeline_folder(pipeline)


def test_model_folder_becomes_absolute(pipeline, monkeypatch):
    """The kernel runs in another folder than the command."""
    monkeypatch.chdir(pipeline.parent)
    assert files.check_model("pipeline", "tiny") == str(pipeline.resolve())


def test_unknown_model_names_the_nearest():
    """A misspelt model must not be looked for on the network."""
    with pytest.raises(StudyError, match="Did you mean tiny"):
        files.check_model("tinny", "tiny")


def test_missing_shipped_weights(tmp_path, monkeypatch):
    """A checkout without its weights is said before a kernel starts."""
    monkeypatch.setattr(files, "WEIGHTS", tmp_path)
    with pytest.raises(StudyError, match="weights are missing.*recipes.sd"):
        files.check_model("tiny", "tiny")


def test_hashes_follow_the_files(workspace, tmp_path, monkeypatch):
    """A retrained model is another run, even when its file keeps its size."""
    monkeypatch.setattr(files, "WEIGHTS", tmp_path / "shipped")
    path = tmp_path / "shipped" / "sd" / "model.safetensors"
    path.parent.mkdir(parents=True)
    save_file({"weight": torch.zeros(4)}, path)
    first = fingerprint.weight_hashes("mini", "tiny")
    assert list(first) == ["studylib/sd/model.safetensors"]
    assert fingerprint.weight_hashes("mini", "tiny") == first
    (workspace / "runs" / "weights.json").write_text("{broken")  # a damaged cache is only slower
    assert fingerprint.weight_hashes("mini", "tiny") == first
    save_file({"weight": torch.ones(4)}, path)
    assert fingerprint.weight_hashes("mini", "tiny") != first


def test_a_cache_of_hashes_that_cannot_be_kept_is_skipped(workspace, tmp_path, monkeypatch):
    """The cache lies with the runs; a folder of another user must not stop a run or a notebook."""
    monkeypatch.setenv("STUDY_RUNS", str(tmp_path / "elsewhere"))
    first = fingerprint.weight_hashes("mini", "tiny")
    assert (tmp_path / "elsewhere" / "weights.json").is_file() and not (workspace / "runs" / "weights.json").exists()
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("STUDY_RUNS", str(tmp_path / "file" / "runs"))
    assert fingerprint.weight_hashes("mini", "tiny") == first


def test_run_id_follows_code_and_parameters(workspace):
    """Equal ids must mean equal results; prose and outputs must not cost a run."""

    def id_now(steps: int = 3, **weights: str) -> str:
        return fingerprint.run_id("mini", {"steps": steps}, weights)

    notebook, method = workspace / "notebooks" / "mini.ipynb", workspace / "papers" / "mini" / "method.py"
    first = id_now()
    write_notebook(notebook, [prose("# Other words"), *standard_cells()[1:]])
    assert id_now() == first
    assert len({first, id_now(steps=4), id_now(model="other")}) == 3
    write_notebook(notebook, [*standard_cells(), code("1 + 1")])
    second = id_now()
    assert second != first
    method.write_text("SCALE = 2\n")
    assert id_now() != second


def test_run_id_follows_folders_and_versions(workspace, tmp_path, monkeypatch):
    """What a run reads decides its result: photos in a folder, a library's version; not what other papers measured."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.txt").write_text("one")

    def id_now() -> str:
        return fingerprint.run_id("mini", {"images": str(photos)}, {})

    first = id_now()
    assert id_now() == first
    (photos / "a.txt").write_text("two photos")
    second = id_now()
    assert second != first
    other = workspace / "papers" / "later"
    other.mkdir()
    (other / "results.json").write_text("{}")
    assert id_now() == second
    monkeypatch.setattr(fingerprint, "versions", lambda: {"torch": "0"})
    assert id_now() != second


def test_run_id_follows_every_file_it_may_read(workspace, tmp_path, monkeypatch):
    """A module in a paper's sub-folder, a file given as a parameter, a photo of the same size and time, one behind a
    linked folder, the schedule beside the weights: each gave the old record again."""
    folder, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    weights = tmp_path / "weights" / "scheduler"
    for made in (folder, elsewhere, weights, workspace / "papers" / "mini" / "parts"):
        made.mkdir(parents=True)
    (folder / "more").symlink_to(elsewhere)
    (elsewhere / "up").symlink_to(folder)  # a circle must end
    monkeypatch.setattr(files, "WEIGHTS", weights.parent)
    changed = [
        workspace / "papers" / "mini" / "parts" / "inner.py", tmp_path / "one.json", folder / "a.png",
        elsewhere / "b.png", weights / "scheduler_config.json",
    ]  # fmt: skip
    given = {"images": str(folder), "settings": str(tmp_path / "one.json")}
    for path in changed:
        path.write_text("1")
    seen = [fingerprint.run_id("mini", given, {})]
    for path in changed:
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        path.write_text("2")
        os.utime(path, ns=times)
        seen.append(fingerprint.run_id("mini", given, {}))
    assert len(set(seen)) == len(seen)
    (weights / "metrics.json").write_text("{}")  # how long a training took draws nothing
    assert fingerprint.run_id("mini", given, {}) == seen[-1]


def test_rooms_that_no_notebook_needs_do_not_change_the_id(workspace, tmp_path, monkeypatch):
    """A new option of the command line must not make every finished run stale; a new attention hook must."""
    package = tmp_path / "studylib"
    for room in ("cli", "recipes", "reports", "denoisers"):
        (package / room).mkdir(parents=True)
        (package / room / "module.py").write_text("A = 1\n")
    monkeypatch.setattr(fingerprint, "PACKAGE", package)
    first = fingerprint.code_hash("mini")
    for room in ("cli", "recipes", "reports"):
        (package / room / "module.py").write_text("A = 2\n")
    assert fingerprint.code_hash("mini") == first
    (package / "denoisers" / "module.py").write_text("A = 2\n")
    assert fingerprint.code_hash("mini") != first


def test_a_hub_model_counts_by_its_commit(tmp_path, monkeypatch):
    """A branch moves: runs before and after a new upload must not be one."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    card = MODELS["sd15"]
    assert hub.known_commit("sd15") == {f"hub/{card.id}": card.revision} and hub.known_commit("tiny") == {}
    ref = tmp_path / f"models--{card.id.replace('/', '--')}" / "refs" / card.revision
    ref.parent.mkdir(parents=True)
    ref.write_text("abc123")
    assert hub.known_commit("sd15") == {f"hub/{card.id}": "abc123"}
