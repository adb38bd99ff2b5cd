"""Every family of cuts and rows holds on every feasible schedule of small graphs with modes, homes and updates.

Schedules come from enumerating all 0-1 solutions of a slot model without its memory rows; whether one fits is told by
the live bytes of its steps, not by a row. Checked on them: anchor cuts (slot model and block relaxation), plain and
substituted memory rows, what `tighten` fixes, and the rows of the relaxation that bounds all schedules.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from poet_solver.baselines.keep import keep_everything_peak
from poet_solver.cuts import Anchor, paths_of
from poet_solver.global_bound import _Blocks, blocks_of
from poet_solver.memory import memory_of, tighten
from poet_solver.model import Freedom, Model, Row, build_model
from poet_solver.net import Net, build_net
from poet_solver.pack import layout_of, peak_bytes
from poet_solver.plan import Action, Do, actions_of_plan, complete, plan_of_actions, plan_of_point, point_of_plan
from poet_solver.problem import Problem
from poet_solver.slots import Family
from poet_solver.stages import StageView
from poet_solver.synthetic import random_problem

from tests.solver.enumeration import all_points

FAMILY = Family(any_earlier=True)
MOST = 3000


@dataclass(frozen=True)
class Case:
    """A graph and what was enumerated of it."""

    net: Net
    model: Model
    points: NDArray[np.int8]
    """All 0-1 solutions (at most `MOST`) without memory rows."""
    feasible: tuple[tuple[NDArray[np.float64], tuple[Action, ...]], ...]
    """(point with the least holding, steps) of those that fit, each schedule once."""


@cache
def case(seed: int) -> Case:
    problem: Problem = random_problem(random.Random(seed), 4, features=seed % 2 == 1)
    peak = keep_everything_peak(problem)
    floor = build_net(problem).floor_bytes(build_net(problem).largest_op())
    problem = replace(problem, ram_bytes=(floor + peak) // 2, deadline_s=None)
    net = build_net(problem)
    model = build_model(net, Freedom(FAMILY))
    points = all_points(model, MOST)
    feasible: dict[tuple[Action, ...], NDArray[np.float64]] = {}
    for point in points.astype(float):
        actions = complete(net, actions_of_plan(plan_of_point(model, point)))
        if actions not in feasible and peak_bytes(layout_of(net, actions).rectangles) <= net.ram_bytes:
            plan = plan_of_actions(net, actions)  # without the steps that nobody needs
            least = None if plan is None else point_of_plan(model, plan)
            assert least is not None
            feasible[actions] = least
    return Case(net, model, points, tuple((point, actions) for actions, point in feasible.items()))


def anchors_of(net: Net, stage: list[int]) -> list[Anchor]:
    """Every cut that the separator can give for these stages."""
    out: list[Anchor] = []
    for k in range(1, net.n_ops):
        for v in set.intersection(*(set(mode.resident) for mode in net.modes[k])):
            for path in paths_of(net, v, stage):
                first = max(path.earliest, stage[net.producer[v]] + 1)
                for t0 in range(first, stage[k] + 1):
                    for stored in {(), (path.tensors[-1],), path.tensors}:
                        paged_out = tuple(w for w in stored if is_stored_by_paging(net, w))
                        out.append(Anchor(path.tensors, path.entries, t0, stage[k], paged_out))
    return list(dict.fromkeys(out))


def is_stored_by_paging(net: Net, v: int) -> bool:
    by_mode = any(v in mode.to_storage for mode in net.modes[net.producer[v]])
    return not net.starts_on_storage[v] and not by_mode and net.page_out[v] is not None


def left_side(row: Row, x: NDArray[np.float64]) -> float:
    return float(sum(c * x[j] for j, c in zip(row.index, row.coef, strict=True)))


SEEDS = range(12)


def test_there_are_schedules_to_check() -> None:
    assert sum(bool(case(seed).feasible) for seed in SEEDS) >= 10
    assert sum(len(case(seed).feasible) for seed in SEEDS) > 1000


@pytest.mark.parametrize("seed", SEEDS)
def test_anchor_cuts_hold_with_modes_homes_and_updates(seed: int) -> None:
    found = case(seed)
    view = StageView(found.model)
    for anchor in anchors_of(found.net, list(range(found.net.n_ops))):
        row = view.row(anchor)
        least = found.points[:, list(row.index)].sum(axis=1).min() if row.index else 0
        assert least >= 1, anchor


@pytest.mark.parametrize("seed", SEEDS)
def test_memory_rows_and_tightening_lose_no_schedule(seed: int) -> None:
    found = case(seed)
    memory = memory_of(found.model)
    for slot in range(len(found.model.keys)):
        for substituted in (False, True):
            row = memory.row(slot, substituted)
            for point, actions in found.feasible:
                assert left_side(row, point) <= row.hi + 1e-9, (slot, substituted, actions)
    tightened = build_model(found.net, Freedom(FAMILY))
    tighten(tightened)
    fixed = [j for j, up in enumerate(tightened.upper) if not up]
    for point, actions in found.feasible:
        assert not point[fixed].any(), actions


def block_point(blocks: _Blocks, net: Net, actions: tuple[Action, ...]) -> NDArray[np.float64]:
    """What a schedule sets in the relaxation: told from its steps alone."""
    x = np.zeros(len(blocks.energy))

    def put(var: int) -> None:
        if var >= 0:
            x[var] = 1.0

    held: set[int] = set()
    done, b = -1, 0
    for do, what, m in actions:
        follows = done + 1 < net.n_ops and blocks.block[done + 1] > b
        if follows and do is not Do.FREE:
            b = blocks.block[done + 1]
            for v in held:
                put(int(blocks.held[v, b]))
        if do is Do.COMPUTE:
            mode = net.modes[what][m]
            if what <= done:
                put(int(blocks.rerun[what, b]))
            held -= {old for old, _ in mode.in_place}
            held |= set(mode.to_ram)
            done = max(done, what)
        elif do is Do.PAGE_IN:
            put(int(blocks.paged[what, b]))
            held.add(what)
        elif do is Do.PAGE_OUT:
            put(int(blocks.out[what]))
        else:
            held.discard(what)
    return x


@pytest.mark.parametrize("most", [2, 3, 100])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_relaxation_of_all_schedules_holds_every_schedule(seed: int, most: int) -> None:
    found = case(seed)
    net = found.net
    blocks = _Blocks(net, blocks_of(net, most), True)
    rows = blocks.rows()
    cuts = [blocks.cut(anchor) for anchor in anchors_of(net, blocks.block)]
    for _, actions in found.feasible:
        x = block_point(blocks, net, actions)
        for row in (*rows, *cuts):
            assert row.lo - 1e-9 <= left_side(row, x) <= row.hi + 1e-9, (row, actions)
        assert not blocks.memory_rows(x), actions


def test_a_wrong_anchor_is_caught() -> None:
    """A cut whose stage t0 lies before an entry's first run fails on some schedule: the enumeration can tell."""
    caught = 0
    for seed in SEEDS:
        found = case(seed)
        net, view = found.net, StageView(found.model)
        for k in range(1, net.n_ops):
            for v in set.intersection(*(set(mode.resident) for mode in net.modes[k])):
                for path in paths_of(net, v, range(net.n_ops)):
                    wrong = Anchor(path.tensors, path.entries, path.earliest - 1, k)
                    row = view.row(wrong)
                    caught += not row.index or found.points[:, list(row.index)].sum(axis=1).min() < 1
    assert caught > 20


def test_a_page_out_must_not_stand_for_pages_that_need_none() -> None:
    """What starts on storage is paged in without a page-out: the enumeration can tell."""
    caught = 0
    for seed in SEEDS:
        found = case(seed)
        view = StageView(found.model)
        for anchor in anchors_of(found.net, list(range(found.net.n_ops))):
            if not all(is_stored_by_paging(found.net, w) for w in anchor.tensors):
                row = view.row(replace(anchor, stored=anchor.tensors))
                caught += not row.index or found.points[:, list(row.index)].sum(axis=1).min() < 1
    assert caught > 20
