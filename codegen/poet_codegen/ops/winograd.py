"""Convolution by Winograd's F(2x2, 3x3), which a plan asks for: fewer products, other roundings than the direct sum.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016). Layouts and attributes are those of Conv;
its window is 3x3, without stride, dilation and groups. Gradients stay those of the direct convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.ops.registry import WORKSPACE, Kernel, Op, Shape, Variant, Work, register
from poet_codegen.ops.window import Window

_TILE = 16
_FLOAT_BYTES = 4


class ConvWinograd(Op):
    """y = conv(x, w) + b in tiles of 2x2 outputs."""

    name = "ConvWinograd"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[N, O, OH, OW]."""
        x, w = inputs[0].shape, inputs[1].shape
        return ((x[0], w[0], *Window.of(node, w[2:]).output(x[2:])),)

    def work(self, graph: Graph, node: Node) -> Work:
        """The multiply-adds of the direct sum, so that figures compare."""
        y, w = graph.tensors[node.outputs[0]], graph.tensors[node.inputs[1]]
        return Work("winograd", macs=y.elements * prod(w.shape[1:]), elements=y.elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/winograd.c.j2 without workspace."""
        return self._kernel(graph, node, workspace=False)

    def variants(self, graph: Graph, node: Node) -> tuple[Variant, ...]:
        """Without workspace, and with the transformed weights and tiles in one. Both have the same bits."""
        outputs, channels = graph.tensors[node.inputs[1]].shape[:2]
        work = self.work(graph, node)
        size = (outputs + 1) * channels * _TILE * _FLOAT_BYTES
        with_workspace = self._kernel(graph, node, workspace=True)
        return (
            Variant("", self.kernel(graph, node), work),
            Variant("transformed once", with_workspace, replace(work, kernel="winograd_workspace"), size),
        )

    def _kernel(self, graph: Graph, node: Node, workspace: bool) -> Kernel:
        x, w, y = (graph.tensors[n].shape for n in (*node.inputs[:2], node.outputs[0]))
        window = Window.of(node, w[2:])
        values = {
            "batch": x[0],
            "channels": x[1],
            "in_h": x[2],
            "in_w": x[3],
            "outputs": y[1],
            "out_h": y[2],
            "out_w": y[3],
            "pad_top": window.pads[0],
            "pad_left": window.pads[1],
            "has_bias": len(node.inputs) > 2,
            "workspace": workspace,
        }
        extent = "x".join(map(str, x))
        name = f"winograd_{extent}_to_{y[1]}_{window.suffix()}"
        name += ("" if values["has_bias"] else "_nobias") + ("_workspace" if workspace else "")
        arguments = (*node.inputs, *node.outputs, *((WORKSPACE,) if workspace else ()))
        return Kernel("winograd.c.j2", name, values | {"name": name}, arguments)


def with_winograd(graph: Graph) -> Graph:
    """The graph with every convolution that has the shape for it done this way."""
    return replace(graph, nodes=tuple(_chosen(graph, node) for node in graph.nodes))


def _chosen(graph: Graph, node: Node) -> Node:
    if node.op != "Conv" or node.int("groups") != 1:
        return node
    window = Window.of(node, graph.tensors[node.inputs[1]].shape[2:])
    fits = (window.kernel, window.strides, window.dilations) == ((3, 3), (1, 1), (1, 1))
    return replace(node, op=ConvWinograd.name) if fits else node


register(ConvWinograd())
