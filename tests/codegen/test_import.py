"""What the importer refuses, and that it says which node and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from poet_codegen.autodiff import build_training_graph, fuse_updates, inference_graph
from poet_codegen.errors import ModelError
from poet_codegen.export import with_weights
from poet_codegen.graph import Kind, graph_from_dict, graph_to_dict, model_digest
from poet_codegen.numerics import Numerics
from poet_codegen.onnx_import import import_onnx, read_model
from poet_codegen.ops import registry
from poet_codegen.plan import inlined
from poet_codegen.selection import select_trainable
from poet_codegen.verify import verify

Maker = Callable[..., onnx.ModelProto]
W = np.ones((3, 4), np.float32)


def gemm(**attrs: Any) -> onnx.NodeProto:
    return helper.make_node("Gemm", ["x", "w"], ["y"], "the gemm", **attrs)


def refusal(model: onnx.ModelProto) -> str:
    with pytest.raises(ModelError) as caught:
        import_onnx(model)
    return str(caught.value)


def test_all_unsupported_nodes_are_named(make_model: Maker) -> None:
    nodes = [
        helper.make_node("Sinh", ["x"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "fine"),
        helper.make_node("Det", ["b"], ["y"], "second"),
    ]
    text = refusal(make_model(nodes, [1, 4], {}))
    assert "'first' (Sinh)" in text and "'second' (Det)" in text and "fine" not in text
    assert all(op in text for op in ("Conv", "Gemm", "MaxPool"))


@pytest.mark.parametrize("dim", ["batch", 0])
def test_dynamic_shape_says_how_to_fix_it(make_model: Maker, dim: str | int) -> None:
    text = refusal(make_model([gemm(transB=1)], [dim, 4], {"w": W}))
    assert "'x'" in text and "axis 0" in text and "fixed" in text


@pytest.mark.parametrize(
    ("node", "shape", "weights", "words"),
    [
        (helper.make_node("Gemm", ["x", "w", "w"], ["y"], "g"), [1, 3], {"w": W}, ["'g'", "bias", "[3, 4]", "[1, 4]"]),
        (gemm(), [1, 4], {"w": W}, ["the gemm", "[1, 4]", "[3, 4]"]),
        (gemm(), [1, 3], {"w": W.astype(np.float64)}, ["'w'", "float64"]),
        (helper.make_node("Add", ["x", "w"], ["y"], "sum"), [2, 4], {"w": W}, ["sum", "broadcast"]),
        (
            helper.make_node("Conv", ["x", "w"], ["y"], "c"),
            [1, 4, 5, 5, 5],
            {"w": np.ones((2, 4, 3, 3, 3), np.float32)},
            ["2-D"],
        ),
        (
            helper.make_node("MaxPool", ["x"], ["y"], "p", kernel_shape=[2, 2], storage_order=1),
            [1, 1, 5, 5],
            {},
            ["'p'", "storage_order"],
        ),
        (
            helper.make_node("Conv", ["x", "w"], ["y"], "c"),
            [1, 1, 2, 2],
            {"w": np.ones((1, 1, 3, 3), np.float32)},
            ["'c'", "kernel"],
        ),
        (
            helper.make_node("Reshape", ["x", "s"], ["y"], "r"),
            [1, 4],
            {"s": np.array([3, -1])},
            ["'r'", "[1, 4]"],
        ),
    ],
)
def test_attributes_outside_the_limits(
    make_model: Maker, node: onnx.NodeProto, shape: list[int | str], weights: dict[str, Any], words: list[str]
) -> None:
    text = refusal(make_model([node], shape, weights))
    assert all(word in text for word in words), text


def test_integer_input_is_refused(make_model: Maker) -> None:
    text = refusal(make_model([helper.make_node("Relu", ["x"], ["y"])], [1, 4], {}, x_type=TensorProto.INT32))
    assert "int32" in text and "float32" in text
    text = refusal(make_model([helper.make_node("Relu", ["x"], ["y"])], [1, 4], {}, x_type=TensorProto.BOOL))
    assert "BOOL" in text and "float32" in text


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x08\x09\x12\xff\xff", b"{}"])
def test_files_that_are_no_models(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.onnx: not a valid ONNX model"):
        read_model(path)


def test_truncated_model(tmp_path: Path, digits_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(digits_path.read_bytes()[:5000])
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        read_model(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_model(tmp_path / "nothing.onnx")


def test_a_model_without_parameters_cannot_train(make_model: Maker) -> None:
    model = import_onnx(make_model([helper.make_node("Relu", ["x"], ["y"])], [1, 4], {}))
    with pytest.raises(ModelError, match="No parameter"):
        build_training_graph(model.graph, frozenset())


def test_digits_graph(digits_path: Path) -> None:
    model = import_onnx(read_model(digits_path))
    graph = fuse_updates(build_training_graph(model.graph, frozenset(model.weights)))
    verify(graph)
    assert graph.learned() == frozenset(model.weights)
    assert not [node for node in graph.nodes if node.op == "Sgd"], "every update of this model fuses"
    assert graph_from_dict(graph_to_dict(graph)) == graph
    digest = model_digest(graph, model.weights, Numerics.SEPARATE)
    assert digest != model_digest(graph, model.weights, Numerics.FUSED)
    assert digest == model_digest(graph_from_dict(graph_to_dict(graph)), model.weights, Numerics.SEPARATE)
    infer = inference_graph(model.graph)
    assert [t.name for t in infer.of_kind(Kind.OUTPUT)] == ["logits"]


def test_only_gradients_that_are_needed(digits_path: Path) -> None:
    model = import_onnx(read_model(digits_path))
    graph = fuse_updates(build_training_graph(model.graph, select_trainable(model.graph, "last:1")))
    ops = [node.op for node in graph.nodes if node.role.value in ("backward", "update")]
    assert ops == ["DenseWeightGradSgd", "ConvBiasGradSgd"]


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("all", 10), ("last:1", 2), ("last:2", 4), ("bias", 5), ("head.*", 2), ("stem.bias,head.bias", 2)],
)
def test_selection(digits_path: Path, pattern: str, count: int) -> None:
    assert len(select_trainable(import_onnx(read_model(digits_path)).graph, pattern)) == count


@pytest.mark.parametrize("pattern", ["last:0", "last:x", "stme.weight", ""])
def test_selection_errors(digits_path: Path, pattern: str) -> None:
    with pytest.raises(ModelError, match=r"last:N|stem\.weight|no parameter"):
        select_trainable(import_onnx(read_model(digits_path)).graph, pattern)


def test_trained_weights_go_back_and_only_they_change(digits_path: Path) -> None:
    proto = read_model(digits_path)
    model = import_onnx(proto)
    trained = {name: value + 1 for name, value in model.weights.items()}
    back = with_weights(proto, trained)
    again = import_onnx(back)
    assert all(np.array_equal(again.weights[name], trained[name]) for name in trained)
    assert all(np.array_equal(import_onnx(proto).weights[n], model.weights[n]) for n in trained), "the original is kept"
    assert [n.op_type for n in back.graph.node] == [n.op_type for n in proto.graph.node]
    with pytest.raises(ModelError, match="another model"):
        with_weights(proto, {"nobody": W})
    with pytest.raises(ModelError, match="another model"):
        with_weights(proto, {"stem.bias": W})


def test_every_onnx_op_says_what_it_supports() -> None:
    for op in registry.all_ops():
        assert not op.onnx or op.supported, op.name


def test_a_pooling_window_without_any_element_is_refused(make_model: Maker) -> None:
    window = {"kernel_shape": [2, 2], "dilations": [3, 3], "pads": [1, 1, 1, 1]}
    text = refusal(make_model([helper.make_node("MaxPool", ["x"], ["y"], "p", **window)], [1, 1, 2, 2], {}))
    assert "'p'" in text and "padding" in text


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(make_model: Maker, bad: float) -> None:
    weights = W.copy()
    weights[1, 2] = bad
    text = refusal(make_model([gemm()], [1, 3], {"w": weights}))
    assert "'w'" in text and "NaN or infinity" in text


def test_weights_beside_the_model_are_taken_into_the_build_folder(make_model: Maker, tmp_path: Path) -> None:
    big = np.random.default_rng(0).standard_normal((3, 400)).astype(np.float32)
    path = tmp_path / "model.onnx"
    model = make_model([gemm()], [1, 3], {"w": big})
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(inlined(path))
    (tmp_path / "weights.bin").unlink()
    assert np.array_equal(import_onnx(read_model(alone)).weights["w"], big)


def test_a_parameter_that_one_node_reads_twice_is_updated_once(make_model: Maker) -> None:
    nodes = [
        helper.make_node("Add", ["p", "p"], ["q"], "double"),
        helper.make_node("Add", ["x", "q"], ["y"], "sum"),
    ]
    model = import_onnx(make_model(nodes, [1, 4], {"p": np.ones((1, 4), np.float32)}))
    graph = fuse_updates(build_training_graph(model.graph, frozenset(["p"])))
    assert [t.updates for t in graph.of_kind(Kind.UPDATED)] == ["p"]
