"""A lower bound on every schedule in the given order of first computations, whatever it recomputes and when.

The axis is cut into blocks of consecutive first runs. For a tensor w, its op k and a block b:

    B[w,b]  w is in RAM at the start of block b, right after the last first run of block b-1
    R[k,b]  k runs again at least once within b          P[w,b]  w is paged in at least once within b
    O[w]    w is paged out

S[w] stands for "w is on storage at some time": 1 where it may be there without a page-out, else O.

    B[w,b+1] <= B[w,b] + R + P      a first run in b reads w made before b:  1 <= B[w,b] + R + P
    R[k,b]   <= B[u,b] + R + P of every operand u made before b               P[w,b] <= S[w]
    memory at first run s of b:  working set of s + sum of bytes of what is surely held over it <= budget,

where w is surely held over s if it is in RAM at the end of the block (right after s when s is the block's last), or
read later within it, and was neither made nor paged in again meanwhile: at least B[w,b+1] - R - P, or 1 - R - P. Every
schedule satisfies this with any number of passes; what is lost is the memory at recomputations. Anchor cuts
(poet_solver.cuts) hold with blocks for stages.

Of an op with several modes only what all of them share is in here; poet_solver.grid_bound bounds nets with such ops.

Tensors are held whole, so that room for 2.8 of them is room for 2. Of every memory row there are rounded ones: for a
divisor d of bytes, those of first run s over w are floor(bytes / d), and the budget is floor((budget - working set of
s) / d). With d = 1 that is the row itself; the other divisors are the sizes of tensors.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from poet_solver.cuts import Anchor, Separator, StagePoint
from poet_solver.interrupt import Interrupt
from poet_solver.lp import OBJECTIVE_SCALE, LinearSolver, add_rows, build_lp, has_stalled, safe_objective
from poet_solver.model import INF, Row
from poet_solver.net import Net

FAMILY = "all schedules in the given order of first computations"

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ROWS_PER_BLOCK, _ROWS_PER_RUN = 8, 3
"""Memory rows added in one round: within a block they are much alike, and long."""

_MOST_UNITS = 200
"""Rounding to so many units of memory changes nothing worth a row."""


class _Blocks:
    """Variables of the relaxation; index -1 stands for a variable that does not exist (and is 0)."""

    def __init__(self, net: Net, block: list[int], page: bool) -> None:
        self.net = net
        self.block = block
        self.count = block[-1] + 1
        self.energy: list[float] = []
        self.time: list[float] = []
        self.wear: list[float] = []
        tensors, n = len(net.size), net.n_ops
        shape = (tensors, self.count + 1)
        self.held = np.full(shape, -1, np.int64)
        self.paged = np.full(shape, -1, np.int64)
        self.rerun = np.full((n, self.count + 1), -1, np.int64)
        self.out = np.full(tensors, -1, np.int64)
        self.always = [net.sure_reads(k) for k in range(n)]
        for k in range(n):
            if net.repeatable[k] and net.outputs[k]:
                cost = [min(getattr(m, key) for m in net.usable[k]) for key in ("energy_j", "time_s", "wear_bytes")]
                last = max(net.wanted_until[v] for v in net.outputs[k])
                for b in range(block[k], block[last] + 1 if last >= 0 else 0):
                    self.rerun[k, b] = self._variable(*cost)
        for v in range(tensors):
            out = net.page_out[v]
            is_out = net.ends_on_storage[v] or (page and net.wanted_until[v] >= 0)
            if out is not None and is_out and not net.starts_on_storage[v]:
                self.out[v] = self._variable(out.energy_j, out.time_s, out.wear_bytes)
            if net.wanted_until[v] < 0:
                continue
            made, until = block[net.producer[v]], block[net.wanted_until[v]]
            for b in range(made + 1, until + 1):
                self.held[v, b] = self._variable(0.0, 0.0, 0.0)
            back = net.page_in[v]
            if back is None or not (net.is_stored_unpaged(v) or (page and out is not None)):
                continue
            for b in range(made, until + 1):
                self.paged[v, b] = self._variable(back.energy_j, back.time_s, back.wear_bytes)

    def _variable(self, energy: float, seconds: float, wear: float) -> int:
        self.energy.append(energy)
        self.time.append(seconds)
        self.wear.append(wear)
        return len(self.energy) - 1

    def sources(self, v: int, b: int) -> list[tuple[int, float]]:
        """Terms of B + R + P of tensor v in block b."""
        found = (self.held[v, b], self.rerun[self.net.producer[v], b], self.paged[v, b])
        return [(int(var), 1.0) for var in found if var >= 0]

    def stored(self, v: int) -> list[tuple[int, float]] | None:
        """Terms of S of tensor v; None where it is 1."""
        if self.net.is_stored_unpaged(v):
            return None
        return [(int(self.out[v]), 1.0)] if self.out[v] >= 0 else []

    def rows(self) -> list[Row]:
        """All rows but memory and cuts."""
        net, out = self.net, list[Row]()

        def add(terms: list[tuple[int, float]], lo: float) -> None:
            out.append(Row(tuple(j for j, _ in terms), tuple(c for _, c in terms), lo, INF))

        for v in range(len(net.size)):
            made = self.block[net.producer[v]]
            may_begin_in_ram = any(v in mode.to_ram for mode in net.usable[net.producer[v]])
            stored = self.stored(v)
            for b in range(made, self.count):
                after = int(self.held[v, b + 1])
                if after >= 0 and (b > made or not may_begin_in_ram):
                    add([*self.sources(v, b), (after, -1.0)], 0.0)
                if stored is not None and self.paged[v, b] >= 0:
                    add([*stored, (int(self.paged[v, b]), -1.0)], 0.0)
            if net.ends_on_storage[v] and stored is not None:
                add(stored, 1.0)
        needs: set[tuple[int, int]] = set()
        for k in range(net.n_ops):
            for v in self.always[k]:
                b = self.block[k]
                if self.block[net.producer[v]] < b and (v, b) not in needs:
                    needs.add((v, b))
                    add(self.sources(v, b), 1.0)
                for b in range(self.block[k], self.count):
                    if self.rerun[k, b] >= 0 and self.block[net.producer[v]] < b:
                        add([*self.sources(v, b), (int(self.rerun[k, b]), -1.0)], 0.0)
        for use, base, budget in self.budgets():
            if budget is not None and budget > base:
                scale = 1.0 / (budget - base)
                index = tuple(j for j, c in enumerate(use) if c > 0)
                out.append(Row(index, tuple(use[j] * scale for j in index), -INF, 1.0))
        return out

    def budgets(self) -> list[tuple[list[float], float, float | None]]:
        """(use of every variable, what every schedule spends, budget) for time and wear."""
        modes, problem = self.net.usable, self.net.problem
        seconds = sum(min(m.time_s for m in row) for row in modes)
        wear = sum(min(m.wear_bytes for m in row) for row in modes)
        return [(self.time, seconds, problem.deadline_s), (self.wear, wear, problem.wear_budget_bytes)]

    def point(self, x: Floats) -> StagePoint:
        """A point as the separator sees it."""
        padded = np.append(x, 0.0)
        reruns = {
            (k, m): padded[self.rerun[k]]
            for k in range(self.net.n_ops)
            for m in range(len(self.net.modes[k]))
            if self.rerun[k].max() >= 0
        }
        unpaged = np.array([self.net.is_stored_unpaged(v) for v in range(len(self.net.size))], np.bool_)
        out = np.where((self.out >= 0) & ~unpaged, padded[self.out], INF)
        return StagePoint(padded[self.held], padded[self.paged], reruns, out)

    def cut(self, anchor: Anchor) -> Row:
        """An anchor cut as a row; modes of an op share a variable."""
        span = slice(anchor.t0, anchor.s + 1)
        paged = [w for w in anchor.tensors if w not in anchor.stored]
        found = [self.held[list(anchor.tensors), anchor.t0], self.paged[paged, span].ravel()]
        found.append(self.out[list(anchor.stored)])
        found += [self.rerun[k, span] for k in sorted({k for k, _ in anchor.entries})]
        index = np.concatenate(found)
        index = index[index >= 0]
        return Row(tuple(index.tolist()), (1.0,) * len(index), 1.0, INF)

    def memory_rows(self, x: Floats) -> list[Row]:
        """Memory rows that cut the point off: of every block those of the first runs where most bytes are too many."""
        net = self.net
        padded = np.append(x, 0.0)
        size = np.array(net.size, np.int64)
        divisors = [1, *(d for d in sorted(set(net.size)) if d * _MOST_UNITS > net.ram_bytes)]
        units = [size // d for d in divisors]
        producer = np.array(net.producer, np.int64)
        rows: list[Row] = []
        found: list[tuple[float, int, int, Ints, Ints]] = []
        last_read = np.full(len(size), -1, np.int64)
        """Last op of the current block that surely reads the tensor."""
        held = again = np.zeros(0)
        for s in range(net.n_ops - 1, 0, -1):
            b = self.block[s]
            is_last = s + 1 >= net.n_ops or self.block[s + 1] > b
            if is_last:
                last_read[:] = -1
                held = padded[self.held[:, b + 1]]
                again = padded[self.rerun[producer, b]] + padded[self.paged[:, b]]
            sure = last_read > s
            value = np.where(sure, 1.0, held) - (0.0 if is_last else again)
            value[producer >= s] = 0.0
            value[[*net.operands[s], *net.outputs[s]]] = 0.0
            chosen = np.nonzero((value > 1e-9) & (size > 0))[0]
            last_read[[v for v in self.always[s] if last_read[v] < 0]] = s
            room = net.ram_bytes - net.floor_bytes(s)
            here: list[tuple[float, int, int, Ints, Ints]] = []
            for divisor, unit in zip(divisors, units, strict=True):
                used = float(unit[chosen] @ value[chosen])
                over = (used - room // divisor) * divisor / max(1, net.ram_bytes)
                if over > 1e-6:
                    there = chosen[unit[chosen] > 0]
                    here.append((over, s, divisor, there[~sure[there]], there[sure[there]]))
            found += sorted(here, key=lambda violated: (-violated[0], violated[2]))[:_ROWS_PER_RUN]
            if self.block[s - 1] < b:
                found.sort(key=lambda violated: (-violated[0], violated[1], violated[2]))
                rows += [self._memory_row(*violated[1:]) for violated in found[:_ROWS_PER_BLOCK]]
                found = []
        return rows

    def _memory_row(self, s: int, divisor: int, held: Ints, sure: Ints) -> Row:
        """The row of first run `s`, in shares of the budget, over tensors that may be held, and over tensors that are
        if not brought again; bytes are divided by `divisor` and rounded down."""
        net, b = self.net, self.block[s]
        is_last = s + 1 >= net.n_ops or self.block[s + 1] > b
        scale = 1.0 / max(1, net.ram_bytes // divisor)
        coef = {int(self.held[v, b + 1]): scale * (net.size[v] // divisor) for v in held}
        if not is_last:
            for v in (*held, *sure):
                for var in (int(self.rerun[net.producer[v], b]), int(self.paged[v, b])):
                    if var >= 0:
                        coef[var] = coef.get(var, 0.0) - scale * (net.size[v] // divisor)
        spent = sum(net.size[v] // divisor for v in sure)
        room = (net.ram_bytes - net.floor_bytes(s)) // divisor
        return Row(tuple(coef), tuple(coef.values()), -INF, scale * (room - spent))


def blocks_of(net: Net, most: int) -> list[int]:
    """Number every op's block: at most `most` blocks of near equal length, start and end on their own."""
    inner = net.n_ops - 2
    count = min(inner, most)
    return [0, *(1 + i * count // inner for i in range(inner)), count + 1]


def bound_all_schedules(
    net: Net,
    deadline: float,
    on_bound: Callable[[float], None],
    interrupt: Interrupt,
    goal_j: float = INF,
    most_blocks: int = 150,
    page: bool = True,
) -> float:
    """The bound in joules; every improvement goes to `on_bound`. Stops at `deadline` (monotonic) or at `goal_j`."""
    blocks = _Blocks(net, blocks_of(net, most_blocks), page)
    base = net.least_energy_j
    unit = OBJECTIVE_SCALE / max(base, 1e-3 * sum(blocks.energy), 1e-300)
    if time.monotonic() > deadline:
        return base
    lp, variables = build_lp([1.0] * len(blocks.energy), [energy * unit for energy in blocks.energy], blocks.rows())
    solver = LinearSolver(lp)
    separator = Separator(net, blocks.block)
    best = base
    history: list[float] = []
    while not interrupt.stop and deadline - time.monotonic() > 0.05:
        result = solver.solve(deadline, interrupt)
        if result is None:
            break
        bound = base + safe_objective(result.objective_value()) / unit
        if bound > best:
            best = bound
            on_bound(best)
        x = np.array(result.variable_values(variables))
        rows = blocks.memory_rows(x)
        anchors = separator.violated(blocks.point(x), deadline) if history or not rows else []
        cuts = [blocks.cut(anchor) for anchor in anchors]
        history.append(best)
        if best >= goal_j or not (rows or cuts) or has_stalled(history, goal_j):
            break
        add_rows(lp, variables, [*rows, *cuts], 1.0)
    return best
