"""Matrix products: ONNX MatMul with batch axes that broadcast.

a [..., M, K], b [..., K, N], y [..., M, N]. With `trans_a` or `trans_b` the operand's last two axes are swapped;
gradients use that, and sum over the batch axes that an operand was repeated over in the same kernel. A product with
a matrix of two axes is a fully connected layer, whose weight update fuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.m4f.products import Operand, Product, Start
from poet_codegen.ops.map_kernel import Formula, map_kernel
from poet_codegen.ops.nest import broadcast, broadcast_strides
from poet_codegen.ops.product import ProductForm, product_form
from poet_codegen.ops.registry import Blocked, Kernel, Op, Shape, Work, register
from poet_codegen.ops.split import Axis, Blocks, Part

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer


class MatMul(Op):
    """y = a b, each operand transposed or not; `shape` is y's where y sums over batch axes."""

    name = "MatMul"
    onnx = ("MatMul",)
    supported = "any number of axes, with numpy's broadcasting"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX MatMul; vectors become matrices of one row or column."""
        a, b = importer.value(node, 0), importer.value(node, 1)
        shapes = f"multiplies shapes {list(a.shape)} and {list(b.shape)}"
        if not a.shape or not b.shape or a.shape[-1] != b.shape[max(len(b.shape) - 2, 0)]:
            raise node.refuse(shapes, "Check the model.")
        batch = broadcast([a.shape[:-2], b.shape[:-2]])
        if batch is None:
            raise node.refuse(shapes, "They do not broadcast to a common shape.")
        rows, columns = a.shape[-2:-1], b.shape[-1:] if len(b.shape) > 1 else ()
        shape = (*batch, *rows, *columns)
        if len(b.shape) == 2 and len(a.shape) != 2:
            flat = (prod(a.shape[:-1]), a.shape[-1])
            (a,) = importer.step(node, "Reshape", [a], {"shape": flat})
            (y,) = importer.step(node, "Dense", [a, b], {"transposed": 0})
        elif len(b.shape) == 2:
            importer.add(node, "Dense", [a, b], {"transposed": 0})
            return
        elif len(a.shape) > 1 and len(b.shape) > 1:
            importer.add(node, self.name, [a, b], {"trans_a": 0, "trans_b": 0})
            return
        else:
            if len(a.shape) == 1:
                (a,) = importer.step(node, "Reshape", [a], {"shape": (1, *a.shape)})
            if len(b.shape) == 1:
                (b,) = importer.step(node, "Reshape", [b], {"shape": (*b.shape, 1)})
            (y,) = importer.step(node, self.name, [a, b], {"trans_a": 0, "trans_b": 0})
        importer.add(node, "Reshape", [y], {"shape": shape})

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[..., M, N], or the attribute."""
        if "shape" in node.attrs:
            return (node.ints("shape"),)
        return (_space(inputs[0].shape, inputs[1].shape, node)[:-1],)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """da = dy b^T and db = a^T dy, or their transposes where a or b is read transposed."""
        a, b = node.inputs
        (dy,) = grads
        trans_a, trans_b = node.int("trans_a"), node.int("trans_b")
        if tape.wants(a):
            left, right = ((b, dy), (trans_b, 1)) if trans_a else ((dy, b), (0, 1 - trans_b))
            tape.add_gradient(a, self.name, left, {"trans_a": right[0], "trans_b": right[1], "shape": tape.shape(a)})
        if tape.wants(b):
            left, right = ((dy, a), (1, trans_a)) if trans_b else ((a, dy), (1 - trans_a, 0))
            tape.add_gradient(b, self.name, left, {"trans_a": right[0], "trans_b": right[1], "shape": tape.shape(b)})

    def work(self, graph: Graph, node: Node) -> Work:
        """One multiply-add for each element of the iteration space [..., M, N, K]."""
        a, b = (graph.tensors[n].shape for n in node.inputs)
        row = "matmul" if self.kernel(graph, node).blocked else "matmul_plain"
        return Work(row, macs=prod(_space(a, b, node)), elements=graph.tensors[node.outputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/map.c.j2."""
        a, b, y = (graph.tensors[n].shape for n in (*node.inputs, *node.outputs))
        space = _space(a, b, node)
        batch = space[:-3]
        row_a, column_a = _matrix_strides(a, node.int("trans_a"))
        row_b, column_b = _matrix_strides(b, node.int("trans_b"))
        strides = {
            "a": (*_batch_strides(a, batch), row_a, 0, column_a),
            "b": (*_batch_strides(b, batch), 0, column_b, row_b),
        }
        out = (*_batch_strides(y, batch), *_matrix_strides(y, 0), 0)
        formula = Formula("matmul", "Matrix product of", ("a", "b"), "c", "{a} * {b}")
        plain = map_kernel(formula, space, strides, out, {}, (*node.inputs, *node.outputs))
        return replace(plain, blocked=_blocked(plain.name, a, b, y, node))

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By matrices, rows and columns, where no matrix is repeated or summed over."""
        names = (*node.inputs, *node.outputs)
        a, b, y = (graph.tensors[name].shape for name in names)
        if not a[:-2] == b[:-2] == y[:-2] or len(set(names)) < len(names):
            return ()
        rows, columns, depth = _space(a, b, node)[-3:]
        count, left, right = prod(y[:-2]), node.int("trans_a"), node.int("trans_b")

        def part(units: tuple[int, ...]) -> Part:
            matrices, m, n = units
            shapes = (
                (matrices, depth, m) if left else (matrices, m, depth),
                (matrices, n, depth) if right else (matrices, depth, n),
                (matrices, m, n),
            )
            attrs = {"shape": shapes[2]} if "shape" in node.attrs else {}
            return Part(dict(zip(names, shapes, strict=True)), attrs)

        whole, by_row, by_column = (count, 0), (rows, 1), (columns, 2)
        dims = (
            (whole, (depth, None), by_row) if left else (whole, by_row, (depth, None)),
            (whole, by_column, (depth, None)) if right else (whole, (depth, None), by_column),
            (whole, by_row, by_column),
        )
        axes = (Axis("matrix", count), Axis("row", rows), Axis("column", columns))
        return (Blocks(axes, dict(zip(names, dims, strict=True)), part),)


def _blocked(name: str, a: Shape, b: Shape, y: Shape, node: Node) -> Blocked | None:
    """One product a matrix, one whose sums go on over all matrices, or one of all rows where b is a single matrix."""
    rows, columns, depth = _space(a, b, node)[-3:]
    left, right = bool(node.int("trans_a")), bool(node.int("trans_b"))
    matrices = {prod(shape[:-2]) for shape in (a, b, y)}
    count, images = prod(y[:-2]), 1
    if y[-2:] != (rows, columns):
        return None
    if len(matrices) > 1:
        if prod(y[:-2]) == 1 and a[:-2] == b[:-2]:
            count, images = 1, prod(a[:-2])
        elif prod(b[:-2]) == 1 and a[:-2] == y[:-2] and not left:
            count, rows = 1, prod(y[:-1])
        else:
            return None
    # A product of depth 1 is no sum: its -0 stays one.
    start = Start.PRODUCT if depth == images == 1 else Start.ZERO
    operands = (
        Operand(not left, a[-1], image=rows * depth),
        Operand(right, b[-1], image=columns * depth),
    )
    product = Product(rows, columns, depth, *operands, columns, start, images=images)
    at = [f" + m * {size}" if count > 1 else "" for size in (rows * depth, columns * depth, rows * columns)]
    parameters = "const float *a, const float *b, float *c"
    form = ProductForm(f"a{at[0]}", f"b{at[1]}", f"c{at[2]}", parameters, matrices=count)
    return product_form(name, product, form)


def _space(a: Shape, b: Shape, node: Node) -> Shape:
    """[batch..., M, N, K]."""
    batch = broadcast([a[:-2], b[:-2]])
    assert batch is not None, node.label
    rows, depth = (a[-1], a[-2]) if node.int("trans_a") else (a[-2], a[-1])
    columns = b[-2] if node.int("trans_b") else b[-1]
    return (*batch, rows, columns, depth)


def _matrix_strides(shape: Shape, transposed: int) -> tuple[int, int]:
    """Strides of rows and columns; 0 where there is only one."""
    row, column = shape[-1] if shape[-2] > 1 else 0, 1 if shape[-1] > 1 else 0
    return (column, row) if transposed else (row, column)


def _batch_strides(shape: Shape, batch: Shape) -> Shape:
    """Strides along the batch axes, 0 where the matrix is repeated or summed over."""
    matrix = shape[-2] * shape[-1]
    lead = shape[:-2]
    return tuple(stride * matrix for stride in broadcast_strides(lead[max(len(lead) - len(batch), 0) :], batch))


register(MatMul())
