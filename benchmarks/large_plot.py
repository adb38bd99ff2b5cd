"""The plot of `make bench-large`: energy of a step against RAM, a panel for each net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter

from benchmarks.figures import grid_of_axes, logarithmic, save
from benchmarks.large_cases import BOARD, KIB


def draw(points: dict[str, list[dict[str, Any]]], rows: list[dict[str, Any]], path: Path) -> None:
    """`points` of each net were planned only; `rows` of the same nets were executed."""
    figure, axes = grid_of_axes(1, len(points), panel_inches=(6.0, 3.6))
    for axis, (net, planned) in zip(axes[0], points.items(), strict=True):
        planned = sorted(planned, key=lambda point: point["ram_bytes"])
        executed = [row for row in rows if row["model"] == net and row["board"] == BOARD]
        ram = [point["ram_bytes"] / KIB for point in planned]
        axis.plot(
            ram, [point["energy_j"] for point in planned], "o-", fillstyle="none", color="#1c9a6c", label="planned"
        )
        axis.plot(
            [row["ram_bytes"] / KIB for row in executed],
            [row["energy_j"]["total"] for row in executed],
            "o",
            color="#1c9a6c",
            label="executed",
        )
        axis.plot(
            ram,
            [point["compulsory_j"] for point in planned],
            color="#8a8a8a",
            label="computing once, weights read twice and written once",
        )
        axis.set(xlabel="RAM", ylabel="modelled J a step", title=net)
        logarithmic(axis.xaxis)
        axis.set_xticks(ram[::2])
        axis.xaxis.set_major_formatter(FuncFormatter(_size))
        logarithmic(axis.yaxis, (1, 2, 5))
        axis.legend()
    save(figure, path)


def _size(kib: float, _: int) -> str:
    return f"{kib:.0f} KB" if kib < KIB else f"{kib / KIB:.0f} MB"
