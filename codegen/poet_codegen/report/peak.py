"""What each byte of the arena is at the step where most are live."""

from __future__ import annotations

from dataclasses import dataclass

from poet_codegen.emit.project import Pass
from poet_codegen.graph import Graph
from poet_codegen.lower import Lowered, static_kind
from poet_codegen.report.text import count, percent, short_bytes, shown
from poet_codegen.report.timeline import Memory, Timeline, next_use


@dataclass(frozen=True)
class PeakRow:
    """One instance at the peak."""

    name: str
    memory: str
    size_bytes: str
    offset: str
    why: str
    origin: str


@dataclass(frozen=True)
class PeakPart:
    """A class of memory at the peak, for the bar."""

    label: str
    css: str
    size: str
    share: str
    part: float


@dataclass(frozen=True)
class Peak:
    """The peak step and what lies where."""

    step: int
    words: str
    do: str
    parts: tuple[PeakPart, ...]
    """Classes that have bytes, then what is left of the budget."""
    rows: tuple[PeakRow, ...]
    live_bytes: str
    outside: str
    """What is not in the arena, in words."""


def build_peak(source: Pass, timeline: Timeline, budget_bytes: int) -> Peak:
    """The step with most live bytes, byte for byte."""
    step = timeline.steps[timeline.peak_step]
    alive = timeline.alive(timeline.peak_step)
    problem = source.lowered.problem
    sizes = {memory: sum(i.size_bytes for i in alive if i.memory is memory) for memory in Memory}
    left = budget_bytes - step.live_bytes
    parts = [(m.value, m.value, size) for m, size in sizes.items() if size]
    if left > 0:
        parts.append(("left of the budget", "unused", left))
    return Peak(
        step=step.index,
        words=shown(step.words, 100),
        do=step.do.value,
        parts=tuple(
            PeakPart(label, css, short_bytes(size), percent(size / budget_bytes), size / budget_bytes)
            for label, css, size in parts
        ),
        rows=tuple(
            PeakRow(
                shown(i.name),
                i.memory.value,
                count(i.size_bytes),
                count(i.offset),
                "scratch of this step"
                if i.tensor is None
                else next_use(timeline, problem, i.tensor, timeline.peak_step),
                i.origin.value,
            )
            for i in alive
        ),
        live_bytes=count(step.live_bytes),
        outside=_outside(source.graph, source.lowered),
    )


def _outside(graph: Graph, lowered: Lowered) -> str:
    """Buffers and frozen parameters, which no schedule moves."""
    static = {name: kind for name, kind in static_kind(graph, lowered.root).items() if name not in lowered.index}
    buffers = [
        f"{kind.value.replace('_', ' ')} {short_bytes(graph.tensors[name].size_bytes)}" for name, kind in static.items()
    ]
    text = f"Outside the arena, in static RAM: {', '.join(buffers)}." if buffers else ""
    frozen = sum(t.size_bytes for t in graph.params() if t.name not in lowered.index)
    return f"{text} Frozen parameters, in flash: {short_bytes(frozen)}." if frozen else text
