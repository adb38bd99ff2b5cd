"""The replay: accepts good schedules, names what is wrong with every mutated one."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poet_solver.errors import InfeasibleError, ReplayError
from poet_solver.pipeline import solve
from poet_solver.problem import Mode, Op, PageCost, Place, Problem, Tensor
from poet_solver.replay import live_map, replay, replay_steps
from poet_solver.schedule import Compute, Free, Home, PageIn, PageOut, Schedule, Step
from poet_solver.synthetic import random_problem

PAGE = PageCost(1.0, 2.0, 4.0)


def chain() -> Problem:
    """x -> a -> b, c reads x and b; a parameter w at home in RAM is updated in place, u on storage is rewritten."""
    tensors = (
        Tensor("x", 4, PAGE, PAGE),
        Tensor("a", 4, PAGE, PAGE),
        Tensor("b", 4, PAGE, PAGE),
        Tensor("w", 4, PAGE, PAGE, start=Place.RAM, home_offset=0),
        Tensor("w'", 4, PAGE, PAGE, end=Place.RAM, home_offset=0),
        Tensor("u", 4, PAGE, PAGE, start=Place.STORAGE),
        Tensor("u'", 4, PAGE, PAGE, end=Place.STORAGE, home_of=5),
    )
    ops = (
        Op("x", (0,), (Mode(1.0, 1.0),)),
        Op("a", (1,), (Mode(1.0, 1.0, (0, 3)),)),
        Op("b", (2,), (Mode(1.0, 1.0, (1, 5), workspace_bytes=4),)),
        Op("w'", (4,), (Mode(1.0, 1.0, (2, 3), in_place=((3, 4),)),), repeatable=False),
        Op("u'", (6,), (Mode(1.0, 1.0, (0, 2, 5), in_place=((5, 6),)),), repeatable=False),
    )
    return Problem("chain", tensors, ops, ram_bytes=24, deadline_s=100.0, idle_power_w=0.5)


GOOD: tuple[Step, ...] = (
    Compute(0, 0, (4,)),
    Compute(1, 0, (8,)),
    PageIn(5, 12),
    Compute(2, 0, (16,), workspace_offset=20),
    Free(1),
    Compute(3, 0, (0,)),
    Compute(4, 0, (12,)),
    PageOut(6),
    Free(6),
    Free(0),
    Free(2),
)


def test_good_steps_and_their_figures() -> None:
    result = replay_steps(chain(), GOOD)
    assert result.peak_bytes == result.arena_bytes == 24
    assert result.time.compute == 5.0 and result.time.page_in == 1.0 and result.time.page_out == 1.0
    assert result.energy.idle == 3.5 and result.energy.total == 5.0 + 4.0 + 3.5
    assert result.wear_bytes == 8.0
    assert result.live_bytes == (8, 12, 16, 24, 20, 16, 16, 16, 16, 12, 8)
    rows = live_map(chain(), GOOD)
    assert [sum(block.size_bytes for block in row) for row in rows] == list(result.live_bytes)
    assert any(block.tensor is None and block.offset == 20 for block in rows[3])


def changed(at: int, *steps: Step) -> tuple[Step, ...]:
    return (*GOOD[:at], *steps, *GOOD[at + 1 :])


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (changed(2), "which is not in RAM"),
        (changed(0, Compute(0, 0, (0,))), "overwrites"),
        (changed(0, Compute(0, 0, (22,))), "past the budget"),
        (changed(0, Compute(0, 1, (4,))), "has no mode"),
        (changed(0, Compute(9, 0, (4,))), "does not exist"),
        (changed(0, Compute(0, 0, ())), "offsets"),
        (changed(0, Compute(0, 0, (None,))), "gives no offset"),
        (changed(0, GOOD[0], GOOD[0]), "still in RAM"),
        (changed(3, Compute(2, 0, (16,))), "workspace_offset"),
        (changed(5, Compute(3, 0, (8,))), "in place"),
        (changed(5, GOOD[5], GOOD[5]), "second time"),
        (changed(7), "not on storage"),
        (changed(8, PageIn(6, 12)), "in RAM already"),
        (changed(8, Free(6), PageIn(5, 12)), "updated in place"),
        (changed(2, PageIn(1, 12)), "in RAM already"),
        (changed(4, Free(1), PageIn(1, 8)), "never written"),
        (changed(4, Free(1), Free(1)), "not in RAM"),
        (changed(4, Free(99)), "does not exist"),
        (GOOD[:6], "never runs"),
        ((*GOOD, Free(4)), "not in RAM at its home"),
        (GOOD[:-1], "still in RAM; it must be freed"),
        (changed(1, PageOut(1), GOOD[1]), "not in RAM"),
    ],
)
def test_bad_steps_are_refused_with_the_reason(steps: tuple[Step, ...], reason: str) -> None:
    with pytest.raises(ReplayError, match=reason):
        replay_steps(chain(), steps)


def test_new_version_overwrites_the_slot_of_the_old_one() -> None:
    problem = chain()
    rewritten = replace(problem.ops[4], modes=(replace(problem.ops[4].modes[0], in_place=()),))
    problem = replace(problem, ops=(*problem.ops[:4], rewritten))
    steps = (*GOOD[:6], Compute(4, 0, (8,)), PageOut(6), *(Free(v) for v in (5, 6, 0, 2)))
    replay_steps(problem, steps)
    with pytest.raises(ReplayError, match="slot holds tensor 6"):
        replay_steps(problem, (*steps, PageIn(5, 12)))


def test_budgets_of_time_wear_and_alignment() -> None:
    with pytest.raises(ReplayError, match="of time"):
        replay_steps(replace(chain(), deadline_s=6.9), GOOD)
    with pytest.raises(ReplayError, match="of wear"):
        replay_steps(replace(chain(), wear_budget_bytes=7.0), GOOD)
    with pytest.raises(ReplayError, match="not aligned"):
        replay_steps(replace(chain(), alignment_bytes=4), changed(2, PageIn(5, 14)))


def open_homes() -> Problem:
    """The same with the place of w left to the solver."""
    tensors = list(chain().tensors)
    tensors[3] = replace(tensors[3], home_offset=None)
    tensors[4] = replace(tensors[4], home_offset=None, home_like=3)
    return replace(chain(), tensors=tuple(tensors))


def test_chosen_homes() -> None:
    result = replay_steps(open_homes(), (Home(3, 0), *GOOD))
    assert result.peak_bytes == 24
    for steps, reason in (
        (GOOD, "no home step"),
        ((), "no home step"),
        ((Home(3, 0), Home(3, 0), *GOOD), "has its home already"),
        ((Home(3, 4), *GOOD), "overwrites"),
        ((Home(3, 0), GOOD[0], Home(3, 0)), "after other steps"),
        ((Home(0, 0), *GOOD), "not in RAM at the start"),
    ):
        with pytest.raises(ReplayError, match=reason):
            replay_steps(open_homes(), steps)
    schedule = solve(replace(open_homes(), ram_bytes=20), time_limit_s=10)
    assert any(isinstance(step, Home) for step in schedule.steps) and schedule.arena_bytes <= 20


def solved(seed: int) -> tuple[Problem, Schedule] | None:
    rng = random.Random(seed)
    problem = random_problem(rng, rng.randint(4, 6), features=True)
    try:
        return problem, solve(problem, time_limit_s=10)
    except InfeasibleError:
        return None


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 60), where=st.floats(0, 0.999), how=st.integers(0, 5))
def test_every_mutation_of_a_solved_schedule_is_caught(seed: int, where: float, how: int) -> None:
    pair = solved(seed)
    if pair is None:
        return
    problem, schedule = pair
    steps = list(schedule.steps)
    at = int(where * len(steps))
    step = steps[at]
    if how == 0:
        del steps[at]
    elif how == 1:
        steps.insert(at, step)
    elif how == 2 and isinstance(step, Compute | PageIn):
        budget = problem.ram_bytes or 0
        moved = tuple(None if x is None else budget for x in getattr(step, "offsets", (0,)))
        steps[at] = PageIn(step.tensor, budget) if isinstance(step, PageIn) else replace(step, offsets=moved)
    elif how == 3:
        steps = steps[:at]
    elif how == 4:
        steps[at] = Free(len(problem.tensors))
    else:
        steps.append(Compute(len(problem.ops), 0, (0,)))
    with pytest.raises(ReplayError):
        replay(problem, replace(schedule, steps=tuple(steps)))


@pytest.mark.parametrize("key", ["energy_j", "time_s", "peak_bytes", "arena_bytes", "wear_bytes", "digest"])
def test_false_figures_are_caught(key: str) -> None:
    problem = chain()
    good = solve(problem, time_limit_s=10)
    if key == "energy_j":
        bad = replace(good, energy=replace(good.energy, compute=good.energy.compute * 1.001))
    elif key == "time_s":
        bad = replace(good, time=replace(good.time, compute=good.time.compute * 0.999))
    elif key == "digest":
        bad = replace(good, problem_digest="0" * 64)
    else:
        bad = replace(good, **{key: getattr(good, key) + 1})
    replay(problem, good)
    with pytest.raises(ReplayError):
        replay(problem, bad)
