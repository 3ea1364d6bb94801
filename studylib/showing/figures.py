"""Figures of one look: white ground, small gaps, wrapped titles, colours that colour-blind readers can tell.

Every function returns a `Figure` that pyplot does not know of, so that it shows once, as the last expression
of a cell, and needs no closing. Pictures are PIL images; a heat map is any 2-D array or tensor and is
stretched to the picture's size.
"""

from __future__ import annotations

import logging
import re
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

# After Okabe and Ito, whose yellow is too faint on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F6FB0", "#555555")
INK, FAINT, FRAME = "#222222", "#8A8A8A", "#D55E00"
HEAT = "inferno"
DPI, FONT = 90, 9.0
LOOK = {
    "figure.dpi": DPI, "savefig.dpi": DPI, "figure.facecolor": "white", "savefig.facecolor": "white",
    "font.size": FONT, "axes.titlesize": FONT, "axes.labelsize": FONT, "lines.linewidth": 1.8,
    "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.edgecolor": FAINT, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "legend.frameon": False, "axes.prop_cycle": matplotlib.cycler(color=PALETTE),
}
_colours: dict[str, str] = {}


def setup(quality: int = 75) -> None:
    """Set the look of all figures, keep those of a notebook as JPEG of `quality`, and quiet library chatter.

    A grid of twelve pictures then takes about 60 KB of a notebook.
    """
    _colours.clear()
    matplotlib.rcParams.update(LOOK)
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category)
    for name in ("diffusers", "transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)

    from IPython import get_ipython

    if get_ipython() is None:
        return
    from matplotlib_inline.config import InlineBackend

    backend = InlineBackend.instance(parent=get_ipython())
    backend.shell = get_ipython()
    saving = {"quality": quality, "optimize": True, "progressive": True}
    backend.print_figure_kwargs = {"bbox_inches": "tight", "pad_inches": 0.06, "pil_kwargs": saving}
    backend.figure_formats = {"jpeg"}


def colour_of(name: str) -> str:
    """Give `name` its colour: the next free one at first sight, then the same one until `setup()`."""
    return _colours.setdefault(name, PALETTE[len(_colours) % len(PALETTE)])


def grid(images: Sequence[Image.Image], columns: int | None = None, titles: Sequence[str] | None = None,
         row_titles: Sequence[str] | None = None, *, title: str = "", outline: Iterable[int] = (),
         size: float = 1.45) -> Figure:
    """Show pictures in rows of `columns` (without it all in one row), `size` inches each.

    `titles`: one for each picture, or one for each column, which then stand above the first row only.
    `outline`: indices of the pictures to frame. Raises ValueError without pictures or if counts do not fit.
    """
    if len(images) == 0:
        raise ValueError("grid: no pictures given; pass at least one PIL image")
    columns = min(columns or len(images), len(images))
    rows = -(-len(images) // columns)
    _check_count("titles", titles, {len(images): "pictures", columns: "columns"})
    _check_count("row titles", row_titles, {rows: "rows"})
    wrapped = [_wrap(text, size) for text in titles or ()]
    title_rows = rows if len(wrapped) > columns else 1
    lines = max((text.count("\n") + 1 for text in wrapped), default=0) * title_rows
    margin = 1.0 if row_titles else 0.0
    figure, axes = _canvas(rows, columns, size, margin, lines + 2 * bool(title))
    framed = set(outline)
    for index, ax in enumerate(axes.flat):
        if index >= len(images):
            ax.remove()
            continue
        _picture(ax, images[index], framed=index in framed)
        if index < len(wrapped):
            ax.set_title(wrapped[index], fontsize=FONT, pad=3)
        if row_titles and index % columns == 0:
            name = _wrap(row_titles[index // columns], max(size, 1.1))
            ax.set_ylabel(name, fontsize=FONT, rotation=0, ha="right", va="center", labelpad=6)
    return _entitle(figure, title)


def comparison(rows: Mapping[str, Sequence[Image.Image]], titles: Sequence[str] | None = None, *,
               title: str = "", reference: int | None = 0, size: float = 1.45) -> Figure:
    """Show one row of pictures for each method, one column for each prompt; the `reference` column is framed.

    Raises ValueError if the rows differ in length.
    """
    counts = {name: len(pictures) for name, pictures in rows.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"comparison: sought rows of one length, got {counts}; fill the shorter ones")
    columns = next(iter(counts.values()))
    framed = [] if reference is None else [row * columns + reference for row in range(len(rows))]
    pictures = [picture for row in rows.values() for picture in row]
    return grid(pictures, columns, titles, list(rows), title=title, outline=framed, size=size)


def sheet(images: Sequence[Image.Image], columns: int | None = None, gap: int = 4) -> Image.Image:
    """Join pictures into one, `columns` in a row, sized as the first, white gaps of `gap` pixels."""
    if len(images) == 0:
        raise ValueError("sheet: no pictures given; pass at least one PIL image")
    width, height = images[0].size
    columns = min(columns or len(images), len(images))
    rows = -(-len(images) // columns)
    joined = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, image in enumerate(images):
        corner = (index % columns * (width + gap), index // columns * (height + gap))
        joined.paste(image.convert("RGB").resize((width, height)), corner)
    return joined


def blend_heat(image: Image.Image, heat: Any, *, low: float | None = None,
               high: float | None = None) -> Image.Image:
    """Lay a heat map over a picture: dark where `heat` is `low`, bright where it is `high`.

    Without `low` and `high` the map's own extremes are used. Returns an RGB image of the picture's size.
    """
    values = _array(heat)  # (h, w)
    low, high = _limits([values], low, high)
    values = np.clip((values - low) / (high - low), 0, 1)
    values = np.asarray(Image.fromarray(values).resize(image.size, Image.Resampling.BILINEAR))  # (H, W)
    coloured = matplotlib.colormaps[HEAT](values)[..., :3]  # (H, W, 3)
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None] / 255  # (H, W, 1)
    opacity = 0.45 + 0.35 * values[..., None]  # (H, W, 1)
    blended = (1 - opacity) * grey + opacity * coloured  # (H, W, 3)
    return Image.fromarray((255 * blended).round().astype(np.uint8))


def overlay(image: Image.Image, heat: Any, *, title: str = "", label: str = "attention weight",
            low: float | None = None, high: float | None = None, size: float = 2.2) -> Figure:
    """Show a picture and, beside it, the same picture under its heat map, with the scale."""
    return attention_strip(image, {label: heat}, title=title, low=low, high=high, size=size)


def attention_strip(image: Image.Image, maps: Mapping[str, Any], *, title: str = "", low: float | None = None,
                    high: float | None = None, size: float = 1.45) -> Figure:
    """Show a picture and its heat maps in one row, on one scale: brightness can be compared between them."""
    if not maps:
        raise ValueError("attention_strip: no maps given; pass {title: 2-D map}")
    low, high = _limits([_array(heat) for heat in maps.values()], low, high)
    lines = max(_wrap(name, size).count("\n") + 1 for name in maps) + 2 * bool(title)
    figure, axes = _canvas(1, 1 + len(maps), size, margin=0.5, lines=lines)
    blended = {name: blend_heat(image, heat, low=low, high=high) for name, heat in maps.items()}
    for ax, (name, picture) in zip(axes[0], [("picture", image), *blended.items()], strict=True):
        _picture(ax, picture)
        ax.set_title(_wrap(name, size), fontsize=FONT, pad=3)
    colours = ScalarMappable(Normalize(low, high), HEAT)
    scale = figure.colorbar(colours, ax=axes, fraction=0.04, pad=0.01, shrink=0.8)
    scale.outline.set_visible(False)
    scale.ax.tick_params(labelsize=FONT - 2, length=2)
    scale.locator = MaxNLocator(3)
    return _entitle(figure, title)


def bars(values: Mapping[str, float], intervals: Mapping[str, tuple[float, float]] | None = None, *,
         paper: Mapping[str, float] | None = None, label: str = "", title: str = "",
         width: float = 5.2) -> Figure:
    """Draw a bar for each name, its 95 % interval (low, high) and the paper's value as a diamond."""
    if not values:
        raise ValueError("bars: no values given; pass {name: value}")
    figure = Figure(figsize=(width, 0.75 + 0.42 * len(values)), layout="constrained", dpi=DPI)
    ax = figure.subplots()
    for row, (name, value) in enumerate(values.items()):
        low, high = (intervals or {}).get(name, (value, value))
        ax.barh(row, value, height=0.62, color=colour_of(name))
        if low != high:
            ax.plot([low, high], [row, row], color=INK, lw=1.4, marker="|", markersize=7)
        end, shift, side = (max(high, value), 5, "left") if value >= 0 else (min(low, value), -5, "right")
        ax.annotate(f"{value:.3g}", (end, row), (shift, 0), textcoords="offset points", va="center", ha=side)
    shown = [(paper[name], row) for row, name in enumerate(values) if name in (paper or {})]
    if shown:
        ax.plot(*zip(*shown, strict=True), "D", color="white", markeredgecolor=INK, label="paper")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    ax.set_yticks(range(len(values)), [textwrap.fill(name, 28) for name in values])
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.axvline(0, color=FAINT, lw=0.8)
    ax.margins(x=0.14)
    ax.set_xlabel(label)
    return _entitle(figure, title)


def curve(x: Sequence[float], lines: Mapping[str, Sequence[float]], *, x_label: str = "", y_label: str = "",
          bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None, title: str = "",
          log_x: bool = False, width: float = 5.2) -> Figure:
    """Draw a measure over a knob's setting, one line for each name, with an optional band (lows, highs)."""
    figure = Figure(figsize=(width, 2.8), layout="constrained", dpi=DPI)
    ax = figure.subplots()
    for name, y in lines.items():
        if len(y) != len(x):
            raise ValueError(f"curve: {name!r} has {len(y)} values for {len(x)} settings; give one for each")
        ax.plot(x, y, color=colour_of(name), marker="o", markersize=4, label=name)
        if bands and name in bands:
            ax.fill_between(x, *bands[name], color=colour_of(name), alpha=0.18, lw=0)
    ax.set(xlabel=x_label, ylabel=y_label, xscale="log" if log_x else "linear")
    ax.grid(axis="y", color="#E6E6E6", lw=0.7)
    if len(lines) > 1:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _entitle(figure, title)


def scatter(points: Mapping[str, tuple[float, float]], *,
            paper: Mapping[str, tuple[float, float]] | None = None, x_label: str = "text alignment",
            y_label: str = "set consistency", title: str = "", width: float = 3.4) -> Figure:
    """Draw methods as points (text alignment, set consistency); the paper's points get a panel of their own.

    Other encoders and pictures give other scales, so that only the arrangement of the points can be compared.
    """
    panels = {"here": points} | ({"paper": paper} if paper else {})
    figure = Figure(figsize=(width * len(panels), 3.0), layout="constrained", dpi=DPI)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (panel, named) in zip(axes, panels.items(), strict=True):
        for name, (x, y) in named.items():
            ax.plot(x, y, "o", color=colour_of(name), markersize=8)
            ax.annotate(textwrap.fill(name, 18), (x, y), (0, 8), textcoords="offset points", ha="center")
        ax.set(xlabel=x_label, ylabel=y_label)
        ax.margins(0.3)
        ax.grid(color="#EDEDED", lw=0.7)
        if paper:
            ax.set_title(panel, loc="left")
    return _entitle(figure, title)


def _canvas(rows: int, columns: int, size: float, margin: float, lines: int) -> tuple[Figure, np.ndarray]:
    """A figure for pictures of `size` inches, `margin` inches of row titles and `lines` of titles in all."""
    inches = (columns * size + margin, rows * size + lines * 1.35 * FONT / 72)
    figure = Figure(figsize=inches, layout="compressed", dpi=DPI)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _picture(ax: Axes, image: Image.Image, framed: bool = False) -> None:
    ax.imshow(np.asarray(image.convert("RGB")), interpolation="lanczos")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=framed, color=FRAME, linewidth=2.5)


def _array(heat: Any) -> np.ndarray:
    values = np.asarray(heat.detach().float().cpu() if hasattr(heat, "detach") else heat, dtype=np.float32)
    if values.ndim != 2:
        raise ValueError(f"sought a 2-D heat map, got shape {values.shape}; reshape it to (height, width)")
    return values


def _limits(maps: Sequence[np.ndarray], low: float | None, high: float | None) -> tuple[float, float]:
    low = float(min(values.min() for values in maps)) if low is None else low
    high = float(max(values.max() for values in maps)) if high is None else high
    return low, high if high > low else low + 1e-6  # a constant map is drawn dark, not divided by zero


def _wrap(text: str, inches: float) -> str:
    """Break lines at spaces, and long names after underscores."""
    width = max(8, int(inches * 72 / (0.6 * FONT)))
    return re.sub(r"_ ", "_", textwrap.fill(re.sub(r"_(?=\w)", "_ ", text), width))


def _entitle(figure: Figure, title: str) -> Figure:
    if title:
        text = _wrap(title, 0.85 * figure.get_size_inches()[0])
        figure.suptitle(text, fontsize=FONT + 1.5, fontweight="bold", color=INK)
    return figure


def _check_count(what: str, given: Sequence[str] | None, wanted: Mapping[int, str]) -> None:
    if given is not None and len(given) not in wanted:
        there = " or ".join(f"{count} {unit}" for count, unit in wanted.items())
        raise ValueError(f"grid: {len(given)} {what} for {there}; give one for each")
