"""The paper's own plots: subspace similarity as heat maps, singular values on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from studylib.showing.figures import DPI, FAINT, FONT, HEAT, colour_of


def similarity_maps(maps: Mapping[str, Any], *, title: str = "") -> Figure:
    """Each phi(i, j), (m, n), as a heat map on the scale [0, 1]: i downwards, j to the right."""
    figure = Figure(figsize=(4.3 * len(maps) + 0.5, 2.5), layout="constrained", dpi=DPI)
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for ax, (name, values) in zip(axes, maps.items(), strict=True):
        m, n = values.shape
        shown = ax.imshow(values, cmap=HEAT, vmin=0, vmax=1, aspect="auto", extent=(0.5, n + 0.5, m + 0.5, 0.5))
        ax.set(xlabel=f"first j directions, r = {n}", ylabel=f"first i, r = {m}")
        ax.set_title(name, loc="left", fontsize=FONT)
        ax.yaxis.set_major_locator(MaxNLocator(min(m, 8), integer=True))
    bar = figure.colorbar(shown, ax=axes, fraction=0.03, pad=0.01)
    bar.outline.set_visible(False)
    bar.set_label("similarity")
    if title:
        figure.suptitle(title)
    return figure


def spectrum(lines: Mapping[str, Sequence[float]], *, title: str = "") -> Figure:
    """Singular values, each line relative to its first, on a logarithmic scale."""
    figure = Figure(figsize=(5.6, 2.8), layout="constrained", dpi=DPI)
    ax = figure.subplots()
    for name, values in lines.items():
        ax.plot(range(1, len(values) + 1), values, marker="o", markersize=4, color=colour_of(name), label=name)
    ax.set(yscale="log", xlabel="direction", ylabel="singular value / the first")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", color="#E6E6E6", lw=0.7)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.axhline(1, color=FAINT, lw=0.8)
    if title:
        figure.suptitle(title)
    return figure


def over_steps(lines: Mapping[str, Sequence[float]], y_label: str, window: int = 1) -> Figure:
    """Measures over training steps from 1 on, each a mean of the last `window` steps."""
    figure = Figure(figsize=(5.6, 2.6), layout="constrained", dpi=DPI)
    ax = figure.subplots()
    for name, values in lines.items():
        smooth = [sum(values[max(0, i - window + 1) : i + 1]) / min(window, i + 1) for i in range(len(values))]
        marker = "o" if len(values) < 20 else ""
        ax.plot(range(1, len(values) + 1), smooth, color=colour_of(name), marker=marker, markersize=4, label=name)
    ax.set(xlabel="step", ylabel=y_label + (f", mean of {window} steps" if window > 1 else ""))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", color="#E6E6E6", lw=0.7)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
