"""Operands larger than memory on the host build: tiles change no bit of a loss or a weight."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from poet_codegen import frozen, lower
from poet_codegen.build import write_project
from poet_codegen.emit import initial
from poet_codegen.lower import Home
from poet_codegen.plan import Plan, make_plan, make_request
from poet_codegen.platformio.host import build_host
from poet_codegen.recipe import DEFAULT_RECIPE, Optimizer, Recipe
from poet_hil.device import DeviceClient
from poet_hil.errors import DeviceError, LinkError, TargetDied
from poet_hil.link import Link
from poet_hil.manifest import load_build
from poet_hil.protocol import Command, request_index_offset
from poet_hil.targets.host import HostTarget
from poet_solver.problem import Mode
from poet_solver.schedule import Compute

from .boards import with_dma
from .test_on_host import BOARD, Maker, contents, device_of, run

PLENTY = 120_000


def layers(make_model: Maker) -> onnx.ModelProto:
    """Dense layers whose weights, in both layouts, are most of the model."""
    rng = np.random.default_rng(1)
    weights = {
        "w0": (rng.standard_normal((48, 20)) / 5).astype(np.float32),
        "b0": rng.standard_normal(48).astype(np.float32),
        "w1": (rng.standard_normal((48, 48)) / 7).astype(np.float32),
        "w2": (rng.standard_normal((6, 48)) / 7).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["a"], "g0", transB=1),
        helper.make_node("Relu", ["a"], ["r"], "r0"),
        helper.make_node("Gemm", ["r", "w1"], ["c"], "g1"),
        helper.make_node("Relu", ["c"], ["s"], "r1"),
        helper.make_node("Gemm", ["s", "w2"], ["y"], "g2", transB=1),
    ]
    return make_model(nodes, [1, 20], weights)


def images(make_model: Maker) -> onnx.ModelProto:
    """Convolutions with bias, stride and groups, a residual sum, both poolings."""
    rng = np.random.default_rng(2)

    def drawn(*shape: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    weights = {
        "w0": drawn(8, 3, 3, 3),
        "b0": drawn(8, 1)[:, 0],
        "w1": drawn(8, 8, 3, 3),
        "wd": drawn(8, 1, 3, 3),
        "w2": drawn(12, 8, 3, 3),
        "b2": drawn(12, 1)[:, 0],
        "w3": drawn(5, 12 * 2 * 2),
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["a"], "c0", **pads),
        helper.make_node("Relu", ["a"], ["r"], "r0"),
        helper.make_node("Conv", ["r", "w1"], ["c"], "c1", **pads),
        helper.make_node("Add", ["c", "r"], ["d"], "sum"),
        helper.make_node("Conv", ["d", "wd"], ["e"], "depthwise", group=8, **pads),
        helper.make_node("MaxPool", ["e"], ["f"], "max", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["f", "w2", "b2"], ["g"], "c2", strides=[2, 2], **pads),
        helper.make_node("Relu", ["g"], ["h"], "r2"),
        helper.make_node("AveragePool", ["h"], ["k"], "mean", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["k"], ["l"], "flat"),
        helper.make_node("Gemm", ["l", "w3"], ["y"], "g3", transB=1),
    ]
    return make_model(nodes, [1, 3, 16, 16], weights)


def transformer(make_model: Maker) -> onnx.ModelProto:
    """A layer of a transformer, attention of two heads; the first token is classed."""
    rng = np.random.default_rng(4)
    tokens, hidden, heads = 8, 16, 2

    def drawn(*shape: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    weights: dict[str, np.ndarray[Any, Any]] = {name: drawn(hidden, hidden) for name in ("wq", "wk", "wv", "wo")}
    weights |= {"bq": drawn(hidden), "w1": drawn(hidden, 64), "b1": drawn(64), "w2": drawn(64, hidden)}
    weights |= {"s0": drawn(hidden), "t0": drawn(hidden), "s1": drawn(hidden), "t1": drawn(hidden)}
    weights |= {"wc": drawn(hidden, 5)}
    split = np.array([1, tokens, heads, hidden // heads], np.int64)
    joined = np.array([1, tokens, hidden], np.int64)
    numbers = {"split": split, "joined": joined, "four": np.array(4.0, np.float32), "zero": np.array(0, np.int64)}

    def heads_of(name: str, x: str, perm: list[int]) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Reshape", [x, "split"], [f"{name}4"], f"{name}_heads"),
            helper.make_node("Transpose", [f"{name}4"], [name], f"{name}_perm", perm=perm),
        ]

    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q0"], "query"),
        helper.make_node("Add", ["q0", "bq"], ["q1"], "query_bias"),
        helper.make_node("MatMul", ["x", "wk"], ["k1"], "key"),
        helper.make_node("MatMul", ["x", "wv"], ["v1"], "value"),
        *heads_of("q", "q1", [0, 2, 1, 3]),
        *heads_of("k", "k1", [0, 2, 3, 1]),
        *heads_of("v", "v1", [0, 2, 1, 3]),
        helper.make_node("MatMul", ["q", "k"], ["scores"], "scores"),
        helper.make_node("Div", ["scores", "four"], ["scaled"], "scaled"),
        helper.make_node("Softmax", ["scaled"], ["shares"], "shares", axis=-1),
        helper.make_node("MatMul", ["shares", "v"], ["mixed"], "mixed"),
        helper.make_node("Transpose", ["mixed"], ["mixed4"], "mixed_perm", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["mixed4", "joined"], ["mixed3"], "mixed_join"),
        helper.make_node("MatMul", ["mixed3", "wo"], ["out"], "out"),
        helper.make_node("Add", ["x", "out"], ["sum0"], "skip0"),
        helper.make_node("LayerNormalization", ["sum0", "s0", "t0"], ["n0"], "norm0"),
        helper.make_node("MatMul", ["n0", "w1"], ["h0"], "inner"),
        helper.make_node("Add", ["h0", "b1"], ["h1"], "inner_bias"),
        helper.make_node("Relu", ["h1"], ["h2"], "inner_relu"),
        helper.make_node("MatMul", ["h2", "w2"], ["h3"], "outer"),
        helper.make_node("Add", ["n0", "h3"], ["sum1"], "skip1"),
        helper.make_node("LayerNormalization", ["sum1", "s1", "t1"], ["n1"], "norm1"),
        helper.make_node("Gather", ["n1", "zero"], ["first"], "first", axis=1),
        helper.make_node("Gemm", ["first", "wc"], ["y"], "classifier"),
    ]
    return make_model(nodes, [1, tokens, hidden], weights | numbers)


@pytest.mark.parametrize(
    ("model", "recipe", "budgets"),
    [
        (layers, DEFAULT_RECIPE, (2500,)),
        (layers, Recipe(optimizer=Optimizer.ADAM), (8000,)),
        (images, DEFAULT_RECIPE, (12_000, 6_000)),
        (transformer, DEFAULT_RECIPE, (3_000,)),
    ],
)
def test_bits_do_not_depend_on_tiles(
    model: Callable[[Maker], Any], recipe: Recipe, budgets: tuple[int, ...], make_model: Maker, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(make_model), path)

    def plan(ram_bytes: int, home: Home = Home.STORAGE, technique: str = "both", board: str = BOARD) -> Plan:
        request = make_request(path, board, ram_bytes, None, home, recipe, technique, 0)
        return make_plan(request, path, threads=1, time_limit_s=3)

    reference = run(plan(PLENTY, Home.RAM, "keep"), tmp_path / "keep")
    tiled = 0
    for budget in budgets:
        small = plan(budget)
        chosen = {(s.op, s.mode) for s in small.train.schedule.steps if isinstance(s, Compute)}
        tiled += len(chosen & small.train.lowered.programs.keys())
        assert run(small, tmp_path / str(budget)) == reference
    assert tiled > 2, "the budgets were to force tiles"
    if model is not images:
        return
    # The last one again, where storage is read while the core computes; bits of what was looked at too soon are NaN.
    ahead = plan(budgets[-1], board=with_dma(BOARD, tmp_path))
    assert run(ahead, tmp_path / "ahead") == reference
    assert (tmp_path / "ahead" / "project" / "src" / "poet_schedule.c").read_text().count("poet_stream_start") > 9
    assert ahead.train.schedule.time_s < 0.97 * small.train.schedule.time_s
    assert ahead.train.schedule.energy.total < small.train.schedule.energy.total


def test_a_step_whose_loss_is_not_finite_leaves_tiled_updates_out(make_model: Maker, tmp_path: Path) -> None:
    """Gradients that the left out ops would have written to storage are read all the same."""
    path = tmp_path / "m.onnx"
    onnx.save(images(make_model), path)
    request = make_request(path, BOARD, 6_000, None, Home.STORAGE, DEFAULT_RECIPE, "both", 0)
    plan = make_plan(request, path, threads=1, time_limit_s=3)
    graph, index = plan.train.graph, plan.train.lowered.index
    gradients = {index[name] for name in graph.tensors if graph.tensors[name].updates is None and name in index}
    assert any(gradients.intersection(mode.outputs_to_storage) for mode in chosen_updates(plan))
    x = np.random.default_rng(5).standard_normal((1, 3, 16, 16)).astype(np.float32)
    with device_of(plan, tmp_path) as device:
        label = np.zeros(1, np.int64)
        device.write_sample(x, label)
        device.train(0.05)
        before = contents(device)

        def is_unchanged() -> bool:
            return contents(device) == before

        device.write_sample(np.full_like(x, np.nan), label)
        for commits in (False, True):
            # Behind a checkpoint the step's parameters go to their other places.
            if commits:
                device.checkpoint()
            with pytest.raises(DeviceError, match="NaN or infinite"):
                device.train(0.05)
            assert is_unchanged()
        device.reset()
        assert is_unchanged()
        device.write_sample(x, label)
        device.train(0.05)


def test_initial_weights_may_come_with_storage(
    make_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where flash has no room for them: boot finds a checkpoint of no steps on storage, and the bits are the same."""
    path = tmp_path / "m.onnx"
    onnx.save(layers(make_model), path)
    request = make_request(path, BOARD, 2500, None, Home.STORAGE, DEFAULT_RECIPE, "both", 0)
    plan = make_plan(request, path, threads=1, time_limit_s=3)
    in_flash = run(plan, tmp_path / "flash")
    monkeypatch.setattr(initial, "weights_fit", lambda board, size_bytes: False)
    assert run(plan, tmp_path / "storage") == in_flash
    assert "poet_initial_w" not in (tmp_path / "storage" / "project" / "src" / "poet_weights.c").read_text()

    # A sample that would take much of RAM is a page, which the host writes in order.
    monkeypatch.setattr(lower, "_INPUT_SHARE", 0.0)
    paged = make_plan(request, path, threads=1, time_limit_s=3)
    assert run(paged, tmp_path / "paged") == in_flash
    assert "poet_input_" not in (tmp_path / "paged" / "project" / "include" / "poet_generated.h").read_text()
    with device_of(paged, tmp_path / "parts") as device:

        def write(offset: int, count: int) -> None:
            device.link.request(Command.WRITE_INPUT, request_index_offset(0, offset) + bytes(4 * count))

        write(0, 10)
        with pytest.raises(DeviceError, match="INFER"):
            device.infer()
        with pytest.raises(DeviceError, match="WRITE_INPUT"):
            write(44, 9)
        write(40, 10)
        answer = device.infer()
        assert np.isfinite(answer).all()

        # Their checkpoint is the only copy of the initial weights.
        with pytest.raises(DeviceError, match="INIT"):
            device.init()
        device.reset()
        write(0, 10)
        write(40, 10)
        assert device.infer().tobytes() == answer.tobytes()


def test_frozen_weights_may_be_pages_that_are_never_written(
    make_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An embedding of which rows are picked, by the sample and by constants, and a frozen layer: the bits of flash."""
    rng = np.random.default_rng(6)
    weights: dict[str, np.ndarray[Any, Any]] = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in {"words": (50, 8), "places": (60, 8), "w0": (24, 16), "w1": (5, 24)}.items()
    }
    first = np.array([[3, 0]], np.int64)
    nodes = [
        helper.make_node("Gather", ["words", "x"], ["a"], "pick"),
        helper.make_node("Gather", ["places", "first"], ["b"], "place"),
        helper.make_node("Add", ["a", "b"], ["c"], "sum"),
        helper.make_node("Flatten", ["c"], ["d"], "flat"),
        helper.make_node("Gemm", ["d", "w0"], ["e"], "g0", transB=1),
        helper.make_node("Gemm", ["e", "w1"], ["y"], "g1", transB=1),
    ]
    model = make_model(nodes, [1, 2], weights | {"first": first})
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    path = tmp_path / "m.onnx"
    onnx.save(model, path)

    def train(folder: Path, ram_bytes: int) -> tuple[list[str], dict[str, bytes], str]:
        recipe = Recipe(train="w1")
        request = make_request(path, BOARD, ram_bytes, None, Home.STORAGE, recipe, "both", 0)
        plan = make_plan(request, path, threads=1, time_limit_s=3)
        samples = np.array([[[7, 49]], [[0, 7]], [[-1, 21]]], np.int32)
        with device_of(plan, folder) as device:
            losses = []
            for sample in samples:
                device.write_sample(sample, np.array([1]))
                losses.append(device.train(0.05).loss_bits)
            text = (folder / "project" / "src" / "poet_schedule.c").read_text()
            return losses, contents(device), text

    *in_flash, text = train(tmp_path / "flash", 5000)
    assert "poet_page_rows" not in text
    monkeypatch.setattr(frozen, "weights_fit", lambda board, size_bytes: size_bytes < 500)
    *in_pages, text = train(tmp_path / "pages", 1100)
    assert in_pages == in_flash
    assert text.count("poet_page_rows") == 2 and "poet_stream(PAGE_W0" in text
    image = tmp_path / "pages" / "project" / "frozen.bin"
    spoiled = bytearray(image.read_bytes())
    spoiled[spoiled.index(weights["words"][49].tobytes())] ^= 1
    image.write_bytes(spoiled)
    (tmp_path / "pages" / "poet_storage.bin").unlink()
    build = load_build(tmp_path / "pages")
    with HostTarget(build, tmp_path / "pages") as target:
        device = DeviceClient(Link(target), build.manifest)
        device.write_sample(np.array([[0, 7]], np.int32), np.array([1]))
        device.train(0.05)
        device.write_sample(np.array([[0, 49]], np.int32), np.array([1]))
        with pytest.raises(DeviceError):
            device.train(0.05)


@pytest.mark.parametrize(
    ("recipe", "ram_bytes"),
    [(DEFAULT_RECIPE, 1600), (Recipe(optimizer=Optimizer.ADAM), 2400), (Recipe(momentum=0.9, accumulate=2), 2400)],
    ids=["sgd", "adam", "momentum by 2"],
)
def test_an_embedding_larger_than_memory_trains(
    recipe: Recipe, ram_bytes: int, make_model: Maker, tmp_path: Path
) -> None:
    """Words by a sample's indices, some of them twice, and places by constants: 96 x 16 and 12 x 16 of them."""
    rng = np.random.default_rng(8)
    weights: dict[str, np.ndarray[Any, Any]] = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in {"words": (96, 16), "places": (12, 16), "w": (5, 64)}.items()
    }
    nodes = [
        helper.make_node("Gather", ["words", "x"], ["a"], "pick"),
        helper.make_node("Gather", ["places", "first"], ["b"], "place"),
        helper.make_node("Add", ["a", "b"], ["c"], "sum"),
        helper.make_node("Flatten", ["c"], ["d"], "flat"),
        helper.make_node("Gemm", ["d", "w"], ["y"], "classifier", transB=1),
    ]
    model = make_model(nodes, [1, 4], weights | {"first": np.array([[3, 0, 3, 11]], np.int64)})
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    samples = np.array([[[7, 95, 7, 0]], [[0, 7, -1, 40]], [[-96, 40, 40, 40]], [[5, 6, 7, 8]]], np.int32)

    def train(plan: Plan, folder: Path) -> tuple[list[str], dict[str, bytes], bytes]:
        with device_of(plan, folder) as device:
            losses = []
            for sample in samples:
                device.write_sample(sample, np.array([1]))
                losses.append(device.train(0.05).loss_bits)
            device.write_input(samples[0])
            answer = device.infer().tobytes()
            return losses, contents(device), answer

    def plan(ram: int, home: Home, technique: str) -> Plan:
        request = make_request(path, BOARD, ram, None, home, recipe, technique, 0)
        return make_plan(request, path, threads=1, time_limit_s=3)

    small = plan(ram_bytes, Home.STORAGE, "both")
    chosen = {
        small.train.lowered.nodes[s.op].op
        for s in small.train.schedule.steps
        if isinstance(s, Compute) and (s.op, s.mode) in small.train.lowered.programs
    }
    assert "Gather" in chosen and any(op.startswith("GatherGrad") for op in chosen)
    assert train(small, tmp_path / "small") == train(plan(PLENTY, Home.RAM, "keep"), tmp_path / "keep")


def test_power_cuts_in_the_middle_of_tiled_updates_lose_no_bit(
    make_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint after every second step; power goes at writes all over the run, some of them torn."""
    path = tmp_path / "m.onnx"
    onnx.save(layers(make_model), path)
    request = make_request(path, BOARD, 2500, None, Home.STORAGE, DEFAULT_RECIPE, "both", 0)
    plan = make_plan(request, path, threads=1, time_limit_s=3)
    assert any(mode.outputs_to_storage for mode in chosen_updates(plan)), "the budget was to force tiled updates"
    samples = np.random.default_rng(5).standard_normal((4, 1, 20)).astype(np.float32)
    write_project(plan, tmp_path / "project")
    build_host(tmp_path / "project")
    build = load_build(tmp_path)

    def train(folder: Path) -> tuple[bool, dict[str, bytes]]:
        """Go on from the newest checkpoint; (whether power went, parameters at the end)."""
        folder.mkdir(exist_ok=True)
        try:
            with HostTarget(build, folder) as target:
                device = DeviceClient(Link(target), build.manifest)
                for step in range(device.hello().steps_done, len(samples)):
                    device.write_sample(samples[step], np.zeros(1, np.int64))
                    device.train(0.05)
                    if step % 2:
                        device.checkpoint()
                return False, contents(device)
        except (LinkError, TargetDied):
            return True, {}

    _, whole = train(tmp_path / "whole")
    cuts = 0
    for k, kind in zip(range(3, 1000, 8), cycle(("cut", "tear", "noise")), strict=False):
        folder = tmp_path / str(k)
        monkeypatch.setenv("POET_STORAGE_FAULT", f"{kind}@{k}")
        is_cut, ended = train(folder)
        monkeypatch.delenv("POET_STORAGE_FAULT")
        if is_cut:
            _, resumed = train(folder)
            assert resumed == whole, f"{kind}@{k}"
            cuts += 1
        else:
            assert ended == whole
            break
    assert cuts > 6


def chosen_updates(plan: Plan) -> list[Mode]:
    """Modes of the updates, as the schedule runs them."""
    problem = plan.train.lowered.problem
    return [
        problem.ops[step.op].modes[step.mode]
        for step in plan.train.schedule.steps
        if isinstance(step, Compute) and not problem.ops[step.op].repeatable
    ]
