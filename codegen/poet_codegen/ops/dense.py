"""Fully connected layers (ONNX Gemm, and MatMul by a matrix): forward and gradients.

Layouts: x [N, I], w [O, I] when `transposed` (ONNX transB=1, PyTorch's Linear) else [I, O], b [O], y [N, O]. With
`x_by_feature` x is [I, N], with `y_by_feature` y is [O, N] (poet_codegen.by_feature); so are their gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt, prod
from typing import TYPE_CHECKING, Any, TypeVar

from poet_codegen.graph import AttrValue, Graph, Node, Tensor
from poet_codegen.m4f.products import Operand, Product, Start
from poet_codegen.ops.nest import broadcast
from poet_codegen.ops.product import ProductForm, gradient_form, product_form
from poet_codegen.ops.registry import Kernel, Op, Part, Shape, Work, register
from poet_codegen.ops.split import CONTINUES, Axis, Blocks, Dims
from poet_codegen.ops.split import Part as SplitPart
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
        """[N, O] or [O, N]."""
        outputs = inputs[1].shape[0 if node.int("transposed") else 1]
        return (_in_layout(node, "y", _rows_first(node, "x", inputs[0].shape)[0], outputs),)

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
            # Summing dy [N, O] over the batch is the convolution's bias gradient with one pixel; [O, N] is one image.
            if is_by_feature(node, "y"):
                dy = tape.node(dy, "Reshape", (dy,), {"shape": (1, *tape.shape(dy))})
            tape.add_gradient(node.inputs[2], "ConvBiasGrad", (dy,), {})

    def work(self, graph: Graph, node: Node) -> Work:
        """N x I x O multiply-adds."""
        row = "dense" if self.kernel(graph, node).blocked else "dense_plain"
        return product_work(graph, node, row)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/dense.c.j2."""
        x, w, y = (graph.tensors[n].shape for n in (*node.inputs[:2], node.outputs[0]))
        values = _values(node, x, y) | {"has_bias": len(node.inputs) > 2}
        name = _name("dense", values) + ("" if values["has_bias"] else "_nobias")
        prototype = f"const float *x, const float *w, {'const float *b, ' if values['has_bias'] else ''}float *y"
        rows, inputs, outputs = values["batch"], values["inputs"], values["outputs"]
        samples, weights = Operand(not is_by_feature(node, "x"), x[1]), Operand(values["transposed"], w[1])
        unread = ("(void)b;",) if values["has_bias"] and values["continues"] else ()
        of_bias = Start.ROW if is_by_feature(node, "y") else Start.COLUMN
        start = Start.TARGET if values["continues"] else of_bias if values["has_bias"] else Start.ZERO
        bias = "b" if start is of_bias else ""
        if is_by_feature(node, "y"):
            product = Product(outputs, rows, inputs, weights, samples, rows, start)
            form = ProductForm("w", "x", "y", prototype, start=bias, before=unread)
        else:
            product = Product(rows, outputs, inputs, samples, weights, outputs, start)
            form = ProductForm("x", "w", "y", prototype, start=bias, before=unread)
        blocked = product_form(name, product, form)
        return Kernel("dense.c.j2", name, values | {"name": name}, (*node.inputs, *node.outputs), blocked)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By rows, outputs, and inputs, whose terms add up."""
        (x, w, *bias), (y,) = node.inputs, node.outputs
        return (_blocks(graph, node, {x: "x", w: "w", y: "y"} | dict.fromkeys(bias, "b"), "noi", "i"),)


class DenseInputGrad(Op):
    """dx = dy w^T."""

    name = "DenseInputGrad"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[N, I] or [I, N]."""
        features = inputs[1].shape[1 if node.int("transposed") else 0]
        return (_in_layout(node, "x", _rows_first(node, "y", inputs[0].shape)[0], features),)

    def work(self, graph: Graph, node: Node) -> Work:
        """N x I x O multiply-adds."""
        row = "dense_input_grad" if self.kernel(graph, node).blocked else "dense_input_grad_plain"
        return product_work(graph, node, row)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/dense_input_grad.c.j2."""
        dy, w, dx = (graph.tensors[n].shape for n in (*node.inputs, node.outputs[0]))
        values = _values(node, dx, dy)
        name = _name("dense_input_grad", values)
        rows, inputs, outputs = values["batch"], values["inputs"], values["outputs"]
        samples, weights = Operand(not is_by_feature(node, "y"), dy[1]), Operand(not values["transposed"], w[1])
        start = Start.TARGET if values["continues"] else Start.ZERO
        prototype = "const float *dy, const float *w, float *dx"
        if is_by_feature(node, "x"):
            product = Product(inputs, rows, outputs, weights, samples, rows, start)
            form = ProductForm("w", "dy", "dx", prototype)
        else:
            product = Product(rows, inputs, outputs, samples, weights, inputs, start)
            form = ProductForm("dy", "w", "dx", prototype)
        blocked = product_form(name, product, form)
        return Kernel("dense_input_grad.c.j2", name, values | {"name": name}, (*node.inputs, *node.outputs), blocked)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By rows, inputs, and outputs, whose terms add up."""
        (dy, w), (dx,) = node.inputs, node.outputs
        return (_blocks(graph, node, {dy: "y", w: "w", dx: "x"}, "nio", "o"),)


class DenseWeightGrad(Gradient):
    """dw = x^T dy, in the layout of w."""

    name = "DenseWeightGrad"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[O, I] or [I, O]."""
        _, features = _rows_first(node, "x", inputs[0].shape)
        _, outputs = _rows_first(node, "y", inputs[1].shape)
        return ((outputs, features) if node.int("transposed") else (features, outputs),)

    def work(self, graph: Graph, node: Node) -> Work:
        """N x I x O multiply-adds."""
        row = "dense_weight_grad" if self.kernel(graph, node).blocked else "dense_weight_grad_plain"
        (rows, inputs), (_, outputs) = (
            _rows_first(node, tensor, graph.tensors[name].shape) for tensor, name in zip("xy", node.inputs, strict=True)
        )
        return Work(row, macs=rows * inputs * outputs, elements=inputs * outputs)

    def sink_kernel(self, graph: Graph, node: Node, sink: Sink) -> Kernel:
        """templates/kernels/dense_weight_grad.c.j2."""
        x, dy = (graph.tensors[name].shape for name in node.inputs)
        values = _values(node, x, dy) | sink.texts("sum", "at")
        name = _name(f"dense_weight_{sink.stem}", values) + sink.suffix
        arguments = (*node.inputs, *sink.arguments)
        # dw has the outputs as rows, or the inputs; a sum takes the images in order.
        of_x = ("x", values["inputs"], Operand(is_by_feature(node, "x"), x[1]))
        of_dy = ("dy", values["outputs"], Operand(is_by_feature(node, "y"), dy[1]))
        (left, rows, a), (right, columns, b) = (of_dy, of_x) if values["transposed"] else (of_x, of_dy)
        product = Product(rows, columns, values["batch"], a, b, columns, Start.PRODUCT, sink.end)
        blocked = gradient_form(name, product, ProductForm(left, right, "", "const float *x, const float *dy"), sink)
        return Kernel("dense_weight_grad.c.j2", name, values | {"name": name}, arguments, blocked)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By outputs and inputs."""
        (x, dy), (dw,) = node.inputs, node.outputs
        return (_blocks(graph, node, {x: "x", dy: "y", dw: "w"}, "oi", ""),)


_UNITS = {"n": "row", "o": "output", "i": "input"}


def _blocks(graph: Graph, node: Node, tensors: Mapping[str, str], axes: str, sums: str) -> Blocks:
    """By rows, outputs and inputs, in the order of `axes`; the terms of `sums` add up. `tensors`: name -> what it is.

    Of weights in panels a part has one panel, as a matrix of its own.
    """
    panels, cut = panels_of(node), "i" if node.int("transposed") else "o"
    letters = {"x": _in_layout(node, "x", "n", "i"), "y": _in_layout(node, "y", "n", "o"), "b": ("o",)}
    letters["w"] = ("o", "i") if node.int("transposed") else ("i", "o")
    sizes: dict[str, int] = {}
    for name, what in tensors.items():
        sizes |= zip(letters[what], graph.tensors[name].shape, strict=True)
    units = {letter: sizes[letter] // panels if letter == cut else 1 for letter in sizes}
    number = {letter: position for position, letter in enumerate(axes)}

    def dims(what: str) -> Dims:
        found: list[tuple[int, int | None]] = []
        for letter in letters[what]:
            is_cut = panels > 1 and letter == cut
            found.append((sizes[letter] // units[letter] if is_cut else sizes[letter], number.get(letter)))
            if is_cut:
                found.append((units[letter], None))
        return (found[1], found[0], found[2]) if panels > 1 and what == "w" else tuple(found)

    def part(count: tuple[int, ...]) -> SplitPart:
        small = sizes | {letter: count[n] * (units[letter] if panels > 1 else 1) for letter, n in number.items()}
        shapes = {name: tuple(small[letter] for letter in letters[what]) for name, what in tensors.items()}
        return SplitPart(shapes, {PANELS: 1} if panels > 1 else {})

    def axis(letter: str) -> Axis:
        if panels > 1 and letter == cut:
            return Axis(f"panel of {units[letter]} {_UNITS[letter]}s", panels, letter in sums, most=1)
        return Axis(_UNITS[letter], sizes[letter], letter in sums)

    return Blocks(tuple(axis(a) for a in axes), {name: dims(what) for name, what in tensors.items()}, part)


PANELS = "panels"
"""Attribute of a node that lowering gave weights in so many panels: groups of columns, one behind the other, so that a
tile of rows and of a panel's columns is one piece. There is no kernel for them: nodes run a panel at a time."""


def panels_of(node: Node) -> int:
    """1 where the weights are not in panels."""
    return node.int(PANELS) if PANELS in node.attrs else 1


_T = TypeVar("_T")


def is_by_feature(node: Node, tensor: str) -> bool:
    """Whether x or y, and its gradient, is [features, rows]."""
    return f"{tensor}_by_feature" in node.attrs


def _in_layout(node: Node, tensor: str, row: _T, feature: _T) -> tuple[_T, _T]:
    return (feature, row) if is_by_feature(node, tensor) else (row, feature)


def _rows_first(node: Node, tensor: str, shape: Shape) -> Shape:
    return shape[::-1] if is_by_feature(node, tensor) else shape


def product_work(graph: Graph, node: Node, row: str) -> Work:
    """N x I x O multiply-adds: each of the three is an axis of two of the three matrices."""
    result = graph.tensors[node.outputs[0]]
    sizes = (*(graph.tensors[name].elements for name in node.inputs[:2]), result.elements)
    return Work(row, macs=isqrt(prod(sizes)), elements=result.elements)


def _values(node: Node, x: Shape, y: Shape) -> dict[str, Any]:
    transposed = bool(node.int("transposed"))
    (batch, inputs), (_, outputs) = _rows_first(node, "x", x), _rows_first(node, "y", y)
    loops = [f"o = 0; o < {outputs}; o++", f"i = 0; i < {inputs}; i++"]
    outer, inner = loops if transposed else reversed(loops)
    return {
        "batch": batch,
        "inputs": inputs,
        "outputs": outputs,
        "transposed": transposed,
        "continues": CONTINUES in node.attrs,
        "x_by_feature": is_by_feature(node, "x"),
        "y_by_feature": is_by_feature(node, "y"),
        "x_index": f"i * {batch} + n" if is_by_feature(node, "x") else f"n * {inputs} + i",
        "y_index": f"o * {batch} + n" if is_by_feature(node, "y") else f"n * {outputs} + o",
        "weight_index": f"o * {inputs} + i" if transposed else f"i * {outputs} + o",
        "outer_loop": outer,
        "inner_loop": inner,
    }


def _name(stem: str, v: dict[str, Any]) -> str:
    order = (
        ("" if v["transposed"] else "_io") + ("_xt" if v["x_by_feature"] else "") + ("_yt" if v["y_by_feature"] else "")
    )
    return f"{stem}_{v['batch']}x{v['inputs']}_to_{v['outputs']}{order}" + ("_on" if v["continues"] else "")


register(Dense())
register(DenseInputGrad())
register_gradient(DenseWeightGrad())
