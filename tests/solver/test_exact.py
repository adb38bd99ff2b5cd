"""The pipeline's optimum against the independent exact search, on small problems of every kind."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from dataclasses import replace

import pytest
from poet_solver.errors import InfeasibleError
from poet_solver.exact import exact_optimum
from poet_solver.interrupt import Interrupt
from poet_solver.pipeline import search_plan, solve
from poet_solver.problem import Place, Problem
from poet_solver.synthetic import random_problem


def best_energy(problem: Problem) -> float | None:
    """The pipeline's optimum before addresses, which the exact search does not look at either."""
    try:
        return search_plan(problem, deadline=time.monotonic() + 300, interrupt=Interrupt(), free_order=False).energy_j
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
        schedule = solve(problem, time_limit_s=200, free_order=False)
    except InfeasibleError:
        return
    assert expected is not None
    assert schedule.energy_j >= expected * (1 - 1e-9)
    assert problem.ram_bytes is not None and schedule.arena_bytes <= problem.ram_bytes
    if schedule.arena_bytes == schedule.peak_bytes:
        assert schedule.lower_bound_j <= expected * (1 + 1e-9)


def overwriting(problem: Problem) -> Problem:
    """Every op that may writes over an input of its output's size that nothing else reads, as poet_codegen lowers."""
    reads = Counter(v for op in problem.ops for v in op.operands())
    ops = []
    for op in problem.ops:
        mode, (new,) = op.modes[0], op.outputs
        gone = [v for v in mode.resident if reads[v] == 1 and problem.tensors[v].start is Place.NONE]
        equal = [v for v in gone if problem.tensors[v].size_bytes == problem.tensors[new].size_bytes]
        ops.append(replace(op, modes=(replace(mode, in_place=((equal[0], new),)),)) if equal else op)
    return replace(problem, ops=tuple(ops))


@pytest.mark.parametrize("block", range(2))
def test_overwriting_an_input_that_nothing_else_reads_never_costs(block: int) -> None:
    """So it need not be a choice of the solver; and the pipeline finds the optimum of ops that always do."""
    gained = 0
    for seed in range(block * 25, block * 25 + 25):
        rng = random.Random(seed)
        drawn = random_problem(rng, rng.randint(4, 7))
        tensors = tuple(replace(tensor, size_bytes=rng.choice([2, 3])) for tensor in drawn.tensors)
        plain = replace(drawn, tensors=tensors, ram_bytes=rng.choice([8, 9, 10, 12]))
        problem = overwriting(plain)
        with_choice = tuple(
            replace(new, modes=(*old.modes, *new.modes)) for old, new in zip(plain.ops, problem.ops, strict=True)
        )
        before, after = exact_optimum(plain), exact_optimum(problem)
        assert after == exact_optimum(replace(problem, ops=with_choice)), seed
        if after is None:
            assert before is None, seed
            continue
        assert before is None or after <= before, seed
        gained += before is None or after < before
        found = best_energy(problem)
        assert found is not None and math.isclose(found, after, rel_tol=1e-5), seed
    assert gained
