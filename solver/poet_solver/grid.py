"""The relaxation of every schedule in the given order of first computations, for ops with several modes.

Every tensor has a time axis of its own: an ascending list of first runs, its *points*; outputs of one op that may run
again share theirs. Points are the op that makes it and all ops whose first runs read it, and as many others as wanted:
it holds for any, and bounds rise with more. Cell c of a tensor w is the time from right after first run g[c-1] to
right after first run g[c].

    Y[k,m]    the first run of k is in mode m
    B[w,c]    w is in RAM right after first run g[c]
    H[w,c]    w is in RAM throughout cell c, up to first run g[c]
    P[w,c]    w is paged in at least once within cell c
    O[w]      w is paged out
    R[k,c,p]  k runs again within cell c of its outputs, and the first of these runs that writes to RAM is of pattern p:
              what it reads in RAM, what it streams, what it writes to storage
    Q[k,p]    k runs again in pattern p, which writes to storage alone

S[w] stands for "w is on storage at some time": 1, or the sum of O and of the Y, Q and R that may write it there. Sums
over p are left out below.

    B[w,c] <= B[w,c-1] + R + P
    H[w,c] >= B[w,c] - R - P            in RAM at the end and not brought, it was there throughout
                                        where g[c] reads w in RAM, both rows with the Y that do so in place of B[w,c]
    R[k,c,p] <= B[u] at u's last point before cell c + R + P of its cells that meet cell c
    P[w,c] <= S[w]                      and so is each Y, Q and R that streams w
    B[w,c] + Y <= 1                     for the Y that update w in place at g[c]
    memory at first run s:              what Y[s] takes + bytes of others x B[w,c] where s is g[c], else x H[w,c]
    memory at a run of k within cell c: what p takes + bytes x H of others with a cell around cell c

Tensors that outlive their last reader until it may run again have cells until then. Modes of a pattern are taken at
the least energy and at the least memory of any.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from poet_solver.model import INF, Row
from poet_solver.net import Net, NetMode

Floats = NDArray[np.float64]
Terms = list[tuple[int, float]]

_DEPTH = 1
"""So many readers on, the points of what an op's readers make are the op's points, too: reruns come in chains."""

_LEAST_SHARE = 1000
"""Tensors of less than one part in so many of the budget count in no row of memory."""

_LONG = 3
"""Terms of S, above which it is a variable of its own."""

_FINE = 12
"""Cells of up to so many first runs are cut at each of them, longer ones at a few places."""


@dataclass(frozen=True)
class Refinement:
    """Where cells are finer than they need be, and which reruns have rows of memory."""

    points: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """Tensor -> further points."""
    reruns: frozenset[tuple[int, int]] = frozenset()
    """(op, first run): the cell of the op that this first run lies in has a row of memory."""


@dataclass(frozen=True)
class _Again:
    """One pattern of running an op again within one cell."""

    var: int
    resident: frozenset[int]
    streamed: frozenset[int]
    footprint_bytes: int


class Grid:
    """Variables and rows of the relaxation; index -1 stands for a variable that does not exist (and is 0)."""

    def __init__(self, net: Net, refinement: Refinement, page: bool = True) -> None:
        self.net, self.page = net, page
        self.energy: list[float] = []
        self.time: list[float] = []
        self.wear: list[float] = []
        self.rows: list[Row] = []
        self.room = [net.ram_bytes - net.floor_bytes(k) for k in range(net.n_ops)]
        self.readers: list[list[int]] = [[] for _ in net.size]
        for k in range(net.n_ops):
            for v in net.operands[k]:
                self.readers[v].append(k)
        self.large = [v for v, size in enumerate(net.size) if size * _LEAST_SHARE >= net.ram_bytes]
        self.points = self._points(refinement)
        count = len(net.size)
        self.first: list[list[int]] = [self._first_runs(modes) for modes in net.usable]
        self.again: list[list[list[_Again]]] = [[] for _ in range(net.n_ops)]
        """For every op that may run again, by cell."""
        self.stored: list[Terms | None] = [self._stored(v) for v in range(count)]
        """Terms of S; None where it is 1."""
        self.alone: list[tuple[int, frozenset[int]]] = []
        """Of every Q what it streams."""
        for k in range(1, net.n_ops):
            self._add_reruns(k)
        self.held: list[list[int]] = [[-1] * len(points) for points in self.points]
        self.over: list[list[int]] = [[-1] * len(points) for points in self.points]
        self.back: list[list[int]] = [[-1] * len(points) for points in self.points]
        self.stored = [self._as_one(stored) for stored in self.stored]
        for v in range(count):
            self._add_cells(v)
        for v in range(count):
            self._use_storage(v)
            self._follow(v)
        for k in range(1, net.n_ops):
            self._feed_reruns(k)
        for var, streamed in self.alone:
            for u in streamed:
                self._need_stored(u, [(var, -1.0)])
        self._limit_first_runs()
        self._limit_reruns(refinement.reruns)
        self._keep_budgets()

    def variable(self, energy_j: float = 0.0, time_s: float = 0.0, wear_bytes: float = 0.0) -> int:
        """A new 0-1 variable with its costs."""
        self.energy.append(energy_j)
        self.time.append(time_s)
        self.wear.append(wear_bytes)
        return len(self.energy) - 1

    def add(self, terms: Iterable[tuple[int, float]], lo: float, hi: float = INF) -> None:
        """A row; terms of one variable are added up."""
        total: dict[int, float] = {}
        for j, c in terms:
            total[j] = total.get(j, 0.0) + c
        self.rows.append(Row(tuple(total), tuple(total.values()), lo, hi))

    def _may_rerun(self, k: int) -> bool:
        return self.net.repeatable[k] and bool(self.net.outputs[k])

    def _points(self, refinement: Refinement) -> list[list[int]]:
        net = self.net
        groups = [(v,) for v in net.outputs[0]] + [net.outputs[k] for k in range(1, net.n_ops)]
        group_of = {v: g for g, group in enumerate(groups) for v in group}
        points: list[set[int]] = []
        for group in groups:
            own = {net.producer[v] for v in group}.union(*(self.readers[v] for v in group))
            points.append(own | {net.wanted_until[v] for v in group if net.wanted_until[v] >= 0})
        for _ in range(_DEPTH):
            following = [set(own) for own in points]
            for g, group in enumerate(groups):
                for k in {k for v in group for k in self.readers[v] if self._may_rerun(k)}:
                    following[g] |= points[group_of[net.outputs[k][0]]]
            points = following
        for v, more in refinement.points.items():
            own = points[group_of[v]]
            own |= {s for s in more if min(own) < s < max(own)}
        return [sorted(points[group_of[v]]) for v in range(len(net.size))]

    def _first_runs(self, modes: tuple[NetMode, ...]) -> list[int]:
        """Variables of the usable modes of an op; none where there is one mode."""
        if len(modes) == 1:
            return []
        least = [min(costs) for costs in zip(*map(_costs, modes), strict=True)]
        row = [self.variable(*(c - low for c, low in zip(_costs(mode), least, strict=True))) for mode in modes]
        self.add([(y, 1.0) for y in row], 1.0, 1.0)
        return row

    def uses(self, k: int, v: int, use: str, coef: float = 1.0) -> Terms | None:
        """Terms of "the mode of k's first run names v in its field `use`"; None where that is sure."""
        named = [v in getattr(mode, use) for mode in self.net.usable[k]]
        if all(named):
            return None
        return [(y, coef) for y, is_named in zip(self.first[k], named, strict=False) if is_named]

    def _stored(self, v: int) -> Terms | None:
        net = self.net
        direct = self.uses(net.producer[v], v, "to_storage")
        if net.starts_on_storage[v] or direct is None:
            return None
        out = net.page_out[v]
        is_out = net.ends_on_storage[v] or (self.page and net.wanted_until[v] >= 0)
        if out is not None and is_out and net.size[v] <= net.ram_bytes:
            direct.append((self.variable(out.energy_j, out.time_s, out.wear_bytes), 1.0))
        return direct

    def _add_reruns(self, k: int) -> None:
        """R and Q of op `k`, and what they add to S."""
        net = self.net
        if not self._may_rerun(k) or max(net.wanted_until[v] for v in net.outputs[k]) < 0:
            return
        patterns: dict[tuple[frozenset[int], frozenset[int], frozenset[int]], list[NetMode]] = {}
        for mode in net.usable[k]:
            key = (frozenset(mode.resident), frozenset(mode.streamed), frozenset(mode.to_storage))
            patterns.setdefault(key, []).append(mode)
        writers: list[int] = []
        self.again[k] = [[] for _ in self.points[net.outputs[k][0]]]
        for (resident, streamed, written), modes in patterns.items():
            least = [min(costs) for costs in zip(*map(_costs, modes), strict=True)]
            if len(written) == len(net.outputs[k]):
                var = self.variable(*least)
                writers.append(var)
                self.alone.append((var, streamed))
                continue
            footprint = min(mode.footprint_bytes for mode in modes)
            for cell in self.again[k][1:]:
                cell.append(_Again(self.variable(*least), resident, streamed, footprint))
        if any(written and len(written) < len(net.outputs[k]) for _, _, written in patterns):
            # Beside the first run again of a cell there may be another, which writes to storage.
            writers += [one.var for cell in self.again[k] for one in cell]
        for v in net.outputs[k]:
            stored = self.stored[v]
            if stored is not None:
                stored += [(var, 1.0) for var in writers]

    def _as_one(self, terms: Terms | None) -> Terms | None:
        """A variable in place of a long sum."""
        if terms is None or len(terms) <= _LONG:
            return terms
        total = self.variable()
        self.add([*terms, (total, -1.0)], 0.0)
        return [(total, 1.0)]

    def _need_stored(self, v: int, minus_use: Terms) -> None:
        stored = self.stored[v]
        if stored is not None and minus_use:
            self.add([*stored, *minus_use], 0.0)

    def _add_cells(self, v: int) -> None:
        """B, H and P of tensor `v`."""
        net, points = self.net, self.points[v]
        if net.size[v] > net.ram_bytes:
            return
        back = net.page_in[v]
        stored = self.stored[v]
        until = min(net.wanted_until[v], self._overwritten(v))
        for c in range(1, len(points)):
            before, here = points[c - 1], points[c]
            if before >= until:
                break
            if back is not None and (stored is None or stored):
                self.back[v][c] = self.variable(back.energy_j, back.time_s, back.wear_bytes)
            begins = self._there(v, c - 1)
            if begins != [] and net.size[v] <= min(self.room[before + 1 : here], default=net.ram_bytes):
                self.over[v][c] = self.variable()
            if here < until and (v in net.operands[here] or net.size[v] <= self.room[here]):
                self.held[v][c] = self.variable()

    def _overwritten(self, v: int) -> int:
        """The op after which `v` is surely gone for ever."""
        net = self.net
        for k in self.readers[v]:
            if not net.repeatable[k] and all(_is_updated(mode, v) for mode in net.usable[k]):
                return k
        return net.n_ops

    def _bring(self, v: int, c: int) -> Terms:
        """Terms of R + P of a cell."""
        again = self.again[self.net.producer[v]]
        terms = [(one.var, 1.0) for one in again[c]] if again else []
        return [*terms, (self.back[v][c], 1.0)] if self.back[v][c] >= 0 else terms

    def _there(self, v: int, c: int) -> Terms | None:
        """Terms of B; None where it is 1."""
        if c == 0:
            return self.uses(self.net.producer[v], v, "to_ram")
        return [(self.held[v][c], 1.0)] if self.held[v][c] >= 0 else []

    def _use_storage(self, v: int) -> None:
        stored = self.stored[v]
        if stored is None:
            return
        if self.net.ends_on_storage[v]:
            self.add(stored, 1.0)
        for back in self.back[v]:
            if back >= 0:
                self._need_stored(v, [(back, -1.0)])
        for k in self.readers[v]:
            streams = self.uses(k, v, "streamed", -1.0)
            if streams is None:
                self.add(stored, 1.0)
            else:
                self._need_stored(v, streams)

    def _follow(self, v: int) -> None:
        """Who has `v` in RAM at the end of a cell had it before or brought it."""
        net, points = self.net, self.points[v]
        for c in range(1, len(points)):
            k, bring = points[c], self._bring(v, c)
            needs: list[tuple[Terms, float]] = []
            if self.held[v][c] >= 0:
                needs.append(([(self.held[v][c], -1.0)], 0.0))
            if v in net.operands[k]:
                reads = self.uses(k, v, "resident", -1.0)
                needs += [([], 1.0)] if reads is None else [(reads, 0.0)] if reads else []
                updates = [
                    (y, 1.0) for y, mode in zip(self.first[k], net.usable[k], strict=False) if _is_updated(mode, v)
                ]
                if updates and self.held[v][c] >= 0:
                    self.add([*updates, (self.held[v][c], 1.0)], -INF, 1.0)
            start = self._there(v, c - 1)
            over = [(self.over[v][c], 1.0)] if self.over[v][c] >= 0 else []
            for terms, need in needs:
                if start is not None:
                    self.add([*start, *bring, *terms], need)
                self.add([*over, *bring, *terms], need)

    def _feed_reruns(self, k: int) -> None:
        """What op `k` reads when it runs again is there."""
        net = self.net
        for c, cell in enumerate(self.again[k]):
            if not c:
                continue
            points = self.points[net.outputs[k][0]]
            for u in net.operands[k]:
                self._need_stored(u, [(one.var, -1.0) for one in cell if u in one.streamed])
                reads = [(one.var, -1.0) for one in cell if u in one.resident]
                theirs = self.points[u]
                at = bisect_right(theirs, points[c - 1]) - 1
                there = self._there(u, at)
                if not reads or there is None:
                    continue
                for i in range(at + 1, min(bisect_left(theirs, points[c]) + 1, len(theirs))):
                    there += self._bring(u, i)
                self.add([*there, *reads], 0.0)

    def _limit_first_runs(self) -> None:
        net = self.net
        lists: list[list[tuple[int, int]]] = [[] for _ in range(net.n_ops)]
        for v in self.large:
            points, size = self.points[v], net.size[v]
            for c in range(1, len(points)):
                k, held, over = points[c], self.held[v][c], self.over[v][c]
                if over >= 0:
                    for s in range(points[c - 1] + 1, k):
                        lists[s].append((over, size))
                if held < 0:
                    continue
                if v not in net.operands[k]:
                    lists[k].append((held, size))
                elif (reads := self.uses(k, v, "resident")) is not None:
                    beside = self.variable()
                    self.add([(beside, 1.0), *reads, (held, -1.0)], 0.0)
                    lists[k].append((beside, size))
        for s, others in enumerate(lists):
            floor = net.floor_bytes(s)
            more = [(y, mode.footprint_bytes - floor) for y, mode in zip(self.first[s], net.usable[s], strict=False)]
            self._limit([*more, *others], self.room[s])

    def _limit(self, bytes_: list[tuple[int, int]], room: int) -> None:
        """A row of memory, in shares of the budget."""
        if sum(size for _, size in bytes_) > room:
            scale = 1.0 / self.net.ram_bytes
            self.add([(j, size * scale) for j, size in bytes_ if size > 0], -INF, room * scale)

    def _limit_reruns(self, wanted: frozenset[tuple[int, int]]) -> None:
        for k, c in sorted({(k, self._cell(self.net.outputs[k][0], s)) for k, s in wanted}):
            self._limit(self._beside(k, c), self.net.ram_bytes)

    def _cell(self, v: int, s: int) -> int:
        """The cell of `v` that ends with first run `s`, or has it inside."""
        return bisect_left(self.points[v], s)

    def _beside(self, k: int, c: int) -> list[tuple[int, int]]:
        """(variable, bytes) of the row of memory for a run of op `k` again within its cell `c`."""
        net = self.net
        points = self.points[net.outputs[k][0]]
        own = {*net.operands[k], *net.outputs[k]}
        found = [(one.var, one.footprint_bytes) for one in self.again[k][c]]
        for v in self.large:
            if v in own or net.producer[v] >= points[c]:
                continue
            i = self._cell(v, points[c])
            if i < len(self.points[v]) and self.over[v][i] >= 0 and self.points[v][i - 1] <= points[c - 1]:
                found.append((self.over[v][i], net.size[v]))
        return found

    def _keep_budgets(self) -> None:
        modes, problem = self.net.usable, self.net.problem
        for use, budget, key in (
            (self.time, problem.deadline_s, "time_s"),
            (self.wear, problem.wear_budget_bytes, "wear_bytes"),
        ):
            base = sum(min(getattr(m, key) for m in row) for row in modes)
            if budget is not None and budget > base:
                scale = 1.0 / (budget - base)
                self.add([(j, c * scale) for j, c in enumerate(use) if c > 0], -INF, 1.0)

    def reruns(self, x: Floats) -> Iterable[tuple[int, int]]:
        """(op, cell) of every rerun in a point."""
        for k, cells in enumerate(self.again):
            for c, cell in enumerate(cells):
                if sum(x[one.var] for one in cell) > 1e-4:
                    yield k, c

    def reruns_before(self, x: Floats) -> list[tuple[int, int]]:
        """(first run that ends the cell, op) of every rerun in a point."""
        return [(self.points[self.net.outputs[k][0]][c], k) for k, c in self.reruns(x)]

    def refined(self, x: Floats, so_far: Refinement) -> Refinement:
        """Finer cells and rows of memory for the reruns of a point."""
        net = self.net
        points = {v: set(more) for v, more in so_far.points.items()}
        reruns = set(so_far.reruns)
        for k, c in self.reruns(x):
            own = self.points[net.outputs[k][0]]
            first, last = own[c - 1], own[c]
            if sum(x[j] * size for j, size in self._beside(k, c)) > net.ram_bytes:
                reruns |= {(k, s) for s in range(first + 1, last + 1)}
            for v in (net.outputs[k][0], *net.operands[k]):
                theirs = self.points[v]
                for i in range(bisect_right(theirs, first), min(self._cell(v, last) + 1, len(theirs))):
                    points.setdefault(v, set()).update(_cuts(max(first, theirs[i - 1]), min(last, theirs[i])))
        return Refinement({v: frozenset(more) for v, more in points.items()}, frozenset(reruns))


def _cuts(first: int, last: int) -> Iterable[int]:
    """Points that divide a cell."""
    if last - first <= _FINE:
        return range(first + 1, last)
    return (first + 1, first + 2, (first + last) // 2, last - 2, last - 1)


def _costs(mode: NetMode) -> tuple[float, float, float]:
    return mode.energy_j, mode.time_s, mode.wear_bytes


def _is_updated(mode: NetMode, v: int) -> bool:
    return any(old == v for old, _ in mode.in_place)
