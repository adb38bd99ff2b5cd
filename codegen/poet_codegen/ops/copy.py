"""Ops that move elements and compute nothing: Concat, Split, Slice, Pad, and what their gradients need.

Slice takes the elements starts[a] + steps[a] i along every axis a; Place is its inverse, which writes them into a
tensor that is `fill` elsewhere. Each is the other's gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.ops.nest import Loop, add_terms, literal, name_of_number, nest, strides_of
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register
from poet_codegen.ops.reshape import positive_axes
from poet_codegen.ops.split import Axis, Blocks, by_axes

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer


@dataclass(frozen=True)
class Part:
    """One nest of copies: target = source."""

    loops: tuple[Loop, ...]
    target: str
    source: str


class _Copy(Op):
    """Common to ops that copy."""

    def work(self, graph: Graph, node: Node) -> Work:
        """One copy for each element."""
        moved = [graph.tensors[name].elements for name in (*node.inputs, *node.outputs)]
        return Work("copy", elements=max(moved))


def _kernel(name: str, comment: str, inputs: Sequence[str], outputs: Sequence[str], node: Node, **more: Any) -> Kernel:
    values = {"name": name, "comment": comment, "inputs": inputs, "outputs": outputs, "fill": None, **more}
    return Kernel("copy.c.j2", name, values, (*node.inputs, *node.outputs))


class Concat(_Copy):
    """The inputs behind one another along `axis`."""

    name = "Concat"
    onnx = ("Concat",)
    supported = "any axis"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Concat."""
        inputs = [importer.value(node, position) for position in range(len(node.inputs))]
        (axis,) = positive_axes(node, (int(node.attrs.get("axis", 1)),), len(inputs[0].shape))
        if len({(*t.shape[:axis], *t.shape[axis + 1 :]) for t in inputs}) > 1:
            raise node.refuse(f"joins shapes {[list(t.shape) for t in inputs]} along axis {axis}", "Check the model.")
        if len(inputs) == 1:
            importer.alias(node)
        else:
            importer.add(node, self.name, inputs, {"axis": axis})

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """Sizes add up along the axis."""
        axis, first = node.int("axis"), inputs[0].shape
        return ((*first[:axis], sum(t.shape[axis] for t in inputs), *first[axis + 1 :]),)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """Each input's part of dy."""
        axis, start = node.int("axis"), 0
        for name in node.inputs:
            shape = tape.shape(name)
            if tape.wants(name):
                tape.add_gradient(name, "Slice", (grads[0],), _window(shape, axis, start))
            start += shape[axis]

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/copy.c.j2."""
        shapes = [graph.tensors[name].shape for name in node.inputs]
        names = [f"x{i}" for i in range(len(shapes))]
        name, sections = _sections("concat", shapes, graph.tensors[node.outputs[0]].shape, node.int("axis"))
        parts = [
            Part(loops, f"y[{whole}]", f"{x}[{own}]") for x, (loops, whole, own) in zip(names, sections, strict=True)
        ]
        return _kernel(name, f"Joins {len(shapes)} tensors.", names, ["y"], node, parts=parts)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """Along all other axes."""
        return _along_other_axes(graph, node)


class Split(_Copy):
    """x in several parts along `axis`, of `sizes`."""

    name = "Split"
    onnx = ("Split",)
    supported = "any axis; constant sizes"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Split."""
        x = importer.value(node, 0)
        (axis,) = positive_axes(node, (int(node.attrs.get("axis", 0)),), len(x.shape))
        sizes = importer.ints(node, 1, "split")
        if sizes is None:
            count = int(node.attrs.get("num_outputs", len(node.outputs)))
            each = -(-x.shape[axis] // count)
            sizes = (*[each] * (count - 1), x.shape[axis] - each * (count - 1))
        if sum(sizes) != x.shape[axis] or len(sizes) != len(node.outputs) or min(sizes) < 1:
            raise node.refuse(f"splits shape {list(x.shape)} along axis {axis} into {list(sizes)}", "Check the model.")
        if len(sizes) == 1:
            importer.alias(node)
        else:
            importer.add(node, self.name, [x], {"axis": axis, "sizes": sizes})

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """x's with each of the sizes along the axis."""
        axis, x = node.int("axis"), inputs[0].shape
        return tuple((*x[:axis], size, *x[axis + 1 :]) for size in node.ints("sizes"))

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx joins the parts' gradients; a part that nobody differentiates has zeros."""
        parts = tuple(
            grad or tape.node(f"d.{name}", "Zeros", (), {"shape": tape.shape(name)})
            for name, grad in zip(node.outputs, grads, strict=True)
        )
        tape.add_gradient(node.inputs[0], "Concat", parts, {"axis": node.int("axis")})

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/copy.c.j2."""
        shapes = [graph.tensors[name].shape for name in node.outputs]
        names = [f"y{i}" for i in range(len(shapes))]
        name, sections = _sections("split", shapes, graph.tensors[node.inputs[0]].shape, node.int("axis"))
        parts = [
            Part(loops, f"{y}[{own}]", f"x[{whole}]") for y, (loops, whole, own) in zip(names, sections, strict=True)
        ]
        return _kernel(name, f"Splits a tensor in {len(shapes)}.", ["x"], names, node, parts=parts)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """Along all other axes."""
        return _along_other_axes(graph, node)


class Slice(_Copy):
    """y[i] = x[starts + steps i]; attributes starts, steps and shape (y's) have one value an axis."""

    name = "Slice"
    onnx = ("Slice",)
    supported = "constant starts, ends, axes and steps, negative ones too"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Slice."""
        x = importer.value(node, 0)
        starts, ends = importer.ints(node, 1, "starts"), importer.ints(node, 2, "ends")
        if starts is None or ends is None:
            raise node.refuse("has no starts or ends", "Check the model.")
        axes = positive_axes(node, importer.ints(node, 3, "axes") or tuple(range(len(starts))), len(x.shape))
        steps = importer.ints(node, 4, "steps") or (1,) * len(starts)
        ranges = [range(size) for size in x.shape]
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            # Python clamps as ONNX does; an end beyond -1 - size means 'through the first element'.
            stop = None if step < 0 and end < -x.shape[axis] else end
            ranges[axis] = ranges[axis][slice(start, stop, step)]
        shape = tuple(len(r) for r in ranges)
        if min(shape, default=1) < 1:
            raise node.refuse(f"takes nothing of shape {list(x.shape)}", "Check the model.")
        if shape == x.shape and all(r.step > 0 for r in ranges):
            importer.alias(node)
            return
        attrs = {"starts": tuple(r.start for r in ranges), "steps": tuple(r.step for r in ranges), "shape": shape}
        importer.add(node, self.name, [x], attrs)

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """The attribute."""
        return (node.ints("shape"),)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx is dy in its place, zero elsewhere."""
        attrs = {**node.attrs, "shape": tape.shape(node.inputs[0]), "fill": 0.0}
        tape.add_gradient(node.inputs[0], "Place", (grads[0],), attrs)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/copy.c.j2."""
        x, y = (graph.tensors[n].shape for n in (*node.inputs, *node.outputs))
        loops, own, picked, suffix = _picked(node, y, x)
        part = Part(loops, f"y[{own}]", f"x[{picked}]")
        return _kernel(f"slice_{suffix}", "Part of a tensor.", ["x"], ["y"], node, parts=[part])

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """Along the axes that are whole in y."""
        return _along_whole_axes(graph, node)


class Place(_Copy):
    """y[starts + steps i] = x[i], and `fill` elsewhere; `shape` is y's."""

    name = "Place"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """The attribute."""
        return (node.ints("shape"),)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx is the part of dy where x went."""
        attrs = {name: node.ints(name) for name in ("starts", "steps")}
        tape.add_gradient(node.inputs[0], "Slice", (grads[0],), {**attrs, "shape": tape.shape(node.inputs[0])})

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/copy.c.j2."""
        x, y = (graph.tensors[n].shape for n in (*node.inputs, *node.outputs))
        loops, own, picked, suffix = _picked(node, x, y)
        fill = node.float("fill")
        part = Part(loops, f"y[{picked}]", f"x[{own}]")
        return _kernel(
            f"place_{suffix}_of{prod(y)}_fill{name_of_number(fill)}",
            "A tensor inside a larger one.",
            ["x"],
            ["y"],
            node,
            parts=[part],
            fill=literal(fill),
            elements=prod(y),
        )

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """Along the axes that are whole in x."""
        return _along_whole_axes(graph, node)


class Pad(_Copy):
    """Padding by a constant; imports as Place, and as Slice where pads are negative."""

    name = "Pad"
    onnx = ("Pad",)
    supported = "mode constant; constant pads, negative ones too"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Pad."""
        x = importer.value(node, 0)
        mode = node.attrs.get("mode", b"constant").decode()
        if mode != "constant":
            raise node.refuse(f"pads in mode {mode!r}", f"Supported: {self.supported}.")
        old = "paddings" if "paddings" in node.attrs else "pads"
        pads = importer.ints(node, 1, old) or ()
        axes = positive_axes(node, importer.ints(node, 3, "axes") or tuple(range(len(x.shape))), len(x.shape))
        if len(pads) != 2 * len(axes):
            raise node.refuse(f"pads {len(axes)} axes with {list(pads)}", "Check the model.")
        fill = node.attrs.get("value", 0.0)
        if node.has(2):
            fill = importer.constant(node, 2).ravel()[0]
        before, after = [0] * len(x.shape), [0] * len(x.shape)
        for position, axis in enumerate(axes):
            before[axis], after[axis] = pads[position], pads[position + len(axes)]
        if min(*before, *after, 0) < 0:
            cut = tuple(max(-b, 0) for b in before)
            kept = tuple(size - c - max(-a, 0) for size, c, a in zip(x.shape, cut, after, strict=True))
            (x,) = importer.step(node, "Slice", [x], {"starts": cut, "steps": (1,) * len(kept), "shape": kept})
        if not any((*before, *after)):
            importer.alias(node)
            return
        starts = tuple(max(b, 0) for b in before)
        shape = tuple(size + b + max(a, 0) for size, b, a in zip(x.shape, starts, after, strict=True))
        steps = (1,) * len(shape)
        importer.add(node, "Place", [x], {"starts": starts, "steps": steps, "shape": shape, "fill": float(fill)})

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """No graph has a node of this name."""
        raise AssertionError("Pad imports as Place")

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """No graph has a node of this name."""
        raise AssertionError("Pad imports as Place")


class Zeros(_Copy):
    """A tensor of zeros, of `shape`."""

    name = "Zeros"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """The attribute."""
        return (node.ints("shape"),)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/copy.c.j2."""
        elements = prod(node.ints("shape"))
        return _kernel(f"zeros_{elements}", "Zeros.", [], ["y"], node, parts=[], fill="0.0f", elements=elements)


def _window(shape: Shape, axis: int, start: int) -> dict[str, Shape]:
    starts = tuple(start if a == axis else 0 for a in range(len(shape)))
    return {"starts": starts, "steps": (1,) * len(shape), "shape": shape}


def _along_other_axes(graph: Graph, node: Node) -> tuple[Blocks, ...]:
    """Of Concat and Split: every axis but theirs."""
    names, axis = tuple(dict.fromkeys((*node.inputs, *node.outputs))), node.int("axis")
    shape = graph.tensors[names[0]].shape
    others = [a for a in range(len(shape)) if a != axis]
    cuts = [others.index(a) if a != axis else None for a in range(len(shape))]
    return (by_axes(graph, node, [Axis("slice", shape[a]) for a in others], dict.fromkeys(names, cuts)),)


def _along_whole_axes(graph: Graph, node: Node) -> tuple[Blocks, ...]:
    """Of Slice and Place: every axis of which nothing is left out."""
    names = (*node.inputs, *node.outputs)
    first, second = (graph.tensors[name].shape for name in names)
    steps = node.ints("steps")
    whole = [a for a in range(len(first)) if first[a] == second[a] and steps[a] == 1]
    cuts = [whole.index(a) if a in whole else None for a in range(len(first))]
    axes = [Axis("slice", first[a]) for a in whole]
    return (by_axes(graph, node, axes, dict.fromkeys(names, cuts), lambda small: {"shape": small[names[1]]}),)


def _sections(
    stem: str, shapes: Sequence[Shape], whole: Shape, axis: int
) -> tuple[str, list[tuple[tuple[Loop, ...], str, str]]]:
    """(C name, for each part its loops, its index in the whole and its own index)."""
    outer, inner = prod(whole[:axis]), prod(whole[axis + 1 :])
    start = 0
    sections = []
    for shape in shapes:
        run = shape[axis] * inner
        found = nest((outer, run), [(whole[axis] * inner, 1), (run, 1)])
        sections.append((found.loops, add_terms(found.indices[0], str(start * inner)), found.indices[1]))
        start += shape[axis]
    runs = "_".join(str(shape[axis] * inner) for shape in shapes)
    return f"{stem}_{outer}x{runs}", sections


def _picked(node: Node, part: Shape, whole: Shape) -> tuple[tuple[Loop, ...], str, str, str]:
    """(loops, index in the part, index in the whole, suffix of the C name)."""
    dense = strides_of(whole)
    starts, steps = node.ints("starts"), node.ints("steps")
    found = nest(part, [strides_of(part), tuple(s * step for s, step in zip(dense, steps, strict=True))])
    first = sum(s * start for s, start in zip(dense, starts, strict=True))
    return found.loops, found.indices[0], add_terms(found.indices[1], str(first)), f"{found.suffix}_at{first}"


for _op in (Concat(), Split(), Slice(), Place(), Pad(), Zeros()):
    register(_op)
