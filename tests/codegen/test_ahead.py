"""Tiles that are read while the core computes: what that takes. That the bits are the same, test_tiles.py shows."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import onnx
import pytest
from poet_codegen.board import Board, load_board
from poet_codegen.build import write_project
from poet_codegen.cli.measure_command import metered
from poet_codegen.cost_model import CostModel
from poet_codegen.costs import Costs, KernelCost
from poet_codegen.emit.kernel_source import kernels_digest
from poet_codegen.errors import BoardError
from poet_codegen.lower import Home
from poet_codegen.numerics import Numerics
from poet_codegen.ops.registry import Work
from poet_codegen.plan import make_plan, make_request
from poet_codegen.platformio.firmware import build_firmware
from poet_codegen.platformio.host import build_host
from poet_codegen.platformio.skeleton import project_skeleton
from poet_codegen.recipe import DEFAULT_RECIPE
from poet_codegen.resources import data_dir
from poet_codegen.tiling.ahead import MOST_STARTS, read_ahead
from poet_codegen.tiling.price import Cost, cost, device_cost, overlap, transfers
from poet_codegen.tiling.program import Call, Check, Loop, Move, Start, StartNext, Statement, Wait
from poet_hil.device import DeviceClient
from poet_hil.link import Link
from poet_hil.manifest import load_build
from poet_hil.samples import random_batches
from poet_hil.targets.host import HostTarget

from tests.firmware.builds import target_tool

from .boards import with_dma
from .test_on_host import Maker, contents
from .test_tiles_on_host import layers
from .tile_cases import IN_TURN, programs

BOARD = "qemu_mps2_an386"


class Clock:
    """Walks a program on a device and a core, each busy or not. Headers of pages are left out."""

    def __init__(self, board: Board) -> None:
        self.board, self.costs = board, CostModel(board)
        self.now_s = self.device_free_s = 0.0

    def run(self, body: tuple[Statement, ...], where: dict[str, int]) -> None:
        for step in body:
            if isinstance(step, Loop):
                for i in range(step.first, step.end):
                    self.run(step.body, {**where, step.variable: i})
            elif isinstance(step, Start):
                self.start(step.move)
            elif isinstance(step, StartNext):
                if where[step.variable] < step.last:
                    self.run(tuple(map(Start, step.moves)), where)
                else:
                    self.run(step.after, where)
            elif isinstance(step, Wait):
                self.wait()
            elif isinstance(step, Check):
                self.checksum(step.move)
            elif isinstance(step, Call):
                self.compute(self.costs.kernel_cycles(step.kernel, step.work))
            elif isinstance(step, Move) and step.streamed:
                self.wait()
                self.start(step)
                self.wait()
                self.checksum(step)
            elif isinstance(step, Move):
                self.compute(self.costs.table_cycles(Work("elementwise", elements=step.shape.size_bytes // 4)))

    def compute(self, cycles: float) -> None:
        self.now_s += cycles * self.board.seconds_per_cycle

    def checksum(self, move: Move) -> None:
        self.compute(move.shape.runs * self.costs.table_cycles(Work("page", elements=move.shape.run_bytes)))
        if move.shape.runs > 1:
            self.compute(self.costs.table_cycles(Work("tile")))

    def start(self, move: Move) -> None:
        price = self.board.write_cost if move.to_tensor else self.board.page_in_cost
        began_s = max(self.now_s, self.device_free_s)
        self.device_free_s = began_s + move.shape.runs * price(move.shape.run_bytes).time_s

    def wait(self) -> None:
        self.now_s = max(self.now_s, self.device_free_s)


def test_time_and_energy_are_those_of_a_device_beside_the_core(tmp_path: Path) -> None:
    board = load_board(with_dma(BOARD, tmp_path))
    # A device about as fast as the kernels, so that now one is the longer, now the other.
    fast = replace(board.storage.read_bytes_per_s, value=20e6)
    soon = replace(board.storage.read_latency_s, value=2e-6)
    board = replace(board, storage_devices=(replace(board.storage, read_bytes_per_s=fast, read_latency_s=soon),))
    costs = CostModel(board)
    faster = []
    for graph, node, _, program in programs(random.Random(11)):
        ahead = None if IN_TURN in program.title else read_ahead(program)
        if ahead is None:
            continue
        sizes = {name: graph.tensors[name].size_bytes for name in (*node.inputs, *node.outputs)}
        headers_s = sum(
            one.times * costs.with_checksum("page_in", 0, one.price(board)).time_s
            for one in transfers(ahead, sizes)
            if one.data_bytes == 0
        )
        clock = Clock(board)
        clock.run(ahead.body, {})
        price, plain = cost(ahead, costs, sizes), cost(program, costs, sizes)
        assert price.time_s == pytest.approx(clock.now_s + headers_s, rel=1e-9), (node.op, ahead.title)
        saved_s = plain.time_s - price.time_s
        assert saved_s > 0
        assert plain.energy_j - price.energy_j == pytest.approx(saved_s * board.power.run_w.value, rel=1e-6)
        assert price.wear_bytes == plain.wear_bytes
        faster.append(saved_s / plain.time_s)
    assert len(faster) > 40 and max(faster) > 0.25


def test_a_profile_of_the_whole_op_prices_it(tmp_path: Path) -> None:
    """What a board's clock saw is the time; fewer cycles of the core than planned hide less, in proportion."""
    board = load_board(with_dma(BOARD, tmp_path))
    table = CostModel(board)
    drawn = ((graph, node, read_ahead(p)) for graph, node, _, p in programs(random.Random(3)) if IN_TURN not in p.title)
    graph, node, program = next(
        (graph, node, program)
        for graph, node, program in drawn
        if program is not None and not any(written for _, written in program.streams())
    )
    sizes = {name: graph.tensors[name].size_bytes for name in (*node.inputs, *node.outputs)}
    device, at_once = device_cost(program, board, sizes), overlap(program, table, sizes)
    digest = kernels_digest(program.kernels, board, Numerics.SEPARATE)

    def price(source: Literal["measured", "modelled"], time_s: float) -> Cost:
        cycles = time_s * board.cpu.clock_hz
        entry = KernelCost(program.profile_name, digest, node.op, source, cycles, 0.0, 1)
        costs = Costs(1, "", board.name, board.cpu.core, board.cpu.clock_hz, board.storage.models, "", (entry,), ())
        return cost(program, CostModel(board, costs), sizes)

    device_j, run_w = device.time_s * board.storage.read_power_w.value, board.power.run_w.value
    seen_s = 1.3 * cost(program, table, sizes).time_s
    assert price("measured", seen_s).time_s == pytest.approx(seen_s)
    assert price("measured", seen_s).energy_j == pytest.approx(seen_s * run_w + device_j)
    for share in (0.5, 1.0, 2.0):
        busy_s = share * at_once.processor_s
        expected_s = busy_s + device.time_s - min(1.0, share) * at_once.hidden_s
        assert price("modelled", busy_s).time_s == pytest.approx(expected_s)


def test_a_driver_that_polls_is_refused(tmp_path: Path) -> None:
    board = load_board(with_dma(BOARD, tmp_path))
    assert "-DPOET_STORAGE_OVERLAPS=1u" in project_skeleton(board)["platformio.ini"].decode()
    polls = replace(board, storage_devices=(replace(board.storage, driver="sd_spi"),))
    with pytest.raises(BoardError, match="'sd_spi' waits for every byte"):
        project_skeleton(polls)


def test_the_firmware_takes_as_many_starts() -> None:
    header = (data_dir("firmware") / "include" / "poet" / "storage.h").read_text(encoding="utf-8")
    assert re.search(rf"POET_STORAGE_AHEAD_MOST {MOST_STARTS}u", header)


@pytest.mark.emulated
def test_qemu_gives_the_bits_of_the_host_and_meters_what_is_hidden(make_model: Maker, tmp_path: Path) -> None:
    target_tool("qemu-system-arm")
    path = tmp_path / "m.onnx"
    onnx.save(layers(make_model), path)
    request = make_request(path, with_dma(BOARD, tmp_path), 2500, None, Home.STORAGE, DEFAULT_RECIPE, "both", 0)
    plan = make_plan(request, path, threads=1, time_limit_s=3)
    write_project(plan, tmp_path / "project")
    build_firmware(tmp_path / "project", plan.board)
    build_host(tmp_path / "project")
    build = load_build(tmp_path)
    sample = random_batches(build.manifest, 1, seed=7)[0]

    with HostTarget(build, tmp_path) as target:
        device = DeviceClient(Link(target), build.manifest)
        device.write_sample(*sample)
        on_host = device.train(0.05).loss_bits, contents(device)
    with metered(build, "", 0.0) as (meter, device):
        device.write_sample(*sample)
        bits = [""]

        def train() -> int:
            outcome = device.train(0.05)
            bits[0] = outcome.loss_bits
            return outcome.ticks

        taken = meter.watch(device, train)
        assert (bits[0], contents(device)) == on_host
    steps = build.manifest.steps
    hidden_s = sum(step.hidden_s for step in steps)
    planned_s, planned_j = sum(step.time_s for step in steps), sum(step.energy_j for step in steps)
    assert hidden_s > 0.01 * planned_s
    assert float(taken.time_s.sum()) == pytest.approx(planned_s, rel=0.1)
    assert float(taken.energy_j.sum()) == pytest.approx(planned_j, rel=0.1)
