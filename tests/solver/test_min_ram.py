"""The smallest RAM of every technique, against trying every budget with the exact search."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from poet_solver.exact import exact_optimum
from poet_solver.interrupt import Interrupt
from poet_solver.min_ram import min_ram
from poet_solver.net import build_net
from poet_solver.problem import Problem
from poet_solver.replay import replay
from poet_solver.synthetic import random_problem
from poet_solver.techniques import Method


def restricted(problem: Problem, method: Method) -> Problem:
    """The problem in which the exact search can do only what `method` may."""
    if method in (Method.REMAT, Method.KEEP):
        problem = replace(problem, tensors=tuple(replace(t, page_out=None) for t in problem.tensors))
    if method in (Method.PAGE, Method.KEEP):
        problem = replace(problem, ops=tuple(replace(op, repeatable=False) for op in problem.ops))
    return problem


def least_ram(problem: Problem) -> int | None:
    """The smallest budget with a schedule, by the exact search; None where no budget has one."""
    sizes = [t.size_bytes for t in problem.tensors] + [m.workspace_bytes for op in problem.ops for m in op.modes]
    net = build_net(problem, ram_bytes=None)
    for ram in range(net.floor_bytes(net.largest_op()), 2 * sum(sizes) + 1):
        if exact_optimum(replace(problem, ram_bytes=ram)) is not None:
            return ram
    return None


@pytest.mark.parametrize("method", [Method.BOTH, Method.PAGE, Method.REMAT, Method.KEEP])
def test_min_ram_equals_trying_every_budget(method: Method) -> None:
    proven = 0
    for seed in range(40):
        problem = replace(random_problem(random.Random(seed), 6), ram_bytes=None)
        answer = min_ram(problem, method, time_limit_s=300)
        expected = least_ram(restricted(problem, method))
        assert answer.ram_bytes == expected, seed
        assert answer.schedule is not None and answer.ram_bytes is not None
        replay(replace(problem, ram_bytes=answer.ram_bytes), answer.schedule)
        proven += answer.is_proven
    assert proven >= 38


def test_what_addresses_forbid_is_not_called_proven() -> None:
    """With homes in RAM live bytes may fit where no layout does (seed 21): then the answer is an upper bound."""
    unproven = 0
    for seed in range(40):
        problem = replace(random_problem(random.Random(seed), 5, features=True), ram_bytes=None)
        answer = min_ram(problem, Method.BOTH, time_limit_s=200)
        expected = least_ram(problem)
        assert (answer.ram_bytes is None) == (expected is None), seed
        if answer.ram_bytes is not None and expected is not None:
            assert answer.ram_bytes >= expected
            assert answer.ram_bytes == expected or not answer.is_proven, seed
            unproven += not answer.is_proven
    assert 1 <= unproven <= 4


@pytest.mark.parametrize("method", [Method.DTR, Method.CAPUCHIN])
def test_heuristics_give_an_upper_bound(method: Method) -> None:
    for seed in range(6):
        problem = replace(random_problem(random.Random(seed), 6), ram_bytes=None)
        answer = min_ram(problem, method, time_limit_s=10)
        expected = least_ram(problem)
        assert answer.ram_bytes is not None and expected is not None and answer.ram_bytes >= expected
        assert not answer.is_proven or answer.ram_bytes == expected


def test_an_interrupted_search_claims_nothing() -> None:
    problem = replace(random_problem(random.Random(3), 8), ram_bytes=None)
    stop = Interrupt()
    stop.set()
    answer = min_ram(problem, Method.KEEP, interrupt=stop)
    assert not answer.is_proven or answer.ram_bytes == build_net(problem).floor_bytes(build_net(problem).largest_op())
