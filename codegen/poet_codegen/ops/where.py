"""ONNX's Where by a constant condition, as in causal attention masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from poet_codegen.graph import AttrValue, Tensor
from poet_codegen.ops.map_kernel import Formula
from poet_codegen.ops.nest import broadcast
from poet_codegen.ops.pointwise import OnnxPointwise, Pointwise, Pull
from poet_codegen.ops.registry import register

if TYPE_CHECKING:
    from poet_codegen.onnx_import import ImportedNode, Importer


class Where(OnnxPointwise):
    """y = a where the condition holds, else b. The condition is kept as float32, 1 or 0."""

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Where; one-element constants become numbers in the kernel, infinities too."""
        chosen = importer.constant(node, 0).astype(np.float32)
        tensors: list[Tensor] = [importer.hold(node, "condition", chosen)]
        numbers: dict[str, AttrValue] = {}
        for position, name in ((1, "a"), (2, "b")):
            number = importer.literal(node, position)
            if number is None or numbers:
                tensors.append(importer.value(node, position))
            else:
                numbers[name] = number
        space = broadcast(t.shape for t in tensors)
        if space is None or broadcast([importer.shape_of(name) or () for name in node.inputs]) != space:
            raise node.refuse(
                f"chooses among shapes {[list(t.shape) for t in tensors]}", "They do not broadcast. Check the model."
            )
        importer.add(node, self.name, tensors, numbers)


register(
    Where(
        "Where",
        Formula("where", "Choice among", ("c", "a", "b"), "y", "{c} != 0.0f ? {a} : {b}"),
        {"a": Pull("WhereGrad", ("c", "dy")), "b": Pull("WhereNotGrad", ("c", "dy"))},
        supported="a constant condition; numpy's broadcasting",
    )
)
for _name, _stem, _value in (
    ("WhereGrad", "where_grad", "{c} != 0.0f ? {dy} : 0.0f"),
    ("WhereNotGrad", "where_not_grad", "{c} != 0.0f ? 0.0f : {dy}"),
):
    register(Pointwise(_name, Formula(_stem, "Gradient of a choice among", ("c", "dy"), "dx", _value)))
