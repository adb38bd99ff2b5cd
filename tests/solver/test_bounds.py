"""Anchor cuts hold on every schedule of enumerated small graphs, the wrong variant is caught; bounds are true."""

from __future__ import annotations

import random
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from poet_solver.budget_spec import with_budgets
from poet_solver.cover_bound import cover_bound_j
from poet_solver.cuts import Anchor, paths_of
from poet_solver.exact import exact_optimum
from poet_solver.global_bound import bound_all_schedules
from poet_solver.grid_bound import bound_by_grids
from poet_solver.instances import read_any
from poet_solver.interrupt import Interrupt
from poet_solver.lp import relax
from poet_solver.memory import memory_of, tighten
from poet_solver.model import ONE, Freedom, Model, build_model
from poet_solver.net import build_net
from poet_solver.problem import Mode, Op, PageCost, Problem, Tensor
from poet_solver.slots import WIDE, Family
from poet_solver.stages import StageView
from poet_solver.synthetic import random_problem

from tests.solver.enumeration import all_points

INSTANCES = Path(__file__).parents[2] / "benchmarks" / "instances"
PAGE = PageCost(1.0, 1.0)


def graph(inputs: list[list[int]]) -> Problem:
    tensors = tuple(Tensor(f"t{v}", 1, PAGE, PAGE) for v in range(len(inputs)))
    ops = tuple(Op(f"o{v}", (v,), (Mode(1.0, 1.0, tuple(reads)),)) for v, reads in enumerate(inputs))
    return Problem("graph", tensors, ops)


def least(model: Model, anchor: Anchor, points: NDArray[np.int8]) -> int:
    """Least left side of the cut over the points."""
    row = StageView(model).row(anchor)
    return int(points[:, list(row.index)].sum(axis=1).min()) if row.index else 0


@pytest.mark.parametrize("seed", range(6))
def test_cuts_hold_on_every_schedule_of_small_graphs(seed: int) -> None:
    rng = random.Random(seed)
    inputs: list[list[int]] = [[]]
    for v in range(1, 5):
        inputs.append(sorted(rng.sample(range(v), min(v, rng.choice([1, 1, 2])))))
    net = build_net(graph(inputs))
    model = build_model(net, Freedom(Family()))
    points = all_points(model, 20_000, 5.0)
    assert len(points) > 10
    checked = 0
    for s in range(1, net.end):
        for v in net.operands[s]:
            others = [u for u in range(len(inputs)) if u != v and net.producer[u] < s]
            for size in range(len(others) + 1):
                for extra in combinations(others, size):
                    inside = {v, *extra}
                    entries = {(net.producer[w], 0) for w in inside if not inside & set(net.operands[net.producer[w]])}
                    for t0 in range(max(op for op, _ in entries) + 1, s + 1):
                        anchor = Anchor(tuple(sorted(inside)), tuple(sorted(entries)), t0, s)
                        assert least(model, anchor, points) >= 1, anchor
                        checked += 1
    assert checked > 20


def test_the_wrong_variant_is_caught() -> None:
    """Ops 0, 1(0), 2(0,1), W = {1}, s = 2, t0 = 1: the entry's first run lies inside, so the cut does not hold."""
    model = build_model(build_net(graph([[], [0], [0, 1]])), Freedom(Family()))
    wrong = Anchor((1,), ((2, 0),), 2, 3)  # in the net, op 0 is the start: everything is one later
    assert least(model, wrong, all_points(model, 20_000, 5.0)) == 0
    assert all(path.earliest >= 3 for path in paths_of(model.net, 1, range(5)) if path.tensors == (1,))


def test_candidate_paths_name_their_entries() -> None:
    net = build_net(graph([[], [0], [1], [0, 2]]))
    paths = {path.tensors: path for path in paths_of(net, 2, range(net.n_ops))}
    assert paths[(2,)].entries == ((3, 0),) and paths[(2, 1)].entries == ((2, 0),)
    assert paths[(2, 1, 0)].earliest == 2


@pytest.mark.parametrize("features", [False, True])
def test_relaxations_never_pass_the_optimum(features: bool) -> None:
    for seed in range(25):
        rng = random.Random(seed)
        problem = random_problem(rng, rng.randint(5, 6), features=features)
        optimum = exact_optimum(problem, max_states=100_000)
        if optimum is None:
            continue
        net = build_net(problem)
        blocks = rng.choice([2, 3, 100])
        deadline = time.monotonic() + 200
        bound = bound_all_schedules(net, deadline, lambda _: None, Interrupt(), most_blocks=blocks)
        assert bound <= optimum * (1 + 1e-6), (seed, blocks)
        assert cover_bound_j(net) <= optimum * (1 + 1e-9), seed
        model = build_model(net, Freedom(WIDE))
        tighten(model)
        found = relax(model, memory_of(model), deadline)
        assert found.bound_j <= optimum * (1 + 1e-6), seed
        assert all(y == ONE or y < len(model.upper) for runs in model.runs for _, y in runs)


def test_the_bound_by_grids_never_passes_the_optimum_and_mostly_meets_it() -> None:
    met = seen = 0
    for seed in range(30):
        rng = random.Random(seed)
        problem = random_problem(rng, rng.randint(5, 7), features=seed % 4 > 0)
        optimum = exact_optimum(problem, max_states=100_000)
        if optimum is None:
            continue
        bounds: list[float] = []
        until = time.monotonic() + 20
        bound_by_grids(build_net(problem), until, bounds.append, Interrupt(), lambda: float("inf"))
        assert max(bounds) <= optimum * (1 + 1e-9), seed
        seen += 1
        met += max(bounds) >= optimum * (1 - 1e-5)
    assert seen > 20 and met > 0.8 * seen


def test_an_interrupt_ends_branch_and_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt = Interrupt()

    def slow(*_args: object, **_more: object) -> None:
        interrupt.set()
        time.sleep(20)

    monkeypatch.setattr("poet_solver.grid_bound.mathopt.solve", slow)
    problem = random_problem(random.Random(61), 6, features=True)
    began = time.monotonic()
    bound_by_grids(build_net(problem), began + 60, lambda _: None, interrupt, lambda: float("inf"))
    assert interrupt.stop and time.monotonic() - began < 10


def test_a_run_again_needs_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(61)
    problem = random_problem(rng, rng.randint(5, 7), features=True)

    def bound() -> float:
        found: list[float] = []
        bound_by_grids(build_net(problem), time.monotonic() + 20, found.append, Interrupt(), lambda: float("inf"))
        return max(found)

    assert bound() == pytest.approx(exact_optimum(problem) or 0.0, rel=1e-5)
    monkeypatch.setattr("poet_solver.grid.Grid._limit_reruns", lambda *_: None)
    assert bound() == pytest.approx(113.0, rel=1e-5)


def test_bounds_leave_out_modes_that_no_schedule_within_the_budget_has() -> None:
    """Op 1 costs 1 with t0 in RAM, which takes 5 bytes, and 3 without."""
    tensors = (Tensor("t0", 4, PAGE, PAGE), Tensor("t1", 1, PAGE, PAGE))
    modes = (Mode(1.0, 1.0, (0,)), Mode(1.0, 3.0, streamed=(0,), workspace_bytes=1))
    first = (Mode(1.0, 2.0, outputs_to_storage=(0,)),)
    problem = Problem("modes", tensors, (Op("o0", (0,), first), Op("o1", (1,), modes)))
    assert cover_bound_j(build_net(problem, 5)) == 3.0
    assert cover_bound_j(build_net(problem, 4)) == 5.0


def test_the_cover_bound_is_the_optimum_of_poets_small_rows() -> None:
    """Whole tensors must go: in parts, less would be brought back."""
    for name, share, percent in (("linear", "0.5", 1.0895), ("transformer", "0.85", 4.335)):
        problem = with_budgets(read_any(INSTANCES / f"{name}.json"), share, "2.0")
        base = sum(op.modes[0].energy_j for op in problem.ops)
        assert 100 * (cover_bound_j(build_net(problem)) / base - 1) == pytest.approx(percent, abs=5e-4)


def test_rounded_rows_close_a_gap_that_bytes_leave_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside op 4 there is room for 2.5 of tensors 0 to 2: half a tensor saves nothing."""
    sizes = [2, 2, 2, 1, 1]
    tensors = tuple(Tensor(f"t{v}", size, None, None) for v, size in enumerate(sizes))
    reads: list[tuple[int, ...]] = [(), (), (), (), (3,), (0, 1, 2, 4)]
    ops = tuple(
        Op(f"o{v}", (v,) if v < 5 else (), (Mode(1.0, 1.0, inputs),), repeatable=v < 5)
        for v, inputs in enumerate(reads)
    )
    problem = Problem("rounded", tensors, ops, ram_bytes=7)
    net = build_net(problem)

    def bound() -> float:
        return bound_all_schedules(net, time.monotonic() + 100, lambda _: None, Interrupt())

    assert bound() == pytest.approx(exact_optimum(problem) or 0.0, rel=1e-5)
    monkeypatch.setattr("poet_solver.global_bound._MOST_UNITS", 0)
    assert bound() == pytest.approx(6.5, rel=1e-5)
