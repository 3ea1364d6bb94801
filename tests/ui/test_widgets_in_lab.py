"""Widgets wired to a reader's hands: clicks and keys in a real JupyterLab reach Python and come back."""

import re

import nbformat
import pytest

pytestmark = pytest.mark.ui

SETUP = """
import time
from PIL import Image
from studylib.showing import widgets

def paint(share_attention, shift, cancelled):
    for step in range(20 * shift):
        if cancelled():
            raise widgets.Cancelled
        time.sleep(0.05)
    return Image.new("RGB", (32, 32), (200, 0, 20 * shift) if share_attention else (0, 0, 200))

def answer(x, y):
    return Image.new("RGB", (32, 32), (4 * x, 4 * y, 0))
"""
COMPARE = """
live = widgets.compare(paint, toggles={"share_attention": True}, sliders={"shift": (0, 9, 1, 0)})
live
"""
PICKER = """
picker = widgets.pixel_picker(Image.new("RGB", (40, 20), "gray"), answer, width=200)
picker
"""


@pytest.fixture
def notebook(tmp_path, lab, page, open_notebook, run_all):
    """An open notebook with both widgets, all cells run."""
    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in (SETUP, COMPARE, PICKER)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}  # without it the Lab would ask
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "widgets.ipynb")
    open_notebook(page, lab(tmp_path), "widgets.ipynb")
    run_all(page)
    return page


def test_clicks_and_keys_change_state_and_picture(notebook, state):
    """Only a browser shows that the controls are wired, reachable by keyboard, and answered."""
    from playwright.sync_api import expect

    page = notebook
    compared, picked = state(page).first, state(page).last
    picture = page.locator("img.widget-image").first

    expect(compared).to_have_text(re.compile(r"^share_attention=True shift=0 · "))
    before = picture.get_attribute("src")
    box = page.get_by_label("share attention")
    box.click()
    expect(compared).to_have_text(re.compile(r"^share_attention=False shift=0 · "))
    expect(picture).not_to_have_attribute("src", before)

    expect(picked).to_have_text(re.compile(r"^x=20 y=10 · "))
    pixels = page.locator(".study-pixels")
    answered = page.locator("img.widget-image").last
    before = answered.get_attribute("src")
    pixels.click(position={"x": 5 * 30 + 2, "y": 5 * 4 + 2})  # five page pixels for one of the picture
    expect(picked).to_have_text(re.compile(r"^x=30 y=4 · "))
    expect(answered).not_to_have_attribute("src", before)
    pixels.press("ArrowRight")
    expect(picked).to_have_text(re.compile(r"^x=31 y=4 · "))
    pixels.press("Shift+ArrowDown")
    expect(picked).to_have_text(re.compile(r"^x=31 y=12 · "))


def test_slider_moved_through_slow_positions_ends_at_the_newest(notebook, state):
    """Positions of 1 to 4 s each are passed: drawing them all would keep the reader waiting for 10 s."""
    from playwright.sync_api import expect

    page = notebook
    handle = page.locator(".widget-slider .noUi-handle").first
    handle.focus()
    for _ in range(4):
        handle.press("ArrowRight")
    expect(state(page).first).to_have_text("drawing…")
    handle.press("Home")
    expect(state(page).first).to_have_text("share_attention=True shift=0 · 0.0 s", timeout=2000)


def test_a_saved_notebook_shows_its_pictures_again(notebook, state, shut_down, open_notebook, lab, tmp_path):
    """Reopened without its kernel a notebook said "model not found" where its picture was, though that was kept."""
    from playwright.sync_api import expect

    page = notebook
    kept = page.locator(".jp-OutputArea-child > .jp-RenderedImage img")
    expect(kept).to_have_count(2)
    for picture in kept.all():
        expect(picture).to_be_hidden()  # the live view shows it
    shut_down(page)
    open_notebook(page, lab(tmp_path), "widgets.ipynb")
    expect(kept).to_have_count(2)
    for picture in kept.all():
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 32
    expect(state(page)).to_have_count(0)
