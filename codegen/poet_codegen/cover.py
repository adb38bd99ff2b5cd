"""Schedules that run what a plan's own does not: for profiling every mode of every op, not only those it chose."""

from __future__ import annotations

from dataclasses import replace

from poet_solver.errors import InfeasibleError
from poet_solver.pipeline import solve
from poet_solver.problem import Mode
from poet_solver.schedule import Compute, Schedule

from poet_codegen.emit.project import Pass
from poet_codegen.emit.steps import kernels_of
from poet_codegen.lower import Lowered
from poet_codegen.plan import Plan, lower_inference

_UNWANTED = 100.0
"""A mode that has run is made so many times as dear. What is dearer than that no schedule would take: it is not run."""


def modes(plan: Plan) -> frozenset[str]:
    """Names, as a profile has them, of every mode of every op of a training step."""
    lowered = plan.train.lowered
    return frozenset(_name(plan, k, m) for k, op in enumerate(lowered.problem.ops) for m in range(len(op.modes)))


def covered(plan: Plan) -> frozenset[str]:
    """Those that the plan's schedule runs."""
    return frozenset(_name(plan, s.op, s.mode) for s in plan.train.schedule.steps if isinstance(s, Compute))


def next_cover(plan: Plan, seen: frozenset[str], time_limit_s: float) -> Plan | None:
    """The same plan with a schedule, within the same memory, that runs modes whose names are not in `seen`.

    None when none was found that runs any, but for modes far too dear to matter. Its prices are not those of the
    board: it is there to be run, not kept.
    """
    lowered = plan.train.lowered
    ops = tuple(
        replace(op, modes=tuple(_dear(mode, _name(plan, k, m) in seen) for m, mode in enumerate(op.modes)))
        for k, op in enumerate(lowered.problem.ops)
    )
    changed = replace(lowered, problem=replace(lowered.problem, ops=ops, deadline_s=None))
    try:
        schedule = solve(changed.problem, time_limit_s=time_limit_s)
    except InfeasibleError:
        return None
    found = _with_schedule(plan, changed, schedule, time_limit_s)
    return found if covered(found) - seen else None


def _with_schedule(plan: Plan, lowered: Lowered, schedule: Schedule, time_limit_s: float) -> Plan:
    """The plan with another schedule of a training step, and inference with the parameters where that has them."""
    train, infer = plan.train.graph, plan.infer.graph
    infer_low = lower_inference(plan.request, plan.costs, train, infer, lowered, schedule)
    infer_schedule = solve(infer_low.problem, time_limit_s=time_limit_s)
    return replace(plan, train=Pass(train, lowered, schedule), infer=Pass(infer, infer_low, infer_schedule))


def _dear(mode: Mode, has_run: bool) -> Mode:
    return replace(mode, time_s=_UNWANTED * mode.time_s, energy_j=_UNWANTED * mode.energy_j) if has_run else mode


def _name(plan: Plan, op: int, mode: int) -> str:
    program = plan.train.lowered.programs.get((op, mode))
    if program is not None:
        return program.profile_name
    return kernels_of(plan.train.graph, plan.train.lowered, op, mode)[0].name
