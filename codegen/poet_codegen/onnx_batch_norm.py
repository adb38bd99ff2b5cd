"""The ONNX model as training by a choice of batch normalization starts from it.

Done on the model itself, before import, so that the build folder's model.onnx and the trained model that is written
back have the same form: BatchNormalization as inference runs it, or none where it was folded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from poet_codegen.recipe import BatchNorm

_Array = np.ndarray[Any, Any]
_EPSILON = 1e-5
_FIRST_IR_WITH_INITIALIZERS_BESIDE_INPUTS = 4
_TRAINING_ATTRIBUTES = ("training_mode", "is_test")


def prepare_batch_norm(proto: onnx.ModelProto, choice: BatchNorm | None) -> onnx.ModelProto:
    """The model with every BatchNormalization in the form of inference: a copy, unless it has none.

    What trains there is each one's own: exporters let parameters of equal values share one, such as a fresh model's
    scales and running variances. For `fold` each is multiplied into the convolution or Gemm before it, where that
    one's result is read by nobody else; others stay.
    """
    if not batch_norms(proto):
        return proto
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    model = _Model(result)
    for node in batch_norms(result):
        _as_in_inference(model, node)
        if choice is BatchNorm.FOLD:
            _fold(model, node)
    if choice is not None:
        _own_parameters(model, (1, 2, 3, 4) if choice is BatchNorm.TRAIN else (1, 2))
    return result


def batch_norms(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The model's BatchNormalization nodes."""
    return [n for n in proto.graph.node if n.op_type == "BatchNormalization" and n.domain in ("", "ai.onnx")]


class _Model:
    """A model that is rewritten: who reads a value, and what its constants are."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.graph = proto.graph

    def readers(self) -> Counter[str]:
        """How often each value is read, as an output of the model included."""
        names = (name for node in self.graph.node for name in node.input)
        return Counter((*names, *(output.name for output in self.graph.output)))

    def maker(self, name: str) -> onnx.NodeProto | None:
        return next((node for node in self.graph.node if name in node.output), None)

    def array(self, name: str) -> _Array | None:
        """The numbers of an initializer, of a Constant, or of what an Identity passes on; None for others."""
        for initializer in self.graph.initializer:
            if initializer.name == name:
                return numpy_helper.to_array(initializer)
        maker = self.maker(name)
        if maker is not None and maker.op_type == "Identity":
            return self.array(maker.input[0])
        if maker is not None and maker.op_type == "Constant" and maker.attribute[0].name == "value":
            return numpy_helper.to_array(maker.attribute[0].t)
        return None

    def arrays(self, names: Iterable[str]) -> list[_Array] | None:
        found = [array for name in names if (array := self.array(name)) is not None]
        return found if len(found) == len(list(names)) else None

    def hold(self, wish: str, array: _Array) -> str:
        """Declare an initializer, in place of an old one that nobody reads any more; returns its name."""
        taken = {name for node in self.graph.node for name in (*node.input, *node.output)}
        taken |= {value.name for value in (*self.graph.input, *self.graph.initializer)}
        name, number = wish, 2
        while name in taken:
            name, number = f"{wish}.{number}", number + 1
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        if self.proto.ir_version < _FIRST_IR_WITH_INITIALIZERS_BESIDE_INPUTS:
            self.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape))
        return name

    def drop_unread(self, names: Iterable[str]) -> None:
        """Remove those of these constants that nobody reads."""
        read = self.readers()
        for name in {name for name in names if name and not read[name]}:
            for values in (self.graph.initializer, self.graph.input):
                for value in [value for value in values if value.name == name]:
                    values.remove(value)
            maker = self.maker(name)
            if maker is not None:
                self.graph.node.remove(maker)
                self.drop_unread(maker.input)


def _as_in_inference(model: _Model, node: onnx.NodeProto) -> None:
    read = model.readers()
    if any(read[name] for name in node.output[1:]):
        return  # the import refuses it
    del node.output[1:]
    for attribute in [a for a in node.attribute if a.name in _TRAINING_ATTRIBUTES]:
        node.attribute.remove(attribute)


def _own_parameters(model: _Model, positions: Sequence[int]) -> None:
    """Aliases first, so that of several readers of one initializer the one that it is named after keeps it."""
    inputs = [(node, position) for node in batch_norms(model.proto) for position in positions]
    for of_aliases in (True, False):
        for node, position in inputs:
            name = node.input[position]
            maker, array = model.maker(name), model.array(name)
            is_alias = maker is not None and maker.op_type == "Identity"
            if array is not None and (is_alias if of_aliases else model.readers()[name] > 1):
                node.input[position] = ""
                model.drop_unread([name])
                node.input[position] = model.hold(name, array)


def _fold(model: _Model, node: onnx.NodeProto) -> None:
    layer = model.maker(node.input[0])
    if layer is None or layer.op_type not in ("Conv", "Gemm") or model.readers()[node.input[0]] != 1:
        return
    old = (*layer.input[1:], *node.input[1:])
    numbers, weights = model.arrays(node.input[1:]), model.array(layer.input[1])
    has_bias = len(layer.input) > 2 and bool(layer.input[2])
    bias = model.array(layer.input[2]) if has_bias else np.zeros(1, np.float32)
    if numbers is None or weights is None or bias is None:
        return
    scale, shift, mean, variance = (array.astype(np.float64) for array in numbers)
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    factor = scale / np.sqrt(variance + attrs.get("epsilon", _EPSILON))
    own = {a.name: helper.get_attribute_value(a) for a in layer.attribute}
    along = 1 if layer.op_type == "Gemm" and not own.get("transB", 0) else 0
    if weights.shape[along] != factor.size or not _is_one_each(bias, factor.size):
        return
    folded = weights * factor.reshape([-1 if axis == along else 1 for axis in range(weights.ndim)])
    moved = (bias.reshape(-1) * own.get("beta", 1.0) - mean) * factor + shift
    names = (layer.input[1], layer.input[2] if has_bias else node.input[2])
    del layer.input[1:]
    layer.output[0] = node.output[0]
    model.graph.node.remove(node)
    for attribute in [a for a in layer.attribute if a.name == "beta"]:
        layer.attribute.remove(attribute)
    model.drop_unread(old)
    for name, array in zip(names, (folded, moved), strict=True):
        layer.input.append(model.hold(name, array))


def _is_one_each(bias: _Array, channels: int) -> bool:
    """Whether a bias is one number, or one a channel along its last axis."""
    return bias.size == 1 or (bias.size == channels and bias.shape[-1] == channels)
