"""Fully connected layers (ONNX Gemm, and MatMul by a matrix): forward and gradients.

Layouts: x [N, I], w [O, I] when `transposed` (ONNX transB=1, PyTorch's Linear) else [I, O], b [O], y [N, O].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from poet_codegen.graph import AttrValue, Graph, Node, Tensor
from poet_codegen.m4f.products import Operand, Product, Start
from poet_codegen.ops.nest import broadcast
from poet_codegen.ops.product import ProductForm, gradient_form, product_form
from poet_codegen.ops.registry import Kernel, Op, Part, Shape, Work, register
from poet_codegen.ops.split import CONTINUES, Axis, Blocks, by_axes
from poet_codegen.ops.update import Gradient, Sink, register_gradient

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer


class Dense(Op):
    """y = x w + b."""

    name = "Dense"
    onnx = ("Gemm",)
    parts = ((2, Part.BIAS),)
    supported = "any transA, transB, alpha and beta; any bias that broadcasts"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Gemm; alpha, beta, transA and a bias that is not one value a column become nodes of their own."""
        a, w = importer.value(node, 0), importer.value(node, 1)
        alpha, beta = (float(node.attrs.get(name, 1.0)) for name in ("alpha", "beta"))
        transposed = int(node.attrs.get("transB", 0))
        if len(a.shape) != 2 or len(w.shape) != 2:
            raise node.refuse(f"multiplies shapes {list(a.shape)} and {list(w.shape)}", "Check the model.")
        columns = w.shape[0 if transposed else 1]
        rows, depth = reversed(a.shape) if node.attrs.get("transA", 0) else a.shape
        if depth != w.shape[1 if transposed else 0]:
            raise node.refuse(f"multiplies shapes {list(a.shape)} and {list(w.shape)}", "Check the model.")
        bias = importer.value(node, 2) if node.has(2) and beta != 0.0 else None
        if bias and broadcast([bias.shape, (rows, columns)]) != (rows, columns):
            raise node.refuse(f"adds a bias of shape {list(bias.shape)} to {[rows, columns]}", "Check the model.")
        if node.attrs.get("transA", 0):
            (a,) = importer.step(node, "Transpose", [a], {"perm": (1, 0)})
        attrs: dict[str, AttrValue] = {"transposed": transposed}
        if bias and bias.shape == (columns,) and alpha == beta == 1.0:
            importer.add(node, self.name, [a, w, bias], attrs)
        elif bias is None and alpha == 1.0:
            importer.add(node, self.name, [a, w], attrs)
        else:
            (y,) = importer.step(node, self.name, [a, w], attrs)
            if bias is None:
                importer.add(node, "Mul", [y], {"b": alpha})
                return
            if alpha != 1.0:
                (y,) = importer.step(node, "Mul", [y], {"b": alpha})
            if beta != 1.0:
                (bias,) = importer.step(node, "Mul", [bias], {"b": beta})
            importer.add(node, "Add", [y, bias], {})

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
        row = "dense" if self.kernel(graph, node).blocked else "dense_plain"
        return Work(row, macs=x.shape[1] * y.elements, elements=y.elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/dense.c.j2."""
        x, w, y = (graph.tensors[n].shape for n in (*node.inputs[:2], node.outputs[0]))
        values = _values(node, x, y) | {"has_bias": len(node.inputs) > 2}
        name = _name("dense", values) + ("" if values["has_bias"] else "_nobias")
        prototype = f"const float *x, const float *w, {'const float *b, ' if values['has_bias'] else ''}float *y"
        weights = Operand(values["transposed"], w[1])
        start = Start.TARGET if values["continues"] else Start.COLUMN if values["has_bias"] else Start.ZERO
        product = Product(x[0], y[1], x[1], Operand(True, x[1]), weights, y[1], start)
        unread = ("(void)b;",) if values["has_bias"] and values["continues"] else ()
        form = ProductForm("x", "w", "y", prototype, start="b" if start is Start.COLUMN else "", before=unread)
        blocked = product_form(name, product, form)
        return Kernel("dense.c.j2", name, values | {"name": name}, (*node.inputs, *node.outputs), blocked)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By rows, outputs, and inputs, whose terms add up."""
        (x, w, *bias), (y,) = node.inputs, node.outputs
        (rows, inputs), outputs = graph.tensors[x].shape, graph.tensors[y].shape[1]
        axes = (Axis("row", rows), Axis("output", outputs), Axis("input", inputs, sums=True))
        dims = {x: (0, 2), w: (1, 2) if node.int("transposed") else (2, 1), y: (0, 1), **dict.fromkeys(bias, (1,))}
        return (by_axes(graph, node, axes, dims),)


class DenseInputGrad(Op):
    """dx = dy w^T."""

    name = "DenseInputGrad"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[N, I]."""
        return ((inputs[0].shape[0], inputs[1].shape[1 if node.int("transposed") else 0]),)

    def work(self, graph: Graph, node: Node) -> Work:
        """N x I x O multiply-adds."""
        dy, dx = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        row = "dense_input_grad" if self.kernel(graph, node).blocked else "dense_input_grad_plain"
        return Work(row, macs=dy.shape[1] * dx.elements, elements=dx.elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/dense_input_grad.c.j2."""
        dy, w, dx = (graph.tensors[n].shape for n in (*node.inputs, node.outputs[0]))
        values = _values(node, dx, dy)
        name = _name("dense_input_grad", values)
        weights = Operand(not values["transposed"], w[1])
        start = Start.TARGET if values["continues"] else Start.ZERO
        product = Product(dy[0], dx[1], dy[1], Operand(True, dy[1]), weights, dx[1], start)
        form = ProductForm("dy", "w", "dx", "const float *dy, const float *w, float *dx")
        blocked = product_form(name, product, form)
        return Kernel("dense_input_grad.c.j2", name, values | {"name": name}, (*node.inputs, *node.outputs), blocked)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By rows, inputs, and outputs, whose terms add up."""
        (dy, w), (dx,) = node.inputs, node.outputs
        (rows, outputs), inputs = graph.tensors[dy].shape, graph.tensors[dx].shape[1]
        axes = (Axis("row", rows), Axis("input", inputs), Axis("output", outputs, sums=True))
        return (by_axes(graph, node, axes, {dy: (0, 2), w: (2, 1) if node.int("transposed") else (1, 2), dx: (0, 1)}),)


class DenseWeightGrad(Gradient):
    """dw = x^T dy, in the layout of w."""

    name = "DenseWeightGrad"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[O, I] or [I, O]."""
        x, dy = inputs[0].shape, inputs[1].shape
        return ((dy[1], x[1]) if node.int("transposed") else (x[1], dy[1]),)

    def work(self, graph: Graph, node: Node) -> Work:
        """N x I x O multiply-adds."""
        x, dy = (graph.tensors[name].shape for name in node.inputs)
        row = "dense_weight_grad" if self.kernel(graph, node).blocked else "dense_weight_grad_plain"
        return Work(row, macs=x[0] * x[1] * dy[1], elements=x[1] * dy[1])

    def sink_kernel(self, graph: Graph, node: Node, sink: Sink) -> Kernel:
        """templates/kernels/dense_weight_grad.c.j2."""
        x, dy = (graph.tensors[name].shape for name in node.inputs)
        values = _values(node, x, dy) | sink.texts("sum", "at")
        name = _name(f"dense_weight_{sink.stem}", values) + sink.suffix
        arguments = (*node.inputs, *sink.arguments)
        # dw has the outputs as rows, or the inputs; a sum takes the images in order.
        factors = [("dy", dy[1]), ("x", x[1])] if values["transposed"] else [("x", x[1]), ("dy", dy[1])]
        (left, rows), (right, columns) = factors
        a, b = Operand(False, rows), Operand(False, columns)
        product = Product(rows, columns, x[0], a, b, columns, Start.PRODUCT, sink.end)
        blocked = gradient_form(name, product, ProductForm(left, right, "", "const float *x, const float *dy"), sink)
        return Kernel("dense_weight_grad.c.j2", name, values | {"name": name}, arguments, blocked)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By outputs and inputs."""
        (x, dy), (dw,) = node.inputs, node.outputs
        axes = (Axis("output", graph.tensors[dy].shape[1]), Axis("input", graph.tensors[x].shape[1]))
        dims = {x: (None, 1), dy: (None, 0), dw: (0, 1) if node.int("transposed") else (1, 0)}
        return (by_axes(graph, node, axes, dims),)


def _values(node: Node, x: Shape, y: Shape) -> dict[str, Any]:
    transposed = bool(node.int("transposed"))
    loops = [f"o = 0; o < {y[1]}; o++", f"i = 0; i < {x[1]}; i++"]
    outer, inner = loops if transposed else reversed(loops)
    return {
        "batch": x[0],
        "inputs": x[1],
        "outputs": y[1],
        "transposed": transposed,
        "continues": CONTINUES in node.attrs,
        "weight_index": f"o * {x[1]} + i" if transposed else f"i * {y[1]} + o",
        "outer_loop": outer,
        "inner_loop": inner,
    }


def _name(stem: str, v: dict[str, Any]) -> str:
    order = "" if v["transposed"] else "_io"
    return f"{stem}_{v['batch']}x{v['inputs']}_to_{v['outputs']}{order}" + ("_on" if v["continues"] else "")


register(Dense())
register(DenseInputGrad())
register_gradient(DenseWeightGrad())
