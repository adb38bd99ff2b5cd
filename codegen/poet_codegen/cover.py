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


class Cover:
    """The modes of a plan's training step, by the names that they have in a profile, and schedules that run them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        ops = plan.train.lowered.problem.ops
        self._names = [[_name(plan, k, m) for m in range(len(op.modes))] for k, op in enumerate(ops)]

    def modes(self, most: float = math.inf) -> frozenset[str]:
        """Of every op; only those that take at most `most` times as long as the quickest one of their op."""
        return frozenset(
            name
            for names, op in zip(self._names, self._plan.train.lowered.problem.ops, strict=True)
            for name, mode in zip(names, op.modes, strict=True)
            if mode.time_s <= most * min(other.time_s for other in op.modes)
        )

    def run_by(self, plan: Plan) -> frozenset[str]:
        """Those that a schedule runs: of the plan itself, or of one that `next` found."""
        return frozenset(self._names[s.op][s.mode] for s in plan.train.schedule.steps if isinstance(s, Compute))

    def effort(self, left: frozenset[str]) -> tuple[int, float]:
        """(schedules that run all modes of these names, at least; seconds that their builds and runs take, roughly).

        An emulator needs about the board's own time for instructions, and less for transfers.
        """
        alike: Counter[frozenset[str]] = Counter()
        time_s: dict[str, float] = {}
        for names, op in zip(self._names, self._plan.train.lowered.problem.ops, strict=True):
            time_s |= {name: mode.time_s for name, mode in zip(names, op.modes, strict=True) if name in left}
            alike[left.intersection(names)] += 1
        passes = max((math.ceil(len(names) / ops) for names, ops in alike.items()), default=0)
        return passes, passes * _BUILD_S + sum(time_s.values())

    def next(self, left: frozenset[str], turn: int, time_limit_s: float) -> Plan | None:
        """The plan with a schedule, within the same memory, that runs modes whose names are in `left`.

        Ops that are alike run different ones; `turn` says which of its own each begins with. None when none was found
        that runs any. Its energies are not those of the board: it is there to be run, not kept.
        """
        lowered = self._plan.train.lowered
        ops = []
        taken: set[str] = set()
        for names, op in zip(self._names, lowered.problem.ops, strict=True):
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
        try:
            schedule = solve(problem, time_limit_s=time_limit_s)
        except InfeasibleError:
            return None
        found = _with_schedule(self._plan, replace(lowered, problem=problem), schedule, time_limit_s)
        return found if self.run_by(found) & left else None


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
