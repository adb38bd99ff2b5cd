"""The two interactive figures as plotly's JSON. Colours are names of the page's CSS variables, so that the page can
draw them in its light or dark scheme; text from a model passes through `plotly_text`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from poet_codegen.report.inputs import LossPoint
from poet_codegen.report.text import count, exact_bytes, plotly_text
from poet_codegen.report.timeline import Do, Instance, Memory, Origin, Timeline

Figure = Mapping[str, Any]

_HATCH = {Origin.RECOMPUTED: "/", Origin.PAGED_IN: "."}
_MOST_POINTS = 6000
_AXIS = {
    "gridcolor": "var(--grid)",
    "linecolor": "var(--rule)",
    "tickcolor": "var(--rule)",
    "zeroline": False,
    "ticks": "outside",
    "ticklen": 4,
    "automargin": True,
}
_LAYOUT = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": "var(--font)", "size": 12, "color": "var(--ink-soft)"},
    "margin": {"l": 8, "r": 8, "t": 24, "b": 8},
    "showlegend": False,
    "modebar": {
        "bgcolor": "rgba(0,0,0,0)",
        "color": "var(--ink-soft)",
        "activecolor": "var(--ink)",
    },
    "hoverlabel": {
        "bgcolor": "var(--card)",
        "bordercolor": "var(--rule)",
        "align": "left",
        "font": {"family": "var(--font)", "size": 13, "color": "var(--ink)"},
    },
}


def to_script_json(figures: Mapping[str, Figure]) -> str:
    """JSON that may stand in a <script> element: '<', '>' and '&' are escaped, so that no text in it can end it."""
    text = json.dumps(figures, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def shows_budget(budget_bytes: int, arena_bytes: int) -> bool:
    """Whether the map reaches up to the budget: one far above the arena would squeeze the map."""
    return arena_bytes >= 0.6 * budget_bytes


def memory_figure(timeline: Timeline, budget_bytes: int, arena_bytes: int) -> Figure:
    """The arena as an address map over the steps, and below it how many bytes are live."""
    has_budget = shows_budget(budget_bytes, arena_bytes)
    top = budget_bytes if has_budget else arena_bytes
    last = len(timeline.steps)
    peak = timeline.peak_step
    traces = [_map_trace(timeline, memory) for memory in Memory]
    traces += [_page_outs(timeline), *_live_traces(timeline)]
    lines = [_level(budget_bytes, axis) for axis in ("y", "y2")] if has_budget else []
    lines.append(_upright(peak, {"color": "var(--ink)", "width": 1.5, "dash": "dot"}))
    side = "right" if peak > last / 2 else "left"
    x_title = {"text": "step of the schedule", "standoff": 8}
    return {
        "data": traces,
        "layout": {
            **_LAYOUT,
            "barmode": "overlay",
            "bargap": 0,
            "hovermode": "closest",
            "xaxis": {**_AXIS, "range": [-0.5, last - 0.5], "title": x_title, "anchor": "y2", "showgrid": False},
            "yaxis": {**_AXIS, **_byte_ticks(top), "range": [0, top * 1.02], "domain": [0.32, 1.0]},
            "yaxis2": {**_AXIS, **_byte_ticks(top, 2), "range": [0, top * 1.06], "domain": [0.0, 0.26]},
            "shapes": lines,
            "annotations": [_note(f"peak: step {peak}", peak, side)],
        },
    }


def _map_trace(timeline: Timeline, memory: Memory) -> Figure:
    """One bar an instance: x its steps, y its addresses."""
    mine = [i for i in timeline.instances if i.memory is memory]
    return {
        "type": "bar",
        "x": [(i.first + i.last) / 2 for i in mine],
        "width": [i.last - i.first + 1 for i in mine],
        "y": [i.size_bytes for i in mine],
        "base": [i.offset for i in mine],
        "text": [plotly_text(i.name, 28) for i in mine],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "constraintext": "none",
        "insidetextfont": {"size": 11, "color": f"var(--on-{memory.value})"},
        "customdata": [_hover(i) for i in mine],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>",
        "marker": {
            "color": f"var(--{memory.value})",
            "line": {"color": "var(--card)", "width": 0.75},
            "pattern": {
                "shape": [_HATCH.get(i.origin, "") for i in mine],
                "fgcolor": "var(--hatch)",
                "fillmode": "overlay",
                "size": 7,
                "solidity": 0.18,
            },
        },
    }


def _hover(i: Instance) -> list[str]:
    steps = f"step {i.first}" if i.first == i.last else f"steps {i.first} to {i.last}"
    origin = {
        Origin.RESIDENT: "in RAM from the start",
        Origin.COMPUTED: "produced by",
        Origin.RECOMPUTED: "recomputed by",
        Origin.PAGED_IN: "paged in from storage",
        Origin.UPDATED: "updated in place by",
    }[i.origin]
    by = f" {plotly_text(i.made_by)}" if origin.endswith("by") else ""
    where = f"{exact_bytes(i.size_bytes)} at offset {count(i.offset)}"
    return [plotly_text(i.name), f"{i.memory.value}, {where}", f"{origin}{by}; {steps}"]


def _page_outs(timeline: Timeline) -> Figure:
    """A mark on the instance that is written to storage; a page-in shows as a new instance."""
    found = [
        (step, instance)
        for step in timeline.steps
        if step.do is Do.PAGE_OUT
        for instance in timeline.alive(step.index)
        if instance.tensor in step.reads
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [step.index for step, _ in found],
        "y": [instance.offset + instance.size_bytes / 2 for _, instance in found],
        "marker": {
            "symbol": "diamond",
            "size": 9,
            "color": "var(--page-out)",
            "line": {"color": "var(--card)", "width": 1.5},
        },
        "customdata": [[f"step {step.index}: page out", plotly_text(step.title)] for step, _ in found],
        "hovertemplate": "%{customdata[0]}<br><b>%{customdata[1]}</b><extra></extra>",
    }


def _live_traces(timeline: Timeline) -> list[Figure]:
    """Stacked live bytes by class, their sum as a line, and unseen columns that say which step is pointed at."""
    xs = [step.index for step in timeline.steps]
    live = [step.live_bytes for step in timeline.steps]
    column = {"type": "bar", "yaxis": "y2", "x": xs, "width": 1}
    base = [0] * len(xs)
    traces: list[Figure] = []
    for memory in Memory:
        sizes = [0] * len(xs)
        for i in timeline.instances:
            if i.memory is memory:
                for step in range(i.first, i.last + 1):
                    sizes[step] += i.size_bytes
        look = {"marker": {"color": f"var(--{memory.value})", "line": {"width": 0}}, "hoverinfo": "skip"}
        if any(sizes):
            traces.append({**column, "y": sizes, "base": base, **look})
        base = [a + b for a, b in zip(base, sizes, strict=True)]
    edges = [x - 0.5 for x in [*xs, len(xs)]]
    line = {"shape": "hv", "color": "var(--ink)", "width": 1.5}
    curve = {"type": "scatter", "mode": "lines", "yaxis": "y2", "x": edges, "y": [*live, *live[-1:]], "line": line}
    words = [[f"step {s.index}: {s.do.value}", plotly_text(s.title), exact_bytes(s.live_bytes)] for s in timeline.steps]
    hover = "%{customdata[0]}<br>%{customdata[1]}<br><b>%{customdata[2]}</b> live<extra></extra>"
    pointed = {**column, "y": live, "opacity": 0, "customdata": words, "hovertemplate": hover}
    return [*traces, {**curve, "hoverinfo": "skip"}, pointed]


def _level(value: int, axis: str) -> Figure:
    line = {"color": "var(--alarm)", "width": 1.5, "dash": "dash"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": value, "y1": value, "line": line}


def _upright(x: float, line: Figure) -> Figure:
    return {"type": "line", "xref": "x", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _note(text: str, x: float, side: str) -> Figure:
    place = {"x": x, "y": 1.0, "xref": "x", "yref": "paper", "yanchor": "bottom", "xanchor": side}
    return {"text": text, "showarrow": False, **place, "font": {"size": 12, "color": "var(--ink)"}}


def _byte_ticks(top: int, wanted: int = 6) -> Figure:
    """Ticks at a power of two of bytes, about `wanted` of them."""
    step = 2 ** max(0, math.ceil(math.log2(max(top, 1) / wanted)))
    values = list(range(0, top + 1, step))
    unit, size = ("KiB", 1024) if top >= 2048 else ("B", 1)
    return {"tickvals": values, "ticktext": [f"{v / size:g} {unit}" if v else "0" for v in values]}


@dataclass(frozen=True)
class LossPlot:
    """The loss curve and what it leaves out."""

    figure: Figure
    note: str


def loss_plot(losses: Sequence[LossPoint]) -> LossPlot:
    """Loss by step, a moving average, and where the learning rate changed.

    Single losses of a small batch spread widely. The linear view ends where the average can still be read, and says how
    many lie above it; the logarithmic one shows all.
    """
    window = average_window(len(losses))
    averages = moving_average([point.loss for point in losses], window)
    stride = math.ceil(len(losses) / _MOST_POINTS)
    xs = [point.step for point in losses[::stride]]
    changes = [(b.step, b.learning_rate) for a, b in pairwise(losses) if a.learning_rate != b.learning_rate]
    begin = [(losses[0].step, losses[0].learning_rate)]
    top = 2.5 * max((a for a in averages if math.isfinite(a)), default=0.0)
    above = [point.loss for point in losses if point.loss > top > 0.0 and math.isfinite(point.loss)]
    y_range = {"range": [0.0, top]} if above else {}
    raw = _curve(xs, (p.loss for p in losses[::stride]), "--curve-soft", 1.0, "loss %{y:.4g}")
    mean = _curve(xs, averages[::stride], "--curve", 2.5, f"mean of {window} steps %{{y:.4g}}")
    dotted = {"color": "var(--ink-soft)", "width": 1, "dash": "dot"}
    notes = [f"The average is over {window} steps."] if window > 1 else []
    if stride > 1:
        notes.append(f"One step in {stride} is drawn.")
    if above:
        many = f"{len(above)} losses of single steps, up to {max(above):.3g}, lie"
        notes.append(
            f"{many if len(above) > 1 else f'One loss of a single step, {max(above):.3g}, lies'} above the linear view."
        )
    layout = {
        **_LAYOUT,
        "hovermode": "closest",
        "xaxis": {**_AXIS, "title": {"text": "training step", "standoff": 8}, "showgrid": False},
        "yaxis": {**_AXIS, "rangemode": "tozero", **y_range},
        "shapes": [_upright(x, dotted) for x, _ in changes],
        "annotations": [_note(f"rate {rate:g}", x, "left") for x, rate in [*begin, *changes][:8]],
    }
    return LossPlot({"data": [raw, mean], "layout": layout}, " ".join(notes))


def _curve(xs: Sequence[int], ys: Iterable[float], color: str, width: float, words: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": xs,
        "y": [y if math.isfinite(y) else None for y in ys],
        "line": {"color": f"var({color})", "width": width},
        "hovertemplate": f"step %{{x}}<br>{words}<extra></extra>",
    }


def average_window(steps: int) -> int:
    """Steps that the moving average spans: a fortieth of the run, at most 200."""
    return min(200, max(1, steps // 40))


def moving_average(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last `window` values up to each place; NaN where one of them is not finite."""
    out: list[float] = []
    for end in range(1, len(values) + 1):
        span = values[max(0, end - window) : end]
        out.append(math.fsum(span) / len(span) if all(map(math.isfinite, span)) else math.nan)
    return out
