"""Every 0-1 solution of a slot model without its memory rows: a superset of the schedules of every budget."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model
from poet_solver.model import Model


def all_points(model: Model, most: int, time_limit_s: float = math.inf) -> NDArray[np.int8]:
    """[solutions, variables]: all of them, but at most `most` and those found within the limit."""
    cp = cp_model.CpModel()
    x = [cp.new_int_var(0, up, "") for up in model.upper]
    for row in model.rows:
        low = -1000 if row.lo == -math.inf else int(row.lo)
        high = 1000 if row.hi == math.inf else int(row.hi)
        expression = cp_model.LinearExpr.weighted_sum([x[j] for j in row.index], [int(c) for c in row.coef])
        cp.add_linear_constraint(expression, low, high)
    found: list[list[int]] = []

    class Collect(cp_model.CpSolverSolutionCallback):
        def on_solution_callback(self) -> None:
            found.append([self.value(variable) for variable in x])
            if len(found) >= most:
                self.stop_search()

    solver = cp_model.CpSolver()
    solver.parameters.enumerate_all_solutions = True
    solver.parameters.num_workers = 1
    solver.parameters.max_time_in_seconds = time_limit_s
    solver.solve(cp, Collect())
    return np.array(found, np.int8).reshape(-1, len(x))
