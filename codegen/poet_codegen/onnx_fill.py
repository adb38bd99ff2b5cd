"""Tensors that a model fills with one value (ONNX ConstantOfShape): which of them are parameters.

Models without their weights, such as those in the onnx package, hold fills in the weights' places; exporters write
masks and initial states as fills too. A fill is a parameter where an operator takes one: as weight, bias, scale or
table of a layer, or as a vector that Mul or Add applies (a layer's scale and shift), views in between included.
Everywhere else it is a number that never trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

_PLACES: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (1,),
    "BatchNormalization": (1, 2, 3, 4),
    "LayerNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "PRelu": (1,),
    "Gather": (0,),
}
_OF_VECTORS = ("Add", "Mul")
_VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")


def fill(node: onnx.NodeProto, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """A ConstantOfShape node's value, as a view of one element: however large, it takes no memory."""
    values = [numpy_helper.to_array(helper.get_attribute_value(a)) for a in node.attribute if a.name == "value"]
    value = values[0] if values else np.zeros(1, np.float32)
    return np.broadcast_to(value.reshape(()), tuple(shape))


def is_parameter_fill(name: str, rank: int, readers: Callable[[str], Sequence[onnx.NodeProto]]) -> bool:
    """Whether some reader of the fill `name`, or of a view of it, takes it as a parameter."""
    for node in readers(name):
        places = _PLACES.get(node.op_type, ())
        if any(read == name for position, read in enumerate(node.input) if position in places):
            return True
        if node.op_type in _OF_VECTORS and rank == 1:
            return True
        if node.op_type in _VIEWS and node.input[0] == name and is_parameter_fill(node.output[0], rank, readers):
            return True
    return False
