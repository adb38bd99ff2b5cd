"""Fully connected layers (ONNX Gemm): forward, input gradient, weight gradient, and the fused SGD update.

Layouts: x [N, I], w [O, I] when `transposed` (ONNX transB=1, PyTorch's Linear) else [I, O], b [O], y [N, O].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from poet_codegen.graph import AttrValue, Graph, Node, Tensor
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer


class Dense(Op):
    """y = x w + b."""

    name = "Dense"
    onnx = ("Gemm",)
    supported = "transA=0, alpha=beta=1, bias of one value a column; constant weights"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Gemm."""
        x, w = importer.value(node, 0), importer.value(node, 1)
        if node.attrs.get("transA", 0) or node.attrs.get("alpha", 1.0) != 1.0 or node.attrs.get("beta", 1.0) != 1.0:
            raise node.refuse("uses transA, alpha or beta", f"Supported: {self.supported}.")
        transposed = int(node.attrs.get("transB", 0))
        if len(x.shape) != 2 or len(w.shape) != 2 or x.shape[1] != w.shape[1 if transposed else 0]:
            raise node.refuse(f"multiplies shapes {list(x.shape)} and {list(w.shape)}", "Check the model.")
        inputs = [x, w]
        if len(node.inputs) > 2:
            bias = importer.value(node, 2)
            if bias.shape != (w.shape[0 if transposed else 1],):
                raise node.refuse(f"adds a bias of shape {list(bias.shape)}", f"Supported: {self.supported}.")
            inputs.append(bias)
        importer.add(node, self.name, inputs, {"transposed": transposed})

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[N, O]."""
        return ((inputs[0].shape[0], inputs[1].shape[0 if node.int("transposed") else 1]),)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """Gradients of x, w and b from dy."""
        x, w = node.inputs[:2]
        (dy,) = grads
        attrs: dict[str, AttrValue] = dict(node.attrs)
        if tape.wants(x):
            tape.add_gradient(x, "DenseInputGrad", (dy, w), attrs)
        if tape.wants(w):
            tape.add_gradient(w, "DenseWeightGrad", (x, dy), attrs)
        if len(node.inputs) > 2 and tape.wants(node.inputs[2]):
            # Summing dy [N, O] over the batch is the convolution's bias gradient with one pixel.
            tape.add_gradient(node.inputs[2], "ConvBiasGrad", (dy,), {})

    def work(self, graph: Graph, node: Node) -> Work:
        """N x I x O multiply-adds."""
        x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        return Work("dense", macs=x.shape[1] * y.elements, elements=y.elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/dense.c.j2."""
        x, y = (graph.tensors[n].shape for n in (node.inputs[0], node.outputs[0]))
        values = _values(node, x, y) | {"has_bias": len(node.inputs) > 2}
        name = _name("dense", values) + ("" if values["has_bias"] else "_nobias")
        return Kernel("dense.c.j2", name, values | {"name": name}, (*node.inputs, *node.outputs))


class DenseInputGrad(Op):
    """dx = dy w^T."""

    name = "DenseInputGrad"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[N, I]."""
        return ((inputs[0].shape[0], inputs[1].shape[1 if node.int("transposed") else 0]),)

    def work(self, graph: Graph, node: Node) -> Work:
        """N x I x O multiply-adds."""
        dy, dx = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        return Work("dense_input_grad", macs=dy.shape[1] * dx.elements, elements=dx.elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/dense_input_grad.c.j2."""
        dy, dx = (graph.tensors[n].shape for n in (node.inputs[0], node.outputs[0]))
        values = _values(node, dx, dy)
        name = _name("dense_input_grad", values)
        return Kernel("dense_input_grad.c.j2", name, values | {"name": name}, (*node.inputs, *node.outputs))


class DenseWeightGrad(Op):
    """dw = x^T dy, in the layout of w."""

    name = "DenseWeightGrad"
    fused_sgd = "DenseWeightGradSgd"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[O, I] or [I, O]."""
        x, dy = inputs[0].shape, inputs[1].shape
        return ((dy[1], x[1]) if node.int("transposed") else (x[1], dy[1]),)

    def work(self, graph: Graph, node: Node) -> Work:
        """N x I x O multiply-adds."""
        return _weight_work(graph, *node.inputs)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/dense_weight_grad.c.j2."""
        x, dy = node.inputs
        return _weight_kernel(graph, node, x, dy, False, (x, dy, *node.outputs))


class DenseWeightGradSgd(Op):
    """w' = w - learning_rate * dw, with dw never stored. Inputs: w, x, dy, learning_rate."""

    name = "DenseWeightGradSgd"
    in_place = ((0, 0),)
    repeatable = False

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of w."""
        return (inputs[0].shape,)

    def work(self, graph: Graph, node: Node) -> Work:
        """N x I x O multiply-adds."""
        return _weight_work(graph, node.inputs[1], node.inputs[2])

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/dense_weight_grad.c.j2, fused."""
        _, x, dy, rate = node.inputs
        return _weight_kernel(graph, node, x, dy, True, (x, dy, rate, node.outputs[0]))


def _weight_work(graph: Graph, x: str, dy: str) -> Work:
    macs = graph.tensors[x].elements * graph.tensors[dy].shape[1]
    return Work("dense_weight_grad", macs=macs, elements=macs // graph.tensors[x].shape[0])


def _weight_kernel(graph: Graph, node: Node, x: str, dy: str, fused: bool, arguments: tuple[str, ...]) -> Kernel:
    values = _values(node, graph.tensors[x].shape, graph.tensors[dy].shape) | {"fused": fused}
    name = _name("dense_weight_update" if fused else "dense_weight_grad", values)
    return Kernel("dense_weight_grad.c.j2", name, values | {"name": name}, arguments)


def _values(node: Node, x: Shape, y: Shape) -> dict[str, Any]:
    transposed = bool(node.int("transposed"))
    loops = [f"o = 0; o < {y[1]}; o++", f"i = 0; i < {x[1]}; i++"]
    outer, inner = loops if transposed else reversed(loops)
    return {
        "batch": x[0],
        "inputs": x[1],
        "outputs": y[1],
        "transposed": transposed,
        "weight_index": f"o * {x[1]} + i" if transposed else f"i * {y[1]} + o",
        "outer_loop": outer,
        "inner_loop": inner,
    }


def _name(stem: str, v: dict[str, Any]) -> str:
    return f"{stem}_{v['batch']}x{v['inputs']}_to_{v['outputs']}" + ("" if v["transposed"] else "_io")


for _op in (Dense(), DenseInputGrad(), DenseWeightGrad(), DenseWeightGradSgd()):
    register(_op)
