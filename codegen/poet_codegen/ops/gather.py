"""Rows picked by index: ONNX Gather, as of an embedding table or of constant positions, with its gradient.

x is seen as [outer, rows, inner] with the axis in the middle, y as [outer, count, inner]. Indices are a tensor of
integers, or the attribute `rows` where they are constant. A board refuses a sample whose indices
are out of range before it runs (index_range); a kernel would pick the nearest row, never one beside the table.

Where rows are picked along the first axis, a part of a node has a block of the table's rows, of which it looks at some
columns: it treats the indices that fall into its block, in their order, and leaves the others to other parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from math import ceil, prod
from typing import TYPE_CHECKING

from poet_codegen.graph import AttrValue, DType, Graph, Node, Tensor
from poet_codegen.ops.registry import FIRST_UNIT, Kernel, Op, Shape, Work, register
from poet_codegen.ops.reshape import positive_axes
from poet_codegen.ops.split import Axis, Blocks, Part
from poet_codegen.ops.update import Gradient, Sink, register_gradient

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer

_OF = "of_rows"
"""Attribute of a part: the rows of the whole table."""
_SIZES = 24
"""Of rows and of columns that are tried: where columns are cut, each row is a transfer, so that wide tiles pay."""


class Gather(Op):
    """y[..., i, ...] = x[..., index[i], ...]. Inputs: x, index unless `rows` has it."""

    name = "Gather"
    onnx = ("Gather",)
    supported = "any axis; indices as an integer input or constant"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Gather; a single constant index is a slice."""
        x = importer.value(node, 0)
        (axis,) = positive_axes(node, (int(node.attrs.get("axis", 0)),), len(x.shape))
        if not importer.is_constant(node.inputs[1]):
            index = importer.value(node, 1, DType.INT32)
            shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
            importer.add(node, self.name, [x, index], {"axis": axis, "shape": shape})
            return
        constant = importer.constant(node, 1)
        size = x.shape[axis]
        rows = tuple(int(i) + size if i < 0 else int(i) for i in constant.ravel())
        if not rows or not all(0 <= row < size for row in rows):
            raise node.refuse(f"picks rows {list(rows)[:8]} of {size}", "Check the model.")
        shape = (*x.shape[:axis], *constant.shape, *x.shape[axis + 1 :])
        if len(rows) > 1:
            importer.add(node, self.name, [x], {"axis": axis, "shape": shape, "rows": rows})
            return
        starts = tuple(rows[0] if a == axis else 0 for a in range(len(x.shape)))
        taken = tuple(1 if a == axis else s for a, s in enumerate(x.shape))
        (y,) = importer.step(node, "Slice", [x], {"starts": starts, "steps": (1,) * len(taken), "shape": taken})
        importer.add(node, "Reshape", [y], {"shape": shape})

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """The attribute."""
        return (node.ints("shape"),)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx collects dy's rows."""
        attrs: dict[str, AttrValue] = {"axis": node.int("axis"), "shape": tape.shape(node.inputs[0])}
        if "rows" in node.attrs:
            attrs["rows"] = node.ints("rows")
        tape.add_gradient(node.inputs[0], "GatherGrad", (*node.inputs[1:], grads[0]), attrs)

    def work(self, graph: Graph, node: Node) -> Work:
        """One copy for each element of y; a part looks at every index, and copies its share."""
        y = graph.tensors[node.outputs[0]].elements
        if _OF not in node.attrs:
            return Work("copy", elements=y)
        rows, *inner = graph.tensors[node.inputs[0]].shape
        return Work("copy", elements=y // prod(inner) + ceil(y * rows / node.int(_OF)))

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/gather.c.j2."""
        x, y = (graph.tensors[n].shape for n in (node.inputs[0], node.outputs[0]))
        return _kernel("gather", node, x, y, (*node.inputs, *node.outputs))

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By rows of x, each part copying those of its own, and by columns."""
        return _blocks(graph, node, node.inputs[0], node.outputs[0], copies=True)


class GatherGrad(Gradient):
    """dx[row] = sum of dy[i] where index[i] = row. Inputs: index unless `rows` has it, dy."""

    name = "GatherGrad"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """The attribute, x's shape."""
        return (node.ints("shape"),)

    def work(self, graph: Graph, node: Node) -> Work:
        """Clears dx and adds dy."""
        return Work("copy", elements=graph.tensors[node.outputs[0]].elements + graph.tensors[node.inputs[-1]].elements)

    def fused_work(self, graph: Graph, node: Node, is_sparse: bool) -> Work:
        """Two passes over dy; where all rows are visited, each looks for its indices once more."""
        dy = graph.tensors[node.inputs[-1]].elements
        if is_sparse and _OF in node.attrs:
            rows, *inner = node.ints("shape")
            return Work("copy", elements=dy // prod(inner) + ceil(2 * dy * rows / node.int(_OF)))
        if is_sparse:
            return Work("copy", elements=2 * dy)
        x, axis = node.ints("shape"), node.int("axis")
        visits = x[axis] * (dy // prod(x[axis + 1 :]))
        return Work("copy", elements=dy + prod(x) + visits)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/gather_grad.c.j2."""
        dy, dx = (graph.tensors[n].shape for n in (node.inputs[-1], node.outputs[0]))
        return _kernel("gather_grad", node, dx, dy, (*node.inputs, *node.outputs))

    def sink_kernel(self, graph: Graph, node: Node, sink: Sink) -> Kernel:
        """templates/kernels/gather_update.c.j2 for the rows that were picked, gather_update_all.c.j2 for all."""
        dy, dx = (graph.tensors[n].shape for n in (node.inputs[-1], node.outputs[0]))
        kernel = _kernel(f"gather_{sink.stem}", node, dx, dy, (*node.inputs, *sink.arguments))
        at = f"{'at' if kernel.values['is_part'] else 'row'} * {kernel.values['inner']} + k" if sink.is_sparse else "at"
        template = "gather_update.c.j2" if sink.is_sparse else "gather_update_all.c.j2"
        name = kernel.name + sink.suffix
        values = {**kernel.values, **sink.texts("sum", at), "name": name}
        return replace(kernel, template=template, name=name, values=values)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By rows and columns of dx."""
        return _blocks(graph, node, node.outputs[0], node.inputs[-1], copies=False)


def picks_rows(node: Node) -> bool:
    """Whether a node picks whole rows of its first input."""
    return node.op == "Gather" and node.int("axis") == 0


def index_range(graph: Graph, name: str) -> tuple[int, int] | None:
    """[first, second): what every Gather that picks by an integer tensor allows its values to be; None: there is none.

    Negative indices count from the end.
    """
    rows = [
        graph.tensors[node.inputs[0]].shape[node.int("axis")]
        for node in graph.nodes
        if node.op == Gather.name and "rows" not in node.attrs and node.inputs[1] == name
    ]
    return (-min(rows), min(rows)) if rows else None


def _blocks(graph: Graph, node: Node, table: str, picked: str, copies: bool) -> tuple[Blocks, ...]:
    """By rows and columns of the table, or of its gradient. Where a node `copies`, what is picked is whole only after
    all rows."""
    if node.int("axis") != 0:
        return ()
    size, *inner = graph.tensors[table].shape
    columns = prod(inner)
    count = graph.tensors[picked].elements // columns

    def part(units: tuple[int, ...]) -> Part:
        small = {table: units, picked: (count, units[1])}
        return Part(small, {"shape": small[picked if copies else table], _OF: size})

    axes = (Axis("row", size, sums=copies), Axis("column", columns))
    dims = {table: ((size, 0), (columns, 1)), picked: ((count, None), (columns, 1))}
    return (Blocks(axes, dims, part, sizes=_SIZES),)


def _kernel(stem: str, node: Node, x: Shape, y: Shape, arguments: tuple[str, ...]) -> Kernel:
    axis = node.int("axis")
    outer, size, inner = prod(x[:axis]), x[axis], prod(x[axis + 1 :])
    count = prod(y) // (outer * inner)
    rows = node.ints("rows") if "rows" in node.attrs else None
    name = f"{stem}_{outer}x{size}x{inner}_at{count}"
    is_part = _OF in node.attrs
    whole = node.int(_OF) if is_part else size
    if is_part:
        name += f"_of{whole}"
        arguments = (FIRST_UNIT, *arguments)
    if rows:
        name += "_" + hashlib.sha256(repr(rows).encode()).hexdigest()[:12]
    values = {
        "name": name,
        "outer": outer,
        "is_part": is_part,
        "rows": whole,
        "last_row": whole - 1,
        "here": size,
        "inner": inner,
        "slab": size * inner,
        "part": count * inner,
        "count": count,
        "constant": rows,
        "elements": prod(x),
    }
    return Kernel(f"{stem}.c.j2", name, values, arguments)


register(Gather())
register_gradient(GatherGrad())
