"""The report's plots as SVG; equal figures give equal bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from medidiff.evaluation.results import Evaluation, Metric

INK, SOFT, ACCENT = "#1d2530", "#9aa5b1", "#0b5c74"
STYLE: Any = {
    "svg.hashsalt": "medidiff",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
}
COLUMNS = 4
_BINS = 80


def strips(evaluation: Evaluation, shown: Sequence[tuple[str, str]]) -> str:
    """One dot a case, one bar at the median of a method; lines join the methods of a case.

    Args:
        evaluation: with the figures.
        shown: metric and region of each panel.

    Returns:
        The plot as a data URI; empty when there is nothing to show.
    """
    panels = [(evaluation.metrics[metric], region, _columns(evaluation, metric, region)) for metric, region in shown]
    panels = [each for each in panels if each[2][0]]
    if not panels:
        return ""
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with _canvas(2.5 * columns, 2.2 * rows) as canvas:
        grid = canvas.subplots(rows, columns, squeeze=False).ravel()
        for axes, (metric, region, (methods, values)) in zip(grid, panels, strict=False):
            _strip(axes, metric, region, methods, values)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        return _uri(canvas)


def _columns(evaluation: Evaluation, metric: str, region: str) -> tuple[list[str], NDArray[np.float64]]:
    """The methods that have the metric, and their values, shape (cases, methods), NaN where there is none."""
    rows = [each for each in evaluation.figures if (each.metric, each.region) == (metric, region)]
    present = {each.method for each in rows if np.isfinite(each.value)}
    methods = [name for name in (*evaluation.methods, "reference") if name in present]
    cases = list(dict.fromkeys(each.case for each in rows))
    values = np.full((len(cases), len(methods)), np.nan)
    for each in rows:
        if each.method in methods:
            values[cases.index(each.case), methods.index(each.method)] = each.value
    return methods, values


def _strip(axes: Axes, metric: Metric, region: str, methods: list[str], values: NDArray[np.float64]) -> None:
    places = np.arange(len(methods))
    for row in values:
        axes.plot(places, row, color=SOFT, linewidth=0.5, alpha=0.6, zorder=1)
    for place, column in zip(places, values.T, strict=True):
        there = column[np.isfinite(column)]
        shift = np.linspace(-0.12, 0.12, there.size) if there.size > 1 else np.zeros(there.size)
        order = np.argsort(np.argsort(there, kind="stable") * 7 % max(there.size, 1), kind="stable")
        axes.scatter(place + shift[order], there, s=14, color=ACCENT, alpha=0.8, linewidth=0, zorder=2)
        axes.hlines(np.median(there), place - 0.28, place + 0.28, color=INK, linewidth=1.4, zorder=3)
    axes.set_xticks(
        places, methods, rotation=30 if len(methods) > 3 else 0, ha="right" if len(methods) > 3 else "center"
    )
    axes.set_xlim(-0.6, len(methods) - 0.4)
    unit = f" ({metric.unit})" if metric.unit else ""
    axes.set_title(f"{metric.title}{unit}\n{region}", loc="left")
    axes.tick_params(length=2.5)


def histogram(groups: Mapping[str, NDArray[np.float32]], label: str) -> str:
    """Distributions of differences, each beside the normal law of its own mean and standard deviation.

    Args:
        groups: name -> values of the foreground, shape (N,); the first is drawn filled.
        label: of the horizontal axis.

    Returns:
        The plot as a data URI; empty when there is nothing to show.
    """
    groups = {name: values for name, values in groups.items() if values.size > 1 and float(values.std()) > 0}
    if not groups:
        return ""
    reach = max(float(np.percentile(np.abs(values), 99.7)) for values in groups.values())
    edges = _edges(reach, whole=all(bool(np.all(values == np.rint(values))) for values in groups.values()))
    reach = float(edges[-1])
    centres = (edges[1:] + edges[:-1]) / 2
    with _canvas(4.2, 1.9) as canvas:
        axes = canvas.subplots()
        for number, (name, values) in enumerate(groups.items()):
            density = np.histogram(values, edges)[0] / (values.size * (edges[1] - edges[0]))
            colour = (ACCENT, "#b4541a", SOFT)[number % 3]
            if number == 0:
                axes.fill_between(centres, density, step="mid", color=colour, alpha=0.25, linewidth=0)
            axes.step(centres, density, where="mid", color=colour, linewidth=1.1, label=name)
            mean, deviation = float(values.mean()), float(values.std())
            normal = np.exp(-0.5 * ((centres - mean) / deviation) ** 2) / (deviation * np.sqrt(2 * np.pi))
            axes.plot(centres, normal, color=colour, linewidth=0.8, linestyle=(0, (3, 2)))
        axes.axvline(0, color=INK, linewidth=0.6)
        axes.set_yticks([])
        axes.set_xlim(-reach, reach)
        axes.set_xlabel(label)
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=2.5)
        if len(groups) > 1:
            axes.legend(frameon=False, fontsize=7, loc="upper right")
        return _uri(canvas)


def _edges(reach: float, *, whole: bool) -> NDArray[np.float64]:
    """Edges of bins around 0; those of whole numbers hold equally many numbers each."""
    if not whole:
        return np.linspace(-reach, reach, _BINS + 1)
    step = 2 * int(reach // _BINS) + 1
    half = int(reach // step) + 0.5
    return np.asarray(step * np.arange(-half, half + 1), dtype=np.float64)


@contextmanager
def _canvas(width: float, height: float) -> Iterator[Canvas]:
    """A figure of a size in inches in the report's style."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield Canvas(figsize=(width, height), layout="constrained")


def _uri(canvas: Canvas) -> str:
    stream = io.BytesIO()
    FigureCanvasSVG(canvas)
    canvas.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(stream.getvalue()).decode()}"
