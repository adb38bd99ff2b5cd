"""A classifier that ends in Softmax, or in axes of size 1: what the loss reads of it, against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from poet_codegen.autodiff import build_training_graph, fuse_updates, inference_graph
from poet_codegen.errors import ModelError
from poet_codegen.head import final_softmax, with_logits
from poet_codegen.onnx_import import import_onnx
from poet_codegen.recipe import Loss, Recipe

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


BATCH, TOKENS, WIDTH, CLASSES = 2, 3, 4, 5


def tagger(tail: list[onnx.NodeProto], opset: int, width: int = WIDTH, classes: int = CLASSES) -> onnx.ModelProto:
    """A layer over tokens to classes, [2, 3, 5]; then `tail` from 'z' to 'y'."""
    weights = {"w": np.random.default_rng(13).standard_normal((width, classes)).astype(np.float32)}
    constants = {
        "rows": np.array([BATCH * TOKENS, classes], np.int64),
        "all": np.array([BATCH, TOKENS, classes], np.int64),
        "split": np.array([BATCH * TOKENS * classes // 4, 4], np.int64),
        "last": np.array([TOKENS - 1], np.int64),
    }
    used = {name for n in tail for name in n.input}
    graph = helper.make_graph(
        [node("MatMul", ["x", "w"], ["z"]), *tail],
        "tagger",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, TOKENS, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in (weights | constants).items() if n in used | weights.keys()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


TOKEN_TAILS = {
    "softmax": ([node("Softmax", ["z"], ["y"], axis=-1)], 17),
    "softmax over axis 2": ([node("Softmax", ["z"], ["y"], axis=2)], 9),
    "logarithm": ([node("LogSoftmax", ["z"], ["y"], axis=-1)], 17),
    "of rows, then tokens": (
        [node("Reshape", ["z", "rows"], ["r"]), node("Softmax", ["r"], ["p"]), node("Reshape", ["p", "all"], ["y"])],
        17,
    ),
    "rows in the end": ([node("Softmax", ["z"], ["p"]), node("Reshape", ["p", "rows"], ["y"])], 17),
}


@pytest.mark.parametrize("loss", [Loss.CROSS_ENTROPY, Loss.SOFT_CROSS_ENTROPY])
@pytest.mark.parametrize("name", TOKEN_TAILS)
def test_loss_of_tokens_is_the_cross_entropy_of_their_probabilities(name: str, loss: Loss, run_graph: Any) -> None:
    torch = pytest.importorskip("torch")
    model = import_onnx(tagger(*TOKEN_TAILS[name]))
    graph = fuse_updates(build_training_graph(model.graph, frozenset(model.weights), Recipe(loss=loss)))
    output = model.graph.tensors[model.graph.outputs[0]].shape
    rng = np.random.default_rng(14)
    x = rng.standard_normal((BATCH, TOKENS, WIDTH)).astype(np.float32)
    classes = rng.integers(0, CLASSES, output[:-1])
    chances = rng.dirichlet(np.ones(CLASSES), output[:-1]).astype(np.float32)
    label = classes if loss is Loss.CROSS_ENTROPY else chances
    result = run_graph(graph, {**model.weights, "x": x, "label": label, "learning_rate": RATE})

    w = torch.tensor(model.weights["w"], dtype=torch.float64, requires_grad=True)
    probability = torch.softmax(torch.tensor(x, dtype=torch.float64) @ w, -1)
    wanted = np.eye(CLASSES)[classes] if loss is Loss.CROSS_ENTROPY else chances.astype(np.float64)
    rows = torch.tensor(wanted.reshape(BATCH, TOKENS, CLASSES))
    theirs = -(rows * torch.log(probability)).sum(-1).mean()
    theirs.backward()
    assert float(result["loss"][0]) == pytest.approx(float(theirs.detach()), rel=1e-6)
    (new,) = (t.name for t in graph.tensors.values() if t.updates == "w")
    ours, gradient = (model.weights["w"] - result[new]) / RATE, w.grad.numpy()
    np.testing.assert_allclose(ours, gradient, atol=1e-6 * np.abs(gradient).max() + 1e-7)

    assert not {"Softmax", "LogSoftmax"} & {n.op for n in graph.nodes}, "the loss has its own"
    softmax = final_softmax(model.graph)
    assert softmax is not None and softmax.op == ("LogSoftmax" if name == "logarithm" else "Softmax")
    answer = run_graph(inference_graph(model.graph), {**model.weights, "x": x})[model.graph.outputs[0]]
    expected = torch.log(probability) if name == "logarithm" else probability
    np.testing.assert_allclose(answer, expected.detach().numpy().reshape(output), rtol=1e-5, atol=1e-6)


OTHER_SOFTMAXES = {
    "over the tokens": tagger([node("Softmax", ["z"], ["y"], axis=1)], 17),
    "over as many tokens as classes": tagger([node("Softmax", ["z"], ["y"], axis=1)], 17, classes=TOKENS),
    "of all tokens together": tagger([node("Softmax", ["z"], ["y"])], 9),
    "logarithm over the tokens": tagger([node("LogSoftmax", ["z"], ["y"], axis=1)], 17),
    "tokens side by side": tagger([node("Softmax", ["z"], ["p"]), node("Flatten", ["p"], ["y"])], 17),
    "cut elsewhere": tagger([node("Softmax", ["z"], ["p"]), node("Reshape", ["p", "split"], ["y"])], 17, classes=6),
    "classes first": tagger([node("Softmax", ["z"], ["p"]), node("Transpose", ["p"], ["y"], perm=[0, 2, 1])], 17),
    "the last token": tagger([node("Softmax", ["z"], ["p"]), node("Gather", ["p", "last"], ["y"], axis=1)], 17),
    "twice": tagger([node("Softmax", ["z"], ["p"]), node("Concat", ["z", "p"], ["y"], axis=1)], 17),
    "over the batch": classifier([node("Softmax", ["z"], ["y"], axis=0)], 17, False),
    "samples side by side": classifier(
        [node("Softmax", ["z"], ["p"]), node("Flatten", ["p"], ["y"], axis=0)], 17, False
    ),
}


@pytest.mark.parametrize("loss", [Loss.CROSS_ENTROPY, Loss.SOFT_CROSS_ENTROPY])
@pytest.mark.parametrize("name", OTHER_SOFTMAXES)
def test_another_softmax_at_the_end_is_refused(name: str, loss: Loss) -> None:
    model = import_onnx(OTHER_SOFTMAXES[name])
    trainable = frozenset(model.weights)
    with pytest.raises(ModelError, match=r"ends in the (Log)?Softmax '.*without it, as logits.*--loss"):
        build_training_graph(model.graph, trainable, Recipe(loss=loss))
    graph = build_training_graph(model.graph, trainable, Recipe(loss=Loss.MSE))
    assert {"Softmax", "LogSoftmax"} & {n.op for n in graph.nodes}, "other losses read the output"


def test_a_softmax_inside_stays() -> None:
    inside = import_onnx(classifier([node("Softmax", ["z"], ["p"]), node("Relu", ["p"], ["y"])], 17, False))
    assert final_softmax(inside.graph) is None
    assert with_logits(inside.graph) == inside.graph
