"""The plot of `make bench-large`, as an SVG: energy of a step against RAM, a panel for each net."""

from __future__ import annotations

import math
from html import escape
from typing import Any

_PANEL_W, _PANEL_H, _LEFT, _TOP, _GAP = 330, 200, 60, 40, 60
_TOTAL, _BOUND = "#1c9a6c", "#8a8a8a"
_KIB = 1024
_BOARD = "qemu_mps2_an386"
"""That the plans are for."""


def plot(points: dict[str, list[dict[str, Any]]], rows: list[dict[str, Any]]) -> str:
    """`points` of each net were planned only; `rows` of the same nets were executed."""
    width = _LEFT + len(points) * (_PANEL_W + _GAP)
    height = _TOP + _PANEL_H + 50
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11" fill="#333">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, (net, planned) in enumerate(points.items()):
        run = [row for row in rows if row["model"] == net]
        out += _panel(_LEFT + number * (_PANEL_W + _GAP), net, planned, run)
    text = "RAM and modelled J a step, logarithmic. Rings: planned only, dots: executed, grey: compulsory."
    out.append(f'<text x="{_LEFT}" y="{height - 8}">{text}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _panel(left: int, net: str, planned: list[dict[str, Any]], run: list[dict[str, Any]]) -> list[str]:
    planned = sorted(planned, key=lambda point: point["ram_bytes"])
    least, most = planned[0]["ram_bytes"], planned[-1]["ram_bytes"]
    low_j = min(point["compulsory_j"] for point in planned) / 1.2
    top_j = max(point["energy_j"] for point in planned) * 1.2

    def at(ram_bytes: float, energy_j: float) -> tuple[float, float]:
        share = math.log(ram_bytes / least) / math.log(most / least)
        level = math.log(energy_j / low_j) / math.log(top_j / low_j)
        return left + share * _PANEL_W, _TOP + (1.0 - level) * _PANEL_H

    out = [
        f'<text x="{left}" y="{_TOP - 10}" font-weight="bold">{escape(net)}</text>',
        f'<rect x="{left}" y="{_TOP}" width="{_PANEL_W}" height="{_PANEL_H}" fill="none" stroke="#ccc"/>',
    ]
    for tick in (digit * 10.0**power for power in range(-3, 5) for digit in (1, 2, 5)):
        if low_j < tick < top_j:
            _, y = at(least, tick)
            out.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + _PANEL_W}" y2="{y:.1f}" stroke="#eee"/>')
            out.append(f'<text x="{left - 4}" y="{y + 4:.1f}" text-anchor="end">{tick:g} J</text>')
    for point in planned[::2]:
        x, _ = at(point["ram_bytes"], top_j)
        kib = point["ram_bytes"] / _KIB
        words = f"{kib:.0f} K" if kib < _KIB else f"{kib / _KIB:.0f} M"
        out.append(f'<text x="{x:.1f}" y="{_TOP + _PANEL_H + 14}" text-anchor="middle">{words}</text>')
    for key, colour in (("compulsory_j", _BOUND), ("energy_j", _TOTAL)):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(p["ram_bytes"], p[key]) for p in planned))
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for point in planned:
        x, y = at(point["ram_bytes"], point["energy_j"])
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#fff" stroke="{_TOTAL}"/>')
    for row in (row for row in run if row["board"] == _BOARD):
        x, y = at(row["ram_bytes"], row["energy_j"]["total"])
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_TOTAL}"/>')
    return out
