from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
from poet_codegen.emit.project import Pass, emit_project
from poet_codegen.plan import Plan
from poet_codegen.report.costs import KINDS, cost_table, keep_everything_j, op_table
from poet_codegen.report.figures import loss_plot, memory_figure, moving_average
from poet_codegen.report.inputs import LossPoint
from poet_codegen.report.peak import build_peak
from poet_codegen.report.timeline import Do, Memory, Origin, Timeline, build_timeline
from poet_solver.replay import replay


@pytest.fixture(params=["tight", "keep", "from_storage"])
def plan(request: pytest.FixtureRequest) -> Plan:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Plan)
    return found


@pytest.fixture
def timeline(plan: Plan) -> Timeline:
    return build_timeline(plan.train)


def test_steps_are_those_of_the_manifest(plan: Plan, timeline: Timeline) -> None:
    manifest = json.loads(emit_project(plan.build_input())["manifest.json"])
    told = [(s.index, s.do.value, s.title, s.energy_j, s.time_s) for s in timeline.steps]
    listed = [
        (
            s["index"],
            "recompute" if s["recompute"] else s["do"].replace("_", " "),
            s["name"],
            s["energy_j"],
            s["time_s"],
        )
        for s in manifest["steps"]
    ]
    assert told == listed


def test_figures_are_those_of_the_replay(plan: Plan, timeline: Timeline) -> None:
    found = replay(plan.train.lowered.problem, plan.train.schedule)
    steps = timeline.steps
    assert max(step.live_bytes for step in steps) == steps[timeline.peak_step].live_bytes == found.peak_bytes
    assert sum(step.do is Do.RECOMPUTE for step in steps) == found.recomputes
    assert sum(step.do is Do.PAGE_IN for step in steps) == found.page_ins
    assert sum(step.do is Do.PAGE_OUT for step in steps) == found.page_outs
    assert math.isclose(sum(step.energy_j for step in steps), found.energy.total - found.energy.idle)


def test_instances_fill_the_live_bytes_and_never_overlap(timeline: Timeline) -> None:
    for step in timeline.steps:
        alive = sorted(timeline.alive(step.index), key=lambda i: i.offset)
        assert sum(i.size_bytes for i in alive) == step.live_bytes
        for low, high in pairwise(alive):
            assert low.offset + low.size_bytes <= high.offset


def test_origins(tight: Plan) -> None:
    timeline = build_timeline(tight.train)
    origins = {origin: [i for i in timeline.instances if i.origin is origin] for origin in Origin}
    steps = timeline.steps
    assert len(origins[Origin.PAGED_IN]) == sum(step.do is Do.PAGE_IN for step in steps) > 0
    assert len(origins[Origin.RECOMPUTED]) == sum(step.do is Do.RECOMPUTE for step in steps) > 0
    assert all(i.memory is Memory.PARAMETER and i.first == 0 for i in origins[Origin.RESIDENT])
    assert all(i.memory is Memory.PARAMETER and i.name.endswith(".new") for i in origins[Origin.UPDATED])
    assert {i.memory for i in timeline.instances} == {Memory.PARAMETER, Memory.ACTIVATION, Memory.GRADIENT}


def test_peak_accounts_for_every_byte(plan: Plan, timeline: Timeline) -> None:
    peak = build_peak(plan.train, timeline, plan.request.ram_bytes)
    total = sum(int(row.size_bytes.replace("\u202f", "")) for row in peak.rows)
    assert total == plan.train.schedule.peak_bytes
    assert math.isclose(sum(part.part for part in peak.parts), 1.0)
    assert "input 256" in peak.outside


def test_costs_add_up(plan: Plan, timeline: Timeline) -> None:
    costs = cost_table(plan.train.schedule)
    assert len(costs.rows) == len(KINDS)
    assert math.isclose(sum(row.energy_part for row in costs.rows), 1.0)
    assert math.isclose(sum(row.time_part for row in costs.rows), 1.0)
    ops = op_table(plan.train, timeline, plan.costs)
    assert len(ops.ops) == len(plan.train.lowered.nodes)
    assert sum(row.runs for row in ops.ops) + sum(row.ins + row.outs for row in ops.pages) == len(timeline.steps)
    assert {row.form for row in ops.ops} <= {"fast", "plain"} and all(row.cycles for row in ops.ops)
    assert {(row.floor, row.unit) for row in ops.ops} == {("2", "MAC"), ("", "element")}
    energies = [row.part_percent for row in ops.ops]
    assert energies == sorted(energies, reverse=True)


def test_keeping_everything_costs_what_such_a_schedule_costs(keep: Plan, tight: Plan, from_storage: Plan) -> None:
    def overhead(part: Pass) -> float:
        return part.schedule.energy_j / keep_everything_j(part.lowered.problem) - 1.0

    assert math.isclose(keep_everything_j(keep.train.lowered.problem), keep.train.schedule.energy_j)
    assert math.isclose(keep_everything_j(tight.train.lowered.problem), keep.train.schedule.energy_j)
    assert overhead(tight.train) > 0.01 and overhead(from_storage.train) >= -1e-9


def test_keeping_everything_takes_the_cheapest_mode_that_streams_nothing(keep: Plan) -> None:
    problem = keep.train.lowered.problem
    first, *others = problem.ops
    half = first.modes[0].energy_j / 2
    spacious = replace(first.modes[0], energy_j=half, workspace_bytes=64)
    streaming = replace(spacious, energy_j=0.0, resident=(), in_place=(), outputs_to_storage=first.outputs)
    faster = replace(problem, ops=(replace(first, modes=(*first.modes, spacious, streaming)), *others))
    assert math.isclose(keep_everything_j(problem) - keep_everything_j(faster), half, rel_tol=1e-6)


def test_map_reaches_to_the_budget_or_stays_readable(tight: Plan, keep: Plan) -> None:
    for plan in (tight, keep):
        arena, budget = plan.train.schedule.arena_bytes, plan.request.ram_bytes
        layout = memory_figure(build_timeline(plan.train), budget, arena)["layout"]
        top = layout["yaxis"]["range"][1]
        assert arena <= top < 2 * arena
        assert (len(layout["shapes"]) == 3) == (top > budget)


def test_moving_average_spans_only_finite_losses() -> None:
    assert moving_average([1.0, 3.0, 5.0], 2) == [1.0, 2.0, 4.0]
    assert [math.isnan(x) for x in moving_average([1.0, math.inf, 5.0, 7.0], 2)] == [False, True, True, False]


def test_loss_curve_of_a_run_that_diverged() -> None:
    points = tuple(LossPoint(i, 0, 0.5, value) for i, value in enumerate([2.0, 3.0, math.inf, math.nan, 1.0]))
    plot = loss_plot(points)
    assert plot.figure["data"][0]["y"] == [2.0, 3.0, None, None, 1.0]


def test_loss_curve_marks_changes_of_the_rate(losses: tuple[LossPoint, ...]) -> None:
    plot = loss_plot(losses)
    assert [shape["x0"] for shape in plot.figure["layout"]["shapes"]] == [400, 800]
    assert [note["text"] for note in plot.figure["layout"]["annotations"]] == ["rate 0.02", "rate 0.01", "rate 0.005"]
    assert "above the linear view" in plot.note


def test_loss_curve_of_a_long_run_stays_small() -> None:
    points = tuple(LossPoint(i, 0, 0.01, 1.0 / (i + 1)) for i in range(30_000))
    plot = loss_plot(points)
    assert len(plot.figure["data"][0]["x"]) <= 6000 and "One step in 5 is drawn." in plot.note


def test_loss_curve_of_one_step() -> None:
    assert loss_plot((LossPoint(0, 0, 0.1, 2.3),)).figure["data"][1]["y"] == [2.3]
