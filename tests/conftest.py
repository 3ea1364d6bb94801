"""What several test modules share: a small workspace, which kernels start, and where prewarmed ones meet."""

import os
import signal
from pathlib import Path

import pytest
from mini_workspace import make_workspace
from prewarmed import templates

from studylib.workspace import PACKAGE


@pytest.fixture(autouse=True)
def _plain_kernels(monkeypatch):
    """Tests start plain kernels, so that no template reaches from one to another, unless they ask for `environment`."""
    monkeypatch.setenv("STUDY_KERNELS", "plain")


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A workspace of one small paper, in which the commands of this test work; its runs stay inside."""
    monkeypatch.setenv("STUDY_ROOT", str(make_workspace(tmp_path)))
    monkeypatch.delenv("STUDY_RUNS", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def sockets(tmp_path_factory):
    """A folder of this module's own for sockets; its templates end with it."""
    folder = tmp_path_factory.mktemp("k")
    yield folder
    for pid in templates(folder):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def environment(sockets, monkeypatch) -> dict[str, str]:
    """This process's environment, in which kernels are prewarmed."""
    monkeypatch.delenv("STUDY_KERNELS")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(sockets))
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
    monkeypatch.setenv("STUDY_KERNELS_START", "170")  # on a busy machine
    return dict(os.environ)
