"""A layer's input gradient and the update of its weights as one op, so that one pass over the weights can serve both.

It has no kernel of its own: programs (tiling/backward.py) call those of its halves, one after the other, or tile by
tile. Its inputs are those of the update, and what a chain behind the input gradient reads; its outputs the new versions
and then the gradient of x.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.ops import registry
from poet_codegen.ops.chain import first_of
from poet_codegen.ops.optimizers import RULES
from poet_codegen.ops.registry import Kernel, Op, Shape, Variant, Work, register
from poet_codegen.ops.update import Update


class Backward(Op):
    """dx from dy and w, and w' = rule(w, dw)."""

    repeatable = False

    def __init__(self, name: str, input_gradient: str, update: str) -> None:
        self.name = name
        self.input_gradient = input_gradient
        self.update = update

    def merged(self, first: Node, update: Node) -> Node:
        """The node of both."""
        inputs = dict.fromkeys((*update.inputs, *first.inputs))
        outputs = (*update.outputs, *first.outputs)
        made = replace(update, op=self.name, inputs=tuple(inputs), outputs=outputs, stands_for=(first, update))
        return replace(made, label=first.label)

    def halves(self, node: Node) -> tuple[Node, Node]:
        """The nodes of the input gradient, or of its chain, and of the update, in the order in which they must run."""
        first, update = node.stands_for
        return first, update

    def in_place_pairs(self, node: Node) -> tuple[tuple[int, int], ...]:
        """Those of the update."""
        return tuple((position, position) for position in range(len(node.outputs) - 1))

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """Those of the halves."""
        first, update = self.halves(node)
        known = dict(zip(node.inputs, inputs, strict=True))
        halves = ((registry.get(half.op), half) for half in (update, first))
        return tuple(shape for op, half in halves for shape in op.shapes([known[n] for n in half.inputs], half))

    def work(self, graph: Graph, node: Node) -> Work:
        """Of both halves; all multiply-adds are in the first row."""
        first, update = (registry.get(half.op).work(graph, half) for half in self.halves(node))
        return replace(update, macs=update.macs + first.macs, elements=update.elements + first.elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """There is none; asking for one is a bug of the caller."""
        raise AssertionError(f"{self.name} runs as a program")

    def variants(self, graph: Graph, node: Node) -> tuple[Variant, ...]:
        """None: all ways to run it are programs."""
        return ()


def gradient_of(update: Node) -> str:
    """The gradient of y that a fused update of a layer's weights reads."""
    rule = registry.get(update.op)
    assert isinstance(rule, Update)
    unfused = rule.unfused(update, "")
    assert unfused is not None
    return unfused[0].inputs[1]


def merge_backward(graph: Graph, is_wanted: Callable[[Node, Node], bool]) -> tuple[Node, ...]:
    """The graph's nodes, with input gradient and update of a layer as one node where `is_wanted` says so of the two.

    They stay two where something between them reads what the update overwrites, or is read by the update.
    """
    nodes: list[Node | None] = list(graph.nodes)
    firsts = {(lead.op, *lead.inputs): at for at, node in enumerate(graph.nodes) for lead in [first_of(node)]}
    makers = {name: at for at, node in enumerate(graph.nodes) for name in node.outputs}
    for at, update in enumerate(graph.nodes):
        rule = _OF_UPDATE.get(update.op)
        where = firsts.get((rule.input_gradient, gradient_of(update), update.inputs[0])) if rule else None
        if rule is None or where is None or where > at:
            continue
        old = {graph.tensors[name].updates for name in update.outputs}
        is_free = not any(old.intersection(node.inputs) for node in graph.nodes[where + 1 : at])
        is_ready = all(makers.get(name, -1) < where for name in update.inputs)
        if is_free and is_ready and is_wanted(graph.nodes[where], update):
            nodes[where], nodes[at] = rule.merged(graph.nodes[where], update), None
    return tuple(node for node in nodes if node is not None)


_OF_UPDATE: Mapping[str, Backward] = {
    op.update: op
    for layer in ("Conv", "Dense")
    for rule in RULES
    for op in [Backward(f"{layer}Backward{rule.op}", f"{layer}InputGrad", f"{layer}WeightGrad{rule.op}")]
}
for _op in _OF_UPDATE.values():
    register(_op)
