"""Memory rows of the slot model, made on demand, and what a budget rules out before any search.

At slot i everything held over the gap that covers or ends at i is live, and so is what is paged in for i; an op that
runs there adds its workspace and its new outputs. Two rows say so (DESIGN §5): the plain one, and one in which the
operands of the slot's op stand for their bytes only when the op runs ("substituted"). For 0-1 points with least H the
substituted rows are enough: a slot where nothing runs needs no more than the next one that runs. Where the modes of a
slot differ in what they read, the substituted row is the plain one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from poet_solver.model import INF, ONE, Model, Row
from poet_solver.slots import MANDATORY

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Memory:
    """Where every variable's bytes count, as slot ranges."""

    model: Model
    gap_var: Ints
    gap_first: Ints
    """First slot that the gap counts at."""
    gap_last: Ints
    """Last one: the slot of the event that ends the gap."""
    gap_bytes: Ints
    gap_reader: Ints
    """The slot that ends the gap by reading the tensor, where that may be substituted, or -1."""
    page_var: Ints
    page_slot: Ints
    page_bytes: Ints
    run_var: Ints
    run_slot: Ints
    run_new: Ints
    run_resident: Ints
    constant: Ints
    """Per slot: new bytes of an op that must run there in its only mode."""
    constant_resident: Ints
    uniform: NDArray[np.bool_]
    """Per slot: all its modes need the same tensors in RAM, so that they may be substituted."""

    def usage(self, point: Floats) -> Floats:
        """Bytes live at every slot for a (fractional) point: the left sides of the plain rows."""
        slots = len(self.model.keys)
        held = self.gap_bytes * point[self.gap_var]
        step = np.zeros(slots + 1)
        np.add.at(step, self.gap_first, held)
        np.add.at(step, self.gap_last + 1, -held)
        total = np.cumsum(step)[:slots] + self.constant
        np.add.at(total, self.page_slot, self.page_bytes * point[self.page_var])
        np.add.at(total, self.run_slot, self.run_new * point[self.run_var])
        return np.asarray(total)

    def substituted_usage(self, point: Floats) -> Floats:
        """Left sides of the substituted rows."""
        total = self.usage(point) + self.constant_resident
        readers = self.gap_reader >= 0
        np.add.at(total, self.gap_reader[readers], -(self.gap_bytes * point[self.gap_var])[readers])
        paged = self.uniform[self.page_slot]
        np.add.at(total, self.page_slot[paged], -(self.page_bytes * point[self.page_var])[paged])
        np.add.at(total, self.run_slot, self.run_resident * point[self.run_var])
        return np.asarray(total)

    def row(self, slot: int, substituted: bool) -> Row:
        """The memory row of a slot; always satisfied when its coefficients add up to no more than its bound."""
        over = (self.gap_first <= slot) & (self.gap_last >= slot)
        if substituted:
            over &= self.gap_reader != slot
        index = list(self.gap_var[over])
        coef = list(self.gap_bytes[over])
        if not (substituted and self.uniform[slot]):
            paged = self.page_slot == slot
            index += list(self.page_var[paged])
            coef += list(self.page_bytes[paged])
        runs = self.run_slot == slot
        index += list(self.run_var[runs])
        coef += list(self.run_new[runs] + (self.run_resident[runs] if substituted else 0))
        spent = self.constant[slot] + (self.constant_resident[slot] if substituted else 0)
        keep = [q for q, var in enumerate(index) if coef[q] and self.model.upper[var]]
        return Row(
            tuple(int(index[q]) for q in keep),
            tuple(float(coef[q]) for q in keep),
            -INF,
            float(self.model.net.ram_bytes - spent),
        )

    def binding_rows(self) -> list[Row]:
        """Every row a 0-1 solver needs, without those that can never be violated."""
        out: list[Row] = []
        for slot in range(len(self.model.keys)):
            if not self.model.active(slot):
                continue
            row = self.row(slot, substituted=True)
            if sum(row.coef) > row.hi:
                out.append(row)
        return out


def memory_of(model: Model) -> Memory:
    """Collect the model's bytes. Call after `tighten`, so that what is fixed at 0 is left out."""
    size = model.net.size
    uniform = np.zeros(len(model.keys), np.bool_)
    for slot, key in enumerate(model.keys):
        modes = [model.net.modes[key[2]][m] for m, _ in model.active(slot)]
        reads = {frozenset(mode.resident) for mode in modes}
        uniform[slot] = len(reads) == 1 and set(*reads) == set(model.net.operands[key[2]])
    gaps: list[tuple[int, int, int, int, int]] = []
    for v, events in enumerate(model.events):
        if not size[v]:
            continue
        for j in range(1, len(events)):
            var = model.hold[v] + j - 1
            if model.upper[var]:
                slot, made = events[j]
                gaps.append((var, events[j - 1][0] + 1, slot, size[v], slot if not made and uniform[slot] else -1))
    pages = [
        (var, model.events[v][j][0], size[v]) for (v, j), var in model.page_in.items() if size[v] and model.upper[var]
    ]
    runs: list[tuple[int, int, int, int]] = []
    constant = np.zeros(len(model.keys), np.int64)
    constant_resident = np.zeros(len(model.keys), np.int64)
    for slot, key in enumerate(model.keys):
        for m, y in model.active(slot):
            mode = model.net.modes[key[2]][m]
            resident = mode.resident_bytes if uniform[slot] else 0
            if y == ONE:
                constant[slot], constant_resident[slot] = mode.new_bytes, resident
            else:
                runs.append((y, slot, mode.new_bytes, resident))
    gap_table = np.array(gaps, np.int64).reshape(-1, 5).T
    page_table = np.array(pages, np.int64).reshape(-1, 3).T
    run_table = np.array(runs, np.int64).reshape(-1, 4).T
    return Memory(
        model,
        gap_var=gap_table[0],
        gap_first=gap_table[1],
        gap_last=gap_table[2],
        gap_bytes=gap_table[3],
        gap_reader=gap_table[4],
        page_var=page_table[0],
        page_slot=page_table[1],
        page_bytes=page_table[2],
        run_var=run_table[0],
        run_slot=run_table[1],
        run_new=run_table[2],
        run_resident=run_table[3],
        constant=constant,
        constant_resident=constant_resident,
        uniform=uniform,
    )


def tighten(model: Model) -> None:
    """Fix at 0 what the RAM budget rules out, and what follows from that. Loses no schedule."""
    _drop_oversized_gaps(model)
    slots_of_tensor = [[slot for slot, _ in events] for events in model.events]
    touched = set(range(len(model.events)))
    while touched and not model.contradiction:
        changed: set[int] = set()
        for v in sorted(touched):
            changed |= _sweep(model, v)
        touched = {
            v
            for slot in changed
            for v in (*model.net.operands[model.keys[slot][2]], *model.net.outputs[model.keys[slot][2]])
            if slots_of_tensor[v]
        }


def _drop_oversized_gaps(model: Model) -> None:
    """No tensor is held across a mandatory slot that has no room for it."""
    net = model.net
    room = np.full(len(model.keys) + 1, np.iinfo(np.int64).max, np.int64)
    for slot, (_stage, pass_, op) in enumerate(model.keys):
        if pass_ == MANDATORY:
            room[slot] = net.ram_bytes - net.floor_bytes(op)
            if room[slot] < 0:
                model.contradiction = f"op {net.names[op]} alone needs {net.floor_bytes(op)} bytes"
    tables = [room]
    while 2 ** len(tables) <= len(room):
        half = 2 ** (len(tables) - 1)
        tables.append(np.minimum(tables[-1][:-half], tables[-1][half:]))
    for v, events in enumerate(model.events):
        for j in range(1, len(events)):
            first, last = events[j - 1][0] + 1, events[j][0] - 1
            if last < first:
                continue
            level = (last - first + 1).bit_length() - 1
            least = min(tables[level][first], tables[level][last - 2**level + 1])
            if net.size[v] > least:
                model.forbid(model.hold[v] + j - 1)


def _sweep(model: Model, v: int) -> set[int]:
    """Follow reachability of `v` forward and need for it backward; returns the slots whose runs changed."""
    net = model.net
    events = model.events[v]
    upper = model.upper
    changed: set[int] = set()

    def drop_runs(slot: int, which: list[tuple[int, int]]) -> None:
        for _m, y in which:
            if y == ONE or upper[y]:
                model.forbid(y)
                changed.add(slot)

    for j, (slot, made) in enumerate(events):
        modes = net.modes[model.keys[slot][2]]
        before = j > 0 and upper[model.hold[v] + j - 1] == 1
        page = model.page_in.get((v, j))
        active = model.active(slot)
        if made:
            there = before or any(v in modes[m].to_ram for m, _ in active)
        else:
            readers = [(m, y) for m, y in active if v in modes[m].resident]
            if page is not None and upper[page] and not readers:
                model.forbid(page)
            there = before or (page is not None and upper[page] == 1)
            if not there:
                drop_runs(slot, readers)
        if j + 1 < len(events) and not there and upper[model.hold[v] + j]:
            model.forbid(model.hold[v] + j)
    for j in range(len(events) - 1, 0, -1):
        slot, made = events[j]
        modes = net.modes[model.keys[slot][2]]
        gap = model.hold[v] + j - 1
        later = j + 1 < len(events) and upper[gap + 1] == 1
        active = model.active(slot)
        if made:
            if not later and len(net.outputs[model.keys[slot][2]]) == 1:
                drop_runs(slot, active)
        elif any(v in modes[m].resident for m, _ in active):
            continue
        if not later and upper[gap]:
            model.forbid(gap)
    return changed
