"""Draws a dashboard as a PNG: the series of each panel in its place, as Prometheus returns them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

from loadtests.dashboards.panels import Panel
from loadtests.dashboards.prometheus import Series

Read = Callable[[str], list[Series]]  # by query

_CELL_INCHES: Final = 0.72  # the width of one of the 24 columns
_ROW_INCHES: Final = 0.36
_DPI: Final = 72
_COLOURS: Final = 96
_MOST_SERIES: Final = 8  # in a legend
_SCALES: Final = (
    (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"),
)  # fmt: skip
_SUFFIX: Final = {"s": "s", "bytes": "B", "reqps": "/s", "ops": "/s", "cps": "/s"}


def readable(value: float, unit: str) -> str:
    """A number with its unit, such as `2.5 ms` or `12 %`."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    suffix = _SUFFIX.get(unit, "")
    if unit == "s" and value >= 172_800:
        return f"{value / 86_400:.3g} d"
    small = unit == "s"  # a thousandth of a request reads badly
    for factor, prefix in _SCALES:
        if abs(value) >= factor and (factor >= 1 or small):
            return f"{value / factor:.3g} {prefix}{suffix}".strip()
    return f"{value:.3g} {suffix}".strip()


def draw(title: str, panels: list[Panel], read: Read, path: Path) -> None:
    """Draw all panels into one picture."""
    rows = max(panel.y + panel.height for panel in panels) + 2
    width, height = 24 * _CELL_INCHES, rows * _ROW_INCHES
    mpl.rcParams.update({"font.size": 8, "font.family": "DejaVu Sans"})
    figure = plt.figure(figsize=(width, height), facecolor="white")
    figure.text(0.01, 1 - 1.2 / rows, title, fontsize=15, weight="bold")
    for panel in panels:
        top = 1 - (panel.y + 2) / rows
        if panel.kind == "row":
            figure.text(0.01, top - 0.75 / rows, panel.title, fontsize=11, weight="bold")
            continue
        box = (
            (panel.x + 0.9) / 24,
            top - (panel.height - 2.0) / rows,
            (panel.width - 1.3) / 24,
            (panel.height - 3.2) / rows,
        )
        figure.text((panel.x + 0.3) / 24, top - 0.8 / rows, panel.title, fontsize=9)
        if panel.kind == "stat":
            _draw_stat(figure.add_axes(box), panel, read)
        else:
            _draw_lines(figure.add_axes(box), panel, read)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
    with Image.open(path) as picture:  # a fraction of the size, without a visible difference
        picture.convert("RGB").quantize(_COLOURS).save(path, optimize=True)


def _draw_stat(axes: Axes, panel: Panel, read: Read) -> None:
    axes.set_axis_off()
    target = panel.targets[0]
    series = read(target.query)
    values = [y for _, y in series[0][1] if not math.isnan(y)] if series else []
    text = readable(values[-1], panel.unit) if values else "no data"
    axes.text(0.0, 0.3, text, fontsize=20, color="#1f60c4", transform=axes.transAxes)


def _draw_lines(axes: Axes, panel: Panel, read: Read) -> None:
    lines: list[tuple[str, list[float], list[float]]] = []
    for target in panel.targets:
        for labels, points in read(target.query):
            lines.append((target.label(labels), [at for at, _ in points], [y for _, y in points]))
    if not lines:
        axes.text(0.5, 0.5, "no data", ha="center", color="grey", transform=axes.transAxes)
    first = min((times[0] for _, times, _ in lines), default=0.0)
    if panel.stacked and lines:
        _draw_stack(axes, lines, first)
    else:
        for label, times, values in lines:
            axes.plot([at - first for at in times], values, label=label, linewidth=1.2)
    _decorate(axes, panel)


def _draw_stack(
    axes: Axes, lines: list[tuple[str, list[float], list[float]]], first: float
) -> None:
    times = sorted({at for _, one, _ in lines for at in one})
    filled = [
        [dict(zip(own, values, strict=True)).get(at, 0.0) for at in times]
        for _, own, values in lines
    ]
    labels = [label for label, _, _ in lines]
    axes.stackplot([at - first for at in times], filled, labels=labels, alpha=0.6)


def _decorate(axes: Axes, panel: Panel) -> None:
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f} s")
    axes.yaxis.set_major_formatter(lambda value, _: readable(value, panel.unit))
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            handles[:_MOST_SERIES], [label[:28] for label in labels[:_MOST_SERIES]],
            loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False, fontsize=7,
        )  # fmt: skip
