"""Reshape, Flatten, Squeeze and Unsqueeze: the same bytes under another shape. Never code, never memory."""

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
    onnx: tuple[str, ...] = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
    is_view = True
    supported = "a constant target shape or constant axes"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Reshape, Flatten, Squeeze and Unsqueeze."""
        x = importer.value(node, 0)
        if node.op_type == "Flatten":
            shape = _flat(node, x.shape)
        elif node.op_type == "Reshape":
            shape = _target(importer, node, x.shape)
        else:
            axes = importer.ints(node, 1, "axes")
            shape = _squeezed(node, x.shape, axes) if node.op_type == "Squeeze" else _unsqueezed(node, x.shape, axes)
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
    """-1 is what is left; 0 copies the axis of x, or with allowzero asks for an empty tensor: refused."""
    wish = importer.ints(node, 1, "shape")
    if wish is None:
        raise node.refuse("has no target shape", "Check the model.")
    copies = not node.attrs.get("allowzero", 0)
    if any(copies and size == 0 and axis >= len(x) for axis, size in enumerate(wish)):
        raise node.refuse(f"copies an axis that shape {list(x)} does not have", "Check the model.")
    shape = [x[axis] if copies and size == 0 else size for axis, size in enumerate(wish)]
    if shape.count(-1) == 1:
        known = -prod(shape)
        shape[shape.index(-1)] = prod(x) // known if known > 0 else 0
    if prod(shape) != prod(x) or min(shape, default=1) < 1:
        raise node.refuse(f"turns shape {list(x)} into {list(wish)}", "Check the model.")
    return tuple(shape)


def _squeezed(node: ImportedNode, x: Shape, axes: tuple[int, ...] | None) -> Shape:
    chosen = (
        {axis for axis, size in enumerate(x) if size == 1} if axes is None else set(positive_axes(node, axes, len(x)))
    )
    if any(x[axis] != 1 for axis in chosen):
        raise node.refuse(f"removes axes {sorted(chosen)} of shape {list(x)}", "Only axes of size 1 can be removed.")
    return tuple(size for axis, size in enumerate(x) if axis not in chosen)


def _unsqueezed(node: ImportedNode, x: Shape, axes: tuple[int, ...] | None) -> Shape:
    rank = len(x) + len(axes or ())
    chosen = set(positive_axes(node, axes or (), rank))
    sizes = iter(x)
    return tuple(1 if axis in chosen else next(sizes) for axis in range(rank))


def positive_axes(node: ImportedNode, axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from the front. Raises ModelError for one that is not there, or stands twice."""
    counted = tuple(axis + rank if axis < 0 else axis for axis in axes)
    if any(not 0 <= axis < rank for axis in counted) or len(set(counted)) < len(counted):
        raise node.refuse(f"names axes {list(axes)} of a tensor with {rank}", "Check the model.")
    return counted


register(Reshape())
