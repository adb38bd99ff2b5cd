"""The slot model on CP-SAT: clauses where rows are clauses, integers where they are not.

The objective is scaled to integers near 1e8. That is correctness, not speed: with joules near 1e-4 against absolute
tolerances three solvers returned wrong optima (DESIGN §5). Coefficients are rounded down, so the solver's bound holds
for the true objective. Deadline and wear are rounded down too (a relaxation by less than 1e-8 of the slack); a
schedule that really overruns is refused by the caller and the search is repeated with `strict`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from poet_solver.interrupt import Interrupt
from poet_solver.model import Model, Row

SCALE = 1e8
BUDGET_SCALE = 10**9


@dataclass(frozen=True)
class SearchLimits:
    """How long and how a search runs."""

    time_s: float
    seed: int = 0
    workers: int = 1
    relative_gap: float = 1e-6
    """Of the total energy."""
    lb_tree: bool = False
    """Raise the bound by a tree search instead of improving the incumbent; strong on full families."""
    strict: bool = False
    """Round budgets up instead of down."""


@dataclass(frozen=True)
class SearchResult:
    """What a search found: a point (or None), and a bound on the energy of every point."""

    point: NDArray[np.float64] | None
    bound_j: float
    """Lower bound on total energy over the model; infinity when the model is infeasible."""
    infeasible: bool
    optimal: bool
    solve_s: float


def search_model(
    model: Model,
    memory_rows: Sequence[Row],
    limits: SearchLimits,
    cuts: Sequence[Row] = (),
    hint: NDArray[np.float64] | None = None,
    below_j: float | None = None,
    on_point: Callable[[NDArray[np.float64], float], None] | None = None,
    on_bound: Callable[[float], None] | None = None,
    interrupt: Interrupt | None = None,
) -> SearchResult:
    """Minimise total energy over the model.

    `below_j`: only points of no more than this energy (a known incumbent's) are wanted. `on_point` sees every better
    point with its energy as it is found, `on_bound` every better bound in joules.
    """
    started = time.monotonic()
    if model.contradiction:
        return SearchResult(None, math.inf, True, False, 0.0)
    cp = cp_model.CpModel()
    live = [j for j, up in enumerate(model.upper) if up]
    var = {j: cp.new_bool_var("") for j in live}
    for number, row in enumerate((*model.rows, *cuts)):
        if number % 1000 == 999 and time.monotonic() - started > limits.time_s:
            return SearchResult(None, model.base_energy_j, False, False, limits.time_s)
        _add_unit_row(cp, var, row)
    for row in memory_rows:
        _add_memory_row(cp, var, row)
    for row in model.budgets:
        _add_budget_row(cp, var, row, limits.strict)
    total = model.base_energy_j + sum(model.energy_j[j] for j in live)
    unit = SCALE / max(model.base_energy_j, 1e-3 * total, 1e-300)
    priced = [j for j in live if model.energy_j[j] * unit >= 1]
    objective = cp_model.LinearExpr.weighted_sum(
        [var[j] for j in priced], [math.floor(model.energy_j[j] * unit) for j in priced]
    )
    cp.minimize(objective)
    if below_j is not None and math.isfinite(below_j):
        cp.add(objective <= max(0, math.ceil((below_j - model.base_energy_j) * unit)))
    if hint is not None:
        for j in live:
            cp.add_hint(var[j], bool(hint[j] > 0.5))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = limits.workers
    solver.parameters.random_seed = limits.seed
    solver.parameters.catch_sigint_signal = False
    solver.parameters.linearization_level = 2
    solver.parameters.absolute_gap_limit = limits.relative_gap * max(model.base_energy_j, 1e-300) * unit
    solver.parameters.relative_gap_limit = 0.0
    solver.parameters.optimize_with_lb_tree_search = limits.lb_tree
    solver.parameters.max_time_in_seconds = max(0.01, limits.time_s - (time.monotonic() - started))

    def to_joules(bound: float) -> float:
        return model.base_energy_j + bound / unit

    class _OnSolution(cp_model.CpSolverSolutionCallback):
        def on_solution_callback(self) -> None:
            if on_point is not None:
                point = np.zeros(len(model.upper))
                for j in live:
                    point[j] = self.value(var[j])
                on_point(point, to_joules(self.objective_value))

    if on_bound is not None:
        report = on_bound
        solver.best_bound_callback = lambda bound: report(to_joules(bound))
    with (interrupt or Interrupt()).watching(solver):
        status = solver.solve(cp, _OnSolution())
    elapsed = time.monotonic() - started
    if status == cp_model.INFEASIBLE:
        return SearchResult(None, math.inf, True, False, elapsed)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return SearchResult(None, to_joules(max(0.0, solver.best_objective_bound)), False, False, elapsed)
    point = np.zeros(len(model.upper))
    for j in live:
        point[j] = solver.value(var[j])
    bound = to_joules(max(0.0, solver.best_objective_bound))
    return SearchResult(point, bound, False, status == cp_model.OPTIMAL, elapsed)


def _add_unit_row(cp: cp_model.CpModel, var: dict[int, cp_model.IntVar], row: Row) -> None:
    """A row with coefficients 1 and -1, as a clause or an at-most-one where it is one."""
    terms = [(var[j], c) for j, c in zip(row.index, row.coef, strict=True) if j in var]
    negative = sum(1 for _, c in terms if c < 0)
    if row.hi == math.inf and row.lo == 1 - negative:
        cp.add_bool_or([x if c > 0 else x.negated() for x, c in terms])
    elif row.lo == -math.inf and row.hi == 1 - negative:
        literals = [x if c > 0 else x.negated() for x, c in terms]
        if negative:
            cp.add(sum(literals) <= 1)
        else:
            cp.add_at_most_one(literals)
    elif row.lo == row.hi == 1 and not negative:
        cp.add_exactly_one([x for x, _ in terms])
    else:
        expression = cp_model.LinearExpr.weighted_sum([x for x, _ in terms], [int(c) for _, c in terms])
        low = -len(terms) if row.lo == -math.inf else int(row.lo)
        high = len(terms) if row.hi == math.inf else int(row.hi)
        cp.add_linear_constraint(expression, low, high)


def _add_memory_row(cp: cp_model.CpModel, var: dict[int, cp_model.IntVar], row: Row) -> None:
    """Bytes are divided by their greatest common divisor, the bound rounded down: exact."""
    coef = [int(c) for c in row.coef]
    unit = math.gcd(*coef) or 1
    cp.add(
        cp_model.LinearExpr.weighted_sum([var[j] for j in row.index], [c // unit for c in coef])
        <= math.floor(row.hi) // unit
    )


def _add_budget_row(cp: cp_model.CpModel, var: dict[int, cp_model.IntVar], row: Row, strict: bool) -> None:
    rounded = math.ceil if strict else math.floor
    terms = [(var[j], min(c, 1e3)) for j, c in zip(row.index, row.coef, strict=True) if j in var]
    expression = cp_model.LinearExpr.weighted_sum([x for x, _ in terms], [rounded(c * BUDGET_SCALE) for _, c in terms])
    cp.add(expression <= rounded(row.hi * BUDGET_SCALE) if not strict else expression <= int(row.hi * BUDGET_SCALE))
