"""A layer's input gradient and its updates as one op, so that one pass over the weights and over dy can serve all.

It has no kernel of its own: programs (tiling/backward.py) call those of its parts, one after the other, or tile by
tile. Its inputs are those of the updates, old versions first, and what a chain behind the input gradient reads; its
outputs the new versions and then the gradient of x.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.ops import registry
from poet_codegen.ops.chain import first_of
from poet_codegen.ops.optimizers import RULES
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register
from poet_codegen.ops.update import Update


class Backward(Op):
    """dx from dy and w, and w' = rule(w, dw)."""

    repeatable = False

    def __init__(self, name: str, input_gradient: str, update: str, bias_update: str) -> None:
        self.name = name
        self.input_gradient = input_gradient
        self.update = update
        self.bias_update = bias_update

    def merged(self, first: Node, update: Node, *biases: Node) -> Node:
        """The node of all. Biases are updated from the same gradient."""
        updates = (update, *biases)
        old = (name for one in updates for name in one.inputs[: len(one.outputs)])
        inputs = dict.fromkeys((*old, *(name for one in (*updates, first) for name in one.inputs)))
        outputs = tuple(name for one in (*updates, first) for name in one.outputs)
        parts = (first, *updates)
        return replace(update, op=self.name, inputs=tuple(inputs), outputs=outputs, label=first.label, stands_for=parts)

    def halves(self, node: Node) -> tuple[Node, Node]:
        """The nodes of the input gradient, or of its chain, and of the weights' update, in their order."""
        first, update = node.stands_for[:2]
        return first, update

    def biases(self, node: Node) -> tuple[Node, ...]:
        """The node of the bias's update, if it is here."""
        return node.stands_for[2:]

    def in_place_pairs(self, node: Node) -> tuple[tuple[int, int], ...]:
        """Those of the updates."""
        return tuple((position, position) for position in range(len(node.outputs) - 1))

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """Those of the parts."""
        known = dict(zip(node.inputs, inputs, strict=True))
        parts = ((registry.get(part.op), part) for part in (*node.stands_for[1:], node.stands_for[0]))
        return tuple(shape for op, part in parts for shape in op.shapes([known[n] for n in part.inputs], part))

    def work(self, graph: Graph, node: Node) -> Work:
        """Of all parts; all multiply-adds are in the first row."""
        first, update, *biases = (registry.get(part.op).work(graph, part) for part in node.stands_for)
        also = (*update.also, *first.also, *biases)
        return replace(update, macs=update.macs + first.macs, elements=update.elements + first.elements, also=also)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """There is none; asking for one is a bug of the caller."""
        raise AssertionError(f"{self.name} runs as a program")


def gradient_of(update: Node) -> str:
    """The gradient of y that a fused update of a layer's weights or bias reads."""
    rule = registry.get(update.op)
    assert isinstance(rule, Update)
    unfused = rule.unfused(update, "")
    assert unfused is not None
    return unfused[0].inputs[-1]


def merge_backward(graph: Graph, is_wanted: Callable[[Node, Node], bool]) -> tuple[Node, ...]:
    """The graph's nodes, with input gradient and update of a layer as one node where `is_wanted` says so of the two.

    They stay two where something between them reads what the update overwrites, or is read by the update. The update of
    a convolution's bias joins them.
    """
    nodes: list[Node | None] = list(graph.nodes)
    firsts = {(lead.op, *lead.inputs): at for at, node in enumerate(graph.nodes) for lead in [first_of(node)]}
    makers = {name: at for at, node in enumerate(graph.nodes) for name in node.outputs}
    biases: dict[tuple[str, str], list[int]] = {}
    for at, node in enumerate(graph.nodes):
        if node.op in _BIAS_UPDATES:
            biases.setdefault((node.op, gradient_of(node)), []).append(at)
    for at, update in enumerate(graph.nodes):
        rule = _OF_UPDATE.get(update.op)
        where = firsts.get((rule.input_gradient, gradient_of(update), update.inputs[0])) if rule else None
        if rule is None or where is None or where > at:
            continue

        def may_move(at: int, where: int = where) -> bool:
            update = graph.nodes[at]
            old = {graph.tensors[name].updates for name in update.outputs}
            is_free = not any(old.intersection(node.inputs) for node in graph.nodes[where + 1 : at])
            return is_free and all(makers.get(name, -1) < where for name in update.inputs)

        if may_move(at) and is_wanted(graph.nodes[where], update):
            joined = [n for n in biases.get((rule.bias_update, gradient_of(update)), ()) if nodes[n] and may_move(n)][
                :1
            ]
            nodes[where] = rule.merged(graph.nodes[where], update, *(graph.nodes[n] for n in joined))
            for n in (at, *joined):
                nodes[n] = None
    return tuple(node for node in nodes if node is not None)


def _backward(layer: str, bias: str, rule: str) -> Backward:
    return Backward(f"{layer}Backward{rule}", f"{layer}InputGrad", f"{layer}WeightGrad{rule}", bias and f"{bias}{rule}")


_OF_UPDATE: Mapping[str, Backward] = {
    op.update: op
    for layer, bias in (("Conv", "ConvBiasGrad"), ("Dense", ""))
    for rule in RULES
    for op in [_backward(layer, bias, rule.op)]
}
_BIAS_UPDATES = {op.bias_update for op in _OF_UPDATE.values() if op.bias_update}
for _op in _OF_UPDATE.values():
    register(_op)
