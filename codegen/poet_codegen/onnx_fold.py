"""Constant folding: nodes whose inputs are all known are computed at import, by ONNX's own reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

if TYPE_CHECKING:
    from poet_codegen.onnx_import import ImportedNode

_RANDOM = ("Bernoulli", "Dropout", "Multinomial", "RandomNormalLike", "RandomUniformLike")


def may_fold(
    node: onnx.NodeProto,
    supported: bool,
    is_constant: Callable[[str], bool],
    is_parameter: Callable[[str], bool],
) -> bool:
    """Whether a node can be computed at import.

    Not when it reads a parameter and could run on the board: what it makes of the parameter must follow training. But
    what Where chooses among constants is a mask, not a parameter.
    """
    names = [name for name in node.input if name]
    if not names or node.op_type in _RANDOM or not all(is_constant(name) for name in names):
        return False
    return node.op_type == "Where" or not (supported and any(is_parameter(name) for name in names))


def fold(
    node: ImportedNode, constant: Callable[[ImportedNode, int], np.ndarray[Any, Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Values of a node's outputs. Raises ModelError when the reference cannot compute them."""
    feeds = {name: constant(node, position) for position, name in enumerate(node.inputs) if name}
    outputs = [name for name in node.outputs if name]
    untyped = [onnx.ValueInfoProto(name=name) for name in (*feeds, *outputs)]
    graph = helper.make_graph([node.proto], "fold", untyped[: len(feeds)], untyped[len(feeds) :])
    try:
        values = ReferenceEvaluator(graph, opsets={"": node.opset}).run(None, feeds)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise node.refuse(
            f"its inputs are constants, and it cannot be computed from them ({reason})", "Check the model."
        ) from error
    return {name: np.asarray(value) for name, value in zip(outputs, values, strict=True)}
