"""What tests of notebooks share."""

import pytest


@pytest.fixture(scope="module")
def runs_of_this_module(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def own_runs(runs_of_this_module, monkeypatch):
    """Runs of a module's tests go to a folder of their own, where one test finds what another has run."""
    monkeypatch.setenv("STUDY_RUNS", str(runs_of_this_module))
