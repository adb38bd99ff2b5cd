"""BatchNormalization: by the running statistics, which inference uses, or by those of the batch.

x is [N, C, ...], the parameters and statistics [C]. The imported graph holds one BatchNormalization by its running
statistics, whatever the export's training mode; training by batch statistics replaces it by BatchStatistics and
BatchNormalizationTrain, which can be run again, and one RunningUpdate a running statistic, which cannot.

Source of the gradients: Ioffe and Szegedy, "Batch Normalization", 2015, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, ClassVar

from poet_codegen.errors import ModelError
from poet_codegen.graph import Graph, Kind, Node, Role, Tensor
from poet_codegen.m4f.lanes import with_lanes
from poet_codegen.ops.nest import literal, name_of_number
from poet_codegen.ops.registry import Kernel, Op, Part, Shape, Work, register
from poet_codegen.recipe import BatchNorm

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer
    from poet_codegen.training_form import TrainingForm

_EPSILON, _ONNX_MOMENTUM = 1e-5, 0.9
_CHOICES = (
    "train: by the statistics of each batch, with running statistics that follow as in PyTorch; "
    "frozen: by the running statistics, as in inference; "
    "fold: as frozen, multiplied into the layers before"
)


class BatchNormalization(Op):
    """y = (x - mean) scale / sqrt(variance + epsilon) + bias. Inputs: x, scale, bias, mean, variance.

    Attributes: epsilon, and PyTorch's momentum (ONNX's is 1 less that), which training by batch statistics uses.
    """

    name = "BatchNormalization"
    onnx: tuple[str, ...] = ("BatchNormalization",)
    parts: ClassVar[tuple[tuple[int, Part], ...]] = (
        (1, Part.SCALE),
        (2, Part.SHIFT),
        (3, Part.STATISTIC),
        (4, Part.STATISTIC),
    )
    supported = "2 axes or more, statistics a channel; trains by the batch's statistics, frozen, or folded"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX BatchNormalization, of an export for training too."""
        x, *parameters = (importer.value(node, position) for position in range(5))
        if len(x.shape) < 2 or any(tensor.shape != (x.shape[1],) for tensor in parameters):
            raise node.refuse(
                f"normalizes shape {list(x.shape)} by parameters of shapes {[list(t.shape) for t in parameters]}",
                "Supported: [batch, channels, ...] with one of each a channel.",
            )
        if any(node.outputs[1:]):
            raise node.refuse("the model reads its running statistics", "Export it so that only the result is read.")
        attrs = {
            "epsilon": float(node.attrs.get("epsilon", _EPSILON)),
            # Rounded, for ONNX holds it in float32 and PyTorch's 0.1 would come back as 0.10000002.
            "momentum": round(1.0 - float(node.attrs.get("momentum", _ONNX_MOMENTUM)), 7),
        }
        importer.add(node, self.name, [x, *parameters], attrs)

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of x."""
        return (inputs[0].shape,)

    def for_training(self, form: TrainingForm, node: Node) -> None:
        """Replaced by batch statistics where the recipe says train. Raises ModelError where it says nothing."""
        if form.recipe.batch_norm is None:
            raise ModelError(f"Node {node.label!r} ({node.op}): choose with --batch-norm how it trains. {_CHOICES}.")
        if form.recipe.batch_norm is not BatchNorm.TRAIN:
            form.builder.node(node)
            return
        x, scale, bias, *running = node.inputs
        shape = form.builder.tensors[x].shape
        count = prod(shape) // shape[1]
        if count < 2:
            raise ModelError(
                f"Node {node.label!r} ({node.op}): shape {list(shape)} has one value a channel, which has no "
                "variance. Export the model with a larger batch, or plan with --batch-norm frozen."
            )
        batch = tuple(
            form.builder.tensor(Tensor(f"{node.outputs[0]}.{name}", (shape[1],))) for name in ("mean", "variance")
        )
        form.builder.node(Node("BatchStatistics", (x,), batch, node.label))
        attrs = {"epsilon": node.float("epsilon")}
        inputs = (x, scale, bias, *batch)
        form.builder.node(Node("BatchNormalizationTrain", inputs, node.outputs, node.label, attrs=attrs))
        # As in PyTorch the running variance follows the unbiased one.
        corrections = (1.0, count / (count - 1.0))
        for old, new, correction in zip(running, batch, corrections, strict=True):
            if form.builder.tensors[old].kind is not Kind.PARAM:
                raise ModelError(
                    f"Node {node.label!r} ({node.op}): its running statistic {old!r} is computed by the model, so "
                    "that it cannot follow the batches. Plan with --batch-norm frozen."
                )
            attrs = {"momentum": node.float("momentum"), "correction": correction}
            updated = form.builder.tensor(Tensor(f"{old}.new", (shape[1],), kind=Kind.UPDATED, updates=old))
            form.after_loss.append(Node("RunningUpdate", (old, new), (updated,), node.label, Role.UPDATE, attrs))

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """Gradients of x, scale and bias; the statistics are constants."""
        x, scale, bias, mean, variance = node.inputs
        (dy,) = grads
        attrs = {"epsilon": node.float("epsilon")}
        if tape.wants(x):
            tape.add_gradient(x, "BatchNormalizationInputGrad", (scale, variance, dy), attrs)
        if tape.wants(scale):
            tape.add_gradient(scale, "BatchNormalizationScaleGrad", (x, mean, variance, dy), attrs)
        if tape.wants(bias):
            tape.add_gradient(bias, "ConvBiasGrad", (dy,), {})

    def may_overwrite(self, graph: Graph, node: Node) -> Sequence[int]:
        """x."""
        return (0,)

    def work(self, graph: Graph, node: Node) -> Work:
        """One multiply-add an element."""
        return Work("elementwise", elements=graph.tensors[node.inputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/batch_norm.c.j2."""
        return _kernel("batch_norm", graph.tensors[node.inputs[0]].shape, node)


class BatchNormalizationTrain(BatchNormalization):
    """The same by the statistics of x itself, through which the gradient of x runs. Inputs and outputs as above."""

    name = "BatchNormalizationTrain"
    onnx = ()
    parts = ((1, Part.SCALE), (2, Part.SHIFT))

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """Gradients of scale and bias, and from them that of x: what it needs are the same two sums."""
        x, scale, bias, mean, variance = node.inputs
        (dy,) = grads
        attrs = {"epsilon": node.float("epsilon")}
        dscale = dbias = ""
        if tape.wants(x) or tape.wants(scale):
            dscale = tape.node(f"d.{scale}", "BatchNormalizationScaleGrad", (x, mean, variance, dy), attrs)
        if tape.wants(x) or tape.wants(bias):
            dbias = tape.node(f"d.{bias}", "ConvBiasGrad", (dy,), {})
        if tape.wants(x):
            reads = (x, scale, mean, variance, dscale, dbias, dy)
            tape.add_gradient(x, "BatchNormalizationTrainInputGrad", reads, attrs)
        for parameter, gradient in ((scale, dscale), (bias, dbias)):
            if tape.wants(parameter):
                tape.accumulate(parameter, gradient)


class BatchStatistics(Op):
    """Mean and (biased) variance of each channel of x, in two passes; outputs: mean [C], variance [C]."""

    name = "BatchStatistics"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """([C], [C])."""
        return ((inputs[0].shape[1],), (inputs[0].shape[1],))

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """None of its own: BatchNormalizationTrain's gradient of x is the whole one."""

    def work(self, graph: Graph, node: Node) -> Work:
        """An addition an element, and a difference squared."""
        return Work("reduce", elements=2 * graph.tensors[node.inputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/batch_statistics.c.j2."""
        return _kernel("batch_statistics", graph.tensors[node.inputs[0]].shape, node)


class BatchNormalizationInputGrad(Op):
    """dx = dy scale / sqrt(variance + epsilon). Inputs: scale, variance, dy."""

    name = "BatchNormalizationInputGrad"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of dy."""
        return (inputs[-1].shape,)

    def may_overwrite(self, graph: Graph, node: Node) -> Sequence[int]:
        """dy."""
        return (len(node.inputs) - 1,)

    def work(self, graph: Graph, node: Node) -> Work:
        """One product an element."""
        return Work("elementwise", elements=graph.tensors[node.inputs[-1]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/batch_norm_input_grad.c.j2."""
        return _kernel("batch_norm_input_grad", graph.tensors[node.inputs[-1]].shape, node)


class BatchNormalizationTrainInputGrad(BatchNormalizationInputGrad):
    """dx = (dy - dbias / n - z dscale / n) scale / deviation, with n values a channel and z the normalized x.

    Inputs: x, scale, mean, variance, dscale, dbias, dy.
    """

    name = "BatchNormalizationTrainInputGrad"

    def work(self, graph: Graph, node: Node) -> Work:
        """Two multiply-adds an element."""
        return Work("elementwise", elements=2 * graph.tensors[node.inputs[-1]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/batch_norm_train_input_grad.c.j2."""
        return _kernel("batch_norm_train_input_grad", graph.tensors[node.inputs[-1]].shape, node)


class BatchNormalizationScaleGrad(Op):
    """dscale = sum of dy (x - mean) / sqrt(variance + epsilon). Inputs: x, mean, variance, dy."""

    name = "BatchNormalizationScaleGrad"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[C]."""
        return (inputs[1].shape,)

    def work(self, graph: Graph, node: Node) -> Work:
        """One multiply-add an element."""
        return Work("elementwise", elements=graph.tensors[node.inputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/batch_norm_scale_grad.c.j2."""
        return _kernel("batch_norm_scale_grad", graph.tensors[node.inputs[0]].shape, node)


class RunningUpdate(Op):
    """running' = (1 - momentum) running + momentum correction statistic. Inputs: running, statistic, gradient.

    The last input is the gradient of the logits, of which nothing is read: it orders the update behind the loss, so
    that a step whose loss is not finite can leave the running statistics as they were.
    """

    name = "RunningUpdate"
    in_place = ((0, 0),)
    repeatable = False

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of running."""
        return (inputs[0].shape,)

    def work(self, graph: Graph, node: Node) -> Work:
        """Two products an element."""
        return Work("elementwise", elements=graph.tensors[node.inputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/running_update.c.j2."""
        elements = graph.tensors[node.inputs[0]].elements
        momentum, correction = node.float("momentum"), node.float("correction")
        name = f"running_update_{elements}_m{name_of_number(momentum)}_c{name_of_number(correction)}"
        values = {
            "name": name,
            "elements": elements,
            "keep": literal(1.0 - momentum),
            "momentum": literal(momentum),
            "corrected": "" if correction == 1.0 else f" * {literal(correction)}",
        }
        return Kernel("running_update.c.j2", name, values, (node.inputs[1], node.outputs[0]))


def _kernel(stem: str, x: Shape, node: Node) -> Kernel:
    batch, channels, pixels = x[0], x[1], prod(x[2:])
    name = f"{stem}_{batch}x{channels}x{pixels}"
    values = {"batch": batch, "channels": channels, "pixels": pixels, "count": literal(float(batch * pixels))}
    if "epsilon" in node.attrs:
        name += f"_e{name_of_number(node.float('epsilon'))}"
        values["epsilon"] = literal(node.float("epsilon"))
    kernel = Kernel(f"{stem}.c.j2", name, {**values, "name": name}, (*node.inputs, *node.outputs))
    return with_lanes(kernel, pixels)


for _op in (
    BatchNormalization(),
    BatchNormalizationTrain(),
    BatchStatistics(),
    BatchNormalizationInputGrad(),
    BatchNormalizationTrainInputGrad(),
    BatchNormalizationScaleGrad(),
    RunningUpdate(),
):
    register(_op)
