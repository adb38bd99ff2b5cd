"""Arena offsets for the tensor instances and workspaces of a schedule (two-dimensional packing, time x address).

Six greedy orders first, then CP-SAT NoOverlap2D with the arena's height fixed. In side-by-side trials that packed
every schedule at exactly its peak (DESIGN §5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from ortools.sat.python import cp_model

from poet_solver.net import Net
from poet_solver.plan import Action, Do
from poet_solver.problem import Place
from poet_solver.schedule import Compute, Free, Home, PageIn, PageOut, Step


@dataclass
class Rectangle:
    """One address range over spans of steps [start, end): an instance, a chain of in-place instances, workspace, or the
    first and the last instance of a tensor that must end where it started."""

    size_bytes: int
    spans: list[list[int]]
    fixed: int | None = None
    """Offset it must have (homes), or None."""

    @property
    def start(self) -> int:
        """First step of the first span."""
        return self.spans[0][0]

    @property
    def length(self) -> int:
        """Steps covered."""
        return sum(end - start for start, end in self.spans)

    def meets(self, other: Rectangle) -> bool:
        """The two are live at the same time."""
        return any(a < d and c < b for a, b in self.spans for c, d in other.spans)


@dataclass
class Layout:
    """The rectangles of a schedule and who uses which, by action index."""

    rectangles: list[Rectangle] = field(default_factory=list)
    outputs: dict[tuple[int, int], int] = field(default_factory=dict)
    """(action, tensor) -> rectangle, for computes and page-ins."""
    homes: dict[int, int] = field(default_factory=dict)
    """Tensor that starts in RAM at a place of our choice -> rectangle."""
    workspace: dict[int, int] = field(default_factory=dict)


def layout_of(net: Net, actions: Sequence[Action]) -> Layout:
    """Live ranges of a complete action list."""
    layout = Layout()
    live: dict[int, int] = {}
    problem = net.problem
    for i, (do, what, m) in enumerate(actions):
        if do is Do.FREE:
            layout.rectangles[live.pop(what)].spans[-1][1] = i
        elif do is Do.PAGE_IN:
            live[what] = _new(layout, i, net.size[what])
            layout.outputs[i, what] = live[what]
        elif do is Do.COMPUTE:
            mode = net.modes[what][m]
            taken_over = {new: old for old, new in mode.in_place}
            for v in mode.to_ram:
                live[v] = live.pop(taken_over[v]) if v in taken_over else _new(layout, i, net.size[v])
                layout.outputs[i, v] = live[v]
                if what == 0:
                    layout.rectangles[live[v]].fixed = problem.tensors[v].home_offset
                    if problem.tensors[v].home_offset is None:
                        layout.homes[v] = live[v]
            bytes_ = mode.new_bytes - sum(net.size[v] for v in mode.to_ram if v not in taken_over)
            if bytes_ and what not in (0, net.end):
                layout.workspace[i] = _new(layout, i, bytes_)
                layout.rectangles[layout.workspace[i]].spans[-1][1] = i + 1
    for v, r in live.items():
        layout.rectangles[r].spans[-1][1] = len(actions)
        tensor = problem.tensors[v]
        if tensor.end is Place.RAM and tensor.home_offset is not None:
            layout.rectangles[r].fixed = tensor.home_offset
        elif tensor.end is Place.RAM:
            home = layout.homes[v if tensor.home_like is None else tensor.home_like]
            if r != home:
                _join(layout, home, r)
    return layout


def _join(layout: Layout, first: int, last: int) -> None:
    """Make the last instance of a tensor share the offset of its first."""
    layout.rectangles[first].spans += layout.rectangles[last].spans
    layout.rectangles[last] = Rectangle(0, [[0, 0]])
    layout.outputs.update({key: first for key, r in layout.outputs.items() if r == last})


def _new(layout: Layout, start: int, size: int) -> int:
    layout.rectangles.append(Rectangle(size, [[start, -1]]))
    return len(layout.rectangles) - 1


def peak_bytes(rectangles: Sequence[Rectangle]) -> int:
    """Most bytes live at once."""
    change: dict[int, int] = {}
    for r in rectangles:
        for start, end in r.spans:
            change[start] = change.get(start, 0) + r.size_bytes
            change[end] = change.get(end, 0) - r.size_bytes
    live = peak = 0
    for at in sorted(change):
        live += change[at]
        peak = max(peak, live)
    return peak


def pack(rectangles: Sequence[Rectangle], cap_bytes: int, time_limit_s: float) -> list[int] | None:
    """Offsets such that no two rectangles overlap and all end at or below `cap_bytes`; None if none were found.

    The offsets are sums of sizes and fixed offsets, so they keep whatever alignment those have.
    """
    if any(r.fixed is not None and r.fixed + r.size_bytes > cap_bytes for r in rectangles):
        return None
    orders: tuple[tuple[Callable[[Rectangle], tuple[int, ...]], bool], ...] = (
        (lambda r: (-r.size_bytes, r.start), False),
        (lambda r: (-r.size_bytes, r.start), True),
        (lambda r: (-r.size_bytes * r.length, r.start), False),
        (lambda r: (-r.length, r.start), False),
        (lambda r: (r.start, -r.size_bytes), False),
        (lambda r: (r.start, -r.size_bytes), True),
    )
    for key, best_fit in orders:
        offsets = _first_fit(rectangles, key, best_fit)
        if all(at + r.size_bytes <= cap_bytes for at, r in zip(offsets, rectangles, strict=True)):
            return offsets
    return _pack_exactly(rectangles, cap_bytes, time_limit_s)


def _first_fit(
    rectangles: Sequence[Rectangle], key: Callable[[Rectangle], tuple[int, ...]], best_fit: bool
) -> list[int]:
    offsets = np.array([r.fixed or 0 for r in rectangles], np.int64)
    sizes = np.array([r.size_bytes for r in rectangles], np.int64)
    span = np.array([(i, start, end) for i, r in enumerate(rectangles) for start, end in r.spans], np.int64)
    owner, starts, ends = span.reshape(-1, 3).T
    is_placed = np.array([r.fixed is not None for r in rectangles], np.bool_)[owner] & (sizes[owner] > 0)
    free = [i for i, r in enumerate(rectangles) if r.fixed is None and r.size_bytes]
    for i in sorted(free, key=lambda i: (*key(rectangles[i]), i)):
        r = rectangles[i]
        meets = np.zeros(len(owner), np.bool_)
        for start, end in r.spans:
            meets |= (starts < end) & (start < ends)
        others = np.unique(owner[meets & is_placed])
        low = offsets[others]
        by_offset = np.argsort(low, kind="stable")
        top, at, hole = 0, -1, math.inf
        high = (low + sizes[others])[by_offset].tolist()
        for left, right in zip(low[by_offset].tolist(), high, strict=True):
            if left - top >= r.size_bytes and left - top < hole:
                at, hole = top, left - top
                if not best_fit:
                    break
            top = max(top, right)
        offsets[i] = at if at >= 0 else top
        is_placed[owner == i] = True
    return [int(at) for at in offsets]


def _pack_exactly(rectangles: Sequence[Rectangle], cap_bytes: int, time_limit_s: float) -> list[int] | None:
    unit = math.gcd(*(r.size_bytes for r in rectangles), *(r.fixed or 0 for r in rectangles)) or 1
    model = cp_model.CpModel()
    spans: list[cp_model.IntervalVar] = []
    places: list[cp_model.IntervalVar] = []
    offsets: list[cp_model.IntVar | None] = []
    heights: list[int] = []
    for r in rectangles:
        if not r.size_bytes:
            offsets.append(None)
            continue
        height = r.size_bytes // unit
        if r.fixed is not None:
            at = model.new_int_var(r.fixed // unit, r.fixed // unit, "")
        else:
            at = model.new_int_var(0, cap_bytes // unit - height, "")
        offsets.append(at)
        for start, end in r.spans:
            heights.append(height)
            spans.append(model.new_fixed_size_interval_var(start, end - start, ""))
            places.append(model.new_fixed_size_interval_var(at, height, ""))
    model.add_no_overlap_2d(spans, places)
    model.add_cumulative(spans, heights, cap_bytes // unit)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = time_limit_s
    solver.parameters.num_workers = 1
    if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return [0 if at is None else solver.value(at) * unit for at in offsets]


def steps_of(net: Net, actions: Sequence[Action], layout: Layout, offsets: Sequence[int]) -> tuple[Step, ...]:
    """The schedule's steps, with offsets; the virtual start and end ops are left out."""
    steps: list[Step] = [Home(v, offsets[r]) for v, r in sorted(layout.homes.items())]
    for i, (do, what, m) in enumerate(actions):
        if do is Do.FREE:
            steps.append(Free(what))
        elif do is Do.PAGE_OUT:
            steps.append(PageOut(what))
        elif do is Do.PAGE_IN:
            steps.append(PageIn(what, offsets[layout.outputs[i, what]]))
        elif what not in (0, net.end):
            to_ram = set(net.modes[what][m].to_ram)
            steps.append(
                Compute(
                    op=what - 1,
                    mode=m,
                    offsets=tuple(offsets[layout.outputs[i, v]] if v in to_ram else None for v in net.outputs[what]),
                    workspace_offset=offsets[layout.workspace[i]] if i in layout.workspace else None,
                )
            )
    return tuple(steps)


def actions_of_steps(net: Net, steps: Sequence[Step]) -> tuple[Action, ...]:
    """Computes and page-ins of a schedule in time order, ready for `complete`."""
    actions: list[Action] = [(Do.COMPUTE, 0, 0)]
    for step in steps:
        if isinstance(step, Compute):
            actions.append((Do.COMPUTE, step.op + 1, step.mode))
        elif isinstance(step, PageIn):
            actions.append((Do.PAGE_IN, step.tensor, 0))
    return (*actions, (Do.COMPUTE, net.end, 0))
