"""Average pooling over windows, with padding counted or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.ops.nest import literal
from poet_codegen.ops.pool import load_pooling
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register
from poet_codegen.ops.split import Blocks, by_planes
from poet_codegen.ops.window import Window

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer


class AveragePool(Op):
    """Mean of each window of x [N, C, H, W]; `count_pads` counts padding as zeros, up to row and column `counted`."""

    name = "AveragePool"
    onnx = ("AveragePool",)
    supported = "1-D and 2-D, any kernel, stride, padding, dilation and count_include_pad"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX AveragePool."""
        count_pads = int(node.attrs.get("count_include_pad", 0))
        load_pooling(importer, node, self.name, importer.value(node, 0), {"count_pads": count_pads})

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[N, C, OH, OW]."""
        x = inputs[0].shape
        return ((x[0], x[1], *Window.of(node, node.ints("kernel")).output(x[2:])),)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx from dy alone."""
        attrs = {**node.attrs, "extent": tape.shape(node.inputs[0])[2:]}
        tape.add_gradient(node.inputs[0], "AveragePoolGrad", (grads[0],), attrs)

    def work(self, graph: Graph, node: Node) -> Work:
        """One addition for each output element and tap."""
        return _work(graph, node, node.outputs[0])

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/average_pool.c.j2."""
        x, y = (graph.tensors[n].shape for n in (*node.inputs, *node.outputs))
        return _kernel(node, x, y, gradient=False)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By planes."""
        return (by_planes(graph, *node.inputs, *node.outputs),)


class AveragePoolGrad(Op):
    """dx from dy."""

    name = "AveragePoolGrad"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[N, C, H, W]."""
        dy = inputs[0].shape
        return ((dy[0], dy[1], *node.ints("extent")),)

    def work(self, graph: Graph, node: Node) -> Work:
        """One addition for each element of dy and tap."""
        return replace(_work(graph, node, node.inputs[0]), kernel="average_pool_grad")

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/average_pool.c.j2."""
        dy, dx = (graph.tensors[n].shape for n in (*node.inputs, *node.outputs))
        return _kernel(node, dx, dy, gradient=True)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By planes."""
        return (by_planes(graph, *node.inputs, *node.outputs),)


def _work(graph: Graph, node: Node, pooled: str) -> Work:
    kernel = node.ints("kernel")
    return Work("average_pool", elements=graph.tensors[pooled].elements * kernel[0] * kernel[1])


def _kernel(node: Node, x: Shape, y: Shape, gradient: bool) -> Kernel:
    kernel = node.ints("kernel")
    window = Window.of(node, kernel)
    ends = (x[2] + window.pads[2], x[3] + window.pads[3])
    counted = node.ints("counted") if node.int("count_pads") else ()
    fixed = counted == ends or not any(window.pads)
    stem = "average_pool_grad" if gradient else "average_pool"
    name = f"{stem}_{x[0] * x[1]}x{x[2]}x{x[3]}_{window.suffix()}"
    if not fixed:
        name += f"_within{counted[0]}x{counted[1]}" if counted else "_inside"
    values = window.expressions() | {
        "name": name,
        "gradient": gradient,
        "planes": x[0] * x[1],
        "elements": x[0] * x[1] * x[2] * x[3],
        "in_plane": x[2] * x[3],
        "in_h": x[2],
        "in_w": x[3],
        "out_h": y[2],
        "out_w": y[3],
        "kernel_h": kernel[0],
        "kernel_w": kernel[1],
        "counts": not fixed,
        "counted": () if fixed else counted,
        "divisor": literal(float(kernel[0] * kernel[1])) if fixed else "(float)count",
    }
    return Kernel("average_pool.c.j2", name, values, (*node.inputs, *node.outputs))


register(AveragePool())
register(AveragePoolGrad())
