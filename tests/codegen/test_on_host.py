"""Emitted projects run on this machine: no schedule changes a bit, and inference changes no weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from poet_codegen.build import write_project
from poet_codegen.lower import Home
from poet_codegen.plan import Plan, make_plan, make_request
from poet_codegen.platformio.host import build_host
from poet_codegen.recipe import DEFAULT_RECIPE
from poet_hil.device import DeviceClient
from poet_hil.link import Link
from poet_hil.manifest import load_build
from poet_hil.targets.host import HostTarget

BOARD = "qemu_netduinoplus2"
PLENTY = 100_000
STEPS = 4
Maker = Callable[..., onnx.ModelProto]


def chain(make_model: Maker) -> onnx.ModelProto:
    """Dense layers of equal sizes: pages that were mixed up would still have the right length and CRC."""
    rng = np.random.default_rng(1)
    weights = {f"w{i}": (rng.standard_normal((20, 20)) / 5).astype(np.float32) for i in range(5)}
    nodes, last = [], "x"
    for i in range(5):
        nodes.append(helper.make_node("Gemm", [last, f"w{i}"], [f"a{i}"], f"g{i}", transB=1))
        nodes.append(helper.make_node("Relu", [f"a{i}"], [f"r{i}"], f"relu{i}"))
        last = f"r{i}"
    nodes[-1].output[0] = "y"
    return make_model(nodes, [1, 20], weights)


def shared(make_model: Maker) -> onnx.ModelProto:
    """One weight used three times and a value with several readers; its gradient is summed as d.a.2 and so on."""
    rng = np.random.default_rng(2)
    weights = {
        "w": (rng.standard_normal((16, 16)) / 4).astype(np.float32),
        "a_2": rng.standard_normal(16).astype(np.float32),
        "v": (rng.standard_normal((4, 16)) / 4).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w", "a_2"], ["a"], "g1", transB=1),
        helper.make_node("Relu", ["a"], ["b"], "relu1"),
        helper.make_node("Gemm", ["b", "w"], ["c"], "g2", transB=0),
        helper.make_node("Add", ["c", "b"], ["d"], "add1"),
        helper.make_node("Add", ["d", "a"], ["e"], "add2"),
        helper.make_node("Gemm", ["e", "w", "a_2"], ["f"], "g3", transB=1),
        helper.make_node("Gemm", ["f", "v"], ["y"], "g4", transB=1),
    ]
    return make_model(nodes, [2, 16], weights)


@contextmanager
def device_of(plan: Plan, folder: Path) -> Iterator[DeviceClient]:
    write_project(plan, folder / "project")
    build_host(folder / "project")
    build = load_build(folder)
    with HostTarget(build, folder) as target:
        device = DeviceClient(Link(target), build.manifest)
        device.hello()
        yield device


def contents(device: DeviceClient) -> dict[str, bytes]:
    """The bits of all parameters."""
    return {name: value.tobytes() for name, value in device.read_params().items()}


def run(plan: Plan, folder: Path) -> tuple[list[str], dict[str, bytes]]:
    """Bits of the losses and of the weights, with inferences in between that must change nothing."""
    rng = np.random.default_rng(3)
    losses = []
    with device_of(plan, folder) as device:
        manifest = device.manifest
        for _ in range(STEPS):
            x = rng.standard_normal(manifest.inputs[0].shape).astype(np.float32)
            before = device.read_params()
            device.write_input(x)
            first, second = device.infer(), device.infer()
            assert first.tobytes() == second.tobytes()
            after = device.read_params()
            assert all(before[name].tobytes() == after[name].tobytes() for name in before)
            device.write_sample(x, rng.integers(0, manifest.label.classes, manifest.label.count))
            losses.append(device.train(0.05).loss_bits)
        assert device.status().arena_high_water_bytes == manifest.arena_bytes
        return losses, contents(device)


@pytest.mark.parametrize("model", [chain, shared])
def test_bits_do_not_depend_on_the_budget(model: Callable[[Maker], Any], make_model: Maker, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(make_model), path)

    def plan(ram_bytes: int, home: Home = Home.RAM, technique: str = "both") -> Plan:
        request = make_request(path, BOARD, ram_bytes, None, home, DEFAULT_RECIPE, technique, 0)
        return make_plan(request, path, threads=1, time_limit_s=20)

    keep = plan(PLENTY, technique="keep")
    peak = keep.train.schedule.peak_bytes
    reference = run(keep, tmp_path / "keep")
    homes = sum(param.size_bytes for param in keep.train.graph.params())
    tight = [plan(homes + int((peak - homes) * share)) for share in (0.85, 0.7)]
    tight += [plan(int(peak * share), Home.STORAGE) for share in (1.0, 0.7)]
    pages = 0
    for number, variant in enumerate(tight):
        steps = variant.train.schedule.steps + variant.infer.schedule.steps
        pages += sum(type(step).__name__ == "PageIn" for step in steps)
        assert run(variant, tmp_path / str(number)) == reference
    assert pages > 0, "the budgets were to force paging"
