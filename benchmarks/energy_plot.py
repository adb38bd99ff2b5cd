"""The plot of `make bench-energy`, as an SVG: a panel for each net on each board, overhead over the budget."""

from __future__ import annotations

import math
from html import escape
from typing import Any

_PANEL_W, _PANEL_H, _LEFT, _TOP, _GAP = 230, 150, 60, 46, 34
_COLOURS = {"page": "#3b76c4", "remat": "#d08a2e", "capuchin": "#8a8a8a", "both": "#1c9a6c"}
_WORDS = {"page": "paging only", "remat": "recomputation only", "capuchin": "Capuchin", "both": "both"}
_TICKS = (0.01, 0.1, 1.0, 10.0, 100.0)
_LEAST, _MOST = 0.003, 100.0
_LEGEND_W = 600


def plot(rows: list[dict[str, Any]]) -> str:
    """Overhead over keeping everything (logarithmic) against the budget's share of keeping everything."""
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        panels.setdefault((row["title"], f"{row['core'].upper()}, {row['storage'].upper()}"), []).append(row)
    down = list(dict.fromkeys(net for net, _ in panels))
    across = list(dict.fromkeys(where for _, where in panels))
    width = max(_LEFT + len(across) * (_PANEL_W + _GAP), _LEGEND_W)
    height = _TOP + len(down) * (_PANEL_H + _GAP) + 20
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11" fill="#333">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    x = float(_LEFT)
    for technique, words in _WORDS.items():
        out.append(f'<line x1="{x}" y1="14" x2="{x + 22}" y2="14" stroke="{_COLOURS[technique]}" stroke-width="2"/>')
        out.append(f'<text x="{x + 28}" y="18">{words}</text>')
        x += 60 + 7 * len(words)
    for (net, where), some in panels.items():
        left = _LEFT + across.index(where) * (_PANEL_W + _GAP)
        top = _TOP + down.index(net) * (_PANEL_H + _GAP)
        out += _panel(left, top, f"{net}, {where}", some)
    out.append(f'<text x="{_LEFT}" y="{height - 6}">RAM, share of what keeping everything takes; '
               "energy of a step over keeping everything</text>")  # fmt: skip
    return "\n".join([*out, "</svg>"]) + "\n"


def _panel(left: int, top: int, title: str, rows: list[dict[str, Any]]) -> list[str]:
    def at(share: float, overhead: float) -> tuple[float, float]:
        level = math.log(max(overhead, _LEAST) / _LEAST) / math.log(_MOST / _LEAST)
        return left + (1.0 - share) * _PANEL_W, top + (1.0 - level) * _PANEL_H

    out = [
        f'<text x="{left}" y="{top - 6}" font-weight="bold">{escape(title)}</text>',
        f'<rect x="{left}" y="{top}" width="{_PANEL_W}" height="{_PANEL_H}" fill="none" stroke="#ccc"/>',
    ]
    for tick in _TICKS:
        _, y = at(1.0, tick)
        out.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + _PANEL_W}" y2="{y:.1f}" stroke="#eee"/>')
        out.append(f'<text x="{left - 4}" y="{y + 4:.1f}" text-anchor="end">+{100 * tick:g} %</text>')
    for share in (1.0, 0.75, 0.5, 0.25):
        x, _ = at(share, 1.0)
        out.append(f'<text x="{x:.1f}" y="{top + _PANEL_H + 14}" text-anchor="middle">{100 * share:g} %</text>')
    for technique, colour in _COLOURS.items():
        points = [
            at(row["budget_bytes"] / row["keep_bytes"], row["overhead"])
            for row in rows
            if row["technique"] == technique and row["feasible"]
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in sorted(points))
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points]
    return out
