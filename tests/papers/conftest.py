"""What tests of papers share: a random pipeline, the same in a folder, and a place for runs."""

from pathlib import Path

import pytest
from tiny_pipelines import frozen_sd, sd


@pytest.fixture(scope="module")
def pipe():
    """A random pipeline of Stable Diffusion's class, for one module's tests."""
    return frozen_sd()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> str:
    """Such a pipeline as a reader's own model: a folder in diffusers format, with widths unlike the tiny world's."""
    folder: Path = tmp_path_factory.mktemp("model") / "sd"
    sd().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def runs_of_this_module(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def own_runs(runs_of_this_module, monkeypatch):
    """Runs of a module's tests go to a folder of their own, where one test finds what another has run."""
    monkeypatch.setenv("STUDY_RUNS", str(runs_of_this_module))
