"""solve(): techniques, progress, interruption, determinism, and errors that say what does not fit."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from poet_solver.baselines.keep import keep_everything_peak
from poet_solver.errors import InfeasibleError
from poet_solver.exact import exact_optimum
from poet_solver.global_bound import FAMILY
from poet_solver.incumbent import Progress
from poet_solver.interrupt import Interrupt
from poet_solver.pipeline import solve
from poet_solver.problem import Mode, Op, PageCost, Place, Problem, Tensor
from poet_solver.schedule import Status
from poet_solver.synthetic import random_problem


def training(layers: int, page_energy: float = 3.0) -> Problem:
    """A plain training chain: activations, gradients, and a parameter a layer updated in place (homes in RAM)."""
    tensors: list[Tensor] = []
    ops: list[Op] = []

    def tensor(
        name: str, size: int, start: Place = Place.NONE, end: Place = Place.NONE, home_offset: int | None = None
    ) -> int:
        page = PageCost(0.5, page_energy)
        tensors.append(Tensor(name, size, page, page, start, end, home_offset))
        return len(tensors) - 1

    weights = [tensor(f"w{i}", 8, start=Place.RAM, home_offset=8 * i) for i in range(layers)]
    acts = [tensor("x", 64)]
    ops.append(Op("input", (acts[0],), (Mode(1.0, 1.0),)))
    for i in range(layers):
        acts.append(tensor(f"a{i}", 64 >> (i // 3)))
        reads = (acts[i], weights[i])
        ops.append(Op(f"f{i}", (acts[-1],), (Mode(1.0, 1.0 + i % 3, reads, workspace_bytes=4),)))
    gradient = acts[-1]
    for i in reversed(range(layers)):
        below = tensor(f"g{i}", tensors[acts[i]].size_bytes)
        ops.append(
            Op(
                f"b{i}",
                (below,),
                (Mode(1.0, 2.0, tuple({gradient, acts[i + 1], weights[i]})),),
                backward=True,
            )
        )
        new = tensor(f"w{i}'", 8, end=Place.RAM, home_offset=8 * i)
        mode = Mode(1.0, 1.0, tuple({gradient, acts[i], weights[i]}), in_place=((weights[i], new),))
        ops.append(Op(f"u{i}", (new,), (mode,), repeatable=False, backward=True))
        gradient = below
    return Problem("training", tuple(tensors), tuple(ops))


def squeezed(problem: Problem, share: float) -> Problem:
    return replace(problem, ram_bytes=int(share * keep_everything_peak(problem)) // 4 * 4, alignment_bytes=4)


def test_a_cnn_sized_training_problem_is_proven_optimal() -> None:
    """In seconds; the limit is for machines that have no time."""
    problem = squeezed(training(14), 0.55)
    schedule = solve(problem, time_limit_s=300)
    assert schedule.status is Status.OPTIMAL and schedule.gap <= 1e-4
    assert schedule.arena_bytes <= (problem.ram_bytes or 0)


def test_techniques_are_ordered_by_freedom() -> None:
    problem = squeezed(training(6), 0.85)
    both = solve(problem, time_limit_s=100)
    page = solve(problem, time_limit_s=100, technique="page")
    remat = solve(problem, time_limit_s=100, technique="remat")
    assert both.energy_j <= min(page.energy_j, remat.energy_j) * (1 + 1e-6)
    assert page.energy.recompute == 0 and remat.energy.page_out == 0
    with pytest.raises(InfeasibleError, match="technique 'keep'"):
        solve(problem, time_limit_s=5, technique="keep")
    keep = solve(squeezed(training(6), 1.0), technique="keep")
    assert keep.energy.recompute == keep.energy.page_in == 0 and keep.peak_bytes == keep_everything_peak(problem)


def test_a_search_begins_with_what_is_known() -> None:
    """Without time it is not worse than a schedule that took some, of its own budget or of a larger one's.

    What it cannot beat it gives back as it was, addresses and all.
    """
    problem = squeezed(training(14), 0.55)
    known = solve(problem, time_limit_s=4)
    late = solve(problem, time_limit_s=0.01, starts=[known])
    assert late.energy_j <= known.energy_j
    assert known.status is not Status.OPTIMAL or late.steps == known.steps
    assert solve(problem, time_limit_s=0.01, starts=[late, known]).steps == late.steps
    with_more = solve(squeezed(training(14), 0.7), time_limit_s=2)
    assert solve(problem, time_limit_s=0.01, starts=[with_more]).arena_bytes <= (problem.ram_bytes or 0)


@pytest.mark.parametrize("threads", [1, 2])
def test_ops_with_modes_are_solved_to_the_optimum(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the way of large problems."""
    monkeypatch.setattr("poet_solver.phases._SMALL_SLOTS", 0)
    problem = random_problem(random.Random(3), 7, features=True)
    schedule = solve(problem, time_limit_s=20, threads=threads, free_order=False)
    optimum = pytest.approx(exact_optimum(problem) or 0.0, rel=1e-5)
    assert schedule.energy_j == optimum and schedule.lower_bound_j == optimum
    assert schedule.status is Status.OPTIMAL and schedule.bound_family == FAMILY


def test_same_seed_same_schedule() -> None:
    problem = squeezed(training(5), 0.6)
    assert solve(problem, seed=3).digest() == solve(problem, seed=3).digest()


def test_progress_moves_one_way_within_a_phase() -> None:
    seen: list[Progress] = []
    solve(squeezed(training(8), 0.6), time_limit_s=100, progress=seen.append)
    assert seen and seen[-1].gap < 1e-3
    energies = [p.energy_j for p in seen]
    assert energies == sorted(energies, reverse=True)
    for a, b in itertools.pairwise(seen):
        assert a.phase != b.phase or a.bound_j <= b.bound_j


@pytest.mark.parametrize("technique", ["both", "page"])
def test_without_time_there_is_a_bound_all_the_same(technique: str) -> None:
    schedule = solve(replace(training(6), ram_bytes=330), time_limit_s=0.0, technique=technique)
    assert schedule.bound_family and schedule.lower_bound_j >= sum(op.modes[0].energy_j for op in training(6).ops)


def test_interrupt_returns_the_best_so_far() -> None:
    interrupt = Interrupt()

    def stop_at_first(progress: Progress) -> None:
        if progress.energy_j < float("inf"):
            interrupt.set()

    schedule = solve(squeezed(training(14), 0.55), time_limit_s=600, progress=stop_at_first, interrupt=interrupt)
    assert schedule.solve_s < 300


def test_infeasible_names_the_op_and_the_bytes() -> None:
    problem = replace(training(4), ram_bytes=100)
    with pytest.raises(InfeasibleError, match=r"op b2 alone needs \d+ bytes, the RAM budget is 100 bytes") as caught:
        solve(problem)
    assert caught.value.op_name == "b2" and caught.value.budget_bytes == 100 < caught.value.needed_bytes
    with pytest.raises(InfeasibleError, match="deadline"):
        solve(replace(squeezed(training(4), 0.7), deadline_s=1.0))


def test_a_deadline_that_pages_of_storage_alone_exceed_is_named_with_one_that_works() -> None:
    page = PageCost(0.5, 1.0)
    tensors = (
        Tensor("w", 8, page, page, start=Place.STORAGE),
        Tensor("x", 8, page, page),
        Tensor("w'", 8, page, page, end=Place.STORAGE, home_of=0),
    )
    ops = (
        Op("f", (1,), (Mode(1.0, 1.0, (0,)),)),
        Op("u", (2,), (Mode(1.0, 1.0, (0, 1), in_place=((0, 2),)),), repeatable=False),
    )
    problem = Problem("stored", tensors, ops, ram_bytes=16, deadline_s=2.9)
    with pytest.raises(InfeasibleError, match=r"2 s .* 1 s\. Give a deadline of 3 s or more, 1\.5 times"):
        solve(problem)
    assert solve(replace(problem, deadline_s=3.0)).time_s == pytest.approx(3.0)
