"""Loss functions: the node that ends the forward pass and starts the backward pass.

Each reads the model's output and a label, and gives loss [1] and the loss's gradient by the output: both need the same
exponentials, so one kernel makes both. A loss whose value is finite has a finite gradient; the device relies on it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import prod

from poet_codegen.errors import ModelError
from poet_codegen.graph import DType, Graph, Kind, Node, Tensor
from poet_codegen.head import refuse_probabilities, with_logits
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register
from poet_codegen.recipe import Loss


class LossOp(Op):
    """Inputs: the model's output, label; outputs: loss [1], gradient of the output's shape."""

    loss: Loss

    def head(self, forward: Graph) -> Graph:
        """The forward graph up to what the loss reads. Raises ModelError when the model's end is part of the loss."""
        return forward

    @abstractmethod
    def label(self, output: Tensor) -> Tensor:
        """The label that belongs to the model's output. Raises ModelError when the output's shape does not fit."""

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """([1], that of the output)."""
        return ((1,), inputs[0].shape)


class CrossEntropy(LossOp):
    """Softmax cross entropy along the last axis, mean over all rows before it.

    Hard: the label is one int32 class a row, of the shape [N, ...]; loss = -log(softmax(logits)[label]), gradient
    (softmax - onehot) / rows. Soft: it is a float32 row of probabilities, [N, ..., K];
    loss = -sum of p log(softmax(logits)), gradient (softmax * sum of p - p) / rows.
    """

    def __init__(self, name: str, loss: Loss, soft: bool) -> None:
        self.name = name
        self.loss = loss
        self._soft = soft

    def head(self, forward: Graph) -> Graph:
        """Without a final Softmax over the classes; another one is refused."""
        return with_logits(forward)

    def label(self, output: Tensor) -> Tensor:
        """int32 [N, ...], or float32 [N, ..., K]."""
        if len(output.shape) < 2 or output.shape[-1] < 2:
            raise ModelError(
                f"The model's output {output.name!r} has shape {list(output.shape)}; softmax cross entropy needs "
                "logits of shape [batch, classes] or [batch, ..., classes] with two classes or more. Export the model "
                "so, or choose another loss with --loss."
            )
        if self._soft:
            return Tensor("label", output.shape, DType.FLOAT32, Kind.LABEL)
        return Tensor("label", output.shape[:-1], DType.INT32, Kind.LABEL)

    def work(self, graph: Graph, node: Node) -> Work:
        """One exponential an element."""
        return Work("cross_entropy", elements=graph.tensors[node.inputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/softmax_cross_entropy.c.j2."""
        *leading, classes = graph.tensors[node.inputs[0]].shape
        rows = prod(leading)
        name = f"{'soft' if self._soft else 'softmax'}_cross_entropy_{rows}x{classes}"
        values = {
            "name": name,
            "soft": self._soft,
            "rows": rows,
            "classes": classes,
            "mean": f" / {rows}.0f" if rows > 1 else "",
        }
        return Kernel("softmax_cross_entropy.c.j2", name, values, (*node.inputs, *node.outputs))


class ElementLoss(LossOp):
    """A loss that is a mean over all elements of an output of any shape; the label is float32 of that shape."""

    def __init__(self, name: str, loss: Loss, template: str, work: str) -> None:
        self.name = name
        self.loss = loss
        self._template = template
        self._work = work

    def head(self, forward: Graph) -> Graph:
        """All of it; binary cross entropy refuses a final Sigmoid, which it has itself."""
        if self.loss is Loss.BCE:
            refuse_probabilities(forward)
        return forward

    def label(self, output: Tensor) -> Tensor:
        """float32 of the output's shape."""
        if not output.shape:
            raise ModelError(
                f"The model's output {output.name!r} is a single number without an axis. Export it with a batch axis."
            )
        return Tensor("label", output.shape, DType.FLOAT32, Kind.LABEL)

    def work(self, graph: Graph, node: Node) -> Work:
        """By the element."""
        return Work(self._work, elements=graph.tensors[node.inputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """The template of that name in templates/kernels."""
        elements = graph.tensors[node.inputs[0]].elements
        name = f"{self._template}_{elements}"
        values = {"name": name, "elements": elements, "mean": f" / {elements}.0f" if elements > 1 else ""}
        return Kernel(f"{self._template}.c.j2", name, values, (*node.inputs, *node.outputs))


_LOSSES: tuple[LossOp, ...] = (
    CrossEntropy("SoftmaxCrossEntropy", Loss.CROSS_ENTROPY, soft=False),
    CrossEntropy("SoftCrossEntropy", Loss.SOFT_CROSS_ENTROPY, soft=True),
    # mean of (y - t)^2
    ElementLoss("MeanSquaredError", Loss.MSE, "mean_squared_error", "elementwise_plain"),
    # mean of -t log(sigmoid(x)) - (1 - t) log(1 - sigmoid(x)): an exponential and a logarithm an element
    ElementLoss("BinaryCrossEntropy", Loss.BCE, "binary_cross_entropy", "cross_entropy"),
)
for _op in _LOSSES:
    register(_op)


def loss_op(loss: Loss) -> LossOp:
    """The op of a loss."""
    return next(op for op in _LOSSES if op.loss is loss)
