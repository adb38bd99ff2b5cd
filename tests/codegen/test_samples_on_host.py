"""Samples and labels of every kind on the host build: losses, several inputs, indices, losses that are not finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from poet_codegen.emit.project import emit_project
from poet_codegen.lower import Home
from poet_codegen.plan import Plan, make_plan, make_request
from poet_codegen.recipe import Loss, Recipe
from poet_hil.device import DeviceClient
from poet_hil.errors import DeviceError
from poet_hil.manifest import Manifest
from poet_hil.protocol import Status
from poet_hil.results import weights_digest

from .test_on_host import BOARD, PLENTY, device_of

TOKENS, ROWS, WIDTH, CLASSES = 5, 7, 8, 4
Array = np.ndarray[Any, Any]


def tokens() -> onnx.ModelProto:
    """Labels every token: two embeddings by index, a mask, two layers. Inputs are int64, int32 and float32."""
    rng = np.random.default_rng(1)

    def drawn(*shape: int) -> Array:
        return (rng.standard_normal(shape) / 2).astype(np.float32)

    weights = {
        "words": drawn(ROWS, WIDTH),
        "kinds": drawn(2, WIDTH),
        "w": drawn(WIDTH, WIDTH),
        "v": drawn(WIDTH, CLASSES),
        "bias": drawn(CLASSES),
        "last": np.array([-1]),
    }
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["e"], "words"),
        helper.make_node("Gather", ["kinds", "types"], ["k"], "kinds"),
        helper.make_node("Add", ["e", "k"], ["s"], "sum"),
        helper.make_node("Unsqueeze", ["mask", "last"], ["m"], "mask"),
        helper.make_node("Mul", ["s", "m"], ["x"], "masked"),
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Tanh", ["h"], ["t"], "tanh"),
        helper.make_node("MatMul", ["t", "v"], ["u"], "second"),
        helper.make_node("Add", ["u", "bias"], ["y"], "bias"),
    ]
    inputs = [("ids", TensorProto.INT64), ("types", TensorProto.INT32), ("mask", TensorProto.FLOAT)]
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info(name, kind, [2, TOKENS]) for name, kind in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, TOKENS, CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def plan_of(folder: Path, loss: Loss, ram_bytes: int, home: Home = Home.RAM, technique: str = "both") -> Plan:
    path = folder / "m.onnx"
    onnx.save(tokens(), path)
    request = make_request(path, BOARD, ram_bytes, None, home, Recipe(loss=loss), technique, 0)
    return make_plan(request, path, threads=1, time_limit_s=20)


def drawn_batch(manifest: Manifest, rng: np.random.Generator) -> tuple[dict[str, Array], Array]:
    x = {
        "ids": rng.integers(-ROWS, ROWS, (2, TOKENS), np.int32),
        "types": rng.integers(0, 2, (2, TOKENS), np.int32),
        "mask": rng.integers(0, 2, (2, TOKENS)).astype(np.float32),
    }
    shape = manifest.label.shape
    if manifest.loss == "cross-entropy":
        return x, rng.integers(0, CLASSES, shape)
    if manifest.loss == "mse":
        return x, rng.standard_normal(shape).astype(np.float32)
    return x, rng.dirichlet(np.ones(CLASSES), shape[:-1]).astype(np.float32)


@contextmanager
def running(plan: Plan, folder: Path) -> Iterator[DeviceClient]:
    with device_of(plan, folder) as device:
        assert [array.name for array in device.manifest.inputs] == ["ids", "types", "mask"]
        yield device


def trained(plan: Plan, folder: Path) -> tuple[list[str], str]:
    rng = np.random.default_rng(2)
    with running(plan, folder) as device:
        x, y = drawn_batch(device.manifest, rng)
        steps = []
        for _ in range(4):
            device.write_sample(x, y)
            steps.append(device.train(0.1))
        assert steps[-1].loss < steps[0].loss
        return [step.loss_bits for step in steps], weights_digest(device.read_params(), device.manifest)


@pytest.mark.parametrize("loss", list(Loss))
def test_every_loss_trains_with_the_same_bits_at_any_budget(loss: Loss, tmp_path: Path) -> None:
    keep = plan_of(tmp_path, loss, PLENTY, technique="keep")
    tight = plan_of(tmp_path, loss, keep.train.schedule.peak_bytes * 8 // 10, Home.STORAGE)
    assert any(type(step).__name__ == "PageIn" for step in tight.train.schedule.steps)
    assert trained(keep, tmp_path / "keep") == trained(tight, tmp_path / "tight")


def test_indices_outside_their_tables_run_nothing(tmp_path: Path) -> None:
    with running(plan_of(tmp_path, Loss.CROSS_ENTROPY, PLENTY), tmp_path / "b") as device:
        manifest = device.manifest
        assert [array.index_range for array in manifest.inputs] == [(-ROWS, ROWS), (-2, 2), None]
        x, y = drawn_batch(manifest, np.random.default_rng(3))
        before = weights_digest(device.read_params(), manifest)
        for name, wrong in (("ids", ROWS), ("ids", -ROWS - 1), ("types", 2), ("types", -(2**31))):
            bad = {**x, name: x[name].copy()}
            bad[name][1, TOKENS - 1] = wrong
            device.write_sample(bad, y)
            for run in (lambda: device.train(0.1), device.infer):
                with pytest.raises(DeviceError, match="not in the table") as caught:
                    run()
                assert caught.value.status == Status.INPUT
        assert weights_digest(device.read_params(), manifest) == before
        device.write_sample(x, y)
        assert device.train(0.1).steps_done == 1


@pytest.mark.parametrize("home", list(Home))
def test_a_loss_that_is_not_finite_changes_no_parameter(home: Home, tmp_path: Path) -> None:
    """At a budget that pages: every parameter must find its way home although its update is left out."""
    keep = plan_of(tmp_path, Loss.MSE, PLENTY, technique="keep")
    homes = sum(param.size_bytes for param in keep.train.graph.params()) if home is Home.RAM else 0
    peak = keep.train.schedule.peak_bytes
    plan = plan_of(tmp_path, Loss.MSE, homes + (peak - homes) * 8 // 10, home)
    with running(plan, tmp_path / "b") as device, running(keep, tmp_path / "keep") as spared:
        rng = np.random.default_rng(4)
        batches = [drawn_batch(device.manifest, rng) for _ in range(3)]
        for x, y in batches[:2]:
            for each in (device, spared):
                each.write_sample(x, y)
                each.train(0.1)
        good = device.read_params()
        x, y = batches[2]
        poisoned = x | {"mask": np.full_like(x["mask"], np.nan)}
        for sample in ((poisoned, y), (x, np.full_like(y, np.inf)), (x, np.full_like(y, 3e38))):
            device.write_sample(*sample)
            with pytest.raises(DeviceError, match="NaN or infinite") as caught:
                device.train(0.1)
            assert caught.value.status == Status.NOT_FINITE
            assert device.status().steps_done == 2
            for name, value in device.read_params().items():
                assert value.tobytes() == good[name].tobytes(), name
        # As if nothing had happened: inference, a checkpoint, and the next step.
        x, y = batches[0]
        outcomes = []
        for each in (device, spared):
            each.write_sample(x, y)
            answer = each.infer().tobytes()
            outcomes.append((answer, each.train(0.1).loss_bits, weights_digest(each.read_params(), each.manifest)))
        assert outcomes[0] == outcomes[1]
        device.checkpoint()


def test_the_generated_step_shows_what_is_left_out(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, Loss.BCE, PLENTY)
    text = emit_project(plan.build_input())["src/poet_schedule.c"].decode()
    head, tail = text.split("    const bool loss_is_finite = poet_bytes_is_finite(poet_loss);\n")
    assert "binary_cross_entropy_40(" in head and "if (" not in head
    updates = sum(any(plan.train.graph.tensors[o].updates for o in node.outputs) for node in plan.train.graph.nodes)
    assert tail.count("    if (loss_is_finite) {\n        ") == updates == 5
    assert "return loss_is_finite ? POET_OK : POET_ERR_NOT_FINITE;" in tail
