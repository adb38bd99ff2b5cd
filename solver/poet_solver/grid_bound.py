"""A lower bound on every schedule in the given order of first computations, for ops with several modes.

As an LP, the relaxation by grids (poet_solver.grid) is solved in seconds for 806 ops with 14,556 modes;
then reruns that the LP makes use of get finer cells, and their rows of memory. Last, variables are whole: what reduced
costs leave is given to branch and cut, which proves far more than any LP, for tensors are held whole.
"""

from __future__ import annotations

import datetime
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from ortools.math_opt.python import mathopt

from poet_solver.grid import Floats, Grid, Refinement
from poet_solver.interrupt import Interrupt
from poet_solver.lp import OBJECTIVE_SCALE, LinearSolver, build_lp, safe_objective
from poet_solver.model import INF
from poet_solver.net import Net

_MOST_LP_ROUNDS = 2
_LEAST_ROUND_GAIN = 0.02
"""Of the distance to the incumbent, that a round of finer cells must close to be followed by another."""

_LP_SHARE = 0.3
"""Of the time left, that a round may take to be followed by another: each takes several times as long."""

_MIP_GAP = 1e-5
"""Of the objective: what ops take beyond their cheapest modes."""

_POLL_S, _GRACE_S = 0.1, 1.0
"""Between looks at whether branch and cut is still wanted; that it may overrun its time."""


def bound_by_grids(
    net: Net,
    deadline: float,
    on_bound: Callable[[float], None],
    interrupt: Interrupt,
    incumbent_j: Callable[[], float],
    page: bool = True,
    on_reruns: Callable[[list[tuple[int, int]]], None] = lambda _: None,
) -> None:
    """Every better bound in joules goes to `on_bound`, until `deadline` (monotonic), or it meets the best schedule's.

    `incumbent_j` says what that is by now: the bound holds for schedules that take less, and so goes no higher.
    `on_reruns` is told (first run, op) of what points run again, and before which first run: of use to who looks for
    schedules.
    """
    refinement = Refinement()
    best, lp_rounds = net.least_energy_j, 0
    while not interrupt.stop and time.monotonic() < deadline:
        began = time.monotonic()
        grid = Grid(net, refinement, page)
        unit = OBJECTIVE_SCALE / max(net.least_energy_j, 1e-3 * sum(grid.energy), 1e-300)
        lp, variables = build_lp([1.0] * len(grid.energy), [energy * unit for energy in grid.energy], grid.rows)
        result = LinearSolver(lp).solve(deadline, interrupt)
        if result is None:
            return
        point = np.array(result.variable_values(variables))
        bound = net.least_energy_j + safe_objective(result.objective_value()) / unit
        known = incumbent_j()
        gain, best = bound - best, max(bound, best)
        on_bound(min(best, known))
        on_reruns(grid.reruns_before(point))
        if best >= known:
            return
        finer = grid.refined(point, refinement)
        lp_rounds += 1
        took = time.monotonic() - began
        is_worth_it = gain > _LEAST_ROUND_GAIN * (known - best) and finer != refinement
        if lp_rounds < _MOST_LP_ROUNDS and is_worth_it and took < _LP_SHARE * (deadline - time.monotonic()):
            refinement = finer
            continue
        reduced_j = np.array(result.reduced_costs(variables)) / unit
        whole = _branch(lp, reduced_j > known - bound + 1e-6 * abs(known), deadline, interrupt)
        if whole is None:
            return
        objective, best_point, is_optimal = whole
        best = max(best, min(known, net.least_energy_j + safe_objective(objective) / unit))
        on_bound(best)
        if best_point is not None:
            on_reruns(grid.reruns_before(best_point))
        finer = refinement if best_point is None else grid.refined(best_point, refinement)
        if not is_optimal or finer == refinement or best >= known:
            return
        refinement = finer


def _branch(
    lp: mathopt.Model, is_fixed: NDArray[np.bool_], deadline: float, interrupt: Interrupt
) -> tuple[float, Floats | None, bool] | None:
    """(bound on the objective, best point, whether it is solved to the end) with whole variables; None on failure."""
    message = lp.export_model()
    count = len(is_fixed)
    del message.variables.integers[:]
    message.variables.integers.extend([True] * count)
    message.variables.upper_bounds[:] = np.where(is_fixed, 0.0, 1.0).tolist()
    model = mathopt.Model.from_model_proto(message)
    left = datetime.timedelta(seconds=max(0.05, deadline - time.monotonic()))
    parameters = mathopt.SolveParameters(time_limit=left, relative_gap_tolerance=_MIP_GAP)
    done: list[mathopt.SolveResult] = []

    def run() -> None:
        with suppress(AttributeError):  # as in LinearSolver
            done.append(mathopt.solve(model, mathopt.SolverType.HIGHS, params=parameters))

    # HiGHS heeds no interrupt in branch and cut: a thread that nobody waits for any more ends at its time limit.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive() and not interrupt.stop and time.monotonic() < deadline + _GRACE_S:
        thread.join(_POLL_S)
    if not done:
        return None
    result = done[0]
    reason = result.termination.reason
    if reason is mathopt.TerminationReason.INFEASIBLE:
        return INF, None, True
    bound = result.termination.objective_bounds.dual_bound
    if not math.isfinite(bound):
        return None
    point = np.array(result.variable_values(list(model.variables()))) if result.has_primal_feasible_solution() else None
    return bound, point, reason is mathopt.TerminationReason.OPTIMAL
