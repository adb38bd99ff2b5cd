"""Max pooling and its gradient. The gradient finds the maximum again in x, so no index tensor has to live on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from poet_codegen.graph import AttrValue, Graph, Node, Tensor
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register
from poet_codegen.ops.split import Blocks, by_planes
from poet_codegen.ops.window import Window, in_two_dimensions, read_window, with_ceil_mode

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer


class MaxPool(Op):
    """Largest value of each window; of equal ones the first in row order (as in PyTorch)."""

    name = "MaxPool"
    onnx = ("MaxPool", "GlobalMaxPool")
    supported = "1-D and 2-D, any kernel, stride, padding and dilation; one output"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX MaxPool and GlobalMaxPool."""
        x = importer.value(node, 0)
        if node.op_type == "GlobalMaxPool":
            node = replace(node, attrs={"kernel_shape": x.shape[2:]})
        if node.attrs.get("storage_order", 0):
            raise node.refuse("uses storage_order", "Export without return_indices.")
        if len([name for name in node.outputs if name]) > 1:
            raise node.refuse("returns indices", "Export without return_indices.")
        load_pooling(importer, node, self.name, x, {})

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[N, C, OH, OW]."""
        x = inputs[0].shape
        return ((x[0], x[1], *Window.of(node, node.ints("kernel")).output(x[2:])),)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx from x and dy."""
        tape.add_gradient(node.inputs[0], "MaxPoolGrad", (node.inputs[0], grads[0]), dict(node.attrs))

    def work(self, graph: Graph, node: Node) -> Work:
        """One comparison for each output element and tap."""
        return _work(graph, node, node.outputs[0])

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/max_pool.c.j2."""
        x, y = (graph.tensors[n].shape for n in (node.inputs[0], node.outputs[0]))
        values = _values(node, x, y)
        name = _name("max_pool", values)
        return Kernel("max_pool.c.j2", name, values | {"name": name}, (*node.inputs, *node.outputs))

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By planes."""
        return (by_planes(graph, *node.inputs, *node.outputs),)


class MaxPoolGrad(Op):
    """dx from x and dy."""

    name = "MaxPoolGrad"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of x."""
        return (inputs[0].shape,)

    def work(self, graph: Graph, node: Node) -> Work:
        """One comparison for each element of dy and tap."""
        return _work(graph, node, node.inputs[1])

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/max_pool_grad.c.j2."""
        x, dy = (graph.tensors[n].shape for n in node.inputs)
        values = _values(node, x, dy)
        name = _name("max_pool_grad", values)
        return Kernel("max_pool_grad.c.j2", name, values | {"name": name}, (*node.inputs, *node.outputs))

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By planes."""
        return (by_planes(graph, *node.inputs, *node.outputs),)


def load_pooling(importer: Importer, node: ImportedNode, op: str, x: Tensor, more: Mapping[str, AttrValue]) -> None:
    """Add a pooling over x [N, C, H, W], or over x [N, C, L] seen as [N, C, 1, L]."""
    if len(x.shape) not in (3, 4) or len(node.attrs.get("kernel_shape", ())) != len(x.shape) - 2:
        raise node.refuse(f"works on shape {list(x.shape)}", "Only 1-D and 2-D pooling is supported.")
    line = len(x.shape) == 3
    pooling = in_two_dimensions(node) if line else node
    if line:
        (x,) = importer.step(node, "Reshape", [x], {"shape": (*x.shape[:2], 1, x.shape[2])})
    kernel = tuple(pooling.attrs["kernel_shape"])
    window = read_window(pooling, x.shape, kernel)
    if more.get("count_pads", 0):
        # What ceil_mode adds is beyond the padding and never counts.
        more = {**more, "counted": (x.shape[2] + window.pads[2], x.shape[3] + window.pads[3])}
    if node.attrs.get("ceil_mode", 0):
        window = with_ceil_mode(window, x.shape[2:])
    if not window.touches_everywhere(x.shape[2:]):
        raise node.refuse("has a window with no element of the input in it", "Use less padding or dilation.")
    attrs = {**window.attrs(), "kernel": kernel, **more}
    if line:
        (y,) = importer.step(node, op, [x], attrs)
        importer.add(node, "Reshape", [y], {"shape": (*y.shape[:2], y.shape[3])})
    else:
        importer.add(node, op, [x], attrs)


def _work(graph: Graph, node: Node, pooled: str) -> Work:
    kernel = node.ints("kernel")
    return Work("max_pool", elements=graph.tensors[pooled].elements * kernel[0] * kernel[1])


def _values(node: Node, x: Shape, y: Shape) -> dict[str, Any]:
    kernel = node.ints("kernel")
    window = Window.of(node, kernel)
    return window.expressions() | {
        "window": window.suffix(),
        "planes": x[0] * x[1],
        "in_plane": x[2] * x[3],
        "elements": x[0] * x[1] * x[2] * x[3],
        "in_h": x[2],
        "in_w": x[3],
        "out_h": y[2],
        "out_w": y[3],
        "kernel_h": kernel[0],
        "kernel_w": kernel[1],
    }


def _name(stem: str, v: dict[str, Any]) -> str:
    return f"{stem}_{v['planes']}x{v['in_h']}x{v['in_w']}_{v['window']}"


register(MaxPool())
register(MaxPoolGrad())
