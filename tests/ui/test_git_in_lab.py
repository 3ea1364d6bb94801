"""Reading a notebook in JupyterLab is no change: git must see none."""

import shutil
from pathlib import Path

import pytest

from studylib.cli.saving import OPTION

pytestmark = pytest.mark.ui
ROOT = Path(__file__).parents[2]
SAVE = "() => window.jupyterapp.shell.currentWidget.context.save()"
LANGUAGE = (
    "() => window.jupyterapp.shell.currentWidget.context.model.sharedModel.getMetadata('language_info')?.version"
)


@pytest.mark.parametrize("options", [[OPTION], []])
def test_opened_and_saved_a_notebook_is_unchanged(options, tmp_path, lab, page, open_notebook):
    """JupyterLab writes the kernel's version and its editor's mode into each notebook it saves; not `study lab`."""
    shutil.copy(ROOT / "notebooks" / "index.ipynb", tmp_path)
    before = (tmp_path / "index.ipynb").read_bytes()
    open_notebook(page, lab(tmp_path, *options), "index.ipynb")
    page.wait_for_function(LANGUAGE)  # the kernel has said what it is
    page.evaluate(SAVE)
    assert ((tmp_path / "index.ipynb").read_bytes() == before) is bool(options)
