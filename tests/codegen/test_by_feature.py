"""Matrices that lie feature by feature: which they are, and that no bit of a result or gradient changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from poet_codegen import lower, onnx_import, panels
from poet_codegen.autodiff import build_training_graph
from poet_codegen.export import with_weights
from poet_codegen.graph import Graph, Kind
from poet_codegen.lower import Home
from poet_codegen.onnx_import import import_onnx
from poet_codegen.plan import make_plan, make_request
from poet_codegen.recipe import DEFAULT_RECIPE

from .host_kernels import HostKernels, with_gradients
from .test_on_host import BOARD, Maker, device_of
from .test_tiles_on_host import transformer

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


@pytest.mark.parametrize(("ram_bytes", "technique"), [(60_000, "keep"), (3_000, "both")])
def test_weights_lie_on_the_device_alone_as_its_tiles_want_them(
    ram_bytes: int, technique: str, make_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host reads and writes them as the model has them; a step changes them as it does without."""
    path = tmp_path / "m.onnx"
    onnx.save(transformer(make_model), path)
    monkeypatch.setattr(panels, "_LEAST_ROWS", 50)
    monkeypatch.setattr(panels, "_LEAST_WIDTH", 4)

    def in_panels_at_any_price(*arguments: Any) -> list[panels.Choice]:
        return [replace(choice, counts=choice.counts[-1:]) for choice in panels.panel_choices(*arguments)]

    monkeypatch.setattr(lower, "panel_choices", in_panels_at_any_price)
    request = make_request(path, BOARD, ram_bytes, None, Home.STORAGE, DEFAULT_RECIPE, technique, 0)
    plan = make_plan(request, path, threads=1, time_limit_s=3)
    graph, weights = plan.train.graph, plan.model.weights
    in_panels = plan.train.lowered.panels
    assert in_panels == plan.infer.lowered.panels
    assert set(in_panels) == ({"wq", "wk", "wv", "wo", "w1", "w2"} if technique == "both" else set())
    assert {t.name for t in graph.params() if t.is_transposed} == {"wq", "wk", "wv", "w1"}
    assert graph.tensors["w1"].shape == (64, 16) and weights["w1"].shape == (16, 64)
    x = np.random.default_rng(1).standard_normal((1, 8, 16)).astype(np.float32)
    with device_of(plan, tmp_path) as device:
        read = device.read_params()
        assert all(read[name].tobytes() == array.tobytes() for name, array in weights.items() if name in read)
        changed = {name: read[name] + 1 for name in ("wq", "w1", "wo")}
        device.write_params(changed)
        assert all(device.read_params()[name].tobytes() == array.tobytes() for name, array in changed.items())
        device.write_params({name: read[name] for name in changed})
        device.write_sample(x, np.zeros(1, np.int64))
        device.train(0.05)
        trained = device.read_params()
    plain = build_training_graph(plan.model.graph, frozenset(weights))
    rate = {"learning_rate": np.float32(0.05)}
    result = HostKernels(tmp_path, [plain]).run(plain, {**weights, "x": x, "label": np.zeros(1), **rate})
    updated = {t.updates: result[name] for name, t in plain.tensors.items() if t.updates}
    assert updated.keys() == trained.keys()
    for name, values in updated.items():
        assert trained[name].tobytes() == values.tobytes(), name
    assert with_weights(onnx.load(path), trained).graph.initializer
