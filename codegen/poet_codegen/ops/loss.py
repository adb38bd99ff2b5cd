"""Loss functions: the node that ends the forward pass and starts the backward pass."""

from __future__ import annotations

from collections.abc import Sequence

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register


class SoftmaxCrossEntropy(Op):
    """Mean over the batch of -log softmax(logits)[label]. Inputs: logits [N, K], label [N]; outputs: loss [1], dlogits.

    dlogits = (softmax(logits) - onehot(label)) / N, the loss's gradient; so both passes need the softmax once.
    """

    name = "SoftmaxCrossEntropy"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """([1], [N, K])."""
        return ((1,), inputs[0].shape)

    def work(self, graph: Graph, node: Node) -> Work:
        """One exponential an element."""
        return Work("softmax", elements=graph.tensors[node.inputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/softmax_cross_entropy.c.j2."""
        batch, classes = graph.tensors[node.inputs[0]].shape
        name = f"softmax_cross_entropy_{batch}x{classes}"
        values = {
            "name": name,
            "batch": batch,
            "classes": classes,
            "mean": f" / {batch}.0f" if batch > 1 else "",
        }
        return Kernel("softmax_cross_entropy.c.j2", name, values, (*node.inputs, *node.outputs))


register(SoftmaxCrossEntropy())
