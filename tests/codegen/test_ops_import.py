"""What the importer folds, passes through and refuses, over whole models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from poet_codegen.autodiff import inference_graph
from poet_codegen.errors import ModelError
from poet_codegen.export import with_weights
from poet_codegen.graph import Kind
from poet_codegen.onnx_import import import_onnx

Maker = Callable[..., onnx.ModelProto]
node = helper.make_node


def floats(name: str, shape: list[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def test_every_fault_is_named_and_only_faults(make_model: Maker) -> None:
    nodes = [
        node("Sinh", ["x"], ["a"], "unknown op"),
        node("Relu", ["a"], ["b"], "behind it"),
        node("Gemm", ["b", "v"], ["c"], "also behind it"),
        node("MaxPool", ["b"], ["i"], "wrong behind it", kernel_shape=[2, 2]),
        node("Own", ["x"], ["j"], "of another's", domain="another"),
        node("MaxPool", ["j"], ["k"], "not to be judged", kernel_shape=[2, 2]),
        node("Gemm", ["x", "w"], ["d"], "wrong extent"),
        node("Gemm", ["x", "half"], ["e"], "wrong type"),
        node("MaxPool", ["x"], ["f"], "wrong rank", kernel_shape=[2, 2]),
        node("Shape", ["b"], ["g"], "shape of what is unknown"),
        node("NonZero", ["g"], ["h"], "could be folded"),
        node("Add", ["c", "d"], ["y"], "fine"),
    ]
    weights = {"w": np.ones((3, 2), np.float32), "v": np.ones((4, 2), np.float32), "half": np.ones((4, 2), np.float16)}
    model = make_model(nodes, [1, 4], weights)
    model.opset_import.append(helper.make_opsetid("another", 1))
    with pytest.raises(ModelError) as caught:
        import_onnx(model)
    text = str(caught.value)
    wrong = ("unknown op", "wrong extent", "wrong type", "wrong rank", "wrong behind it", "of another's")
    right = ("behind it", "also behind it", "not to be judged", "could be folded", "fine")
    assert all(repr(name) in text for name in wrong), text
    assert not any(repr(name) in text for name in right), text


def test_no_fault_is_left_out_however_many(make_model: Maker) -> None:
    chain = [node("Sinh", [f"s{i}"], [f"c{i}"], f"unknown {i}") for i in range(60)]
    chain += [
        node("MaxPool", [f"c{i}"], [f"s{i + 1}"], f"pool {i}", kernel_shape=[1, 1], storage_order=1) for i in range(60)
    ]
    nodes = [node("Identity", ["x"], ["s0"]), *(chain[i + j] for i in range(60) for j in (0, 60))]
    with pytest.raises(ModelError) as caught:
        import_onnx(make_model([*nodes, node("Identity", ["s60"], ["y"])], [1, 1, 4, 4], {}))
    assert all(repr(proto.name) in str(caught.value) for proto in chain)


def test_shape_arithmetic_disappears(make_model: Maker) -> None:
    """What exporters write for x.view(x.size(0), -1)."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n", "axes"], ["n1"]),
        node("Concat", ["n1", "rest"], ["target"], axis=0),
        node("Identity", ["x"], ["same"]),
        node("Dropout", ["same"], ["kept"]),
        node("Cast", ["kept"], ["cast"], to=TensorProto.FLOAT),
        node("Reshape", ["cast", "target"], ["flat"]),
        node("Identity", ["w"], ["tied"]),
        node("Gemm", ["flat", "tied"], ["y"]),
    ]
    constants = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1]), "w": np.ones((8, 3), np.float32)}
    model = import_onnx(make_model(nodes, [2, 2, 4], constants))
    assert [n.op for n in model.graph.nodes] == ["Dropout", "Reshape", "Dense"]
    assert model.graph.tensors["flat"].shape == (2, 8)
    assert list(model.weights) == ["w"]


def test_computed_constants_never_train(make_model: Maker) -> None:
    nodes = [
        node("Sqrt", ["half"], ["root"]),
        node("Cast", ["root"], ["table"], to=TensorProto.FLOAT),
        node("Add", ["x", "table"], ["a"]),
        node("Gemm", ["a", "w"], ["y"]),
    ]
    proto = make_model(nodes, [2, 4], {"half": np.full((2, 4), 4, np.float16), "w": np.ones((4, 2), np.float32)})
    model = import_onnx(proto)
    assert [t.name for t in model.graph.of_kind(Kind.CONSTANT)] == ["table"]
    assert np.array_equal(model.weights["table"], np.full((2, 4), 2, np.float32))
    back = with_weights(proto, {name: array + 1 for name, array in model.weights.items()})
    assert np.array_equal(import_onnx(back).weights["table"], model.weights["table"])


@pytest.mark.parametrize(
    ("proto", "shape", "constants", "expected"),
    [
        (node("Squeeze", ["x"], ["y"]), [1, 2, 1, 3], {}, (2, 3)),
        (node("Squeeze", ["x", "c"], ["y"]), [1, 2, 1, 3], {"c": np.array([-2])}, (1, 2, 3)),
        (node("Unsqueeze", ["x", "c"], ["y"]), [2, 3], {"c": np.array([3, 0])}, (1, 2, 3, 1)),
        (node("Flatten", ["x"], ["y"], axis=-1), [2, 3, 4], {}, (6, 4)),
        (node("Flatten", ["x"], ["y"], axis=0), [2, 3], {}, (1, 6)),
        (node("Reshape", ["x", "c"], ["y"]), [2, 3, 4], {"c": np.array([0, -1])}, (2, 12)),
        (node("Reshape", ["x", "c"], ["y"], allowzero=1), [2, 3], {"c": np.array([3, -1])}, (3, 2)),
    ],
)
def test_views(
    make_model: Maker, proto: onnx.NodeProto, shape: list[int], constants: Any, expected: tuple[int, ...]
) -> None:
    assert import_onnx(make_model([proto], shape, constants)).graph.tensors["y"].shape == expected


@pytest.mark.parametrize(
    ("proto", "constants"),
    [
        (node("Squeeze", ["x", "c"], ["y"]), {"c": np.array([1])}),
        (node("Unsqueeze", ["x", "c"], ["y"]), {"c": np.array([0, 0])}),
        (node("Reshape", ["x", "c"], ["y"], allowzero=1), {"c": np.array([0, 6])}),
        (node("Cast", ["x"], ["y"], to=TensorProto.INT32), {}),
        (node("Dropout", ["x", "r"], ["y"]), {"r": np.float32(1.0)}),
    ],
)
def test_views_that_are_refused(make_model: Maker, proto: onnx.NodeProto, constants: Any) -> None:
    with pytest.raises(ModelError, match=proto.op_type):
        import_onnx(make_model([proto], [2, 3], constants))


def test_dead_nodes_are_left_out(make_model: Maker) -> None:
    nodes = [node("Gemm", ["x", "v"], ["unread"]), node("Gemm", ["x", "w"], ["y"])]
    model = import_onnx(make_model(nodes, [1, 2], {k: np.ones((2, 2), np.float32) for k in "vw"}))
    assert len(model.graph.nodes) == 1 and list(model.weights) == ["w"]


def test_firmware_has_one_output_and_inputs_with_an_axis() -> None:
    graph = helper.make_graph(
        [node("Add", ["a", "b"], ["y"]), node("Relu", ["y"], ["z"])],
        "two",
        [floats("a", [2, 2]), floats("b", [2, 2])],
        [floats("y", [2, 2]), floats("z", [2, 2])],
        [],
    )
    model = import_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert len(model.graph.of_kind(Kind.INPUT)) == 2 and model.graph.outputs == ("y", "z")
    with pytest.raises(ModelError, match="exactly one output"):
        inference_graph(model.graph)
    scalar = helper.make_graph([node("Relu", ["a"], ["y"])], "scalar", [floats("a", [])], [floats("y", [])], [])
    model = import_onnx(helper.make_model(scalar, opset_imports=[helper.make_opsetid("", 17)]))
    with pytest.raises(ModelError, match="'a' is a single number"):
        inference_graph(model.graph)


def test_a_constant_that_cannot_be_computed(make_model: Maker) -> None:
    nodes = [node("Concat", ["p", "q"], ["c"], "joins", axis=1), node("Reshape", ["x", "c"], ["y"])]
    model = make_model(
        nodes,
        [2, 2],
        {"p": np.array([[1, 2]]), "q": np.zeros((3, 1), np.int64)},
    )
    with pytest.raises(ModelError, match=r"joins.*cannot be computed"):
        import_onnx(model)


@pytest.mark.parametrize("shape", [[2, 4], [1, 2, 4]])
def test_a_bias_joins_its_layer(make_model: Maker, shape: list[int]) -> None:
    weights = {"w": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32)}
    nodes = [node("MatMul", ["x", "w"], ["m"], "layer"), node("Add", ["b", "m"], ["y"], "bias")]
    graph = import_onnx(make_model(nodes, shape, weights)).graph
    (dense,) = (n for n in graph.nodes if n.op != "Reshape")
    assert dense.op == "Dense" and dense.inputs[1:] == ("w", "b")
    assert graph.tensors["y"].shape == (*shape[:-1], 3)
    twice = [*nodes[:1], node("Add", ["m", "b"], ["a"]), node("Mul", ["a", "m"], ["y"])]
    assert "Add" in [n.op for n in import_onnx(make_model(twice, shape, weights)).graph.nodes]


def test_a_padding_joins_its_convolution(make_model: Maker) -> None:
    weights = {"w": np.ones((3, 2, 3, 3), np.float32)}
    pad = node("Pad", ["x", "pads"], ["p"])
    conv = node("Conv", ["p", "w"], ["y"], strides=[2, 2], pads=[0, 1, 0, 1])
    zeros = {"pads": np.array([0, 0, 0, 1, 0, 0, 2, 3])}
    graph = import_onnx(make_model([pad, conv], [1, 2, 8, 8], weights | zeros)).graph
    assert [(n.op, n.ints("pads")) for n in graph.nodes] == [("Conv", (0, 2, 2, 4))]
    assert graph.tensors["y"].shape == (1, 3, 4, 6)
    others = [
        ([pad, conv], {"pads": np.array([0, 1, 0, 1, 0, 0, 2, 3])}, (3, 3)),  # channels too
        ([node("Pad", ["x", "pads", "one"], ["p"]), conv], {**zeros, "one": np.float32(1)}, (3, 2)),  # not zeros
    ]
    for nodes, constants, (outputs, inputs) in others:
        filters = {"w": np.ones((outputs, inputs, 3, 3), np.float32)}
        graph = import_onnx(make_model(nodes, [1, 2, 8, 8], filters | constants)).graph
        assert [n.op for n in graph.nodes] == ["Place", "Conv"]


def test_a_product_reads_its_matrix_transposed(make_model: Maker) -> None:
    nodes = [
        node("Transpose", ["w"], ["t"], perm=[1, 0]),
        node("MatMul", ["x", "t"], ["m"]),
        node("Transpose", ["m"], ["k"], perm=[0, 2, 1]),
        node("MatMul", ["m", "k"], ["s"]),
        node("Transpose", ["m"], ["other"], perm=[1, 0, 2]),
        node("MatMul", ["s", "other"], ["y"]),
    ]
    graph = import_onnx(make_model(nodes, [2, 2, 4], {"w": np.ones((5, 4), np.float32)})).graph
    dense, scores, _, last = (n for n in graph.nodes if n.op != "Reshape")
    assert (dense.op, dense.inputs[1], dense.int("transposed")) == ("Dense", "w", 1)
    assert (scores.inputs[1], scores.int("trans_b")) == (scores.inputs[0], 1)
    assert last.int("trans_b") == 0


def test_cast_like_takes_the_type_alone(make_model: Maker) -> None:
    """What PyTorch's newer exporter writes for the bias that a convolution has not."""
    nodes = [
        node("CastLike", ["half", "x"], ["bias"]),
        node("CastLike", ["x", "bias"], ["same"]),
        node("Add", ["same", "bias"], ["y"]),
    ]
    half = {"half": np.array([1.5, 2.5], np.float16)}
    model = import_onnx(make_model(nodes, [3, 2], half))
    assert [n.op for n in model.graph.nodes] == ["Add"]
    assert np.array_equal(model.weights["bias"], np.array([1.5, 2.5], np.float32))
    with pytest.raises(ModelError, match="converts"):
        import_onnx(make_model([node("CastLike", ["x", "half"], ["y"])], [3, 2], half))
