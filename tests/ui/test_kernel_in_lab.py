"""JupyterLab, too, starts, interrupts and restarts prewarmed kernels: it has a way of its own to do each."""

import sys

import nbformat
import pytest

pytestmark = [
    pytest.mark.ui,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prewarmed kernels need Linux"),
]
CELLS = ("import os, sys\nprint('diffusers' in sys.modules, 'kept' in globals())", "kept = 1")
RESTART = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.sessionContext.session.kernel.restart();
}"""


def test_the_kernelspec_works_in_the_lab(environment, tmp_path, lab, page, open_notebook, run_all):
    """The first cell must find the libraries imported, and nothing of the kernel before a restart."""
    from playwright.sync_api import expect

    spec = {"kernelspec": {"name": "study", "display_name": "Study (prewarmed)"}}
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=spec), tmp_path / "a.ipynb")
    open_notebook(page, lab(tmp_path), "a.ipynb")
    run_all(page, 120)
    output = page.locator(".jp-OutputArea-output pre").first
    expect(output).to_have_text("True False\n")
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.evaluate(RESTART)
    run_all(page, 120)
    expect(output).to_have_text("True False\n")
