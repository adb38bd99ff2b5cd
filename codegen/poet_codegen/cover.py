"""Schedules that run what a plan's own does not: for profiling every mode of every op, not only those it chose."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from poet_solver.errors import InfeasibleError
from poet_solver.pipeline import solve
from poet_solver.schedule import Compute, Schedule

from poet_codegen.emit.project import Pass
from poet_codegen.emit.steps import kernels_of
from poet_codegen.lower import Lowered
from poet_codegen.plan import Plan, lower_inference

NEAR = 100.0
"""Modes that take so many times as long as the quickest of their op are near it; no schedule has those beyond."""
_BUILD_S = 8.0
"""What a further build takes, with its search: roughly."""
_PRICE = 1e-3
"""Of a mode that is to be run, where all others have 1 to 2."""


def modes(plan: Plan, most: float = math.inf) -> frozenset[str]:
    """Names, as a profile has them, of the modes of every op of a training step.

    Only of those that take at most `most` times as long as the quickest mode of their op.
    """
    return frozenset(
        _name(plan, k, m)
        for k, op in enumerate(plan.train.lowered.problem.ops)
        for m, mode in enumerate(op.modes)
        if mode.time_s <= most * min(other.time_s for other in op.modes)
    )


def covered(plan: Plan) -> frozenset[str]:
    """Those that the plan's schedule runs."""
    return frozenset(_name(plan, s.op, s.mode) for s in plan.train.schedule.steps if isinstance(s, Compute))


def effort(plan: Plan, left: frozenset[str]) -> tuple[int, float]:
    """(schedules that run all modes of these names, at least; seconds that their builds and runs take, roughly).

    An emulator needs about the board's own time for instructions, and less for transfers.
    """
    alike: Counter[frozenset[str]] = Counter()
    time_s: dict[str, float] = {}
    for k, op in enumerate(plan.train.lowered.problem.ops):
        names = [_name(plan, k, m) for m in range(len(op.modes))]
        time_s |= {name: mode.time_s for name, mode in zip(names, op.modes, strict=True) if name in left}
        alike[left.intersection(names)] += 1
    passes = max((math.ceil(len(names) / ops) for names, ops in alike.items()), default=0)
    return passes, passes * _BUILD_S + sum(time_s.values())


def next_cover(plan: Plan, left: frozenset[str], turn: int, time_limit_s: float) -> Plan | None:
    """The same plan with a schedule, within the same memory, that runs modes whose names are in `left`.

    Ops that are alike run different ones; `turn` says which of its own each begins with. None when none was found
    that runs any. Its energies are not those of the board: it is there to be run, not kept.
    """
    lowered = plan.train.lowered
    ops = []
    taken: set[str] = set()
    for k, op in enumerate(lowered.problem.ops):
        names = [_name(plan, k, m) for m in range(len(op.modes))]
        fresh = sorted(left.difference(taken).intersection(names))
        wanted = fresh[turn % len(fresh)] if fresh else ""
        taken.add(wanted)
        dearest_s = max(mode.time_s for mode in op.modes) or 1.0
        priced = tuple(
            replace(mode, energy_j=_PRICE if name == wanted else 1.0 + mode.time_s / dearest_s)
            for name, mode in zip(names, op.modes, strict=True)
        )
        ops.append(replace(op, modes=priced))
    problem = replace(lowered.problem, ops=tuple(ops), deadline_s=None, wear_budget_bytes=None, idle_power_w=0.0)
    changed = replace(lowered, problem=problem)
    try:
        schedule = solve(problem, time_limit_s=time_limit_s)
    except InfeasibleError:
        return None
    found = _with_schedule(plan, changed, schedule, time_limit_s)
    return found if covered(found) & left else None


def _with_schedule(plan: Plan, lowered: Lowered, schedule: Schedule, time_limit_s: float) -> Plan:
    """The plan with another schedule of a training step, and inference with the parameters where that has them."""
    train, infer = plan.train.graph, plan.infer.graph
    infer_low = lower_inference(plan.request, plan.costs, train, infer, lowered, schedule)
    infer_schedule = solve(infer_low.problem, time_limit_s=time_limit_s)
    return replace(plan, train=Pass(train, lowered, schedule), infer=Pass(infer, infer_low, infer_schedule))


def _name(plan: Plan, op: int, mode: int) -> str:
    program = plan.train.lowered.programs.get((op, mode))
    if program is not None:
        return program.profile_name
    return kernels_of(plan.train.graph, plan.train.lowered, op, mode)[0].name
