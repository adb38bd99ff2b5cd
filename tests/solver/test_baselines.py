"""Baselines and greedy starts: legal schedules, never better than the optimum; other orders are never worse."""

from __future__ import annotations

import random
import time

import pytest
from poet_solver.baselines.farthest import farthest_use_schedule
from poet_solver.baselines.greedy import GiveUp
from poet_solver.baselines.hybrid import evolve, fresh_genes
from poet_solver.errors import InfeasibleError, ProblemError
from poet_solver.exact import exact_optimum
from poet_solver.incumbent import Search
from poet_solver.interrupt import Interrupt
from poet_solver.net import build_net
from poet_solver.order import moved, predecessors, search_orders
from poet_solver.pipeline import solve
from poet_solver.synthetic import bert_training, random_problem
from poet_solver.techniques import Method, schedule_with


@pytest.mark.parametrize(
    "method", [Method.PAGE, Method.REMAT, Method.DTR, Method.CAPUCHIN, Method.CAPUCHIN_ENERGY, Method.POET_MILP]
)
def test_no_technique_beats_the_optimum(method: Method) -> None:
    solved = 0
    for seed in range(12):
        problem = random_problem(random.Random(seed), 6)
        optimum = exact_optimum(problem)
        assert optimum is not None
        try:
            schedule = schedule_with(problem, method, time_limit_s=5)
        except InfeasibleError:
            continue
        solved += 1
        assert schedule.energy_j >= optimum * (1 - 1e-6), seed
        if method is Method.POET_MILP:
            assert schedule.other_bounds[0].energy_j <= schedule.energy_j * (1 + 1e-6)
    assert solved >= 3


def test_poets_program_names_what_it_does_not_know() -> None:
    for seed in range(40):
        problem = random_problem(random.Random(seed), 5, features=True)
        if any(len(op.modes) > 1 for op in problem.ops) and problem.deadline_s is None:
            with pytest.raises(ProblemError, match="POET's program"):
                schedule_with(problem, Method.POET_MILP, time_limit_s=2)
            return


@pytest.mark.parametrize("seed", range(8))
def test_other_orders_are_legal_and_never_worse(seed: int) -> None:
    rng = random.Random(seed)
    problem = random_problem(rng, 7, features=seed % 2 == 1)
    before = predecessors(problem)
    order = list(range(len(problem.ops)))
    for _ in range(50):
        order = moved(order, before, rng)
        place = {k: i for i, k in enumerate(order)}
        assert all(place[u] < place[k] for k in order for u in before[k])
    net = build_net(problem)
    search = Search(net, time.monotonic() + 5, Interrupt())
    trials = iter(range(60))
    search_orders(net, fresh_genes(net, rng), seed, lambda: next(trials, None) is None, search.offer_actions)
    try:
        schedule = solve(problem, time_limit_s=5)
    except InfeasibleError:
        return
    assert schedule.energy_j > 0


def test_a_large_training_graph_is_scheduled_at_once() -> None:
    problem = bert_training(layers=2, width=64, sequence=16, heads=4)
    net = build_net(problem, ram_bytes=300_000)
    try:
        assert farthest_use_schedule(net)
    except GiveUp:
        pytest.fail("paging alone must do")
    assert len(bert_training(layers=24).ops) >= 2000


def test_the_gain_of_another_order_counts_from_the_given_order() -> None:
    for seed in range(30):
        problem = random_problem(random.Random(seed), 7)
        net = build_net(problem)
        search = Search(net, time.monotonic() + 5, Interrupt())
        exact = exact_optimum(problem)
        genes = evolve(net, seed, lambda number: number >= 50, search.offer_actions)
        given = search.energy_j
        if genes is None or exact is None:
            continue
        trials = iter(range(200))
        search_orders(net, genes, seed, lambda trials=trials: next(trials, None) is None, search.offer_actions)
        assert search.energy_j <= given
        if search.fixed_order_j < float("inf"):
            assert search.fixed_order_j == given > search.energy_j
            return
    pytest.fail("no graph gained from another order")
