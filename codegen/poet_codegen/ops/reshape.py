"""Reshape and Flatten: the same bytes under another shape. Never code, never memory."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer


class Reshape(Op):
    """A view of the input."""

    name = "Reshape"
    onnx = ("Reshape", "Flatten")
    is_view = True
    supported = "a constant target shape; 0 and -1 as in ONNX"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Reshape and Flatten."""
        x = importer.value(node, 0)
        shape = _flat(node, x.shape) if node.op_type == "Flatten" else _target(importer, node, x.shape)
        importer.add(node, self.name, [x], {"shape": shape})

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """The attribute."""
        return (node.ints("shape"),)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx is dy under x's shape."""
        tape.add_gradient(node.inputs[0], self.name, (grads[0],), {"shape": tape.shape(node.inputs[0])})

    def work(self, graph: Graph, node: Node) -> Work:
        """None."""
        return Work("view")

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """A view has no kernel; asking for one is a bug of the caller."""
        raise AssertionError("views are resolved before kernels are chosen")


def _flat(node: ImportedNode, x: Shape) -> Shape:
    axis = int(node.attrs.get("axis", 1))
    axis += len(x) if axis < 0 else 0
    return (prod(x[:axis]), prod(x[axis:]))


def _target(importer: Importer, node: ImportedNode, x: Shape) -> Shape:
    wish = [int(size) for size in importer.constant(node, 1).ravel()]
    if node.attrs.get("allowzero", 0):
        raise node.refuse("uses allowzero", "Export without it.")
    if any(size == 0 and axis >= len(x) for axis, size in enumerate(wish)):
        raise node.refuse(f"copies an axis that shape {list(x)} does not have", "Check the model.")
    shape = [x[axis] if size == 0 else size for axis, size in enumerate(wish)]
    if shape.count(-1) == 1:
        known = -prod(shape)
        shape[shape.index(-1)] = prod(x) // known if known > 0 else 0
    if prod(shape) != prod(x) or min(shape, default=1) < 1:
        raise node.refuse(f"turns shape {list(x)} into {wish}", "Check the model.")
    return tuple(shape)


register(Reshape())
