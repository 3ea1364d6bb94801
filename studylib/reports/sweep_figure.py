"""Draws what a sweep found: every metric over every knob, with means and intervals over seeds."""

from __future__ import annotations

import itertools
import math
import statistics
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studylib.errors import StudyError
from studylib.reports.results import pick_metrics, run_columns
from studylib.running.records import Record
from studylib.showing.figures import DPI, FONT, INK, LOOK, PALETTE

SEED = "seed"  # runs that differ in it alone are repetitions
MAX_PANELS, MAX_COLUMNS, MAX_LINES = 60, 6, len(PALETTE)
LOG_RATIO = 30  # a knob that spans more is drawn on a logarithmic axis
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)  # 1 to 10 degrees of freedom
MARKERS = "osD^vPX*"


def sweep_figure(
    records: Sequence[Record],
    *,
    knobs: Sequence[str] | None = None,
    metrics: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Draw each metric over each knob: the mean over seeds with its 95 % t-interval, a line for each other setting.

    `knobs`: the parameters to draw over, without it those in which the runs differ, `seed` aside. `metrics`:
    only those whose names contain one of these texts. Numbers are joined by a line, other values are points
    side by side. Runs of one setting and seed but of different code count once, the newest. With more
    than eight other settings a knob is drawn over the average of them, which its heading says. Raises
    StudyError if nothing differs or there would be too many panels.
    """
    if not records:
        raise StudyError("sweep_figure: no runs given", "Run the sweep first")
    differing = [column.original for column in run_columns(records) if column.group == "param" and column.differs]
    knobs = [name for name in differing if name != SEED] if knobs is None else list(knobs)
    if not knobs:
        raise StudyError("the runs differ in no parameter but the seed", "Run a sweep, or other parameters")
    names = pick_metrics([name for record in records for name in record.metrics], metrics)
    if not 0 < len(names) * len(knobs) <= MAX_PANELS:
        raise StudyError(
            f"{len(names)} metrics over {len(knobs)} knobs ({', '.join(knobs)}) are no readable figure",
            "Pick metrics with --metric, or one sweep with --sweep",
        )
    in_time = sorted(records, key=lambda record: record.started_at)
    newest = {tuple(sorted(record.params.items())): record for record in in_time}
    with matplotlib.rc_context(LOOK):
        return _draw(list(newest.values()), knobs, names, title)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % t-interval, which is 0 for a single value."""
    if len(values) < 2:
        return statistics.fmean(values), 0.0
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), half


def t_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t: a table up to 10 degrees of freedom, above it a series.

    Source: Abramowitz and Stegun, 26.7.5, the first three terms; right to three decimals from 11 on.
    """
    if freedom <= len(T975):
        return T975[freedom - 1]
    z = 1.959964
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def _draw(records: list[Record], knobs: list[str], names: list[str], title: str) -> Figure:
    rows = math.ceil(len(names) / max(1, MAX_COLUMNS // len(knobs)))
    columns = math.ceil(len(names) / rows) * len(knobs)  # each metric has a panel per knob, side by side
    figure = Figure(figsize=(max(4.0, 2.6 * columns), 1.0 + 1.9 * rows), layout="constrained", dpi=DPI)
    axes = figure.subplots(rows, columns, squeeze=False)
    counts: set[int] = set()
    for number, (name, knob) in enumerate(itertools.product(names, knobs)):
        ax, others = axes.flat[number], [other for other in knobs if other != knob]
        counts |= _panel(ax, records, knob, others, name, legend=number < len(knobs))
        if knob == knobs[0]:
            ax.set_ylabel(textwrap.fill(name, 22))
        else:
            ax.sharey(axes.flat[number - 1])
            ax.tick_params(labelleft=False)
        ax.set_xlabel(knob if number + columns >= len(names) * len(knobs) else "")
    for ax in axes.flat[len(names) * len(knobs) :]:
        ax.remove()
    counted = " to ".join(map(str, sorted({min(counts), max(counts)})))
    said = "one seed: no interval" if counts == {1} else f"mean and 95 % t-interval over {counted} seeds"
    figure.supxlabel(said, fontsize=FONT - 1, color="#666666", x=0.01, ha="left")
    if title:
        figure.suptitle(title, fontsize=FONT + 1.5, fontweight="bold", color=INK, x=0.01, ha="left")
    return figure


def _panel(ax: Axes, records: list[Record], knob: str, others: list[str], name: str, legend: bool) -> set[int]:
    """Draw one metric over one knob; return how many seeds its points have."""
    settings = sorted({_setting(record, others) for record in records}, key=_sort_key)
    split = len(settings) <= MAX_LINES
    lines: dict[tuple, dict[Any, dict[Any, list[float]]]] = {}  # other settings -> value -> seed -> metric
    for record in records:
        if name in record.metrics and knob in record.params:
            line = lines.setdefault(_setting(record, others) if split else (), {})
            by_seed = line.setdefault(record.params[knob], {})
            by_seed.setdefault(record.params.get(SEED), []).append(record.metrics[name])
    values = sorted({value for line in lines.values() for value in line}, key=_sort_key)
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    counts = set()
    for number, setting in enumerate(settings if split else [()]):
        line = lines.get(setting, {})
        here = [value for value in values if value in line]
        aside = 0.12 * (number - (len(lines) - 1) / 2)
        x = here if numeric else [values.index(value) + aside for value in here]
        found = [mean_interval([statistics.fmean(again) for again in line[value].values()]) for value in here]
        counts |= {len(line[value]) for value in here}
        label = ", ".join(f"{other}={_word(value)}" for other, value in zip(others, setting, strict=False))
        style = {"color": PALETTE[number], "marker": MARKERS[number], "ms": 4.5, "capsize": 2.5, "elinewidth": 1.1}
        spread = [half for _, half in found]
        ax.errorbar(x, [mean for mean, _ in found], spread, ls="-" if numeric else "none", label=label, **style)
    _dress(ax, values, numeric)
    if legend and split and len(settings) > 1:
        ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.02), fontsize=FONT - 2, borderpad=0, labelspacing=0.2)
    elif legend and not split:
        ax.set_title(textwrap.fill(f"average over {', '.join(others)}", 34), loc="left", fontsize=FONT - 1)
    return counts


def _dress(ax: Axes, values: list[Any], numeric: bool) -> None:
    ax.grid(axis="y", color="#E6E6E6", lw=0.7)
    ax.margins(x=0.08, y=0.12)
    if not numeric:
        ax.set_xticks(range(len(values)), [textwrap.fill(_word(value), 12) for value in values])
        ax.set_xlim(-0.6, len(values) - 0.4)
    elif values and min(values) > 0 and max(values) / min(values) > LOG_RATIO:
        ax.set_xscale("log")


def _setting(record: Record, names: Sequence[str]) -> tuple:
    return tuple(record.params.get(name) for name in names)


def _sort_key(value: Any) -> tuple:
    if isinstance(value, tuple):
        return tuple(map(_sort_key, value))
    number = isinstance(value, (bool, int, float))
    return (0, value, "") if number else (1, 0, str(value))


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
