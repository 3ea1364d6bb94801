"""Figures: what is drawn where, and that a notebook shows each figure once and small."""

import base64
import io

import matplotlib
import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

from studylib.evidence import verdicts
from studylib.showing import figures, source

# What readers without red or green cones see of linear RGB (Machado, Oliveira, Fernandes 2009, severity 1).
PROTANOPIA = [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]
DEUTERANOPIA = [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]


def picture(colour: str, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new("RGB", size, colour)


def drawn(figure) -> Image.Image:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream).convert("RGB")


def test_grid_places_pictures_titles_and_frames():
    """A grid that mixed up rows and columns would put a method's name on another method's pictures."""
    colours = ["red", "lime", "blue", "cyan", "magenta"]
    images = [picture(colour) for colour in colours]
    figure = figures.grid(images, 3, ["a", "b", "c"], ["first", "second"], outline=[4])
    axes = figure.axes
    shown = [ax.images[0].get_array()[0, 0].tolist() for ax in axes]
    assert shown == [list(image.getpixel((0, 0))) for image in images]
    assert [ax.get_title() for ax in axes] == ["a", "b", "c", "", ""]
    assert [ax.get_ylabel() for ax in axes] == ["first", "", "", "second", ""]
    assert [ax.spines["left"].get_visible() for ax in axes] == [False] * 4 + [True]
    assert all(len(ax.get_xticks()) == 0 for ax in axes)
    assert drawn(figure).getpixel((0, 0)) == (255, 255, 255)


def test_long_titles_are_wrapped_within_their_picture():
    """A prompt used as a title must not run into the neighbour's."""
    prompt = "a golden fish in the snow at night in paper cut style"
    figure = figures.grid([picture("red"), picture("lime")], titles=[prompt, prompt])
    figure.draw_without_rendering()
    first, second = (ax.title.get_window_extent() for ax in figure.axes)
    assert first.x1 <= second.x0
    assert figure.axes[0].get_title().replace("\n", " ") == prompt


def test_comparison_frames_the_reference_column():
    """Readers find the reference by its frame; it stands in the same column of every row."""
    row = [picture("red")] * 3
    figure = figures.comparison({"baseline": row, "shared": row}, ["ref", "b", "c"], reference=0)
    assert [ax.spines["top"].get_visible() for ax in figure.axes] == [True, False, False] * 2
    assert [ax.get_ylabel() for ax in figure.axes][::3] == ["baseline", "shared"]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: figures.grid([]), "no pictures"),
    (lambda: figures.grid([picture("red")] * 3, titles=["a", "b"]), "2 titles for 3"),
    (lambda: figures.comparison({"a": [picture("red")], "b": []}), "one length"),
    (lambda: figures.blend_heat(picture("red"), torch.zeros(16)), "2-D"),
    (lambda: figures.curve([1, 2], {"line": [1.0]}), "1 values for 2"),
    (lambda: figures.bars({}), "no values"),
    (lambda: figures.sheet([]), "no pictures"),
    (lambda: figures.attention_strip(picture("red"), {}), "no maps"),
])
def test_wrong_input_is_named(call, message):
    """An error has to say what was there, or a notebook's reader is lost in matplotlib."""
    with pytest.raises(ValueError, match=message):
        call()


def test_heat_is_stretched_to_where_it_belongs():
    """A map with x and y exchanged or upside down would point at the wrong thing."""
    heat = torch.zeros(4, 4)
    heat[0, 3] = 1.0  # row 0, column 3: top right
    blended = np.asarray(figures.blend_heat(picture("gray", (64, 32)), heat).convert("L")).astype(int)
    assert blended.shape == (32, 64)
    assert blended[2, 61] > 100 + blended[29, 61]
    assert blended[2, 61] > 100 + blended[2, 2]


def test_strip_draws_all_maps_on_one_scale():
    """Two maps side by side are compared by brightness, which only one common scale allows."""
    weak, strong = torch.full((2, 2), 0.2), torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    figure = figures.attention_strip(picture("gray"), {"weak": weak, "strong": strong})
    shown = [ax.images[0].get_array().mean() for ax in figure.axes if ax.images]
    alone = np.asarray(figures.blend_heat(picture("gray"), weak, low=0, high=1)).mean()
    assert shown[1] == pytest.approx(alone)
    assert figures.overlay(picture("gray"), strong, label="to the ear").axes[1].get_title() == "to the ear"


def test_constant_map_does_not_divide_by_zero():
    """An untrained layer attends evenly; its map must still be drawable."""
    assert figures.blend_heat(picture("white"), np.ones((3, 3))).size == (16, 16)


def test_bars_show_value_interval_and_paper():
    """The three numbers a claim rests on stand in one row; a swapped name would show another method's."""
    figure = figures.bars({"none": 0.2, "shared": 0.5}, {"shared": (0.4, 0.6)}, paper={"shared": 0.51})
    ax = figure.axes[0]
    assert [patch.get_width() for patch in ax.patches] == [0.2, 0.5]
    lines = {tuple(line.get_xdata()): tuple(line.get_ydata()) for line in ax.lines}
    assert lines[(0.4, 0.6)] == (1, 1)
    assert lines[(0.51,)] == (1,)
    assert [text.get_text() for text in ax.texts] == ["0.2", "0.5"]


def test_curve_and_scatter_keep_a_name_to_its_colour():
    """A method that changed colour from figure to figure would be read as another one."""
    figures.setup()
    line = figures.curve([1, 2], {"a": [1, 2], "b": [2, 3]}, bands={"b": ([1, 2], [3, 4])}).axes[0].lines[1]
    panels = figures.scatter({"b": (0.28, 0.5)}, paper={"b": (0.287, 0.51), "c": (0.29, 0.43)}).axes
    assert line.get_color() == panels[0].lines[0].get_color() == panels[1].lines[0].get_color()
    assert panels[1].lines[1].get_color() != line.get_color()
    assert [ax.get_title(loc="left") for ax in panels] == ["here", "paper"]


def test_palette_stays_apart_for_colour_blind_readers():
    """Colours alone tell the methods apart, so they must do so for colour-blind readers too."""
    colours = np.array([matplotlib.colors.to_rgb(colour) for colour in figures.PALETTE[:6]])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    for cones in (np.eye(3), np.array(PROTANOPIA), np.array(DEUTERANOPIA)):
        seen = np.clip(linear @ cones.T, 0, 1) ** (1 / 2.4)
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[np.triu_indices(6, 1)]
        assert distances.min() > 0.12


def test_badges_are_legible():
    """White words on a verdict's colour need a contrast of 4.5 (WCAG AA); colour never replaces the word."""
    for verdict, (colour, _sign, _style) in verdicts.VERDICTS.items():
        rgb = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 4.5
        assert verdict in verdicts.badge(verdict) and colour in verdicts.badge(verdict)
    assert "<b>" not in verdicts.badge("<b>")


def test_show_source_shows_the_running_code():
    """The notebook promises the code that runs, with its place, and no machine's path."""
    shown = source.show_source(figures.colour_of)
    assert shown.code.startswith("def colour_of(name: str) -> str:")
    line = int(repr(shown).splitlines()[0].removeprefix("# studylib/showing/figures.py, line "))
    with open(figures.__file__) as file:
        assert file.read().splitlines()[line - 1] == shown.code.splitlines()[0]
    assert "<span" in shown._repr_html_() and "/studylib/" not in shown._repr_html_()
    assert '"""' not in source.show_source(figures.colour_of, docstring=False).code
    assert "return _colours" in source.show_source(figures.colour_of, docstring=False).code
    with pytest.raises(TypeError, match="no Python source"):
        source.show_source(len)


def test_notebook_shows_a_figure_once_and_small():
    """Twice the same picture, or PNGs of it, would break the notebook's 500 KB."""
    cells = [
        "from PIL import Image\nfrom studylib.showing import figures, source\nfigures.setup()",
        "figures.grid([Image.new('RGB', (128, 128), 'red')] * 12, 4, title='red')",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()",
        "source.show_source(figures.sheet)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    quiet, figure, plotted, code = (cell.outputs for cell in notebook.cells)
    assert quiet == []
    assert [sorted(output.data) for output in figure] == [["image/jpeg", "text/plain"]]
    assert len(base64.b64decode(figure[0].data["image/jpeg"])) < 40_000
    assert [sorted(output.data) for output in plotted] == [["image/jpeg", "text/plain"]]
    assert "def sheet" in code[0].data["text/plain"] and "text/html" in code[0].data
