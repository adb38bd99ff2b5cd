"""Stochastic gradient descent as a graph op."""

from __future__ import annotations

from collections.abc import Sequence

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register


class Sgd(Op):
    """w' = w - learning_rate * dw. Inputs: w, dw, learning_rate."""

    name = "Sgd"
    in_place = ((0, 0),)
    repeatable = False

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of w."""
        return (inputs[0].shape,)

    def work(self, graph: Graph, node: Node) -> Work:
        """One multiply-add an element."""
        return Work("elementwise", elements=graph.tensors[node.inputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/sgd.c.j2."""
        elements = graph.tensors[node.inputs[0]].elements
        name = f"sgd_{elements}"
        _, gradient, rate = node.inputs
        values = {"name": name, "elements": elements}
        return Kernel("sgd.c.j2", name, values, (gradient, rate, node.outputs[0]))


register(Sgd())
