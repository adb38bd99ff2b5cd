"""costs.json: a profile prices the next plan where it fits, and says where it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from poet_codegen.board import PAGE_HEADER_BYTES, load_board
from poet_codegen.cost_model import CostModel
from poet_codegen.costs import Costs, KernelCost, Runs, TransferCost, costs_to_json, gather, read_costs
from poet_codegen.emit.kernel_source import kernel_digest
from poet_codegen.errors import CostsError
from poet_codegen.folder import BuildFolder, FolderError
from poet_codegen.graph import Graph
from poet_codegen.lower import Home
from poet_codegen.numerics import Numerics
from poet_codegen.ops import registry
from poet_codegen.plan import Plan, load_plan, make_plan, make_request, save_plan
from poet_codegen.recipe import DEFAULT_RECIPE
from poet_codegen.tiling.parts import kernel_of

BOARD = "qemu_netduinoplus2"


def plan_of(path: Path, costs: Costs | None = None) -> Plan:
    request = make_request(path, BOARD, 60_000, None, Home.RAM, DEFAULT_RECIPE, "keep", 0, costs=costs)
    return make_plan(request, path, threads=1, time_limit_s=5, costs=costs)


@pytest.fixture(scope="module")
def plan(digits_path: Path) -> Plan:
    return plan_of(digits_path)


def profile_of(graph: Graph) -> Costs:
    """A made-up profile of all of a graph's kernels: 1000, 2000, ... cycles, and pages at 2 cycles a byte."""
    board = load_board(BOARD)
    kernels = {
        kernel.name: (kernel_digest(kernel, board, Numerics.SEPARATE), node.op)
        for node in graph.nodes
        if not registry.get(node.op).is_view
        for kernel in [registry.get(node.op).kernel(graph, node)]
    }
    return Costs(
        1,
        "0.1.0",
        BOARD,
        board.cpu.core,
        board.cpu.clock_hz,
        board.storage.models,
        "made up",
        tuple(
            KernelCost(name, digest, op, "modelled", 1000.0 * (i + 1), 0.0, 1)
            for i, (name, (digest, op)) in enumerate(kernels.items())
        ),
        tuple(TransferCost("page_in", size, "modelled", 100.0 + 2.0 * size, 0.0, 1) for size in (1000, 3000)),
    )


def test_a_profile_prices_every_op_and_page(digits_path: Path, plan: Plan) -> None:
    costs = profile_of(plan.train.graph)
    priced = plan_of(digits_path, costs)
    assert priced.costs.notes(priced.train.graph) == ()
    clock, lowered = priced.board.cpu.clock_hz, priced.train.lowered
    for op, node in zip(lowered.problem.ops, lowered.nodes, strict=True):
        entry = costs.by_kernel[registry.get(node.op).kernel(priced.train.graph, node).name]
        assert op.modes[0].time_s == pytest.approx(entry.cycles / clock)
        assert op.modes[0].energy_j == pytest.approx(entry.cycles / clock * priced.board.power.run_w.value)
    for tensor in lowered.problem.tensors:
        device = priced.board.page_in_cost(tensor.size_bytes + PAGE_HEADER_BYTES)
        assert tensor.page_in is not None
        assert tensor.page_in.time_s == pytest.approx(device.time_s + (100 + 2 * tensor.size_bytes) / clock)
    assert "made up" in priced.build_input().cost_source


def test_a_measured_page_has_the_device_s_time_in_it(plan: Plan) -> None:
    costs = replace(profile_of(plan.train.graph), pages=(TransferCost("page_in", 1000, "measured", 1e6, 0.1, 3),))
    board = load_board(BOARD)
    cost = CostModel(board, costs).page_in(1000, 8)
    model = board.page_in_cost(1008)
    assert cost.time_s == pytest.approx(1e6 / board.cpu.clock_hz)
    assert cost.energy_j / cost.time_s == pytest.approx(model.energy_j / model.time_s)


def test_pages_that_were_not_profiled_cost_what_the_table_says(plan: Plan) -> None:
    board = load_board(BOARD)
    costs = replace(profile_of(plan.train.graph), pages=())
    assert CostModel(board, costs).page_out(512, 8) == CostModel(board).page_out(512, 8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"board": "disco_f407vg"}, "of the board disco_f407vg"),
        ({"clock_hz": 16_000_000}, "at 16 MHz"),
        ({"storage": "a tape", "pages": (TransferCost("page_in", 9, "measured", 1.0, 0.0, 1),)}, "of 'a tape'"),
    ],
)
def test_foreign_costs_are_used_with_a_warning(plan: Plan, change: dict[str, object], said: str) -> None:
    graph = plan.train.graph
    model = CostModel(plan.board, replace(profile_of(graph), **change))
    assert [said in note for note in model.notes(graph)] == [True]
    node = plan.train.lowered.nodes[0]
    assert model.kernel_cycles(*kernel_of(graph, node)) == 1000.0


def test_costs_of_another_core_are_not_used(plan: Plan) -> None:
    graph, node = plan.train.graph, plan.train.lowered.nodes[0]
    board = load_board("qemu_mps2_an500")
    model = CostModel(board, profile_of(graph))
    assert "none is used" in model.notes(graph)[0]
    assert model.kernel_cycles(*kernel_of(graph, node)) == CostModel(board).kernel_cycles(*kernel_of(graph, node))
    assert model.page_in(512, 8) == CostModel(board).page_in(512, 8)
    assert model.source == CostModel(board).source


def test_changed_and_missing_kernels_fall_back_to_the_table(plan: Plan) -> None:
    graph, nodes = plan.train.graph, plan.train.lowered.nodes
    costs = profile_of(graph)
    changed, missing = (registry.get(node.op).kernel(graph, node).name for node in nodes[:2])
    kernels = tuple(
        replace(entry, digest="0" * 16) if entry.kernel == changed else entry
        for entry in costs.kernels
        if entry.kernel != missing
    )
    model = CostModel(plan.board, replace(costs, kernels=kernels))
    notes = " ".join(model.notes(graph))
    assert f"ops have other code than when the costs were taken, such as {nodes[0].label}" in notes
    assert f"are not among the costs, such as {nodes[1].label}" in notes
    for node in nodes[:2]:
        assert model.kernel_cycles(*kernel_of(graph, node)) == CostModel(plan.board).kernel_cycles(
            *kernel_of(graph, node)
        )


def test_a_plan_keeps_its_costs(tmp_path: Path, digits_path: Path, plan: Plan) -> None:
    folder = BuildFolder(tmp_path)
    priced = plan_of(digits_path, profile_of(plan.train.graph))
    save_plan(priced, digits_path, folder)
    assert load_plan(folder).train.schedule == priced.train.schedule
    folder.plan_costs.write_text(folder.plan_costs.read_text().replace("1000.0", "1001.0", 1))
    with pytest.raises(FolderError, match="has changed since"):
        load_plan(folder)
    save_plan(plan, digits_path, folder)
    assert not folder.plan_costs.exists()


def test_runs_are_gathered_by_kernel_and_by_page_size() -> None:
    kernels, pages = gather(
        [
            Runs("compute", "Relu", "relu_4", "d", 16, (10.0, 14.0)),
            Runs("compute", "Relu", "relu_4", "d", 16, (12.0, 12.0)),
            Runs("page_in", "page_in", "", "", 64, (100.0, 100.0)),
            Runs("page_out", "page_out", "", "", 64, (90.0, 90.0)),
        ],
        "measured",
    )
    assert kernels == (KernelCost("relu_4", "d", "Relu", "measured", 12.0, 2 / 12, 4),)
    assert [(page.do, page.bytes, page.cycles, page.runs) for page in pages] == [
        ("page_in", 64, 100.0, 2),
        ("page_out", 64, 90.0, 2),
    ]


def test_damaged_costs_name_the_field(tmp_path: Path, plan: Plan) -> None:
    path = tmp_path / "costs.json"
    with pytest.raises(CostsError, match="poet profile"):
        read_costs(path)
    path.write_text(costs_to_json(profile_of(plan.train.graph)).replace('"clock_hz": 168000000', '"clock_hz": 0'))
    with pytest.raises(CostsError, match="clock_hz"):
        read_costs(path)
