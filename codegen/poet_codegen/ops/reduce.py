"""Sums and means over axes, global average pooling, and Expand, which is their gradient."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.ops.map_kernel import Formula, map_kernel
from poet_codegen.ops.nest import broadcast, broadcast_strides, literal, strides_of
from poet_codegen.ops.pointwise import SUM_TO
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register
from poet_codegen.ops.reshape import positive_axes

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer


class Reduce(Op):
    """y = sum or mean of x over `axes`; with keepdims they stay as axes of size 1."""

    supported = "constant axes"

    def __init__(self, name: str, onnx: tuple[str, ...], mean: bool) -> None:
        self.name = name
        self.onnx = onnx
        self._mean = mean

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX ReduceSum, ReduceMean and GlobalAveragePool."""
        x = importer.value(node, 0)
        if node.op_type == "GlobalAveragePool":
            importer.add(node, self.name, [x], {"axes": tuple(range(2, len(x.shape))), "keepdims": 1})
            return
        axes = positive_axes(node, importer.ints(node, 1, "axes") or (), len(x.shape))
        if not axes and node.attrs.get("noop_with_empty_axes", 0):
            importer.alias(node)
            return
        chosen = tuple(sorted(axes)) or tuple(range(len(x.shape)))
        importer.add(node, self.name, [x], {"axes": chosen, "keepdims": int(node.attrs.get("keepdims", 1))})

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of x without the axes, or with size 1 there."""
        kept = _kept(inputs[0].shape, node)
        if node.int("keepdims"):
            return (kept,)
        return (tuple(size for axis, size in enumerate(kept) if axis not in node.ints("axes")),)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx repeats dy over the axes, divided by the number of elements for a mean."""
        x, dy = node.inputs[0], grads[0]
        shape = tape.shape(x)
        if tape.shape(dy) != _kept(shape, node):
            dy = tape.node(f"{dy}.kept", "Reshape", (dy,), {"shape": _kept(shape, node)})
        tape.add_gradient(x, "Expand", (dy,), {"shape": shape, "factor": 1.0 / self._divisor(shape, node)})

    def _divisor(self, x: Shape, node: Node) -> int:
        return prod(x[axis] for axis in node.ints("axes")) if self._mean else 1

    def work(self, graph: Graph, node: Node) -> Work:
        """One addition for each element of x."""
        return Work("reduce_plain", elements=graph.tensors[node.inputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/map.c.j2."""
        x = graph.tensors[node.inputs[0]].shape
        divisor = self._divisor(x, node)
        formula = Formula("reduce_sum", "Sum of", ("x",), "y", "{x}")
        if divisor > 1:
            formula = Formula("reduce_mean", "Mean of", ("x",), "y", "{x}", finish=f"sum / {literal(float(divisor))}")
        out_strides = broadcast_strides(_kept(x, node), x)
        return map_kernel(formula, x, {"x": strides_of(x)}, out_strides, {}, (*node.inputs, *node.outputs))


class Expand(Op):
    """y = factor x, repeated to `shape` by numpy's rule."""

    name = "Expand"
    onnx = ("Expand",)
    supported = "a constant shape"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Expand; either side may be the one that is repeated."""
        x = importer.value(node, 0)
        target = importer.ints(node, 1, "shape") or ()
        shape = broadcast([x.shape, target])
        if shape is None:
            raise node.refuse(f"expands shape {list(x.shape)} to {list(target)}", "Check the model.")
        if shape == x.shape:
            importer.alias(node)
        else:
            importer.add(node, self.name, [x], {"shape": shape, "factor": 1.0})

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """The attribute."""
        return (node.ints("shape"),)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx sums dy over the repetitions."""
        tape.add_gradient(node.inputs[0], SUM_TO, (grads[0],), {"shape": tape.shape(node.inputs[0])})

    def work(self, graph: Graph, node: Node) -> Work:
        """One product for each element of y."""
        return Work("elementwise", elements=graph.tensors[node.outputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/map.c.j2."""
        x, y = (graph.tensors[n].shape for n in (*node.inputs, *node.outputs))
        factor = node.float("factor")
        if factor == 1.0:
            formula, numbers = Formula("expand", "Copy of", ("x",), "y", "{x}"), {}
        else:
            formula, numbers = Formula("expand", "Multiple of", ("x",), "y", "{x} * {by}"), {"by": factor}
        return map_kernel(
            formula, y, {"x": broadcast_strides(x, y)}, strides_of(y), numbers, (*node.inputs, *node.outputs)
        )


def _kept(x: Shape, node: Node) -> Shape:
    return tuple(1 if axis in node.ints("axes") else size for axis, size in enumerate(x))


register(Reduce("ReduceSum", ("ReduceSum",), mean=False))
register(Reduce("ReduceMean", ("ReduceMean", "GlobalAveragePool"), mean=True))
register(Expand())
