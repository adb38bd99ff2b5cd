"""ONNX model -> forward graph and its weights. Every refusal names the node and says what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, checker, helper, numpy_helper

from poet_codegen.errors import ModelError
from poet_codegen.graph import Array, AttrValue, Graph, GraphBuilder, Kind, Node, Role, Tensor
from poet_codegen.ops import registry


@dataclass(frozen=True)
class ImportedNode:
    """An ONNX node with its attributes as Python values."""

    op_type: str
    label: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Any]

    def refuse(self, why: str, todo: str) -> ModelError:
        """An error about this node."""
        return ModelError(f"Node {self.label!r} ({self.op_type}): {why}. {todo}")


@dataclass(frozen=True)
class Model:
    """A forward graph with the initial values of its parameters."""

    graph: Graph
    weights: dict[str, Array]


class Importer:
    """What ops see while they load: the builder, constants, and the names ONNX used."""

    def __init__(self, builder: GraphBuilder, constants: dict[str, np.ndarray[Any, Any]]) -> None:
        self.builder = builder
        self.constants = constants
        self.weights: dict[str, Array] = {}
        self._names: dict[str, str] = {}

    def bind(self, onnx_name: str, tensor: Tensor) -> str:
        """Declare a tensor for an ONNX value; returns its name in the graph."""
        self._names[onnx_name] = self.builder.tensor(tensor)
        return self._names[onnx_name]

    def value(self, node: ImportedNode, position: int) -> Tensor:
        """The tensor an input names; an initializer becomes a parameter at its first use."""
        onnx_name = node.inputs[position]
        if onnx_name not in self._names:
            if onnx_name not in self.constants:
                raise node.refuse(f"input {onnx_name!r} is not computed by any node before it", "Check the model.")
            self._parameter(node, onnx_name)
        return self.builder.tensors[self._names[onnx_name]]

    def constant(self, node: ImportedNode, position: int) -> np.ndarray[Any, Any]:
        """A constant input's value. Raises ModelError when it is computed at run time."""
        name = node.inputs[position]
        if name not in self.constants:
            raise node.refuse(
                f"input {position} ({name!r}) must be a constant",
                "Simplify the model, for example with onnxsim.",
            )
        return self.constants[name]

    def _parameter(self, node: ImportedNode, onnx_name: str) -> None:
        array = self.constants[onnx_name]
        if array.dtype != np.float32:
            raise node.refuse(
                f"parameter {onnx_name!r} has type {array.dtype}",
                "Only float32 parameters train; convert the model.",
            )
        name = self.bind(onnx_name, Tensor(onnx_name, tuple(array.shape), kind=Kind.PARAM))
        self.weights[name] = np.ascontiguousarray(array)

    def add(self, node: ImportedNode, op: str, inputs: Sequence[Tensor], attrs: dict[str, AttrValue]) -> None:
        """Append a node of the graph for the first output of an ONNX node."""
        draft = Node(op, tuple(t.name for t in inputs), (), node.label, Role.FORWARD, attrs)
        (shape,) = registry.get(op).shapes(tuple(inputs), draft)
        if any(size < 1 for size in shape):
            raise node.refuse(f"its output would have shape {list(shape)}", "Check kernel, stride and padding.")
        output = self.bind(node.outputs[0], Tensor(node.outputs[0], shape))
        self.builder.node(Node(op, draft.inputs, (output,), node.label, Role.FORWARD, attrs))


def read_model(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file. Raises ModelError for a missing, corrupt or foreign file."""
    try:
        proto = onnx.load(path)
        checker.check_model(proto)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such file. Name an ONNX model.") from error
    except (
        DecodeError,
        checker.ValidationError,
        OSError,
        ValueError,
        TypeError,
        UnicodeDecodeError,
    ) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path}: not a valid ONNX model ({reason}). Export the model again.") from error
    if not proto.graph.node:
        raise ModelError(f"{path}: not a valid ONNX model (it has no nodes). Export the model again.")
    return proto


def import_onnx(proto: onnx.ModelProto) -> Model:
    """Turn a checked ONNX model into a forward graph.

    Raises ModelError for unsupported ops (all of them listed), dynamic shapes and attributes outside an op's limits.
    """
    graph = proto.graph
    constants: dict[str, np.ndarray[Any, Any]] = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    nodes = [_node(index, node) for index, node in enumerate(graph.node)]
    compute = []
    for node in nodes:
        if node.op_type == "Constant":
            constants[node.outputs[0]] = _constant(node)
        else:
            compute.append(node)
    _refuse_unsupported(compute)
    builder = GraphBuilder(graph.name or "model")
    importer = Importer(builder, constants)
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs) or "none"
        raise ModelError(f"The model must have exactly one input, but has {len(inputs)} ({names}). Export it with one.")
    shape = _static_shape(inputs[0])
    importer.bind(inputs[0].name, Tensor(inputs[0].name, shape, kind=Kind.INPUT))
    for node in compute:
        registry.onnx_ops()[node.op_type].load(importer, node)
    if len(graph.output) != 1:
        raise ModelError(
            f"The model must have exactly one output, the logits, but has {len(graph.output)}. Export it with one."
        )
    output = graph.output[0].name
    answer = importer.value(ImportedNode("output", output, (output,), (), {}), 0)
    return Model(builder.graph([answer.name]), importer.weights)


def _node(index: int, node: onnx.NodeProto) -> ImportedNode:
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    # Optional inputs and outputs left out at the end stand as empty names.
    inputs = list(node.input)
    while inputs and not inputs[-1]:
        inputs.pop()
    return ImportedNode(node.op_type, node.name or f"{node.op_type}_{index}", tuple(inputs), tuple(node.output), attrs)


def _constant(node: ImportedNode) -> np.ndarray[Any, Any]:
    converters: dict[str, Callable[[Any], np.ndarray[Any, Any]]] = {
        "value": numpy_helper.to_array,
        "value_float": lambda v: np.asarray(v, np.float32),
        "value_floats": lambda v: np.asarray(v, np.float32),
        "value_int": lambda v: np.asarray(v, np.int64),
        "value_ints": lambda v: np.asarray(v, np.int64),
    }
    for name, convert in converters.items():
        if name in node.attrs:
            return convert(node.attrs[name])
    raise node.refuse("holds no dense numeric value", "Export the model with plain constants.")


def _refuse_unsupported(nodes: Sequence[ImportedNode]) -> None:
    bad = [node for node in nodes if node.op_type not in registry.onnx_ops()]
    if not bad:
        return
    listed = ", ".join(f"{node.label!r} ({node.op_type})" for node in bad[:20])
    more = f" and {len(bad) - 20} more" if len(bad) > 20 else ""
    known = ", ".join(sorted(registry.onnx_ops()))
    raise ModelError(
        f"The model has operators that poet-mcu cannot train: {listed}{more}. Supported are {known}, Constant. "
        "Replace those layers, or cut the model before them."
    )


def _static_shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    kind = value.type.tensor_type
    if kind.elem_type != TensorProto.FLOAT:
        found = TensorProto.DataType.Name(kind.elem_type)
        raise ModelError(
            f"Input {value.name!r} has type {found}; only float32 inputs are supported. Convert the model."
        )
    shape = []
    for axis, dim in enumerate(kind.shape.dim):
        if dim.WhichOneof("value") != "dim_value" or dim.dim_value < 1:
            name = dim.dim_param or "unknown"
            raise ModelError(
                f"Input {value.name!r} has a dynamic size at axis {axis} ({name}). A board needs fixed shapes: "
                "export with a fixed batch size (no dynamic_axes), or fix the axis with "
                "`python -m onnxruntime.tools.make_dynamic_shape_fixed "
                f"--dim_param {name} --dim_value 1 in.onnx out.onnx`."
            )
        shape.append(dim.dim_value)
    return tuple(shape)
