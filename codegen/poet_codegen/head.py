"""The end of a model as the loss reads it: cross entropy takes in a final Softmax; probabilities are no logits."""

from __future__ import annotations

from math import prod

from poet_codegen.errors import ModelError
from poet_codegen.graph import Graph, GraphBuilder, Node, Role, Tensor
from poet_codegen.ops import registry
from poet_codegen.simplify import without_dead_nodes
from poet_codegen.verify import verify

_SOFTMAXES = ("LogSoftmax", "Softmax")
_PROBABILITIES = ("HardSigmoid", "Sigmoid", "Softmax")
_MOVES = ("Concat", "Gather", "Slice", "Split", "Transpose")
"""Ops that, like views, change no number but where it stands or whether it is there."""


def with_logits(forward: Graph) -> Graph:
    """The forward graph as far as softmax cross entropy reads it: it ends in logits with the classes last.

    A Softmax or LogSoftmax over the classes at the end is left out, for the loss has its own, fused with the gradient:
    the cross entropy is that of the model's probabilities, not of a softmax of them. Inference keeps it. Trailing
    axes of size 1 behind [batch, classes] are left out, and so is what only other outputs than the first need.
    Raises ModelError as final_softmax does.
    """
    softmax = final_softmax(forward)
    answer = forward.outputs[0] if softmax is None else softmax.inputs[0]
    shape = _logits_shape(forward)
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
    """The Softmax that the model ends in, behind it only views; None where there is none.

    It has the sums of the loss, over the elements of the last axis of the logits: views leave these side by side.
    Raises ModelError for a final Softmax with other sums, or behind which elements move.
    """
    found = _last(forward, _SOFTMAXES)
    if found is None:
        return None
    softmax, is_viewed = found
    shape = forward.tensors[softmax.inputs[0]].shape
    first, end = softmax.ints("axes")
    if not is_viewed or prod(shape[end:]) > 1 or _logits_shape(forward)[-1:] != (prod(shape[first:end]),):
        raise ModelError(
            f"The model ends in the {softmax.op} {softmax.label!r}, but not as one over the last axis of its output, "
            f"of shape {list(forward.tensors[forward.outputs[0]].shape)}, over which cross entropy has its own: it "
            "would take the results for logits. Export the model without it, as logits with the classes last, or "
            "choose another loss with --loss."
        )
    return softmax


def refuse_probabilities(forward: Graph) -> None:
    """Raise ModelError where the model ends in probabilities, which binary cross entropy would take for logits."""
    found = _last(forward, _PROBABILITIES)
    if found is not None:
        raise ModelError(
            f"The model's output {forward.outputs[0]!r} comes from the {found[0].op} {found[0].label!r}, but --loss "
            "bce takes logits and has a sigmoid of its own. Export the model without it, or train with --loss mse."
        )


def _last(forward: Graph, ops: tuple[str, ...]) -> tuple[Node, bool] | None:
    """A node of `ops` whose results are elements of the model's first output, and whether only views are behind it."""
    makers = {name: node for node in forward.nodes for name in node.outputs}
    waiting = [(forward.outputs[0], True)]
    while waiting:
        name, is_viewed = waiting.pop()
        node = makers.get(name)
        if node is None:
            continue
        if node.op in ops:
            return node, is_viewed
        is_view = registry.get(node.op).is_view
        if is_view or node.op in _MOVES:
            waiting += [(source, is_viewed and is_view) for source in node.inputs]
    return None


def _logits_shape(forward: Graph) -> tuple[int, ...]:
    """Shape of the first output, without axes of size 1 behind [batch, classes]."""
    shape = forward.tensors[forward.outputs[0]].shape
    return shape[:2] if prod(shape[2:]) == 1 else shape
