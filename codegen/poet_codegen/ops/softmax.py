"""Softmax and its logarithm along one axis, with gradients told from the result y.

The tensor is seen as [outer, count, inner], with the axis in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.m4f.lanes import with_lanes
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register
from poet_codegen.ops.reshape import positive_axes
from poet_codegen.ops.split import Blocks, Part, by_units

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer

_FIRST_OPSET_OF_ONE_AXIS = 13
"""Before, Softmax ran over all axes from `axis` on."""


class Softmax(Op):
    """y = e^x / sum of e^x, or its logarithm; the largest x is subtracted first. `axes` = (first, last + 1)."""

    supported = "any axis"

    def __init__(self, name: str, log: bool) -> None:
        self.name = name
        self.onnx = (name,)
        self._log = log

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Softmax and LogSoftmax."""
        x = importer.value(node, 0)
        of_one = node.opset >= _FIRST_OPSET_OF_ONE_AXIS
        (axis,) = positive_axes(node, (int(node.attrs.get("axis", -1 if of_one else 1)),), len(x.shape))
        importer.add(node, self.name, [x], {"axes": (axis, axis + 1 if of_one else len(x.shape))})

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of x."""
        return (inputs[0].shape,)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx from y and dy: y (dy - sum of dy y), and of the logarithm dy - e^y sum of dy."""
        tape.add_gradient(node.inputs[0], f"{self.name}Grad", (node.outputs[0], grads[0]), dict(node.attrs))

    def work(self, graph: Graph, node: Node) -> Work:
        """One exponential an element."""
        return Work("softmax", elements=graph.tensors[node.inputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/softmax.c.j2."""
        stem = "log_softmax" if self._log else "softmax"
        return _kernel("softmax.c.j2", stem, self._log, graph.tensors[node.inputs[0]].shape, node)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By rows."""
        return _by_rows(graph, node)


class SoftmaxGrad(Op):
    """dx from y and dy."""

    def __init__(self, name: str, log: bool) -> None:
        self.name = name
        self._log = log

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of y."""
        return (inputs[0].shape,)

    def work(self, graph: Graph, node: Node) -> Work:
        """One exponential an element for the logarithm, two products otherwise."""
        return Work("softmax" if self._log else "softmax_grad", elements=graph.tensors[node.inputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/softmax_grad.c.j2."""
        stem = "log_softmax_grad" if self._log else "softmax_grad"
        return _kernel("softmax_grad.c.j2", stem, self._log, graph.tensors[node.inputs[0]].shape, node)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By rows."""
        return _by_rows(graph, node)


def _by_rows(graph: Graph, node: Node) -> tuple[Blocks, ...]:
    names = (*node.inputs, *node.outputs)
    first, end = node.ints("axes")
    shape = graph.tensors[names[0]].shape

    def some_rows(units: int) -> Part:
        return Part(dict.fromkeys(names, (units, *shape[first:])), {"axes": (1, 1 + end - first)})

    return (by_units("row", prod(shape[:first]), dict.fromkeys(names, prod(shape[first:])), some_rows),)


def _kernel(template: str, stem: str, log: bool, shape: Shape, node: Node) -> Kernel:
    first, end = node.ints("axes")
    outer, count, inner = prod(shape[:first]), prod(shape[first:end]), prod(shape[end:])
    name = f"{stem}_{outer}x{count}x{inner}"
    values = {
        "name": name,
        "log": log,
        "outer": outer,
        "count": count,
        "inner": inner,
        "slab": count * inner,
        "at": "i" if inner == 1 else f"i * {inner}",
    }
    kernel = Kernel(template, name, values, (*node.inputs, *node.outputs))
    return with_lanes(kernel, count) if inner == 1 and (template == "softmax.c.j2" or not log) else kernel


for _name, _log in (("Softmax", False), ("LogSoftmax", True)):
    register(Softmax(_name, _log))
    register(SoftmaxGrad(f"{_name}Grad", _log))
