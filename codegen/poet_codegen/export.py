"""Trained weights back into the ONNX model they came from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from poet_codegen.errors import ModelError
from poet_codegen.graph import Array, Kind
from poet_codegen.onnx_import import import_onnx


def with_weights(proto: onnx.ModelProto, weights: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy of the model whose initializers (or Constant nodes) hold `weights`, by name; nothing else changes.

    Constants that the import computed are no part of the model and are left out.
    Raises ModelError when a name or shape is not the model's.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    computed = {tensor.name for tensor in import_onnx(proto).graph.of_kind(Kind.CONSTANT)}
    left = {name: array for name, array in weights.items() if name not in computed}
    for initializer in result.graph.initializer:
        if initializer.name in left:
            _replace(initializer, left.pop(initializer.name))
    for node in result.graph.node:
        if node.op_type == "Constant" and node.output[0] in left:
            for attribute in node.attribute:
                if attribute.name == "value":
                    _replace(attribute.t, left.pop(node.output[0]))
    if left:
        raise ModelError(f"The model has no parameter {min(left)!r}. The weights are of another model.")
    return result


def _replace(tensor: onnx.TensorProto, values: Array) -> None:
    if tuple(tensor.dims) != values.shape:
        raise ModelError(
            f"Parameter {tensor.name!r} has shape {list(tensor.dims)} in the model and {list(values.shape)} in the "
            "weights. The weights are of another model."
        )
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), tensor.name))
