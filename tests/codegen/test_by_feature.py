"""Matrices that lie feature by feature: which they are, and that no bit of a result or gradient changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from poet_codegen import onnx_import
from poet_codegen.graph import Graph, Kind
from poet_codegen.onnx_import import import_onnx

from .host_kernels import HostKernels, with_gradients
from .test_tiles_on_host import Maker, transformer

node = helper.make_node
BOTH = {"w": {"y"}, "v": {"x"}}


def layers(graph: Graph) -> dict[str, set[str]]:
    """Name of each layer's weights -> which of its matrices lie feature by feature."""
    dense = (n for n in graph.nodes if n.op == "Dense")
    return {n.inputs[1]: {name[0] for name in n.attrs if name.endswith("_by_feature")} for n in dense}


def test_a_transformers_inner_matrices_lie_feature_by_feature(
    make_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What norms and residual sums read or make stays row by row; no head is transposed any more."""
    model = transformer(make_model)
    graph = import_onnx(model).graph
    assert layers(graph) == {
        "wq": {"y"},
        "wk": {"y"},
        "wv": {"y"},
        "wo": {"x"},
        "w1": {"y"},
        "w2": {"x"},
        "wc": set(),
    }
    assert not any(n.op == "Transpose" for n in graph.nodes)
    monkeypatch.setattr(onnx_import, "by_feature", lambda graph: graph)
    plain = import_onnx(model)
    assert sum(n.op == "Transpose" for n in plain.graph.nodes) == 4
    both = [with_gradients(one) for one in (graph, plain.graph)]
    kernels = HostKernels(tmp_path, both)
    rng = np.random.default_rng(0)
    values = {
        t.name: plain.weights.get(t.name, rng.standard_normal(t.shape).astype(np.float32))
        for t in both[0].of_kind(Kind.INPUT, Kind.PARAM)
    }
    results = [kernels.run(one, values) for one in both]
    for mine, theirs in zip(*((*one.outputs, "y") for one in both), strict=True):
        assert results[0][mine].tobytes() == results[1][theirs].tobytes(), mine


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        ([node("Gelu", ["a"], ["b"]), node("MatMul", ["b", "v"], ["y"])], BOTH),
        ([node("Gelu", ["a"], ["b"]), node("Mul", ["a", "b"], ["c"]), node("MatMul", ["c", "v"], ["y"])], BOTH),
        ([node("Softmax", ["a"], ["b"]), node("MatMul", ["b", "v"], ["y"])], {}),
        ([node("Add", ["a", "x"], ["b"]), node("MatMul", ["b", "v"], ["y"])], {}),
        ([node("Transpose", ["a"], ["b"], perm=[0, 2, 1]), node("MatMul", ["b", "t"], ["y"])], {}),
        ([node("MatMul", ["a", "v"], ["b"]), node("Add", ["a", "b"], ["y"])], {}),
    ],
)
def test_only_what_all_readers_can_read_is_stored_so(
    behind: list[onnx.NodeProto], expected: dict[str, set[str]], make_model: Callable[..., onnx.ModelProto]
) -> None:
    weights = {name: np.ones((6, 6), np.float32) for name in "wv"} | {"t": np.ones((3, 3), np.float32)}
    nodes = [node("MatMul", ["x", "w"], ["a"]), *behind]
    used = {name for one in nodes for name in one.input}
    graph = import_onnx(make_model(nodes, [1, 3, 6], {n: w for n, w in weights.items() if n in used})).graph
    assert {name: which for name, which in layers(graph).items() if which} == expected
