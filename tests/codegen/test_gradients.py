"""Gradients of one training step against PyTorch: live where it is installed, and against recorded figures always."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from poet_codegen.autodiff import build_training_graph, fuse_updates
from poet_codegen.onnx_import import import_onnx, read_model

RATE = np.float32(1024.0)  # a power of two: w - (w - rate x g) gives g back to a few ulp
TOLERANCE = 1e-5
RECORDED = Path(__file__).parents[1] / "data" / "digits_gradients.npz"
HAS_TORCH = importlib.util.find_spec("torch") is not None


def one_step(run_graph: Callable[..., Any], model: onnx.ModelProto, x: Any, label: Any, fuse: bool = True) -> Any:
    imported = import_onnx(model)
    graph = build_training_graph(imported.graph, frozenset(imported.weights))
    graph = fuse_updates(graph) if fuse else graph
    values = {**imported.weights, graph_input(graph): x, "label": label, "learning_rate": RATE}
    result = run_graph(graph, values)
    gradients = {
        t.updates: (imported.weights[t.updates] - result[name]).astype(np.float64) / float(RATE)
        for name, t in graph.tensors.items()
        if t.updates is not None
    }
    return float(result["loss"][0]), gradients, result[imported.graph.outputs[0]]


def graph_input(graph: Any) -> str:
    return next(t.name for t in graph.tensors.values() if t.kind == "input")


def assert_close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name in theirs:
        scale = float(np.max(np.abs(theirs[name])))
        error = float(np.max(np.abs(ours[name] - theirs[name])))
        assert error <= TOLERANCE * scale + 1e-9, f"{name}: {error} of {scale}"


def test_digits_against_recorded_pytorch(run_graph: Any, digits_path: Path) -> None:
    with np.load(RECORDED) as recorded:
        x, label = recorded["x"], recorded["label"]
        theirs = {key.removeprefix("g:"): recorded[key] for key in recorded.files if key.startswith("g:")}
        loss_there = float(recorded["loss"])
    loss, ours, _ = one_step(run_graph, read_model(digits_path), x, label)
    assert loss == pytest.approx(loss_there, rel=1e-6)
    assert_close(ours, theirs)


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed; the recorded figures are checked instead")
def test_digits_against_live_pytorch(run_graph: Any, digits_path: Path, torch_oracle: Any) -> None:
    rng = np.random.default_rng(5)
    model = read_model(digits_path)
    for label in (0, 7):
        x = rng.random((1, 1, 8, 8), np.float32)
        loss_there, theirs, _ = torch_oracle.loss_and_gradients(model, x, np.array([label]))
        loss, ours, _ = one_step(run_graph, model, x, np.array([label]))
        assert loss == pytest.approx(loss_there, rel=1e-6)
        assert_close(ours, theirs)


def test_fusing_the_update_changes_no_bit(run_graph: Any, digits_path: Path) -> None:
    x = np.random.default_rng(3).random((1, 1, 8, 8), np.float32)
    results = [one_step(run_graph, read_model(digits_path), x, np.array([4]), fuse) for fuse in (True, False)]
    assert results[0][0] == results[1][0]
    for name, gradient in results[0][1].items():
        assert np.array_equal(gradient, results[1][1][name]), name


@st.composite
def conv_nets(draw: st.DrawFn) -> tuple[onnx.ModelProto, list[int], int]:
    """conv [- pool] - flatten - dense, of odd shapes, with a residual where shapes allow."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    c, o = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    n, h, w = draw(st.integers(1, 3)), draw(st.integers(4, 9)), draw(st.integers(4, 9))
    kernel = [draw(st.integers(1, 4)), draw(st.integers(1, 4))]
    strides = [draw(st.integers(1, 5)), draw(st.integers(1, 5))]
    dilations = [draw(st.integers(1, 2)), draw(st.integers(1, 2))] if max(kernel) <= 2 else [1, 1]
    pads = [draw(st.integers(0, 2)) for _ in range(4)]
    bias = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = {"w": rng.standard_normal((o, c // groups, *kernel)).astype(np.float32)}
    if bias:
        weights["b"] = rng.standard_normal(o).astype(np.float32)
    attrs = {"strides": strides, "dilations": dilations, "pads": pads, "group": groups}
    nodes = [helper.make_node("Conv", ["x", *weights], ["c"], "conv", **attrs)]
    extent = [
        (size + pads[a] + pads[a + 2] - dilations[a] * (kernel[a] - 1) - 1) // strides[a] + 1
        for a, size in enumerate((h, w))
    ]
    last = "c"
    if draw(st.booleans()):
        nodes += [
            helper.make_node("Relu", ["c"], ["r"], "relu"),
            helper.make_node("Add", ["r", "c"], ["s"], "add"),
        ]
        last = "s"
    if min(extent) >= 2 and draw(st.booleans()):
        nodes.append(
            helper.make_node("MaxPool", [last], ["p"], "pool", kernel_shape=[2, 2], strides=[1, 2], pads=[1, 0, 0, 1])
        )
        extent = [extent[0], (extent[1] - 1) // 2 + 1]
        last = "p"
    features = o * extent[0] * extent[1]
    transposed = draw(st.booleans())
    shape = (4, features) if transposed else (features, 4)
    # Small logits: of a net that is sure, softmax - onehot cancels, and both sides have few digits left.
    weights["v"] = (0.25 * rng.standard_normal(shape) / np.sqrt(features)).astype(np.float32)
    weights["shape"] = np.array([0, -1], np.int64)
    nodes += [
        helper.make_node("Reshape", [last, "shape"], ["f"], "reshape"),
        helper.make_node("Gemm", ["f", "v"], ["y"], "gemm", transB=int(transposed)),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [n, c, h, w])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [n, 4])],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), extent, n


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(net=conv_nets(), seed=st.integers(0, 2**32 - 1))
def test_drawn_nets_against_pytorch(run_graph: Any, torch_oracle: Any, net: Any, seed: int) -> None:
    model, extent, batch = net
    if min(extent) < 1:
        return
    rng = np.random.default_rng(seed)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = rng.standard_normal(shape).astype(np.float32)
    label = rng.integers(0, 4, batch)
    loss_there, theirs, logits_there = torch_oracle.loss_and_gradients(model, x, label)
    loss, ours, logits = one_step(run_graph, model, x, label)
    assert np.allclose(logits, logits_there, rtol=1e-4, atol=1e-5)
    assert loss == pytest.approx(loss_there, rel=1e-5, abs=1e-6)
    assert_close(ours, theirs)


def test_nan_comes_through_relu_and_max_pool(run_graph: Any, digits_path: Path) -> None:
    x = np.random.default_rng(1).random((1, 1, 8, 8), np.float32)
    x[0, 0, 4, 4] = np.nan
    loss, _, _ = one_step(run_graph, read_model(digits_path), x, np.array([1]))
    assert np.isnan(loss), "a loss that looks finite would hide it from the device's check"
