"""Ops that are one formula an element, with broadcasting, and their gradients, which sum over the broadcast axes.

An op of this kind is data: operand names and C text. Its gradient for one input is another such op, whose result is
summed to the input's shape in the same kernel, so that nothing of the broadcast shape is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from poet_codegen.graph import AttrValue, Graph, Node, Tensor
from poet_codegen.ops.nest import Nest, broadcast, broadcast_strides, literal, name_of_number, nest
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, get, register

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer


@dataclass(frozen=True)
class Pull:
    """How the gradient of one input is computed: an op, and which operands of the forward op, 'y' or 'dy' it reads."""

    op: str
    reads: tuple[str, ...]


@dataclass(frozen=True)
class Formula:
    """What a pointwise op computes, as C text with {operand} and {attribute} in it."""

    stem: str
    """Start of the C name."""
    title: str
    """What the kernel is, for its comment: '{title} {n} elements'."""
    operands: tuple[str, ...]
    result: str
    """Name of the output in C."""
    value: str
    locals: tuple[str, ...] = ()
    """C declarations that the value uses."""
    constants: tuple[str, ...] = ()
    """Attributes that are numbers in the formula."""
    cycles: str = "elementwise"
    """Row of the cycle table."""


class Pointwise(Op):
    """y = formula(operands), elementwise with broadcasting.

    An operand may be a number instead of a tensor: then the node has an attribute of its name and no such input. With
    an attribute `shape` the result is summed to that shape (a broadcast operand's), in row-major order.
    """

    def __init__(self, name: str, formula: Formula, pulls: Mapping[str, Pull] | None = None) -> None:
        self.name = name
        self.formula = formula
        self.pulls = pulls or {}

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """The common shape of the inputs, or the one that the result is summed to."""
        if "shape" in node.attrs:
            return (node.ints("shape"),)
        space = broadcast(t.shape for t in inputs)
        assert space is not None, node.label
        return (space,)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """By `pulls`, for every tensor operand that wants it."""
        present = [name for name in self.formula.operands if name not in node.attrs]
        known = dict(zip(present, node.inputs, strict=True)) | {"y": node.outputs[0], "dy": grads[0]}
        numbers = {name: value for name, value in node.attrs.items() if name != "shape"}
        for operand in present:
            if tape.wants(known[operand]):
                self._pull(tape, self.pulls[operand], known, operand, numbers)

    def _pull(
        self, tape: Tape, pull: Pull, known: Mapping[str, str], operand: str, numbers: Mapping[str, AttrValue]
    ) -> None:
        target, dy = known[operand], known["dy"]
        shape = tape.shape(target)
        if pull.op == SUM_TO and shape == tape.shape(dy):
            tape.accumulate(target, dy)
            return
        if pull.op == SUM_TO and prod(shape) == prod(tape.shape(dy)):
            tape.add_gradient(target, "Reshape", (dy,), {"shape": shape})
            return
        op = get(pull.op)
        assert isinstance(op, Pointwise), pull.op
        inputs = tuple(known[name] for name in pull.reads if name in known)
        attrs = {to: numbers[name] for name, to in zip(pull.reads, op.formula.operands, strict=True) if name in numbers}
        attrs |= {name: numbers[name] for name in op.formula.constants}
        summed: dict[str, AttrValue] = {"shape": shape} if shape != tape.shape(dy) else {}
        tape.add_gradient(target, pull.op, inputs, attrs | summed)

    def work(self, graph: Graph, node: Node) -> Work:
        """One formula for each element of the broadcast shape."""
        return Work(self.formula.cycles, elements=prod(self._space(graph, node)))

    def _space(self, graph: Graph, node: Node) -> Shape:
        space = broadcast(graph.tensors[name].shape for name in node.inputs)
        assert space is not None, node.label
        return space

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/map.c.j2."""
        f = self.formula
        shapes = [graph.tensors[name].shape for name in node.inputs]
        space = self._space(graph, node)
        out = graph.tensors[node.outputs[0]].shape
        tensors = [name for name in f.operands if name not in node.attrs]
        out_strides = broadcast_strides(out, (1,) * (len(out) - len(space)) + space)[-len(space) :] if space else ()
        kept, summed = _split_axes(space, out_strides)
        strides = [broadcast_strides(shape, space) for shape in shapes]
        operands = [*strides, out_strides]
        outer = nest([space[a] for a in kept], [[s[a] for a in kept] for s in operands])
        inner = nest(
            [space[a] for a in summed], [[s[a] for a in summed] for s in strides], first=max(len(outer.loops), 1)
        )
        numbers = {name: value for name, value in node.attrs.items() if name in f.operands or name in f.constants}
        suffix = outer.suffix + (f"_sum{inner.suffix}" if summed else "")
        suffix += "".join(f"_{name}{name_of_number(_number(value))}" for name, value in numbers.items())
        texts = {name: literal(_number(value)) for name, value in numbers.items()}
        for position, name in enumerate(tensors):
            index = _joined(outer.indices[position], inner.indices[position] if summed else "0")
            texts[name] = f"{name}[{index}]"
        name = f"{f.stem}_{suffix}"
        values: dict[str, Any] = {
            "name": name,
            "comment": _comment(f, tensors, outer, inner, bool(summed)),
            "inputs": tensors,
            "output": f.result,
            "target": f"{f.result}[{outer.indices[-1]}]",
            "loops": outer.loops,
            "sum_loops": inner.loops if summed else (),
            "locals": [line.format(**texts) for line in f.locals],
            "value": f.value.format(**texts),
        }
        return Kernel("map.c.j2", name, values, (*node.inputs, node.outputs[0]))


SUM_TO = "SumTo"
register(Pointwise(SUM_TO, Formula("sum", "Sum of", ("dy",), "dx", "{dy}")))


def _split_axes(space: Shape, out_strides: Shape) -> tuple[list[int], list[int]]:
    """(axes of the result, axes that are summed)."""
    axes = range(len(space))
    summed = [a for a in axes if space[a] > 1 and out_strides[a] == 0]
    return [a for a in axes if a not in summed], summed


def _number(value: AttrValue) -> float:
    assert isinstance(value, float), value
    return value


def _joined(outer: str, inner: str) -> str:
    return inner if outer == "0" else outer if inner == "0" else f"{outer} + {inner}"


def _comment(f: Formula, tensors: Sequence[str], outer: Nest, inner: Nest, summed: bool) -> str:
    """What the kernel does. Equal names must give equal text, so that nothing but the loops is in it."""
    extent = "x".join(str(loop.count) for loop in outer.loops)
    if summed:
        each = "x".join(str(loop.count) for loop in inner.loops)
        return f"{f.title} {extent} x {each} elements; each of the {extent} results sums its {each} in row-major order."
    if len(outer.loops) > 1 or any(index != "i" for index in outer.indices):
        return f"{f.title} {extent} elements with broadcasting."
    same = " or ".join(tensors) if f.result == "c" else tensors[-1]
    may = f"{f.result} may be {same}" if f.result == "c" else f"{same} and {f.result} may be the same"
    return f"{f.title} {extent} elements; {may}."


class OnnxPointwise(Pointwise):
    """A pointwise op that ONNX has under the same name; its attributes there are the formula's constants."""

    def __init__(
        self,
        name: str,
        formula: Formula,
        pulls: Mapping[str, Pull],
        defaults: Mapping[str, float] | None = None,
        supported: str = "any shape",
    ) -> None:
        super().__init__(name, formula, pulls)
        self.onnx = (name,)
        self.supported = supported
        self.defaults = defaults or {}

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import the ONNX op."""
        attrs = {name: float(node.attrs.get(name, default)) for name, default in self.defaults.items()}
        load_pointwise(importer, node, self.name, self.formula.operands, attrs)


def load_pointwise(
    importer: Importer, node: ImportedNode, op: str, names: Sequence[str], attrs: Mapping[str, AttrValue]
) -> None:
    """Import a node whose inputs are the operands `names`; one-element constants become numbers in the kernel."""
    numbers: dict[str, AttrValue] = {}
    tensors: list[Tensor] = []
    for position, name in enumerate(names):
        number = importer.literal(node, position)
        shapes = [importer.shape_of(other) or () for other in node.inputs[: len(names)]]
        others = shapes[:position] + shapes[position + 1 :]
        if number is not None and broadcast(others) == broadcast(shapes) and len(numbers) + 1 < len(names):
            numbers[name] = number
        else:
            tensors.append(importer.value(node, position))
    if broadcast(t.shape for t in tensors) is None:
        raise node.refuse(
            f"combines shapes {[list(t.shape) for t in tensors]}", "They do not broadcast to a common shape."
        )
    importer.add(node, op, tensors, {**numbers, **attrs})
