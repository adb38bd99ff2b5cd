"""Updates of parameters as graph ops: of a gradient that is stored, or fused with the op that computes it.

An update's inputs are w, its states, then the gradient (fused: the inputs of the gradient op), learning_rate, and the
step where the rule or accumulation needs it; its outputs the new versions of w and the states, all in place. It writes
nothing else, so that a step can be stopped before it.

With the attribute `accumulate` = N every update adds the gradient to a state; the last of N micro-batches applies the
rule to the mean and clears the sum.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.m4f.products import End
from poet_codegen.ops.nest import literal, name_of_number
from poet_codegen.ops.optimizers import ACCUMULATOR, RULES, Rule
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register
from poet_codegen.ops.split import Blocks, Part, by_units


@dataclass(frozen=True)
class Sink:
    """Where a gradient kernel puts an element: into memory, or through an optimizer into the parameter."""

    stem: str
    """Part of the C name."""
    suffix: str
    """End of the C name: the constants in the text."""
    title: str
    """What follows the gradient's name in the kernel's comment."""
    parameters: tuple[str, ...]
    """C parameters behind those of the gradient's inputs, and the tensors passed for them."""
    arguments: tuple[str, ...]
    setup: tuple[str, ...]
    lines: tuple[str, ...]
    end: End
    """How a blocked kernel ends its sums."""

    @property
    def is_sparse(self) -> bool:
        """Elements without gradient need not be visited: plain SGD leaves them as they are."""
        return self.end is End.SGD

    @property
    def target(self) -> str:
        """The C parameter that elements go to."""
        return "w" if self.end is End.SGD else "dw"

    def texts(self, gradient: str, at: str) -> dict[str, object]:
        """What a template renders: C for the element at index `at`, of which `gradient` is the gradient."""
        return {
            "applied": self.title,
            "into": ", ".join(self.parameters),
            "setup": self.setup,
            "body": "\n".join(line.replace("{at}", at).replace("{gradient}", gradient) for line in self.lines),
        }


class Gradient(Op):
    """An op that computes the gradient of a parameter, element by element, and need not store it."""

    @abstractmethod
    def sink_kernel(self, graph: Graph, node: Node, sink: Sink) -> Kernel:
        """The kernel with the elements going to `sink`; the node's output has the parameter's shape."""

    def fused_work(self, graph: Graph, node: Node, is_sparse: bool) -> Work:
        """How much computing the elements for an update costs."""
        return self.work(graph, node)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """The kernel that stores the gradient."""
        store = ("dw[{at}] = {gradient};",)
        return self.sink_kernel(graph, node, Sink("grad", "", "", ("float *dw",), node.outputs, (), store, End.STORE))


class Update(Op):
    """w' = rule(w, gradient): of a stored gradient, or of one that `gradient` computes."""

    repeatable = False

    def __init__(self, rule: Rule, gradient: Gradient | None = None) -> None:
        self.name = f"{gradient.name if gradient else ''}{rule.op}"
        self.rule = rule
        self._gradient = gradient

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of w, for w and every state."""
        return (inputs[0].shape,) * self.versions(node)

    def versions(self, node: Node) -> int:
        """How many tensors it updates: w and the states, which are the first inputs."""
        return 1 + len(self._states(node))

    def in_place_pairs(self, node: Node) -> tuple[tuple[int, int], ...]:
        """Every output in the place of the input of its position."""
        return tuple((position, position) for position in range(self.versions(node)))

    def fused_with(self, maker: Node, node: Node) -> Node | None:
        """This update node merged with the one that computes its gradient; None where that must be stored."""
        if self._gradient is not None or f"{maker.op}{self.rule.op}" not in _FUSED:
            return None
        first = self.versions(node)
        inputs = (*node.inputs[:first], *maker.inputs, *node.inputs[first + 1 :])
        assert not maker.attrs.keys() & node.attrs.keys(), maker.op
        return replace(node, op=f"{maker.op}{self.rule.op}", inputs=inputs, attrs={**maker.attrs, **node.attrs})

    def unfused(self, node: Node, gradient: str) -> tuple[Node, Node] | None:
        """A fused update as the node that stores `gradient` and the one that applies it; None for one that is not."""
        if self._gradient is None:
            return None
        first, extras = self.versions(node), self._extras(node)
        maker = replace(self._gradient_node(node), outputs=(gradient,))
        return maker, replace(node, op=self.rule.op, inputs=(*node.inputs[:first], gradient, *extras))

    def gradient_of(self, node: Node) -> str:
        """The gradient that an update which is not fused reads."""
        return node.inputs[self.versions(node)]

    def work(self, graph: Graph, node: Node) -> Work:
        """The gradient's where it is fused, one multiply-add an element else; then what the rule takes.

        With accumulation it is that of the last micro-batch: a deadline must hold there too.
        """
        elements = graph.tensors[node.inputs[0]].elements
        if self._gradient is None:
            base = Work("elementwise_plain", elements=elements)
        else:
            base = self._gradient.fused_work(graph, self._gradient_node(node), self._is_sparse(node))
        rows = (*self.rule.cycles, *(("elementwise",) if _micro_batches(node) > 1 else ()))
        return replace(base, also=tuple(Work(row, elements=elements) for row in rows))

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """The gradient's template, or templates/kernels/update.c.j2."""
        sink = self._sink(node)
        if self._gradient is not None:
            return self._gradient.sink_kernel(graph, self._gradient_node(node), sink)
        elements = graph.tensors[node.inputs[0]].elements
        name = f"{self.rule.op.lower()}_{elements}{sink.suffix}"
        values = {"name": name, "elements": elements, **sink.texts("dw[i]", "i")}
        return Kernel("update.c.j2", name, values, (self.gradient_of(node), *sink.arguments))

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """As the gradient is cut, where the whole of an element's gradient is in one part; a stored one anywhere."""
        versions = (*node.inputs[: self.versions(node)], *node.outputs)
        if self._gradient is None:
            changing = (*versions, self.gradient_of(node))
            count = graph.tensors[node.inputs[0]].elements

            def some(units: int) -> Part:
                return Part(dict.fromkeys(changing, (units,)))

            return (by_units("element", count, dict.fromkeys(changing, 1), some),)
        maker = self._gradient_node(node)
        found = self._gradient.splits(graph, maker)
        whole = (blocks for blocks in found if not any(axis.sums for axis in blocks.axes))
        return tuple(blocks.for_update(maker.outputs[0], versions) for blocks in whole)

    def _states(self, node: Node) -> tuple[str, ...]:
        return (*self.rule.state, *((ACCUMULATOR,) if _micro_batches(node) > 1 else ()))

    def _reads_step(self, node: Node) -> bool:
        return self.rule.reads_step or _micro_batches(node) > 1

    def _is_sparse(self, node: Node) -> bool:
        return self.rule.is_sparse and "l2" not in node.attrs and _micro_batches(node) == 1

    def _extras(self, node: Node) -> tuple[str, ...]:
        """The learning rate, and the step where it is read: the last inputs."""
        return node.inputs[-2:] if self._reads_step(node) else node.inputs[-1:]

    def _gradient_node(self, node: Node) -> Node:
        assert self._gradient is not None
        inputs = node.inputs[self.versions(node) : len(node.inputs) - len(self._extras(node))]
        return replace(node, op=self._gradient.name, inputs=inputs, outputs=node.inputs[:1])

    def _sink(self, node: Node) -> Sink:
        rule, count = self.rule, _micro_batches(node)
        numbers = {name: node.float(name) for name in rule.constants}
        texts = {name: literal(value) for name, value in numbers.items()}
        texts |= {f"one_minus_{name}": literal(1.0 - value) for name, value in numbers.items()}
        suffix = "".join(f"_{name_of_number(value)}" for value in numbers.values())
        setup = tuple(line.format(**texts) for line in rule.setup)
        lines = tuple(line.format(**texts, at="{at}") for line in rule.lines)
        title = f", applied to w at once: {rule.title}" if self._gradient else f" by {rule.title}"
        gradient = f"{ACCUMULATOR}[{{at}}] / {literal(float(count))}" if count > 1 else "{gradient}"
        if "l2" in node.attrs:
            decay = node.float("l2")
            gradient += f" + {literal(decay)} * w[{{at}}]"
            title += ", weight decay added to dw"
            suffix += f"_l2_{name_of_number(decay)}"
        lines = (f"const float g = {gradient};", *lines)
        if rule.reads_step:
            number = f"(uint32_t)*step / {count}u" if count > 1 else "(uint32_t)*step"
            setup = (f"const uint32_t t = {number} + 1u;", *setup)
        if count > 1:
            title += f"; dw is the mean over {count} micro-batches"
            suffix += f"_every{count}"
            setup = (*setup, f"const int is_last = (uint32_t)*step % {count}u == {count - 1}u;")
            inner = (*lines, f"{ACCUMULATOR}[{{at}}] = 0.0f;")
            lines = (
                f"{ACCUMULATOR}[{{at}}] += {{gradient}};",
                "if (is_last) {",
                *(f"    {line}" for line in inner),
                "}",
            )
        step = ("const int32_t *step",) if self._reads_step(node) else ()
        versions = tuple(f"float *{name}" for name in ("w", *self._states(node)))
        return Sink(
            rule.stem,
            suffix,
            title,
            ("const float *learning_rate", *step, *versions),
            (*self._extras(node), *node.outputs),
            setup,
            lines,
            End.SGD if self._is_sparse(node) else End.BUFFER,
        )


def _micro_batches(node: Node) -> int:
    return node.int("accumulate") if "accumulate" in node.attrs else 1


_FUSED: set[str] = set()


def register_gradient(op: Gradient) -> None:
    """Make a gradient op known, and every optimizer's update fused with it."""
    register(op)
    for rule in RULES:
        fused = Update(rule, op)
        register(fused)
        _FUSED.add(fused.name)


for _rule in RULES:
    register(Update(_rule))
