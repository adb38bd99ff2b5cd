"""ONNX's Sum of any number of tensors: additions one after the other, so that at most two live at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poet_codegen.ops.nest import broadcast
from poet_codegen.ops.pointwise import load_pointwise
from poet_codegen.ops.registry import register
from poet_codegen.ops.reshape import Reshape

if TYPE_CHECKING:
    from poet_codegen.onnx_import import ImportedNode, Importer


class Sum(Reshape):
    """y = (x0 + x1) + x2 ... with numpy's broadcasting."""

    name = "Sum"
    onnx: tuple[str, ...] = ("Sum",)
    supported = "any number of tensors; numpy's broadcasting"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Sum; a number that is added to one tensor is no tensor of its own."""
        if len(node.inputs) == 2:
            load_pointwise(importer, node, "Add", ("a", "b"), {})
            return
        total, *others = (importer.value(node, position) for position in range(len(node.inputs)))
        if broadcast(t.shape for t in (total, *others)) is None:
            shapes = [list(t.shape) for t in (total, *others)]
            raise node.refuse(f"adds shapes {shapes}", "They do not broadcast to a common shape.")
        if not others:
            importer.alias(node)
            return
        for other in others[:-1]:
            (total,) = importer.step(node, "Add", [total, other], {})
        importer.add(node, "Add", [total, others[-1]], {})


register(Sum())
