"""The end of a classifier: what cross entropy reads of a model that ends in Softmax, or in axes of size 1."""

from __future__ import annotations

from math import prod

from poet_codegen.graph import Graph, GraphBuilder, Node, Role, Tensor
from poet_codegen.ops import registry
from poet_codegen.simplify import without_dead_nodes
from poet_codegen.verify import verify

_SOFTMAXES = ("LogSoftmax", "Softmax")


def with_logits(forward: Graph) -> Graph:
    """The forward graph as far as softmax cross entropy reads it: it ends in logits of shape [batch, classes].

    A Softmax or LogSoftmax over the classes at the end is left out, for the loss has its own, fused with the gradient:
    the cross entropy is that of the model's probabilities, not of a softmax of them. Inference keeps it. Trailing
    axes of size 1 are left out, and so is what only other outputs than the first need.
    """
    softmax = final_softmax(forward)
    answer = forward.outputs[0] if softmax is None else softmax.inputs[0]
    shape = _without_ones(forward, answer)
    builder = GraphBuilder(forward.name, forward)
    if shape != forward.tensors[answer].shape:
        flat = builder.tensor(Tensor(f"{answer}.logits", shape))
        builder.node(Node("Reshape", (answer,), (flat,), "logits", Role.FORWARD, {"shape": shape}))
        answer = flat
    if forward.outputs == (answer,):
        return forward
    graph = without_dead_nodes(builder.graph([answer]))
    verify(graph)
    return graph


def final_softmax(forward: Graph) -> Node | None:
    """The Softmax over the classes that the model ends in, behind it only views; None where there is none."""
    makers = {name: node for node in forward.nodes for name in node.outputs}
    name = forward.outputs[0]
    while (node := makers.get(name)) is not None:
        if node.op in _SOFTMAXES:
            return node if _is_over_classes(forward, node) else None
        if not registry.get(node.op).is_view or _without_ones(forward, name) != _without_ones(forward, node.inputs[0]):
            return None
        name = node.inputs[0]
    return None


def _without_ones(forward: Graph, name: str) -> tuple[int, ...]:
    """Shape of a tensor without trailing axes of size 1 behind the classes."""
    shape = forward.tensors[name].shape
    return shape[:2] if prod(shape[2:]) == 1 else shape


def _is_over_classes(forward: Graph, node: Node) -> bool:
    """Each sum of the softmax takes everything but the batch."""
    shape = forward.tensors[node.inputs[0]].shape
    first, end = node.ints("axes")
    return prod(shape[:first]) == shape[0] and prod(shape[first:end]) == prod(shape[1:])
