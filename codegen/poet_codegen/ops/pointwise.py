"""Ops that are one formula an element, with broadcasting, and their gradients, which sum over the broadcast axes.

An op of this kind is data: operand names and C text. Its gradient for one input is another such op, whose result is
summed to the input's shape in the same kernel, so that nothing of the broadcast shape is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from poet_codegen.graph import AttrValue, Graph, Node, Tensor
from poet_codegen.ops.map_kernel import Formula, map_kernel
from poet_codegen.ops.nest import broadcast, broadcast_strides
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, get, register
from poet_codegen.ops.reshape import positive_axes
from poet_codegen.ops.split import Axis, Blocks, Part, by_axes, by_units

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer


@dataclass(frozen=True)
class Pull:
    """How the gradient of one input is computed: an op, and which operands of the forward op, 'y' or 'dy' it reads."""

    op: str
    reads: tuple[str, ...]


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

    def may_overwrite(self, graph: Graph, node: Node) -> Sequence[int]:
        """Operands that are not broadcast, unless the result is summed."""
        out = graph.tensors[node.outputs[0]].shape
        if out != self._space(graph, node):
            return ()
        return [i for i, name in enumerate(node.inputs) if graph.tensors[name].shape == out]

    def work(self, graph: Graph, node: Node) -> Work:
        """One formula for each element of the broadcast shape."""
        row = self.formula.cycles if self.kernel(graph, node).blocked else f"{self.formula.cycles}_plain"
        return Work(row, elements=prod(self._space(graph, node)))

    def _space(self, graph: Graph, node: Node) -> Shape:
        space = broadcast(graph.tensors[name].shape for name in node.inputs)
        assert space is not None, node.label
        return space

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/map.c.j2."""
        tensors = [name for name in self.formula.operands if name not in node.attrs]
        numbers = {
            name: node.float(name) for name in (*self.formula.operands, *self.formula.constants) if name in node.attrs
        }
        space = self._space(graph, node)
        out = graph.tensors[node.outputs[0]].shape
        padded = out[len(out) - len(space) :] if len(out) > len(space) else out
        strides = {
            name: broadcast_strides(graph.tensors[tensor].shape, space)
            for name, tensor in zip(tensors, node.inputs, strict=True)
        }
        return map_kernel(
            self.formula, space, strides, broadcast_strides(padded, space), numbers, (*node.inputs, node.outputs[0])
        )

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """Anywhere where all shapes are equal; else along axes that are not summed, operands that lack one whole."""
        names = (*node.inputs, *node.outputs)
        shapes = {name: graph.tensors[name].shape for name in names}
        space = self._space(graph, node)
        if all(shape == space for shape in shapes.values()):

            def some_elements(units: int) -> Part:
                return Part(dict.fromkeys(names, (units,)))

            return (by_units("element", prod(space), dict.fromkeys(names, 1), some_elements),)
        # The axes of a tensor are the last ones of the space.
        first = {name: len(space) - len(shape) for name, shape in shapes.items()}
        y = node.outputs[0]
        kept = [a for a, size in enumerate(space) if size > 1 and a >= first[y] and shapes[y][a - first[y]] == size]
        number = {axis: i for i, axis in enumerate(kept)}
        dims = {
            name: [number.get(first[name] + a) if size > 1 else None for a, size in enumerate(shape)]
            for name, shape in shapes.items()
        }

        def attrs(small: Mapping[str, Shape]) -> dict[str, AttrValue]:
            return {"shape": small[y]} if "shape" in node.attrs else {}

        return (by_axes(graph, node, [Axis("slice", space[a]) for a in kept], dims, attrs),)


SUM_TO = "SumTo"
register(Pointwise(SUM_TO, Formula("sum", "Sum of", ("dy",), "dx", "{dy}")))


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


_FIRST_OPSET_OF_BROADCASTING = 7
"""Before, the second operand's axes stood for the first one's from the attribute `axis` on, not for its last."""


def _from_axis(importer: Importer, node: ImportedNode, first: Tensor, second: Tensor) -> Tensor:
    (axis,) = positive_axes(node, (int(node.attrs["axis"]),), len(first.shape))
    behind = len(first.shape) - axis - len(second.shape)
    if behind < 1:
        return second
    return importer.step(node, "Reshape", [second], {"shape": (*second.shape, *(1 for _ in range(behind)))})[0]


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
    if "axis" in node.attrs and node.opset < _FIRST_OPSET_OF_BROADCASTING and len(tensors) == 2:
        tensors[1] = _from_axis(importer, node, tensors[0], tensors[1])
    if broadcast(t.shape for t in tensors) is None:
        raise node.refuse(
            f"combines shapes {[list(t.shape) for t in tensors]}", "They do not broadcast to a common shape."
        )
    importer.add(node, op, tensors, {**numbers, **attrs})
