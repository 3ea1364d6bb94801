"""The notebooks that teach a subject, in a reader's hands: after the training a control moves the pictures at once."""

import os
import re
import time
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.ui

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CONTROLS = {  # a control of each notebook; a paper that was removed has none
    slug: label for slug, label in {
        "dreambooth": "prior preservation", "textual_inversion": "word", "lora": "text encoder",
        "hypernetworks": "self attention",
    }.items() if (NOTEBOOKS / f"{slug}.ipynb").is_file()
}  # fmt: skip
STEPS = int(os.environ.get("STUDY_UI_STEPS", "2"))  # few: the wiring is looked at here, not the pictures
TRAINING = int(os.environ.get("STUDY_UI_TRAINING", "8"))
QUICK = f"\nnum_inference_steps, max_train_steps = {STEPS}, {TRAINING}"
CONTENT = "async (image) => Array.from(new Uint8Array(await (await fetch(image.src)).arrayBuffer())).join()"


def eventually(condition, seconds=5.0):
    """Whether `condition()` comes true; a picture's bytes may arrive after the text that announces them."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize(("slug", "label"), CONTROLS.items())
def test_a_control_shows_what_was_just_trained(slug, label, tmp_path, lab, page, open_notebook, run_all):
    """Nothing is trained again on a click: the picture of the new values must come, and the old one come back."""
    from playwright.sync_api import expect

    notebook = nbformat.read(NOTEBOOKS / f"{slug}.ipynb", as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += QUICK
    nbformat.write(notebook, tmp_path / f"{slug}.ipynb")
    open_notebook(page, lab(tmp_path), f"{slug}.ipynb")
    run_all(page, 300)
    panel = page.locator(".study-state").first
    panel.scroll_into_view_if_needed()
    expect(panel).to_have_text(re.compile(" · "))
    picture, control = page.locator("img.widget-image").first, page.get_by_label(label, exact=True).first
    before, first = picture.evaluate(CONTENT), panel.inner_text().rpartition(" · ")[0]
    start = time.monotonic()
    if control.evaluate("control => control.tagName") == "SELECT":
        control.select_option(index=1)
    else:
        control.click()
    expect(panel).not_to_have_text(re.compile(re.escape(first)), timeout=30_000)
    expect(panel).to_have_text(re.compile(" · "), timeout=30_000)
    assert eventually(lambda: picture.evaluate(CONTENT) != before)
    print(f"{slug}, {STEPS} steps: {time.monotonic() - start:.2f} s from the click to the new picture")
    if control.evaluate("control => control.tagName") == "SELECT":
        control.select_option(index=0)
    else:
        control.click()
    expect(panel).to_have_text(re.compile(re.escape(first) + " · "), timeout=30_000)
    assert eventually(lambda: picture.evaluate(CONTENT) == before)
