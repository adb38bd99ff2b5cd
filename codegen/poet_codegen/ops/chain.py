"""A layer or its input gradient with the elementwise ops behind it as one op: its result meets them in the tile.

Activations, residual sums, and in the backward pass masks and sums of gradients, cost little to compute, but one by
one each moves its operands from storage and back. A chain has no kernel of its own: programs call those of its nodes,
which are the kernels of the nodes by themselves, in the same order on every element, so that no bit changes. All its
nodes write the result in one place, and so they all call it by one name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.ops import registry
from poet_codegen.ops.pointwise import Pointwise
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register
from poet_codegen.ops.split import Blocks

_LEADERS = ("Conv", "ConvInputGrad", "Dense", "DenseInputGrad")


class Chain(Op):
    """y = op(x, w, ...), then elementwise ops on y and tensors of its shape."""

    name = "Chain"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of the first node's result."""
        first, known = node.stands_for[0], dict(zip(node.inputs, inputs, strict=True))
        return registry.get(first.op).shapes([known[name] for name in first.inputs], first)

    def work(self, graph: Graph, node: Node) -> Work:
        """Of all nodes; multiply-adds are the first one's."""
        first, *others = (registry.get(part.op).work(graph, part) for part in node.stands_for)
        return replace(first, also=(*first.also, *others))

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """There is none; asking for one is a bug of the caller."""
        raise AssertionError(f"{node.label} runs as a program")

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """As the first node is cut; what the others read beside the result, as the result is."""
        first, (y,) = node.stands_for[0], node.outputs
        others = operands_behind(node)
        return tuple(blocks.alike(y, others) for blocks in registry.get(first.op).splits(graph, first))


def operands_behind(node: Node) -> tuple[str, ...]:
    """What the nodes behind the first one read beside the result; none for a node that is no chain."""
    names = (name for part in node.stands_for[1:] for name in part.inputs)
    return tuple(name for name in dict.fromkeys(names) if name not in node.outputs) if node.op == Chain.name else ()


def first_of(node: Node) -> Node:
    """Of a chain the first node; else the node."""
    return node.stands_for[0] if node.op == Chain.name else node


def merge_chains(graph: Graph, is_wanted: Callable[[Node], bool]) -> tuple[Node, ...]:
    """The graph's nodes, with what is elementwise behind a layer, or its input gradient, joined to it.

    `is_wanted` is asked of the layer. A node joins when nothing else reads what is between the two, and its other
    operands are there before the layer and none of its own.
    """
    reads = Counter(name for names in (*(node.inputs for node in graph.nodes), graph.outputs) for name in names)
    made = {name: at for at, node in enumerate(graph.nodes) for name in node.outputs}
    chains: dict[int, list[Node]] = {}
    chain_of: dict[str, int] = {}
    """Result of the last node of each chain so far -> position of the first."""
    nodes: list[Node | None] = list(graph.nodes)
    for at, node in enumerate(graph.nodes):
        if node.op in _LEADERS and is_wanted(node):
            chains[at], chain_of[node.outputs[0]] = [node], at
        for name in node.inputs:
            first = chain_of.get(name)
            if first is None or reads[name] > 1 or not _goes_in_place(graph, node, name):
                continue
            others = [other for other in node.inputs if other != name]
            # Tiles of an operand of the layer come in its own order.
            if all(made.get(other, -1) < first and other not in graph.nodes[first].inputs for other in others):
                chains[first].append(node)
                chain_of[node.outputs[0]], nodes[at] = first, None
                break
    for at, chain in chains.items():
        if len(chain) > 1:
            nodes[at] = _joined(chain)
    return tuple(node for node in nodes if node is not None)


def _goes_in_place(graph: Graph, node: Node, name: str) -> bool:
    """Whether a node is elementwise, all its operands being alike, and may write over that one."""
    rule = registry.get(node.op)
    shapes = {graph.tensors[other].shape for other in (*node.inputs, *node.outputs)}
    is_free = isinstance(rule, Pointwise) and node.inputs.index(name) in rule.may_overwrite(graph, node)
    return is_free and len(shapes) == 1 and not graph.tensors[node.outputs[0]].kind.is_static


def _joined(chain: Sequence[Node]) -> Node:
    (result,) = chain[-1].outputs
    between = {node.outputs[0] for node in chain}

    def renamed(node: Node) -> Node:
        return replace(
            node, inputs=tuple(result if name in between else name for name in node.inputs), outputs=(result,)
        )

    parts = tuple(renamed(node) for node in chain)
    inputs = dict.fromkeys(name for part in parts for name in part.inputs if name != result)
    labels = dict.fromkeys(node.label for node in chain)
    return Node(Chain.name, tuple(inputs), (result,), " + ".join(labels), chain[0].role, stands_for=parts)


register(Chain())
