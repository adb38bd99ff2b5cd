"""Figures of the benchmarks, drawn by matplotlib: one look, and the same file from the same figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

_LOOK = {
    "axes.edgecolor": "#cccccc",
    "axes.grid": True,
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "font.size": 9.0,
    "grid.color": "#eeeeee",
    "svg.fonttype": "none",
    "svg.hashsalt": "poet-mcu",
}


matplotlib.rcParams.update(_LOOK)


def grid_of_axes(
    down: int, across: int, panel_inches: tuple[float, float] = (3.4, 2.3)
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of `down` x `across` panels, each (width, height) in inches."""
    figure = Figure(figsize=(across * panel_inches[0], down * panel_inches[1] + 0.4), layout="constrained")
    return figure, [list(row) for row in figure.subplots(down, across, squeeze=False)]


def logarithmic(axis: Axis, subs: tuple[int, ...] = (1,)) -> None:
    """Powers of ten times `subs`, as plain numbers."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def save(figure: Figure, path: Path) -> None:
    """Write an SVG without the time of day."""
    figure.savefig(path, format="svg", metadata={"Date": None})
