"""A classifier that ends in Softmax, or in axes of size 1: what the loss reads of it, against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from poet_codegen.autodiff import build_training_graph, fuse_updates, inference_graph
from poet_codegen.head import final_softmax, with_logits
from poet_codegen.onnx_import import import_onnx

RATE = np.float32(1024.0)
node = helper.make_node


def classifier(tail: list[onnx.NodeProto], opset: int, spatial: bool, batch: int = 2) -> onnx.ModelProto:
    """Gemm, or a 1x1 convolution and pooling, to 5 classes; then `tail` from 'z' to 'y'."""
    rng = np.random.default_rng(11)
    if spatial:
        w, shape = rng.standard_normal((5, 3, 1, 1)), [batch, 3, 2, 2]
        layers = [node("Conv", ["x", "w", "b"], ["c"]), node("GlobalAveragePool", ["c"], ["z"])]
    else:
        w, shape = rng.standard_normal((3, 5)), [batch, 3]
        layers = [node("Gemm", ["x", "w", "b"], ["z"])]
    weights = {"w": w.astype(np.float32), "b": rng.standard_normal(5).astype(np.float32)}
    constants = {"flat": np.array([batch, 5], np.int64)} if any("flat" in n.input for n in tail) else {}
    graph = helper.make_graph(
        [*layers, *tail],
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in (weights | constants).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


TAILS = {
    "softmax": ([node("Softmax", ["z"], ["y"])], 17, False),
    "softmax of all axes but the first": ([node("Softmax", ["z"], ["y"])], 9, True),
    "softmax over axis 1 of 4": ([node("Softmax", ["z"], ["y"], axis=1)], 13, True),
    "logarithm": ([node("LogSoftmax", ["z"], ["y"], axis=1)], 17, False),
    "softmax, then flat": ([node("Softmax", ["z"], ["p"], axis=1), node("Flatten", ["p"], ["y"])], 17, True),
    "flat, then softmax": ([node("Reshape", ["z", "flat"], ["f"]), node("Softmax", ["f"], ["y"])], 17, True),
    "no softmax, four axes": ([node("Identity", ["z"], ["y"])], 17, True),
}


@pytest.mark.parametrize("name", TAILS)
def test_loss_is_the_cross_entropy_of_the_model_s_probabilities(name: str, run_graph: Any) -> None:
    torch = pytest.importorskip("torch")
    tail, opset, spatial = TAILS[name]
    model = import_onnx(classifier(tail, opset, spatial))
    graph = fuse_updates(build_training_graph(model.graph, frozenset(model.weights)))
    rng = np.random.default_rng(12)
    x = rng.standard_normal(model.graph.tensors["x"].shape).astype(np.float32)
    label = np.array([3, 0])
    result = run_graph(graph, {**model.weights, "x": x, "label": label, "learning_rate": RATE})

    w, b = (torch.tensor(model.weights[n], dtype=torch.float64, requires_grad=True) for n in ("w", "b"))
    flat = torch.tensor(x, dtype=torch.float64)
    z = flat.mean((2, 3)) @ w[:, :, 0, 0].T + b if spatial else flat @ w + b
    probability = torch.softmax(z, 1)
    loss = -torch.log(probability[torch.arange(2), torch.tensor(label)]).mean()
    loss.backward()
    assert float(result["loss"][0]) == pytest.approx(float(loss.detach()), rel=1e-6)
    for t in graph.tensors.values():
        if t.updates is not None:
            theirs = {"w": w, "b": b}[t.updates].grad.numpy()
            ours = (model.weights[t.updates] - result[t.name]) / RATE
            np.testing.assert_allclose(ours, theirs, atol=1e-6 * np.abs(theirs).max() + 1e-7)

    assert not {"Softmax", "LogSoftmax"} & {n.op for n in graph.nodes}, "the loss has its own"
    answer = run_graph(inference_graph(model.graph), {**model.weights, "x": x})[model.graph.outputs[0]]
    theirs = {"logarithm": torch.log(probability), "no softmax, four axes": z}.get(name, probability)
    np.testing.assert_allclose(answer.reshape(2, 5), theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_softmax_over_something_else_stays() -> None:
    over_batch = import_onnx(classifier([node("Softmax", ["z"], ["y"], axis=0)], 17, False))
    assert final_softmax(over_batch.graph) is None
    assert with_logits(over_batch.graph) == over_batch.graph
    inside = import_onnx(classifier([node("Softmax", ["z"], ["p"]), node("Relu", ["p"], ["y"])], 17, False))
    assert final_softmax(inside.graph) is None


def test_probabilities_in_another_order_are_no_classes_any_more() -> None:
    mixed = import_onnx(classifier([node("Softmax", ["z"], ["p"]), node("Flatten", ["p"], ["y"], axis=0)], 17, False))
    assert final_softmax(mixed.graph) is None
