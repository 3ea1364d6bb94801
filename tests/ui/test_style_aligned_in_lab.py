"""The promise of the workspace in a reader's hands: open the notebook, click a flag, see the pictures change."""

import os
import re
import time
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.ui

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "style_aligned.ipynb"
STEPS = int(os.environ.get("STUDY_UI_STEPS", "4"))  # few: the wiring is looked at here, not the pictures
QUICK = f"\nnum_inference_steps, seeds = {STEPS}, 3"

CONTENT = "async (image) => Array.from(new Uint8Array(await (await fetch(image.src)).arrayBuffer())).join()"


def test_click_on_share_attention_changes_the_picture(tmp_path, lab, page, open_notebook, run_all, state):
    """Only a browser shows that the shipped notebook's own controls reach the model and come back as a new picture."""
    from playwright.sync_api import expect

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += QUICK
    nbformat.write(notebook, tmp_path / "style_aligned.ipynb")
    open_notebook(page, lab(tmp_path), "style_aligned.ipynb")
    run_all(page, 500)  # far more than it takes alone
    panel = page.locator(".study-state").first
    panel.scroll_into_view_if_needed()
    expect(panel).to_have_text(re.compile("share_attention=True .* · "))
    picture = page.locator("img.widget-image").first
    before = picture.evaluate(CONTENT)
    start = time.monotonic()
    page.get_by_label("share attention").first.click()
    expect(panel).to_have_text(re.compile("share_attention=False .* · "), timeout=30_000)
    print(f"{STEPS} steps: {time.monotonic() - start:.2f} s from the click to the new picture")
    assert picture.evaluate(CONTENT) != before
    page.get_by_label("share attention").first.click()
    expect(panel).to_have_text(re.compile("share_attention=True .* · "))
    assert picture.evaluate(CONTENT) == before  # the same values show the same picture
