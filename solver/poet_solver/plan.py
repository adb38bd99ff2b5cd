"""A plan: the decisions of a schedule, portable between families; and the steps that carry it out.

Only what runs and what is paged in is decided. How long a tensor is held follows: until its last read before it is
made or paged in again. That least holding is worked out here by one backward pass, never by rounding H.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from poet_solver.model import ONE, Model
from poet_solver.net import Net
from poet_solver.slots import MANDATORY, SlotKey


class Do(IntEnum):
    """Kind of an action."""

    COMPUTE = 0
    PAGE_IN = 1
    PAGE_OUT = 2
    FREE = 3


Action: TypeAlias = tuple[Do, int, int]
"""(kind, op of the net or tensor, mode or 0)."""


@dataclass(frozen=True)
class Plan:
    """What runs in which slot and mode, and what is paged in just before it."""

    runs: tuple[tuple[SlotKey, int], ...]
    """(slot, mode), in time order; every op's mandatory slot is there."""
    page_ins: frozenset[tuple[SlotKey, int]]
    """(slot, tensor)."""


def plan_of_point(model: Model, point: NDArray[np.float64]) -> Plan:
    """Read the decisions off a 0-1 point of the model."""
    runs = [(key, m) for slot, key in enumerate(model.keys) for m, y in model.runs[slot] if y == ONE or point[y] > 0.5]
    pages = [(model.keys[model.events[v][j][0]], v) for (v, j), var in model.page_in.items() if point[var] > 0.5]
    return Plan(tuple(runs), frozenset(pages))


def actions_of_plan(plan: Plan) -> tuple[Action, ...]:
    """The plan as a list of computes and page-ins, in time order, ready for `complete`."""
    before: dict[SlotKey, list[int]] = {}
    for key, v in plan.page_ins:
        before.setdefault(key, []).append(v)
    actions: list[Action] = []
    for key, m in plan.runs:
        actions += [(Do.PAGE_IN, v, 0) for v in sorted(before.get(key, ()))]
        actions.append((Do.COMPUTE, key[2], m))
    return tuple(actions)


def plan_of_actions(net: Net, actions: tuple[Action, ...]) -> Plan | None:
    """The decisions behind a complete action list.

    None when slots cannot express it: another order of first computations, or too many passes in a stage.
    """
    runs: list[tuple[SlotKey, int]] = []
    pages: set[tuple[SlotKey, int]] = set()
    waiting: set[int] = set()
    stage = pass_ = 0
    last = -1
    for do, what, m in actions:
        if do is Do.PAGE_IN:
            waiting.add(what)
        elif do is Do.COMPUTE:
            if what == stage:
                key = (stage, MANDATORY, what)
                stage, pass_, last = stage + 1, 0, -1
            elif what > stage:
                return None
            else:
                pass_ += what <= last
                last = what
                key = (stage, pass_, what)
                if pass_ >= MANDATORY:
                    return None
            runs.append((key, m))
            read = waiting & set(net.modes[what][m].resident)
            pages.update((key, v) for v in read)
            waiting -= read
    return Plan(tuple(runs), frozenset(pages))


def complete(net: Net, actions: tuple[Action, ...]) -> tuple[Action, ...]:
    """Drop steps that nobody needs, and add page-outs and frees: the whole schedule but for offsets.

    `actions` are computes (start and end included) and page-ins. Going backward, a recomputation none of whose outputs
    is needed goes, a page-in of something not needed goes, and a tensor is freed after its last read.
    """
    first: dict[int, int] = {}
    for i, (do, what, _) in enumerate(actions):
        if do is Do.COMPUTE:
            first.setdefault(what, i)
    needed: set[int] = set()
    from_storage: set[int] = {v for v, ends in enumerate(net.ends_on_storage) if ends}
    written: set[int] = {v for v, there in enumerate(net.starts_on_storage) if there}
    backward: list[Action] = []
    for i in range(len(actions) - 1, -1, -1):
        do, what, m = actions[i]
        if do is Do.PAGE_IN:
            if what in needed:
                needed.discard(what)
                from_storage.add(what)
                backward.append(actions[i])
            continue
        mode = net.modes[what][m]
        is_first = first[what] == i
        if not is_first and not any(v in needed for v in mode.to_ram):
            continue
        if is_first:
            written.update(mode.to_storage)
        else:
            from_storage.update(mode.streamed)
        from_storage.update(mode.streamed)
        overwritten = {old for old, _ in mode.in_place}
        dropped = [v for v in mode.to_ram if v not in needed]
        if what != net.end:
            dropped += [v for v in mode.resident if v not in needed and v not in overwritten]
        backward += [(Do.FREE, v, 0) for v in sorted(dropped, reverse=True)]
        if is_first:
            out = [v for v in mode.to_ram if v in from_storage and v not in written]
            backward += [(Do.PAGE_OUT, v, 0) for v in sorted(out, reverse=True)]
        needed.difference_update(mode.to_ram)
        needed.update(mode.resident)
        backward.append(actions[i])
    return tuple(reversed(backward))


def point_of_plan(model: Model, plan: Plan) -> NDArray[np.float64] | None:
    """The plan as a 0-1 point of a model, with least H; None when the model's family does not hold it."""
    point = np.zeros(len(model.upper))
    ran: set[int] = set()
    for key, m in plan.runs:
        slot = model.slot_of.get(key)
        y = dict(model.runs[slot]).get(m) if slot is not None else None
        if slot is None or y is None:
            return None
        ran.add(slot)
        if y != ONE:
            point[y] = 1.0
    chosen = dict(plan.runs)
    paged: set[int] = set()
    for v, events in enumerate(model.events):
        needed = False
        for j in range(len(events) - 1, 0, -1):
            slot, made = events[j]
            key = model.keys[slot]
            active = slot in ran
            mode = model.net.modes[key[2]][chosen[key]] if active else None
            if made:
                if mode is not None and v in mode.to_ram:
                    needed = False
            else:
                if mode is not None:
                    needed = needed or v in mode.resident
                    if v in mode.streamed:
                        paged.add(v)
                if (key, v) in plan.page_ins:
                    if (v, j) not in model.page_in:
                        return None
                    if needed and active:
                        point[model.page_in[v, j]] = 1.0
                        needed = False
                        paged.add(v)
            point[model.hold[v] + j - 1] = float(needed)
        if v in model.page_out:
            first = events[0][0]
            mode = model.net.modes[model.keys[first][2]][chosen[model.keys[first]]]
            wanted = v in paged or model.net.ends_on_storage[v]
            point[model.page_out[v]] = float(wanted and v not in mode.to_storage)
    return point
