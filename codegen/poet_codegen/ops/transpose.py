"""Transposition: a copy through other strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.ops.map_kernel import Formula, map_kernel
from poet_codegen.ops.nest import strides_of
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register
from poet_codegen.ops.reshape import positive_axes
from poet_codegen.ops.split import Axis, Blocks, by_axes

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer


class Transpose(Op):
    """y's axis a is x's axis perm[a]."""

    name = "Transpose"
    onnx = ("Transpose",)
    supported = "any permutation"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Transpose. One that moves only axes of size 1 is a view."""
        x = importer.value(node, 0)
        perm = positive_axes(node, node.attrs.get("perm") or tuple(reversed(range(len(x.shape)))), len(x.shape))
        moved = [axis for axis in perm if x.shape[axis] > 1]
        if moved == sorted(moved):
            importer.add(node, "Reshape", [x], {"shape": tuple(x.shape[axis] for axis in perm)})
        else:
            importer.add(node, self.name, [x], {"perm": perm})

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """x's, permuted."""
        return (tuple(inputs[0].shape[axis] for axis in node.ints("perm")),)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx is dy, permuted back."""
        perm = node.ints("perm")
        back = tuple(perm.index(axis) for axis in range(len(perm)))
        tape.add_gradient(node.inputs[0], self.name, (grads[0],), {"perm": back})

    def work(self, graph: Graph, node: Node) -> Work:
        """One copy for each element."""
        return Work("copy", elements=graph.tensors[node.outputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/map.c.j2."""
        x, y = (graph.tensors[n].shape for n in (*node.inputs, *node.outputs))
        dense = strides_of(x)
        strides = {"x": tuple(dense[axis] for axis in node.ints("perm"))}
        formula = Formula("transpose", "Transposition of", ("x",), "y", "{x}")
        return map_kernel(formula, y, strides, strides_of(y), {}, (*node.inputs, *node.outputs))

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """Along every axis of y."""
        (x,), (y,), perm = node.inputs, node.outputs, node.ints("perm")
        axes = [Axis("slice", size) for size in graph.tensors[y].shape]
        dims = {x: [perm.index(axis) for axis in range(len(perm))], y: list(range(len(perm)))}
        return (by_axes(graph, node, axes, dims),)


register(Transpose())
