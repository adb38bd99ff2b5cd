"""Local response normalization (LRN) across channels, of AlexNet and its time, and its gradient.

A window of `size` channels runs over x [N, C, ...]; each kernel keeps the values that its window needs in an array of
`size` numbers, so that no tensor beside input and output is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.ops.nest import literal, name_of_number
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer

_LARGEST_SIZE = 64
"""The gradient's kernel has two arrays of `size` floats on the stack."""


class Lrn(Op):
    """y_c = x_c / s_c^beta with s_c = bias + alpha / size x (sum of x^2 over the window around channel c)."""

    name = "LRN"
    onnx = ("LRN",)
    supported = f"any alpha, beta and bias; windows of up to {_LARGEST_SIZE} channels"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX LRN."""
        x, size = importer.value(node, 0), int(node.attrs["size"])
        if len(x.shape) < 2:
            raise node.refuse(f"works on shape {list(x.shape)}", "It needs an axis of channels. Check the model.")
        if not 1 <= size <= _LARGEST_SIZE:
            raise node.refuse(f"has a window of {size} channels", f"1 to {_LARGEST_SIZE} are supported.")
        numbers = {name: float(node.attrs.get(name, default)) for name, default in _DEFAULTS}
        importer.add(node, self.name, [x], {"size": size, **numbers})

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of x."""
        return (inputs[0].shape,)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx from x and dy."""
        tape.add_gradient(node.inputs[0], "LRNGrad", (node.inputs[0], grads[0]), dict(node.attrs))

    def work(self, graph: Graph, node: Node) -> Work:
        """One power an element, and a multiply-add for each channel of its window."""
        return _work(graph, node)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/lrn.c.j2."""
        return _kernel("lrn", graph, node)


class LrnGrad(Op):
    """dx_c = dy_c s_c^-beta - 2 alpha beta / size x_c (sum of dy x s^(-beta - 1) over channels whose window has c)."""

    name = "LRNGrad"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of x."""
        return (inputs[0].shape,)

    def work(self, graph: Graph, node: Node) -> Work:
        """One power an element, and two multiply-adds for each channel of its window."""
        return _work(graph, node)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/lrn_grad.c.j2."""
        return _kernel("lrn_grad", graph, node)


_DEFAULTS = (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))


def _work(graph: Graph, node: Node) -> Work:
    elements = graph.tensors[node.inputs[0]].elements
    return Work("lrn", macs=elements * node.int("size") * len(node.inputs), elements=elements)


def _kernel(stem: str, graph: Graph, node: Node) -> Kernel:
    x = graph.tensors[node.inputs[0]].shape
    size, alpha, beta = node.int("size"), node.float("alpha"), node.float("beta")
    numbers = "_".join(name_of_number(node.float(name)) for name, _ in _DEFAULTS)
    name = f"{stem}_{x[0]}x{x[1]}x{prod(x[2:])}_s{size}_{numbers}"
    values: dict[str, Any] = {
        "name": name,
        "batch": x[0],
        "channels": x[1],
        "pixels": prod(x[2:]),
        "image": prod(x[1:]),
        "size": size,
        "before": (size - 1) // 2,
        "after": size // 2,
        "share": literal(alpha / size),
        "exponent": literal(-beta),
        "bias": literal(node.float("bias")),
        "pull": literal(2.0 * alpha * beta / size),
    }
    return Kernel(f"{stem}.c.j2", name, values, (*node.inputs, *node.outputs))


register(Lrn())
register(LrnGrad())
