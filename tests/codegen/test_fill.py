"""What the importer makes of tensors filled with one value, of unread outputs and inputs, and of other old habits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from poet_codegen.errors import ModelError
from poet_codegen.graph import Kind
from poet_codegen.onnx_import import Model, import_onnx

Maker = Callable[..., onnx.ModelProto]
node = helper.make_node


def fill(name: str, value: float | None = None) -> onnx.NodeProto:
    """A ConstantOfShape of shape `<name>_s`."""
    attrs = {} if value is None else {"value": numpy_helper.from_array(np.array([value], np.float32))}
    return node("ConstantOfShape", [f"{name}_s"], [name], **attrs)


def sizes(**shapes: list[int]) -> dict[str, np.ndarray[Any, Any]]:
    return {f"{name}_s": np.array(shape, np.int64) for name, shape in shapes.items()}


def params(model: Model) -> dict[str, tuple[int, ...]]:
    return {t.name: t.shape for t in model.graph.of_kind(Kind.PARAM)}


def test_fills_in_the_places_of_parameters_are_parameters(make_model: Maker) -> None:
    """As the onnx package's light DenseNet writes a layer with its scale and shift."""
    nodes = [
        *(fill(name, 0.02) for name in ("w", "b", "scale", "shift", "v")),
        node("Conv", ["x", "w", "b"], ["c"]),
        node("Unsqueeze", ["scale", "axes"], ["scale3"]),
        node("Unsqueeze", ["shift", "axes"], ["shift3"]),
        node("Mul", ["scale3", "c"], ["m"]),
        node("Add", ["m", "shift3"], ["a"]),
        node("GlobalAveragePool", ["a"], ["g"]),
        node("Reshape", ["g", "flat"], ["f"]),
        node("Reshape", ["v", "square"], ["v2"]),
        node("Gemm", ["f", "v2"], ["y"]),
    ]
    shapes = sizes(w=[4, 2, 3, 3], b=[4], scale=[4], shift=[4], v=[4, 5, 1])
    more = {"axes": np.array([1, 2]), "flat": np.array([1, 4]), "square": np.array([4, 5])}
    model = import_onnx(make_model(nodes, [1, 2, 8, 8], shapes | more))
    assert params(model) == {"w": (4, 2, 3, 3), "b": (4,), "scale": (4,), "shift": (4,), "v": (4, 5, 1)}
    assert all((model.weights[name] == np.float32(0.02)).all() for name in params(model))
    assert not model.graph.of_kind(Kind.CONSTANT)


def test_fills_elsewhere_are_numbers(make_model: Maker) -> None:
    """A mask of ones, a state of zeros and running statistics never train."""
    nodes = [
        fill("mask", 1.0),
        fill("state"),
        node("Sub", ["one", "mask"], ["hidden"]),
        node("Mul", ["hidden", "far"], ["bias"]),
        node("Gemm", ["x", "w"], ["s"]),
        node("Add", ["s", "bias"], ["masked"]),
        node("Add", ["masked", "state"], ["y"]),
    ]
    more = {"one": np.array(1, np.float32), "far": np.array(-1e4, np.float32), "w": np.ones((3, 4), np.float32)}
    model = import_onnx(make_model(nodes, [2, 3], sizes(mask=[2, 4], state=[2, 4]) | more))
    assert params(model) == {"w": (3, 4)}
    assert [t.shape for t in model.graph.of_kind(Kind.CONSTANT)] == [(2, 4), (2, 4)]


def test_a_fill_takes_no_memory(make_model: Maker) -> None:
    nodes = [fill("w", 0.5), node("Gemm", ["x", "w"], ["y"])]
    model = import_onnx(make_model(nodes, [1, 4], sizes(w=[4, 1 << 34])))
    assert model.weights["w"].strides == (0, 0) and model.graph.tensors["w"].size_bytes == 1 << 38


def test_a_fill_that_is_not_finite_is_refused_as_a_parameter(make_model: Maker) -> None:
    nodes = [fill("w", float("nan")), node("Gemm", ["x", "w"], ["y"])]
    with pytest.raises(ModelError, match="NaN or infinity"):
        import_onnx(make_model(nodes, [1, 4], sizes(w=[4, 2])))


def test_outputs_and_inputs_that_nobody_reads(make_model: Maker) -> None:
    """Dropout's mask, max pooling's indices, and an input that an exporter left behind."""
    nodes = [
        node("MaxPool", ["x"], ["m", "indices"], kernel_shape=[2, 2]),
        node("Dropout", ["m"], ["d", "mask"]),
        node("Flatten", ["d"], ["y"]),
    ]
    proto = make_model(nodes, [1, 1, 4, 4], {})
    proto.graph.input.append(helper.make_tensor_value_info("queue", TensorProto.DOUBLE, [1, 1]))
    assert [t.name for t in import_onnx(proto).graph.of_kind(Kind.INPUT)] == ["x"]
    proto.graph.node.append(node("Cast", ["mask"], ["z"], to=TensorProto.FLOAT))
    with pytest.raises(ModelError, match="mask"):
        import_onnx(proto)


def test_what_where_makes_of_constants_never_trains(make_model: Maker) -> None:
    """A causal mask of initializers, infinite ones too."""
    nodes = [
        node("Where", ["seen", "zeros", "far"], ["mask"]),
        node("Gemm", ["x", "w"], ["s"]),
        node("Add", ["s", "mask"], ["y"]),
    ]
    zeros = np.zeros((3, 3), np.float32)
    constants = {"seen": np.tri(3) > 0, "zeros": zeros, "far": zeros - 1e4, "w": np.ones((2, 3), np.float32)}
    model = import_onnx(make_model(nodes, [3, 2], constants))
    assert params(model) == {"w": (2, 3)}
    (mask,) = model.graph.of_kind(Kind.CONSTANT)
    np.testing.assert_array_equal(model.weights[mask.name], np.where(np.tri(3) > 0, 0, np.float32(-1e4)))


def test_shape_arithmetic_of_transformers_disappears(make_model: Maker) -> None:
    """Positions from Range, a mask from comparing them, Expand to the scores' shape."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["n"], axis=0),
        node("Range", ["zero", "n", "one"], ["at"]),
        node("Unsqueeze", ["at", "axis"], ["rows"]),
        node("Less", ["rows", "at"], ["later"]),
        node("ConstantOfShape", ["s"], ["open"]),
        node("Expand", ["far", "s"], ["closed"]),
        node("Where", ["later", "closed", "open"], ["mask"]),
        node("Equal", ["n", "three"], ["same"]),
        node("Where", ["same", "three", "one"], ["count"]),
        node("Reshape", ["count", "flat"], ["rows_out"]),
        node("Concat", ["rows_out", "rest"], ["target"], axis=0),
        node("Add", ["x", "mask"], ["a"]),
        node("Reshape", ["a", "target"], ["b"]),
        node("Gemm", ["b", "w"], ["y"]),
    ]
    constants = {
        "zero": np.array(0),
        "one": np.array(1),
        "three": np.array(3),
        "axis": np.array([1]),
        "flat": np.array([1]),
        "rest": np.array([-1]),
        "far": np.array(-1e4, np.float32),
        "w": np.ones((3, 2), np.float32),
    }
    model = import_onnx(make_model(nodes, [3, 3], constants))
    assert [n.op for n in model.graph.nodes] == ["Add", "Reshape", "Dense"]
    assert params(model) == {"w": (3, 2)}


def old(nodes: list[onnx.NodeProto], shape: list[int], opset: int) -> onnx.ModelProto:
    """A model of operator set `opset`, x to y."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", None)))
    graph = helper.make_graph(nodes, "old", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)


@pytest.mark.parametrize(
    ("made", "opset", "shape"),
    [
        (node("Concat", ["x", "x"], ["y"]), 1, (2, 6, 4, 4)),
        (node("Cast", ["x"], ["y"], to="FLOAT"), 5, (2, 3, 4, 4)),
        (node("Pad", ["x"], ["y"], paddings=[0, 0, 1, 0, 0, 0, 0, 2]), 1, (2, 3, 5, 6)),
        (node("Reshape", ["x"], ["y"], shape=[0, -1]), 1, (2, 48)),
        (node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0, 3.0]), 7, (2, 3, 8, 12)),
        (node("Dropout", ["x"], ["y", "mask"], ratio=0.5), 7, (2, 3, 4, 4)),
        (node("Dropout", ["x"], ["y"], is_test=1), 6, (2, 3, 4, 4)),
        (node("Softmax", ["x"], ["y"]), 3, (2, 3, 4, 4)),
        (node("Clip", ["x"], ["y"], min=0.0, max=6.0), 6, (2, 3, 4, 4)),
        (node("GlobalMaxPool", ["x"], ["y"]), 1, (2, 3, 1, 1)),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_forms_of_old_operator_sets(made: onnx.NodeProto, opset: int, shape: tuple[int, ...]) -> None:
    graph = import_onnx(old([made], [2, 3, 4, 4], opset)).graph
    assert graph.tensors[graph.outputs[0]].shape == shape
