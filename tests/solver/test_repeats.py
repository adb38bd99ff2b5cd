"""Blocks that repeat are found, and a few of them solved give a schedule of all."""

from __future__ import annotations

import pytest
from poet_solver.incumbent import costs_of
from poet_solver.net import build_net
from poet_solver.pack import actions_of_steps, layout_of, pack, peak_bytes, steps_of
from poet_solver.pipeline import solve
from poet_solver.plan import complete, plan_of_actions
from poet_solver.problem import Mode, Op, PageCost, Place, Problem, Tensor
from poet_solver.repeats import Repeat, repeats_of, spread, with_fewer_blocks
from poet_solver.replay import replay_steps

PAGE = PageCost(0.1, 3.0)
RAM_BYTES = 88
"""Little beside one op."""


def layers(count: int, ram_bytes: int) -> Problem:
    """A training step of equal layers on an input that is not like what they make: y = f(x, w), z = g(y), and back.

    Weights are at home on storage; they, and what f reads and makes, may be streamed.
    """
    tensors: list[Tensor] = []
    ops: list[Op] = []

    def tensor(
        name: str, size: int, start: Place = Place.NONE, end: Place = Place.NONE, home_of: int | None = None
    ) -> int:
        tensors.append(Tensor(name, size, PAGE, PAGE, start, end, home_of=home_of))
        return len(tensors) - 1

    def run(name: str, out: int, reads: tuple[int, ...], *more: Mode, repeatable: bool = True) -> None:
        ops.append(Op(name, (out,), (Mode(1.0, 1.0, reads), *more), repeatable=repeatable))

    weights = [tensor(f"w{i}", 40, start=Place.STORAGE) for i in range(count)]
    x = [tensor("x", 24)]
    run("input", x[0], ())
    y = []
    for i in range(count):
        y.append(tensor(f"y{i}", 32))
        tiles = Mode(1.0, 6.0, (x[i],), streamed=(weights[i],), workspace_bytes=8)
        run(f"f{i}", y[i], (x[i], weights[i]), tiles, Mode(1.0, 11.0, (), (x[i], weights[i]), (y[i],), (), 12))
        x.append(tensor(f"x{i + 1}", 24))
        run(f"g{i}", x[i + 1], (y[i],))
    gradient = tensor("loss gradient", 24)
    run("loss", gradient, (x[count],), Mode(1.0, 2.0, (), (x[count],), (), (), 4))
    for i in reversed(range(count)):
        dy, dx = tensor(f"dy{i}", 32), tensor(f"dx{i}", 24)
        new = tensor(f"w{i}'", 40, end=Place.STORAGE, home_of=weights[i])
        run(f"dg{i}", dy, (y[i], gradient))
        run(f"df{i}", dx, (dy, weights[i]), Mode(1.0, 6.0, (dy,), streamed=(weights[i],), workspace_bytes=8))
        ops.append(
            Op(
                f"u{i}",
                (new,),
                (
                    Mode(1.0, 1.0, (x[i], dy, weights[i]), in_place=((weights[i], new),)),
                    Mode(1.0, 9.0, (x[i], dy), (weights[i],), (new,), (), 8),
                ),
                repeatable=False,
            )
        )
        gradient = dx
    return Problem("layers", tuple(tensors), tuple(ops), ram_bytes=ram_bytes)


def test_a_few_layers_solved_give_the_schedule_of_all() -> None:
    problem = layers(12, RAM_BYTES)
    net = build_net(problem)
    repeats = repeats_of(net)
    assert repeats == [Repeat(2, 2, 12), Repeat(27, 3, 12)]
    fewer = with_fewer_blocks(net, repeats, net.ram_bytes)
    assert fewer is not None
    assert [op.modes for op in fewer.net.problem.ops] == [op.modes for op in layers(4, RAM_BYTES).ops]
    few = solve(fewer.net.problem, time_limit_s=20, technique="page")
    plan = plan_of_actions(fewer.net, complete(fewer.net, actions_of_steps(fewer.net, few.steps)))
    assert plan is not None
    start = spread(net, fewer, plan)
    assert start is not None
    assert peak_bytes(layout_of(net, start).rectangles) <= RAM_BYTES
    marginal_j = solve(layers(5, RAM_BYTES), time_limit_s=20, technique="page").energy_j - few.energy_j
    assert costs_of(net, start)[0] == pytest.approx(few.energy_j + 8 * marginal_j)
    layout = layout_of(net, start)
    offsets = pack(layout.rectangles, RAM_BYTES, 5.0)
    assert offsets is not None
    assert replay_steps(problem, steps_of(net, start, layout, offsets)).energy.total == pytest.approx(
        costs_of(net, start)[0]
    )


def test_what_does_not_repeat_is_left_alone() -> None:
    assert repeats_of(build_net(layers(4, RAM_BYTES))) == []
