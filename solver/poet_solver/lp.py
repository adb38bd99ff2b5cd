"""LP relaxation of the slot model with memory rows and anchor cuts generated where they are violated.

Rows at first runs are there from the start; the others and the cuts come in few, large rounds.
"""

from __future__ import annotations

import copy
import datetime
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from ortools.math_opt import model_pb2
from ortools.math_opt.python import mathopt

from poet_solver.cuts import Anchor, Separator
from poet_solver.interrupt import Interrupt
from poet_solver.memory import Memory, tighten
from poet_solver.model import Model, Row
from poet_solver.plan import Plan, point_of_plan
from poet_solver.slots import MANDATORY
from poet_solver.stages import StageView

Floats = NDArray[np.float64]

OBJECTIVE_SCALE = 100.0
"""The base energy in units of the LP's objective (see poet_solver.cpsat on scaling)."""

_PATIENCE = 6
"""Rounds within which the LP must close at least `_LEAST_GAIN` of the gap."""
_LEAST_GAIN = 0.01

_MOST_MEMORY_ROWS = 1500
"""Added in one round. Many: HiGHS starts every round afresh, so rounds are dear and slack rows are cheap."""


@dataclass(frozen=True)
class Relaxation:
    """Result of the LP."""

    bound_j: float
    """Total energy that no point of the family beats."""
    reduced_j: Floats
    """Reduced costs in joules, of a dual solution that proves `bound_j`."""
    anchors: tuple[Anchor, ...]
    cuts: tuple[Row, ...]
    """The anchors as rows of the model."""
    memory_rows: tuple[Row, ...]
    point: Floats | None
    """The last fractional point."""
    complete: bool
    """No violated row was left."""


def relax(
    model: Model,
    memory: Memory,
    deadline: float,
    on_bound: Callable[[float], None] | None = None,
    interrupt: Interrupt | None = None,
    goal_j: float = float("inf"),
    known: Sequence[Anchor] = (),
) -> Relaxation:
    """Solve the relaxation until nothing is violated, `deadline` (monotonic seconds), or the bound reaches `goal_j`.

    `known`: anchors found for another family of the same net; they hold for every family and start the row set.
    """
    view = StageView(model)
    separator = Separator(model.net, range(model.net.n_ops))
    separator.given.update(known)
    total = sum(e for e, up in zip(model.energy_j, model.upper, strict=True) if up)
    unit = OBJECTIVE_SCALE / max(model.base_energy_j, 1e-3 * total, 1e-300)
    objective = [energy * unit if up else 0.0 for energy, up in zip(model.energy_j, model.upper, strict=True)]
    lp, variables = build_lp(list(map(float, model.upper)), objective, [*model.rows, *model.budgets])
    solver = LinearSolver(lp)
    byte = 1.0 / max(1, model.net.ram_bytes)
    best = Relaxation(model.base_energy_j, np.zeros(len(model.upper)), (), (), (), None, False)
    anchors = list(known)
    cuts = [view.row(anchor) for anchor in known]
    add_rows(lp, variables, cuts, 1.0)
    mandatory = [slot for slot, key in enumerate(model.keys) if key[1] == MANDATORY]
    given = {(slot, True) for slot in mandatory}
    first = (memory.row(slot, substituted=True) for slot in mandatory)
    rows = [row for row in first if sum(row.coef) > row.hi]
    add_rows(lp, variables, rows, byte)
    history: list[float] = []
    interrupt = interrupt or Interrupt()
    while not interrupt.stop:
        if deadline - time.monotonic() <= 0.05:
            break
        result = solver.solve(deadline, interrupt)
        if result is None:
            break
        x = np.array(result.variable_values(variables))
        bound = model.base_energy_j + safe_objective(result.objective_value()) / unit
        new_rows = _violated_memory(memory, x, given)
        new_anchors = separator.violated(view.point(x), deadline)
        new_cuts = [view.row(anchor) for anchor in new_anchors]
        if bound > best.bound_j or best.point is None:
            reduced = np.array(result.reduced_costs(variables)) / unit
            best = replace(best, bound_j=max(bound, best.bound_j), reduced_j=reduced, point=x)
            if on_bound is not None:
                on_bound(best.bound_j)
        history.append(best.bound_j)
        if bound >= goal_j or not (new_rows or new_cuts) or has_stalled(history, goal_j):
            best = replace(best, complete=not (new_rows or new_cuts))
            break
        add_rows(lp, variables, new_rows, byte)
        add_rows(lp, variables, new_cuts, 1.0)
        rows += new_rows
        cuts += new_cuts
        anchors += new_anchors
    return replace(best, anchors=tuple(anchors), cuts=tuple(cuts), memory_rows=tuple(rows))


class LinearSolver:
    """HiGHS on an LP to which rows are added: dual simplex, and primal from the round on in which that fails."""

    def __init__(self, lp: mathopt.Model) -> None:
        self._lp = lp
        self._algorithm = mathopt.LPAlgorithm.DUAL_SIMPLEX
        self._solver = mathopt.IncrementalSolver(lp, mathopt.SolverType.HIGHS)

    def solve(self, deadline: float, interrupt: Interrupt) -> mathopt.SolveResult | None:
        """Solve the LP as it is now; None when there is no optimum by `deadline` (monotonic seconds)."""
        left = datetime.timedelta(seconds=max(0.05, deadline - time.monotonic()))
        parameters = mathopt.SolveParameters(time_limit=left, lp_algorithm=self._algorithm)
        try:
            result = self._solver.solve(params=parameters, interrupter=interrupt.linear)
        except AttributeError:
            # HiGHS failed (seen: kError of MobileNetV1 in 384 KiB), and OR-tools 9.15 stumbles over its status.
            if self._algorithm is mathopt.LPAlgorithm.PRIMAL_SIMPLEX:
                return None
            self._algorithm = mathopt.LPAlgorithm.PRIMAL_SIMPLEX
            self._solver = mathopt.IncrementalSolver(self._lp, mathopt.SolverType.HIGHS)
            return self.solve(deadline, interrupt)
        return result if result.termination.reason == mathopt.TerminationReason.OPTIMAL else None


def has_stalled(history: Sequence[float], goal_j: float) -> bool:
    """The last rounds closed next to nothing of what is left to close."""
    return (
        len(history) > _PATIENCE
        and math.isfinite(goal_j)
        and history[-1] - history[-1 - _PATIENCE] < _LEAST_GAIN * (goal_j - history[-1])
    )


def safe_objective(objective: float) -> float:
    """The objective less what the LP solver's tolerance (1e-7 on reduced costs) may have added."""
    return objective - 1e-6 * max(1.0, abs(objective))


def fix_by_reduced_cost(model: Model, relaxation: Relaxation, incumbent_j: float) -> int:
    """Fix at 0 every variable that no better schedule than the incumbent can set; returns how many."""
    slack = incumbent_j - relaxation.bound_j
    limit = slack + 1e-6 * max(abs(incumbent_j), 1e-300)
    fixed = 0
    for j in np.nonzero(relaxation.reduced_j > limit)[0]:
        if model.upper[j]:
            model.forbid(int(j))
            fixed += 1
    return fixed


def kernel_of(model: Model, relaxation: Relaxation, limit_j: float, plan: Plan | None) -> Model | None:
    """The model with every variable of a reduced cost above `limit_j` fixed at 0, but for those of `plan`.

    None when the model does not hold the plan.
    """
    hint = point_of_plan(model, plan) if plan is not None else np.zeros(len(model.upper))
    if hint is None:
        return None
    kernel = copy.copy(model)
    out = (relaxation.reduced_j > limit_j + 1e-9 * abs(relaxation.bound_j)) & (hint < 0.5)
    kernel.upper = [0 if gone else up for gone, up in zip(out.tolist(), model.upper, strict=True)]
    tighten(kernel)
    return kernel


def build_lp(
    upper: Sequence[float], objective: Sequence[float], rows: Sequence[Row]
) -> tuple[mathopt.Model, list[mathopt.Variable]]:
    """Minimise over 0 <= x <= upper. Written as one message: five times faster than row by row."""
    proto = model_pb2.ModelProto()
    proto.variables.ids.extend(range(len(upper)))
    proto.variables.lower_bounds.extend([0.0] * len(upper))
    proto.variables.upper_bounds.extend(upper)
    proto.variables.integers.extend([False] * len(upper))
    priced = [j for j, c in enumerate(objective) if c]
    proto.objective.linear_coefficients.ids.extend(priced)
    proto.objective.linear_coefficients.values.extend(objective[j] for j in priced)
    proto.linear_constraints.ids.extend(range(len(rows)))
    proto.linear_constraints.lower_bounds.extend(row.lo for row in rows)
    proto.linear_constraints.upper_bounds.extend(row.hi for row in rows)
    terms = [(i, j, c) for i, row in enumerate(rows) for j, c in sorted(zip(row.index, row.coef, strict=True))]
    proto.linear_constraint_matrix.row_ids.extend(i for i, _, _ in terms)
    proto.linear_constraint_matrix.column_ids.extend(j for _, j, _ in terms)
    proto.linear_constraint_matrix.coefficients.extend(c for _, _, c in terms)
    lp = mathopt.Model.from_model_proto(proto)
    return lp, list(lp.variables())


def add_rows(lp: mathopt.Model, variables: list[mathopt.Variable], rows: Sequence[Row], scale: float) -> None:
    """Add rows, with coefficients and bounds times `scale`."""
    for row in rows:
        constraint = lp.add_linear_constraint(lb=row.lo * scale, ub=row.hi * scale)
        for j, c in zip(row.index, row.coef, strict=True):
            constraint.set_coefficient(variables[j], c * scale)


def _violated_memory(memory: Memory, x: Floats, given: set[tuple[int, bool]]) -> list[Row]:
    limit = memory.model.net.ram_bytes * (1 + 1e-7)
    worst: list[tuple[float, int, bool]] = []
    for substituted, usage in ((False, memory.usage(x)), (True, memory.substituted_usage(x))):
        for slot in np.nonzero(usage > limit)[0].tolist():
            if (slot, substituted) not in given:
                worst.append((-float(usage[slot]), slot, substituted))
    worst.sort()
    out: list[Row] = []
    for _, slot, substituted in worst[:_MOST_MEMORY_ROWS]:
        given.add((slot, substituted))
        out.append(memory.row(slot, substituted))
    return out
