"""The plot of `make bench-energy`: a panel for each net on each board, overhead over the budget."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.figures import grid_of_axes, logarithmic, save

_STYLES = {
    "page": ("paging only", "#3b76c4"),
    "remat": ("recomputation only", "#d08a2e"),
    "capuchin": ("Capuchin", "#8a8a8a"),
    "both": ("both", "#1c9a6c"),
}
_LEAST, _MOST = 0.3, 1e4
"""Of the axis, in percent; what is less is drawn at its foot."""


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Overhead over keeping everything (logarithmic) against the budget's share of keeping everything."""
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        panels.setdefault((row["title"], f"{row['core'].upper()}, {row['storage'].upper()}"), []).append(row)
    down = list(dict.fromkeys(net for net, _ in panels))
    across = list(dict.fromkeys(where for _, where in panels))
    figure, axes = grid_of_axes(len(down), len(across))
    for (net, where), some in panels.items():
        axis = axes[down.index(net)][across.index(where)]
        axis.set_title(f"{net}, {where}")
        logarithmic(axis.yaxis)
        axis.set(xlim=(102, 0), ylim=(_LEAST, _MOST))
        for technique, (label, colour) in _STYLES.items():
            # A budget that the technique cannot keep is a gap in its line.
            points = sorted(
                (
                    100 * row["budget_bytes"] / row["keep_bytes"],
                    max(100 * row["overhead"], _LEAST) if row["feasible"] else math.nan,
                )
                for row in some
                if row["technique"] == technique
            )
            axis.plot([x for x, _ in points], [y for _, y in points], "o-", markersize=3, color=colour, label=label)
    for row_of_axes in axes:
        row_of_axes[0].set_ylabel("% over keeping everything")
    for axis in axes[-1]:
        axis.set_xlabel("RAM, % of what keeping everything takes")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=len(_STYLES))
    save(figure, path)
