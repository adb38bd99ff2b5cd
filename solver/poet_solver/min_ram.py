"""The smallest RAM budget that a technique can work in."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from poet_solver.baselines.keep import keep_everything_peak
from poet_solver.errors import InfeasibleError
from poet_solver.incumbent import Progress
from poet_solver.interrupt import Interrupt
from poet_solver.net import build_net
from poet_solver.problem import Problem
from poet_solver.schedule import Schedule
from poet_solver.techniques import Method, schedule_with

_PROBE_S = 6.0

_HEURISTICS = (Method.DTR, Method.CAPUCHIN, Method.CAPUCHIN_ENERGY)


@dataclass(frozen=True)
class MinRam:
    """Answer for one technique."""

    method: Method
    ram_bytes: int | None
    """None: no budget works (the deadline or the wear budget forbids it)."""
    is_proven: bool
    """Nothing smaller works in the given order of first computations: it is the largest op's working set, or the next
    smaller size was refuted."""
    schedule: Schedule | None
    """A schedule within it."""


def min_ram(
    problem: Problem, method: Method, *, time_limit_s: float = 60.0, interrupt: Interrupt | None = None
) -> MinRam:
    """Bisect the budget between the largest op's working set and the keep-everything peak.

    Every probe runs until its first schedule. Where a probe neither finds one nor refutes the budget in its few
    seconds, the answer is an upper bound only.
    """
    stop = interrupt or Interrupt()
    deadline = time.monotonic() + time_limit_s
    net = build_net(replace(problem, ram_bytes=None))
    floor, peak = net.floor_bytes(net.largest_op()), keep_everything_peak(problem)
    unit = math.gcd(*(s for s in net.size if s), *(m.new_bytes for row in net.modes for m in row if m.new_bytes)) or 1
    low, high = -(-floor // unit), -(-max(peak, floor) // unit)
    best, _ = _probe(problem, method, high * unit, deadline, stop)
    if best is None:
        return MinRam(method, None, False, None)
    first, is_low_refuted = _probe(problem, method, low * unit, deadline, stop)
    if first is not None:
        return MinRam(method, low * unit, True, first)
    while high - low > 1 and not stop.stop:
        middle = (low + high) // 2
        schedule, refuted = _probe(problem, method, middle * unit, deadline, stop)
        if schedule is not None:
            best, high = schedule, middle
        else:
            low, is_low_refuted = middle, refuted
    is_proven = is_low_refuted and high - low <= 1 and method not in _HEURISTICS
    return MinRam(method, high * unit, is_proven, best)


def _probe(
    problem: Problem, method: Method, ram_bytes: int, deadline: float, stop: Interrupt
) -> tuple[Schedule | None, bool]:
    """(a schedule within the budget or None, no schedule exists)."""
    enough = Interrupt()

    def until_first(progress: Progress) -> None:
        if math.isfinite(progress.energy_j) or stop.stop:
            enough.set()

    limit = max(0.5, min(_PROBE_S, deadline - time.monotonic()))
    try:
        found = schedule_with(
            replace(problem, ram_bytes=ram_bytes),
            method,
            time_limit_s=limit,
            progress=until_first,
            interrupt=enough,
        )
    except InfeasibleError as error:
        return None, "was found in time" not in str(error)
    return found, False
