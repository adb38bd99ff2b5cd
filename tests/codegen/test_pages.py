"""Pages on storage that is erased: slots, the ring, and the same bits as everywhere."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from poet_codegen.emit import pages as pages_module
from poet_codegen.emit.pages import Pages, place_pages
from poet_codegen.emit.project import emit_project
from poet_codegen.errors import BoardError
from poet_codegen.lower import Home
from poet_codegen.plan import Plan, make_plan, make_request
from poet_codegen.recipe import DEFAULT_RECIPE
from poet_codegen.resources import data_dir
from poet_hil.errors import DeviceError
from poet_solver.errors import InfeasibleError

from .test_on_host import BOARD, PLENTY, chain, device_of, run
from .test_tiles_on_host import layers

Maker = Callable[..., onnx.ModelProto]
UNIT_BYTES = 1024
ERASE = f"""
[storage_devices.erase]
block_bytes = {UNIT_BYTES}
time_s.value = 0.02
time_s.source = "estimate: of a test"
time_s.spread = 0.5
power_w.value = 0.05
power_w.source = "estimate: of a test"
power_w.spread = 0.5

[storage_devices.endurance_erases]
value = 1000
source = "estimate: of a test"
spread = 0.5

[platformio]
"""


def flash_board(folder: Path, units: int) -> str:
    """A board whose storage has so many erase units; the path of its file."""
    text = (data_dir("boards") / "qemu_netduinoplus2.toml").read_text(encoding="utf-8")
    text = text.replace('name = "qemu_netduinoplus2"', f'name = "flash_{units}"').replace("\n[platformio]\n", ERASE)
    path = folder / f"flash_{units}.toml"
    path.write_text(text.replace("size_bytes = 67_108_864", f"size_bytes = {units * UNIT_BYTES}"), encoding="utf-8")
    return str(path)


def plan_of(path: Path, board: str, ram_bytes: int, home: Home, technique: str = "both") -> Plan:
    request = make_request(path, board, ram_bytes, None, home, DEFAULT_RECIPE, technique, 0)
    return make_plan(request, path, threads=1, time_limit_s=20)


def pages_of(plan: Plan) -> Pages:
    train, infer = plan.train, plan.infer
    return place_pages(plan.board, train.graph, [(train.lowered, train.schedule), (infer.lowered, infer.schedule)])


@pytest.fixture
def model(make_model: Maker, tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(chain(make_model), path)
    return path


def test_the_same_bits_on_storage_that_is_erased(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = run(plan_of(model, "qemu_netduinoplus2", 100_000, Home.RAM), tmp_path / "keep")
    monkeypatch.setenv("POET_STORAGE_LIKE", f"nor:{UNIT_BYTES}")
    # 5 weights of 1616 bytes take two units each and 5 in turn move by one; 41 units go round nearly once.
    for units in (64, 40):
        plan = plan_of(model, flash_board(tmp_path, units), 4300, Home.STORAGE)
        assert run(plan, tmp_path / str(units)) == reference


@pytest.mark.parametrize("is_erased", [False, True])
def test_a_step_without_finite_loss_keeps_parameters_that_are_streamed(
    make_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_erased: bool
) -> None:
    """Their updates would have written the new pages."""
    path = tmp_path / "layers.onnx"
    onnx.save(layers(make_model), path)
    board = flash_board(tmp_path, 96) if is_erased else "qemu_netduinoplus2"
    plan = plan_of(path, board, 2500, Home.STORAGE)
    assert "poet_page_keep(" in emit_project(plan.build_input())["src/poet_schedule.c"].decode()
    if is_erased:
        monkeypatch.setenv("POET_STORAGE_LIKE", f"nor:{UNIT_BYTES}")
        assert pages_of(plan).stride > 1
        assert run(plan, tmp_path / "run") == run(plan_of(path, BOARD, PLENTY, Home.RAM), tmp_path / "keep")
    with device_of(plan, tmp_path / "nan") as device:
        shape = device.manifest.inputs[0].shape
        for size in (1.0, 3e38, 1.0, 3e38, 3e38, 1.0):
            device.write_sample(np.full(shape, size, dtype=np.float32), np.zeros(1, dtype=np.int64))
            before = device.read_params()
            if size == 1.0:
                device.train(0.05)
                assert any(value.tobytes() != before[name].tobytes() for name, value in device.read_params().items())
                continue
            with pytest.raises(DeviceError, match="NaN or infinite"):
                device.train(0.05)
            assert all(value.tobytes() == before[name].tobytes() for name, value in device.read_params().items())


def test_slots_are_shared_where_there_is_not_room_for_all(digits_path: Path, tmp_path: Path) -> None:
    plan = plan_of(digits_path, flash_board(tmp_path, 128), 21504, Home.RAM, "page")
    roomy = pages_of(plan)
    assert roomy.stride == 1 and roomy.homes == {}
    params = sum(plan.train.graph.tensors[name].size_bytes for name in plan.train.graph.learned())
    assert params == 18136 and roomy.units == 89, "the prime below 128 units less twice 18"
    least = 0
    for units in range(roomy.window_units, 0, -1):
        storage = dataclasses.replace(plan.board.storage, size_bytes=units * UNIT_BYTES)
        board = dataclasses.replace(plan.board, storage_devices=(storage,))
        try:
            tight = pages_of(dataclasses.replace(plan, board=board))
        except BoardError as error:
            assert f"take {least * UNIT_BYTES} bytes" in str(error) and "--ram" in str(error)
            break
        assert tight.window_units <= units and tight.units == units
        least = tight.window_units
    assert 0 < least < roomy.window_units


def test_storage_without_room_for_the_parameters_is_told_before_a_schedule_is_searched(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poet_codegen.plan.solve", lambda *_, **__: pytest.fail("searched"))
    with pytest.raises(BoardError, match=r"train take 10240 bytes of storage, .* has 8192\. Train fewer"):
        plan_of(model, flash_board(tmp_path, 8), 4300, Home.STORAGE)


def test_an_op_that_outgrows_memory_even_in_tiles_is_told_with_what_it_needs(make_model: Maker, tmp_path: Path) -> None:
    path = tmp_path / "layers.onnx"
    onnx.save(layers(make_model), path)
    with pytest.raises(
        InfeasibleError, match=r"Op .* needs about \d+ bytes of RAM at least, .* the budget is 40\."
    ) as told:
        plan_of(path, BOARD, 40, Home.STORAGE)
    needed = told.value.needed_bytes
    assert 40 < needed < 1000
    # A schedule takes a little more; what was told was no more than that.
    assert plan_of(path, BOARD, 2 * needed, Home.STORAGE).train.schedule.peak_bytes > needed / 1.1


def test_a_card_too_slow_for_the_deadline_is_told_with_one_that_works(model: Path) -> None:
    def ask(factor: float) -> Plan:
        request = make_request(model, BOARD, 4300, factor, Home.STORAGE, DEFAULT_RECIPE, "both", 0)
        return make_plan(request, model, threads=1, time_limit_s=10)

    with pytest.raises(InfeasibleError, match=r"A deadline that works is --deadline [\d.]+;") as told:
        ask(1.5)
    works = re.search(r"--deadline ([\d.]+);", str(told.value))
    assert works is not None
    plan = ask(float(works[1]))
    assert plan.train.lowered.problem.deadline_s is not None
    assert plan.train.schedule.time_s <= plan.train.lowered.problem.deadline_s


def test_a_page_in_a_wrong_place_is_noticed(model: Path, tmp_path: Path) -> None:
    plan = plan_of(model, flash_board(tmp_path, 64), 4300, Home.STORAGE)
    good = pages_of(plan)
    passes: Any = [(p.lowered, p.schedule) for p in (plan.train, plan.infer)]
    names = list(good.homes)
    for changed in (
        dataclasses.replace(good, homes=good.homes | {names[1]: good.homes[names[0]]}),
        dataclasses.replace(good, homes=good.homes | {names[1]: good.homes[names[0]] + 1}),
        dataclasses.replace(good, units=good.window_units - 2),
    ):
        with pytest.raises(AssertionError, match="page of"):
            pages_module._check(changed, passes)
