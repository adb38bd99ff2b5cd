"""Fused updates give the bits that a stored gradient gives, and no index leaves its table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from poet_codegen.autodiff import build_training_graph, fuse_updates
from poet_codegen.onnx_import import Model, import_onnx

node = helper.make_node
WORDS, WIDTH, CLASSES = 7, 3, 4


def sentence_model(length: int, constant: list[int] | None = None) -> Model:
    """Embedding, a projection by MatMul, mean over the words, classifier."""
    rng = np.random.default_rng(0)
    weights = {
        "table": rng.standard_normal((WORDS, WIDTH)).astype(np.float32),
        "inner": rng.standard_normal((WIDTH, 5)).astype(np.float32),
        "offset": rng.standard_normal(5).astype(np.float32),
        "outer": rng.standard_normal((5, CLASSES)).astype(np.float32),
    }
    numbers: dict[str, Any] = {"axes": np.array([1])}
    source, index = "table", "words"
    if constant:
        numbers["index"] = np.array([constant])
        index = "index"
        nodes = [node("Mul", ["table", "words"], ["scaled"])]
        source = "scaled"
        inputs = [helper.make_tensor_value_info("words", TensorProto.FLOAT, [WORDS, 1])]
    else:
        nodes = []
        inputs = [helper.make_tensor_value_info("words", TensorProto.INT64, [1, length])]
    nodes += [
        node("Gather", [source, index], ["e"]),
        node("MatMul", ["e", "inner"], ["m"]),
        node("Add", ["m", "offset"], ["a"]),
        node("Tanh", ["a"], ["t"]),
        node("ReduceMean", ["t", "axes"], ["mean"], keepdims=0),
        node("Gemm", ["mean", "outer"], ["y"]),
    ]
    initializers = [numpy_helper.from_array(array, name) for name, array in (weights | numbers).items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CLASSES])]
    graph = helper.make_graph(nodes, "sentence", inputs, outputs, initializers)
    return import_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def trained(run_graph: Callable[..., Any], model: Model, words: Any, fuse: bool) -> dict[str, Any]:
    graph = build_training_graph(model.graph, frozenset(model.weights))
    graph = fuse_updates(graph) if fuse else graph
    label = np.array([2])
    result = run_graph(graph, {**model.weights, "words": words, "label": label, "learning_rate": np.float32(0.5)})
    return {t.updates: result[name] for name, t in graph.tensors.items() if t.updates is not None}


@pytest.mark.parametrize("words", [[3, 1, 3, -4, 0], [6, 6, 6, 6, 6]])
def test_fused_embedding_changes_no_bit(run_graph: Callable[..., Any], words: list[int]) -> None:
    model = sentence_model(len(words))
    fused, plain = (trained(run_graph, model, np.array([words]), fuse) for fuse in (True, False))
    assert fused.keys() == plain.keys() == set(model.weights)
    assert all(np.array_equal(fused[name].view(np.int32), plain[name].view(np.int32)) for name in plain)
    touched = {word % WORDS for word in words}
    changed = (fused["table"] != model.weights["table"]).any(axis=1)
    assert set(np.flatnonzero(changed)) == touched


def test_updates_of_large_weights_fuse() -> None:
    model = sentence_model(5)
    graph = fuse_updates(build_training_graph(model.graph, frozenset(model.weights)))
    ops = [n.op for n in graph.nodes if n.role == "update"]
    assert sorted(ops) == ["ConvBiasGradSgd", "DenseWeightGradSgd", "DenseWeightGradSgd", "GatherGradSgd"]


def test_no_index_leaves_its_table(run_graph: Callable[..., Any]) -> None:
    model = sentence_model(4)
    wild = trained(run_graph, model, np.array([[100, -100, 7, -8]]), True)
    tame = trained(run_graph, model, np.array([[6, 0, 6, 0]]), True)
    assert all(np.array_equal(wild[name], tame[name]) for name in tame)


def test_constant_indices(run_graph: Callable[..., Any]) -> None:
    model = sentence_model(0, [3, 1, 3])
    updated = trained(run_graph, model, np.ones((WORDS, 1)), True)
    assert set(np.flatnonzero((updated["table"] != model.weights["table"]).any(axis=1))) == {1, 3}
