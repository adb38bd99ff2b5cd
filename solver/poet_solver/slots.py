"""Slots: the places on the time axis where an op may run (DESIGN §5).

Stage t ends with the first run of op t, in the problem's order. Its slots are (t, pass, k) for every op k that may be
recomputed there, ascending within a pass, then the mandatory slot (t, t).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from poet_solver.net import Net

MANDATORY = 9
"""Pass number of a stage's mandatory slot: after every pass."""

SlotKey: TypeAlias = tuple[int, int, int]
"""(stage, pass, op); keys sort in time order."""


@dataclass(frozen=True)
class Family:
    """Which recomputations a stage may hold. The wider the family, the longer a model of it takes to solve."""

    recompute: bool = True
    hops: int | None = None
    """Only ops within so many edges of the stage's op. None: no limit."""
    any_earlier: bool = False
    """Edges may be walked either way (with hops None: every earlier op). False: ancestors only."""
    passes: int = 1
    gradients: bool = True
    """Backward ops may be recomputed too."""
    skip_previous: bool = False
    """Leave out op t-1 and what is reached only through it, as the listed bounds of the instances do."""
    extra: tuple[SlotKey, ...] = ()
    """Further slots (those of a known schedule, so that the model holds it). They only widen the family."""

    def describe(self) -> str:
        """The family in words, for reports."""
        if not self.recompute:
            return "schedules without recomputation"
        which = "any earlier op" if self.any_earlier else "any ancestor"
        if self.skip_previous:
            which += " not reached through the op just before"
        if not self.gradients:
            which += " that is no gradient"
        if self.hops is not None:
            which += f" within {self.hops} edges"
        passes = "" if self.passes == 1 else f", in {self.passes} ascending passes"
        return f"schedules in the given order of first computations that recompute {which} before each{passes}"


PAGING_ONLY = Family(recompute=False)
WIDE = Family(any_earlier=True, passes=2)
LISTED = Family(gradients=False, skip_previous=True)


def candidates(net: Net, family: Family) -> list[list[int]]:
    """For every stage the ops that may be recomputed there, ascending.

    Ops that nothing at or after the stage can need (no descendant from the stage on) are left out; that loses nothing.
    """
    n = net.n_ops
    inputs = [net.inputs_from(k) for k in range(n)]
    readers: list[list[int]] = [[] for _ in range(n)]
    for k in range(n):
        for u in inputs[k]:
            readers[u].append(k)
    last = list(range(n))
    for k in range(n - 1, -1, -1):
        last[k] = max([k, *(last[c] for c in readers[k])])
    eligible = [net.repeatable[k] and (family.gradients or not net.backward[k]) for k in range(n)]
    out: list[list[int]] = []
    for t in range(n):
        if not family.recompute:
            out.append([])
        elif family.any_earlier and family.hops is None:
            out.append([k for k in range(t) if eligible[k] and last[k] >= t])
        else:
            near = _within(t, inputs, readers if family.any_earlier else None, family, eligible)
            out.append([k for k in near if eligible[k] and last[k] >= t])
    return out


def _within(
    t: int,
    inputs: list[tuple[int, ...]],
    readers: list[list[int]] | None,
    family: Family,
    eligible: list[bool],
) -> list[int]:
    """Ops before `t` reached from it by at most `family.hops` edges; never through the start op, a hub."""
    seen = {t}
    frontier = [t]
    hop = 0
    while frontier and (family.hops is None or hop < family.hops):
        hop += 1
        following: list[int] = []
        for k in frontier:
            around: Iterable[int] = inputs[k] if readers is None else (*inputs[k], *readers[k])
            for u in around:
                if u in seen or u == 0 or u >= t or (family.skip_previous and (u == t - 1 or not eligible[u])):
                    continue
                seen.add(u)
                following.append(u)
        frontier = following
    return sorted(seen - {t})


def count_slots(net: Net, family: Family) -> int:
    """How many slots the family has."""
    return net.n_ops + family.passes * sum(len(ops) for ops in candidates(net, family))


def slot_keys(net: Net, family: Family) -> list[SlotKey]:
    """Every slot of the family in time order."""
    keys: list[SlotKey] = []
    for t, ops in enumerate(candidates(net, family)):
        for p in range(family.passes):
            keys.extend((t, p, k) for k in ops)
        keys.append((t, MANDATORY, t))
    return sorted({*keys, *family.extra})
