"""The pipeline's optimum against the independent exact search, on small problems of every kind."""

from __future__ import annotations

import math
import random
import time

import pytest
from poet_solver.errors import InfeasibleError
from poet_solver.exact import exact_optimum
from poet_solver.interrupt import Interrupt
from poet_solver.pipeline import search_plan, solve
from poet_solver.problem import Problem
from poet_solver.synthetic import random_problem


def best_energy(problem: Problem) -> float | None:
    """The pipeline's optimum before addresses, which the exact search does not look at either."""
    try:
        return search_plan(problem, deadline=time.monotonic() + 30, interrupt=Interrupt(), free_order=False).energy_j
    except InfeasibleError:
        return None


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("block", range(4))
def test_optimum_equals_exact_search(features: bool, block: int) -> None:
    for seed in range(block * 15, block * 15 + 15):
        rng = random.Random(seed)
        problem = random_problem(rng, rng.randint(5, 6), features=features)
        expected = exact_optimum(problem, max_states=100_000)
        found = best_energy(problem)
        if expected is None:
            assert found is None, seed
        else:
            assert found is not None and math.isclose(found, expected, rel_tol=1e-5), seed


@pytest.mark.parametrize("seed", range(30))
def test_solved_schedules_replay_and_claim_true_bounds(seed: int) -> None:
    rng = random.Random(1000 + seed)
    problem = random_problem(rng, rng.randint(4, 6), features=True)
    expected = exact_optimum(problem)
    try:
        schedule = solve(problem, time_limit_s=20, free_order=False)
    except InfeasibleError:
        return
    assert expected is not None
    assert schedule.energy_j >= expected * (1 - 1e-9)
    assert problem.ram_bytes is not None and schedule.arena_bytes <= problem.ram_bytes
    if schedule.arena_bytes == schedule.peak_bytes:
        assert schedule.lower_bound_j <= expected * (1 + 1e-9)
