"""Trained weights back into the ONNX model they came from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from poet_codegen.errors import ModelError
from poet_codegen.graph import Array, Kind
from poet_codegen.onnx_edit import ModelEditor
from poet_codegen.onnx_import import import_onnx

_CONSTANTS = ("Constant", "ConstantOfShape")


def with_weights(proto: onnx.ModelProto, weights: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy of the model whose constants hold `weights`, by name; nothing else changes.

    A constant that is written as a node whose form cannot hold them (a fill, or numbers as attributes) becomes an
    initializer.
    Constants that the import computed are no part of the model and are left out.
    Raises ModelError when a name or shape is not the model's.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    imported = import_onnx(proto)
    computed = {tensor.name for tensor in imported.graph.of_kind(Kind.CONSTANT)}
    left = {name: array for name, array in weights.items() if name not in computed}
    for initializer in result.graph.initializer:
        if initializer.name in left:
            _replace(initializer, left.pop(initializer.name))
    model = ModelEditor(result)
    held = left.keys() & imported.weights.keys()
    for node in [node for node in result.graph.node if node.op_type in _CONSTANTS and node.output[0] in held]:
        name = node.output[0]
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            _replace(node.attribute[0].t, left.pop(name))
        else:
            _check_shape(name, imported.weights[name].shape, left[name])
            result.graph.node.remove(node)
            model.declare(name, left.pop(name))
    if left:
        raise ModelError(f"The model has no parameter {min(left)!r}. The weights are of another model.")
    return result


def _replace(tensor: onnx.TensorProto, values: Array) -> None:
    _check_shape(tensor.name, tuple(tensor.dims), values)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), tensor.name))


def _check_shape(name: str, shape: tuple[int, ...], values: Array) -> None:
    if shape != values.shape:
        raise ModelError(
            f"Parameter {name!r} has shape {list(shape)} in the model and {list(values.shape)} in the weights. The "
            "weights are of another model."
        )
