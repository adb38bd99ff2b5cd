"""ONNX model -> forward graph and its weights. Every refusal names the node and says what to do; all come at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, checker, helper, numpy_helper, shape_inference

from poet_codegen.by_feature import by_feature
from poet_codegen.errors import ModelError
from poet_codegen.graph import Array, AttrValue, DType, Graph, GraphBuilder, Kind, Node, Role, Tensor
from poet_codegen.onnx_fill import fill, is_parameter_fill
from poet_codegen.onnx_fold import fold, may_fold
from poet_codegen.onnx_readers import Readers
from poet_codegen.ops import registry
from poet_codegen.simplify import simplify, without_dead_nodes
from poet_codegen.verify import verify

_INPUT_TYPES: dict[int, DType] = {
    TensorProto.FLOAT: DType.FLOAT32,
    TensorProto.INT32: DType.INT32,
    TensorProto.INT64: DType.INT32,
}


@dataclass(frozen=True)
class ImportedNode:
    """An ONNX node with its attributes as Python values."""

    op_type: str
    label: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    opset: int
    """Version of the operator set that the model is written in."""
    proto: onnx.NodeProto

    def has(self, position: int) -> bool:
        """Whether an optional input is there."""
        return position < len(self.inputs) and bool(self.inputs[position])

    def refuse(self, why: str, todo: str) -> ModelError:
        """An error about this node."""
        return ModelError(f"Node {self.label!r} ({self.op_type}): {why}. {todo}")


@dataclass(frozen=True)
class Model:
    """A forward graph with the initial values of its parameters and constants."""

    graph: Graph
    weights: dict[str, Array]


class Importer:
    """What ops see while they load: the builder, constants, and the names ONNX used."""

    def __init__(self, builder: GraphBuilder, constants: dict[str, np.ndarray[Any, Any]]) -> None:
        self.builder = builder
        self.constants = constants
        self.weights: dict[str, Array] = {}
        self.computed: set[str] = set()
        """Constants that the model computes from others: they never train."""
        self.written: set[str] = set()
        """Constants that stand in the model as nodes."""
        self._names: dict[str, str] = {}
        self._aliases: dict[str, str] = {}

    def bind(self, onnx_name: str, tensor: Tensor) -> str:
        """Declare a tensor for an ONNX value; returns its name in the graph."""
        self._names[onnx_name] = self.builder.tensor(tensor)
        return self._names[onnx_name]

    def give(self, onnx_name: str, tensor: Tensor) -> None:
        """Let an ONNX value be a tensor of the graph."""
        self._names[onnx_name] = tensor.name

    def alias(self, node: ImportedNode) -> None:
        """Let a node's first output be its first input."""
        if self.shape_of(node.inputs[0]) is None:
            raise node.refuse(f"input {node.inputs[0]!r} is not computed by any node before it", "Check the model.")
        self._aliases[node.outputs[0]] = self._source(node.inputs[0])

    def _source(self, onnx_name: str) -> str:
        return self._aliases.get(onnx_name, onnx_name)

    def is_constant(self, onnx_name: str) -> bool:
        """Whether a value is known at import."""
        return self._source(onnx_name) in self.constants

    def is_written(self, onnx_name: str) -> bool:
        """Whether a constant stands in the model as a node: PyTorch's exporters write parameters as initializers."""
        return self._source(onnx_name) in self.written

    def is_parameter(self, onnx_name: str) -> bool:
        """Whether a constant is one that could train, so that what is computed from it must stay in the graph."""
        source = self._source(onnx_name)
        array = self.constants.get(source)
        return array is not None and array.dtype == np.float32 and array.ndim > 0 and source not in self.computed

    def value(self, node: ImportedNode, position: int, dtype: DType = DType.FLOAT32) -> Tensor:
        """The tensor an input names; an initializer becomes a parameter at its first use.

        Raises ModelError when there is none or it has another element type.
        """
        if not node.has(position):
            raise node.refuse(f"input {position} is missing", "Check the model.")
        source = self._source(node.inputs[position])
        if source not in self._names:
            if source not in self.constants:
                raise node.refuse(f"input {source!r} is not computed by any node before it", "Check the model.")
            self._declare(node, source)
        tensor = self.builder.tensors[self._names[source]]
        if tensor.dtype is not dtype:
            raise node.refuse(
                f"reads {tensor.name!r}, which has type {tensor.dtype.value}",
                f"It works on {dtype.value}; convert the model.",
            )
        return tensor

    def shape_of(self, onnx_name: str) -> tuple[int, ...] | None:
        """Shape of a value of any type, or None when nothing has computed it."""
        source = self._source(onnx_name)
        if source in self.constants:
            return tuple(self.constants[source].shape)
        return self.builder.tensors[self._names[source]].shape if source in self._names else None

    def onnx_type(self, onnx_name: str) -> int | None:
        """Element type of a value, a TensorProto.DataType, or None when nothing has computed it."""
        source = self._source(onnx_name)
        if source in self.constants:
            return helper.np_dtype_to_tensor_dtype(self.constants[source].dtype)
        if source not in self._names:
            return None
        is_float = self.builder.tensors[self._names[source]].dtype is DType.FLOAT32
        return TensorProto.FLOAT if is_float else TensorProto.INT64

    def constant(self, node: ImportedNode, position: int) -> np.ndarray[Any, Any]:
        """A constant input's value. Raises ModelError when it is computed at run time."""
        name = node.inputs[position]
        if not self.is_constant(name):
            raise node.refuse(
                f"input {position} ({name!r}) must be a constant",
                "Simplify the model, for example with onnxsim.",
            )
        return self.constants[self._source(name)]

    def ints(self, node: ImportedNode, position: int, attribute: str) -> tuple[int, ...] | None:
        """Integers that are a constant input in newer operator sets and an attribute in older ones; None: absent."""
        if attribute in node.attrs:
            return tuple(int(v) for v in node.attrs[attribute])
        return tuple(int(v) for v in self.constant(node, position).ravel()) if node.has(position) else None

    def literal(self, node: ImportedNode, position: int) -> float | None:
        """A one-element constant that kernels may hold as a number.

        Those are what exporters write for numbers in the source; an initializer with an axis may be a parameter.
        """
        source = self._source(node.inputs[position])
        array = self.constants.get(source)
        if array is None or array.size != 1 or not np.issubdtype(array.dtype, np.number) or self.is_parameter(source):
            return None
        return float(array.ravel()[0])

    def hold(self, node: ImportedNode, name: str, array: Array) -> Tensor:
        """Declare a constant that the importer computed."""
        declared = self.builder.tensor(Tensor(f"{node.outputs[0]}.{name}", array.shape, kind=Kind.CONSTANT))
        self.weights[declared] = np.ascontiguousarray(array, np.float32)
        return self.builder.tensors[declared]

    def _declare(self, node: ImportedNode, source: str) -> None:
        array = self.constants[source]
        if array.dtype != np.float32:
            raise node.refuse(
                f"parameter {source!r} has type {array.dtype}",
                "Only float32 parameters train; convert the model.",
            )
        # Of the extremes only, which NaN reaches too: weights of some hundred megabytes get no mask of their size.
        if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
            raise node.refuse(
                f"parameter {source!r} holds NaN or infinity", "Export the model again from weights that are finite."
            )
        kind = Kind.PARAM if self.is_parameter(source) else Kind.CONSTANT
        name = self.bind(source, Tensor(source, tuple(array.shape), kind=kind))
        self.weights[name] = array

    def step(
        self,
        node: ImportedNode,
        op: str,
        inputs: Sequence[Tensor],
        attrs: Mapping[str, AttrValue],
        names: Sequence[str] = (),
    ) -> tuple[Tensor, ...]:
        """Append a node of the graph; its outputs take `names`, or names like the ONNX node's output."""
        draft = Node(op, tuple(t.name for t in inputs), (), node.label, Role.FORWARD, attrs)
        shapes = registry.get(op).shapes(tuple(inputs), draft)
        for shape in shapes:
            if any(size < 1 for size in shape):
                raise node.refuse(f"its output would have shape {list(shape)}", "Check kernel, stride and padding.")
        wishes = [*names, *[""] * len(shapes)][: len(shapes)]
        outputs = tuple(
            self.builder.tensor(Tensor(wish or f"{node.outputs[0]}.{op}", shape))
            for wish, shape in zip(wishes, shapes, strict=True)
        )
        self.builder.node(Node(op, draft.inputs, outputs, node.label, Role.FORWARD, attrs))
        return tuple(self.builder.tensors[name] for name in outputs)

    def add(self, node: ImportedNode, op: str, inputs: Sequence[Tensor], attrs: Mapping[str, AttrValue]) -> None:
        """Append a node of the graph whose outputs are those of an ONNX node."""
        for onnx_name, tensor in zip(node.outputs, self.step(node, op, inputs, attrs, node.outputs), strict=False):
            if onnx_name:
                self.give(onnx_name, tensor)


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

    What depends on constants alone is computed here, so that exporters' shape arithmetic disappears. Raises ModelError
    for dynamic shapes, and one that lists all nodes that are unsupported or outside an op's limits. A node behind such
    a one is judged by the shapes that ONNX infers, and left out where it infers none.
    """
    graph = proto.graph
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)
    importer = Importer(
        GraphBuilder(graph.name or "model"), {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    )
    readers = Readers(graph)
    declared = [value for value in graph.input if value.name not in importer.constants]
    inputs = [value for value in declared if readers.of(value.name)] or declared
    if not inputs:
        raise ModelError("The model must have an input, but has none. Export it with one.")
    for value in inputs:
        shape, dtype = _static_shape(value)
        importer.bind(value.name, Tensor(value.name, shape, dtype, Kind.INPUT))
    _Loader(importer, opset, readers, proto).load()
    answers = []
    for output in graph.output:
        reader = ImportedNode("output", output.name, (output.name,), (), {}, opset, onnx.NodeProto())
        answers.append(importer.value(reader, 0).name)
    model = importer.builder.graph(answers)
    verify(model)
    needed = by_feature(simplify(without_dead_nodes(model)))
    return Model(needed, {name: array for name, array in importer.weights.items() if name in needed.tensors})


class _Loader:
    """Loads nodes in order and collects what is wrong with them."""

    def __init__(self, importer: Importer, opset: int, readers: Readers, proto: onnx.ModelProto) -> None:
        self._proto = proto
        self._importer = importer
        self._opset = opset
        self._readers = readers
        self._unsupported: list[ImportedNode] = []
        self._refused: list[ModelError] = []
        self._poisoned: set[str] = set()
        """Values that cannot be known because of a fault."""
        self._poisoned_constants: set[str] = set()
        """Those of them that are constants, could they be computed."""

    def load(self) -> None:
        for index, proto in enumerate(self._proto.graph.node):
            node = self._without_unread(_node(index, proto, self._opset))
            try:
                self._load(self._as_cast(node) if node.op_type == "CastLike" else node)
            except ModelError as error:
                self._refused.append(error)
                self._go_on_without(node)
        if self._unsupported or self._refused:
            raise ModelError("\n".join([*self._about_unsupported(), *map(str, self._refused)]))

    def _without_unread(self, node: ImportedNode) -> ImportedNode:
        """The node with further outputs that nobody reads left out: older exporters name a mask that is not used."""
        more = (name if self._readers.is_read(name) else "" for name in node.outputs[1:])
        return replace(node, outputs=(*node.outputs[:1], *more))

    def _load(self, node: ImportedNode) -> None:
        importer = self._importer
        op = registry.onnx_ops().get(node.op_type)
        poisoned = self._poisoned.intersection(node.inputs)
        if node.op_type == "Constant":
            importer.constants[node.outputs[0]] = _constant(node)
            importer.written.add(node.outputs[0])
        elif node.op_type in ("Shape", "Size"):
            if poisoned:
                self._poisoned.update(node.outputs)
                self._poisoned_constants.update(node.outputs)
            else:
                self._load_shape(node)
        elif poisoned and all(self._is_constant(name) for name in node.inputs if name):
            self._poisoned.update(node.outputs)
            self._poisoned_constants.update(node.outputs)
        elif node.op_type == "ConstantOfShape" and importer.is_constant(node.inputs[0]):
            self._load_fill(node)
        elif may_fold(node.proto, op is not None, importer.is_constant, importer.is_parameter):
            for name, array in fold(node, importer.constant).items():
                importer.constants[name] = array
                importer.computed.add(name)
        elif op is None:
            self._unsupported.append(node)
            self._go_on_without(node)
        elif poisoned:
            self._poisoned.update(node.outputs)
        else:
            op.load(importer, node)

    def _go_on_without(self, node: ImportedNode) -> None:
        """Stand in for what a faulty node would make, so that the nodes behind it are judged too."""
        is_constant = all(self._is_constant(name) for name in node.inputs if name)
        for name in filter(None, node.outputs):
            if name in self._inferred and not is_constant:
                shape, dtype = self._inferred[name]
                self._importer.bind(name, Tensor(name, shape, dtype, Kind.INPUT))
            else:
                self._poisoned.add(name)

    @cached_property
    def _inferred(self) -> dict[str, tuple[tuple[int, ...], DType]]:
        """Shape and type of every value of which ONNX can tell them."""
        try:
            graph = shape_inference.infer_shapes(self._proto).graph
        except (shape_inference.InferenceError, ValueError):  # of a faulty model, or one of 2 GB
            graph = self._proto.graph
        known = {}
        for value in (*graph.value_info, *graph.output):
            with suppress(ModelError):
                known[value.name] = _static_shape(value)
        return known

    def _as_cast(self, node: ImportedNode) -> ImportedNode:
        """CastLike as the Cast that it is: of its second input only the type counts, so that constants stay such."""
        source, like = node.inputs
        if like in self._poisoned:
            return node
        to = self._importer.onnx_type(like)
        if to is None:
            raise node.refuse(f"input {like!r} is not computed by any node before it", "Check the model.")
        proto = helper.make_node("Cast", [source], list(node.outputs), to=to)
        return ImportedNode("Cast", node.label, (source,), node.outputs, {"to": to}, node.opset, proto)

    def _is_constant(self, name: str) -> bool:
        return self._importer.is_constant(name) or name in self._poisoned_constants

    def _load_fill(self, node: ImportedNode) -> None:
        array = fill(node.proto, self._importer.constant(node, 0).tolist())
        self._importer.constants[node.outputs[0]] = array
        if not is_parameter_fill(node.outputs[0], array.ndim, self._readers.of):
            self._importer.computed.add(node.outputs[0])

    def _load_shape(self, node: ImportedNode) -> None:
        shape = self._importer.shape_of(node.inputs[0])
        if shape is None:
            raise node.refuse(f"input {node.inputs[0]!r} is not computed by any node before it", "Check the model.")
        if node.op_type == "Size":
            result = np.asarray(np.prod(shape, dtype=np.int64))
        else:
            result = np.asarray(shape[slice(node.attrs.get("start", 0), node.attrs.get("end"))], np.int64)
        self._importer.constants[node.outputs[0]] = result
        self._importer.computed.add(node.outputs[0])

    def _about_unsupported(self) -> list[str]:
        if not self._unsupported:
            return []
        listed = ", ".join(f"{node.label!r} ({node.op_type})" for node in self._unsupported)
        known = ", ".join(sorted(registry.onnx_ops()))
        return [
            f"The model has operators that poet-mcu cannot train: {listed}. Supported are {known}, Constant. "
            "Replace those layers, or cut the model before them."
        ]


def _node(index: int, node: onnx.NodeProto, opset: int) -> ImportedNode:
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    # Optional inputs and outputs left out at the end stand as empty names.
    inputs = list(node.input)
    while inputs and not inputs[-1]:
        inputs.pop()
    op_type = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    label = node.name or f"{node.op_type}_{index}"
    return ImportedNode(op_type, label, tuple(inputs), tuple(node.output), attrs, opset, node)


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


def _static_shape(value: onnx.ValueInfoProto) -> tuple[tuple[int, ...], DType]:
    kind = value.type.tensor_type
    if kind.elem_type not in _INPUT_TYPES:
        found = TensorProto.DataType.Name(kind.elem_type)
        raise ModelError(
            f"Input {value.name!r} has type {found}; float32 and integer inputs are supported. Convert the model."
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
    return tuple(shape), _INPUT_TYPES[kind.elem_type]
