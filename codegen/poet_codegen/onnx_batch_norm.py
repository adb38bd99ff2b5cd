"""BatchNormalization in the ONNX model as inference runs it, or none where it is folded."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from poet_codegen.onnx_edit import ModelEditor
from poet_codegen.recipe import BatchNorm

_Array = np.ndarray[Any, Any]
_EPSILON = 1e-5
_TRAINING_ATTRIBUTES = ("training_mode", "is_test")


def rewrite_batch_norms(model: ModelEditor, choice: BatchNorm | None) -> None:
    """Bring every BatchNormalization into the form of inference.

    For `fold` each is multiplied into the convolution or Gemm before it, where that one's result is read by nobody
    else; others stay.
    """
    for node in batch_norms(model.proto):
        _as_in_inference(model, node)
        if choice is BatchNorm.FOLD:
            _fold(model, node)


def batch_norms(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The model's BatchNormalization nodes."""
    return [n for n in proto.graph.node if n.op_type == "BatchNormalization" and n.domain in ("", "ai.onnx")]


def _as_in_inference(model: ModelEditor, node: onnx.NodeProto) -> None:
    read = model.readers()
    if any(read[name] for name in node.output[1:]):
        return  # the import refuses it
    del node.output[1:]
    for attribute in [a for a in node.attribute if a.name in _TRAINING_ATTRIBUTES]:
        node.attribute.remove(attribute)


def _fold(model: ModelEditor, node: onnx.NodeProto) -> None:
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
