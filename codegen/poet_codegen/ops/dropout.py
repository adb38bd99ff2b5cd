"""Dropout: a view of its input in inference; in training a random mask that is drawn anew wherever it is needed.

No mask is stored: the gradient draws the same one from the number of the step, and so does a recomputation. Each
Dropout of a model has a stream of its own; a number is told from (seed, which Dropout, step, element) by Philox4x32-10
(firmware/include/poet/random.h).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.ops.nest import literal, name_of_number
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register
from poet_codegen.ops.reshape import Reshape
from poet_codegen.recipe import Dropouts

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer
    from poet_codegen.training_form import TrainingForm

_FIRST_OPSET_WITH_TRAINING_MODE = 12
_RATIO = 0.5
_WORDS = 1 << 32


class Dropout(Reshape):
    """y is x. Attributes: ratio, the share that training drops, and whether the model says that it trains so."""

    name = "Dropout"
    onnx: tuple[str, ...] = ("Dropout",)
    supported = "a constant ratio; drops in training only; no mask output"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Dropout. Before operator set 12 it had no training mode, and stood for one that trains."""
        x = importer.value(node, 0)
        if any(node.outputs[1:]):
            raise node.refuse("the model reads its mask", "Export it so that only the result is read.")
        ratio = float(importer.constant(node, 1)) if node.has(1) else float(node.attrs.get("ratio", _RATIO))
        if not 0.0 <= ratio < 1.0:
            raise node.refuse(f"drops a share of {ratio:g}", "Supported: 0 to below 1.")
        trains = node.opset < _FIRST_OPSET_WITH_TRAINING_MODE
        if node.has(2):
            trains = bool(importer.constant(node, 2).any())
        if ratio == 0.0:
            importer.alias(node)
        else:
            importer.add(node, self.name, [x], {"shape": x.shape, "ratio": ratio, "trains": int(trains)})

    def for_training(self, form: TrainingForm, node: Node) -> None:
        """Replaced by a RandomDropout, where the model or the recipe says so."""
        choice = form.recipe.dropout
        if choice is Dropouts.NONE or (choice is Dropouts.MODEL and not node.int("trains")):
            form.builder.node(node)
            return
        number = sum(earlier.op == RandomDropout.name for earlier in form.builder.nodes)
        attrs = {"ratio": node.float("ratio"), "seed": form.recipe.dropout_seed, "number": number}
        inputs = (node.inputs[0], form.builder.step())
        form.builder.node(Node(RandomDropout.name, inputs, node.outputs, node.label, attrs=attrs))

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx is dy."""
        tape.accumulate(node.inputs[0], grads[0])


class RandomDropout(Op):
    """y = x mask / (1 - ratio). Inputs: x, step. The mask is a function of seed, number, step and element."""

    name = "RandomDropout"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of x."""
        return (inputs[0].shape,)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx is the same of dy, with the same mask."""
        tape.add_gradient(node.inputs[0], self.name, (grads[0], node.inputs[1]), dict(node.attrs))

    def may_overwrite(self, graph: Graph, node: Node) -> Sequence[int]:
        """x."""
        return (0,)

    def work(self, graph: Graph, node: Node) -> Work:
        """A quarter of a Philox call an element."""
        return Work("dropout", elements=graph.tensors[node.inputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/dropout.c.j2."""
        elements, ratio = graph.tensors[node.inputs[0]].elements, node.float("ratio")
        seed, number = node.int("seed"), node.int("number")
        name = f"dropout_{elements}_r{name_of_number(ratio)}_s{seed}_n{number}"
        values = {
            "name": name,
            "elements": elements,
            "scale": literal(1.0 / (1.0 - ratio)),
            "threshold": f"{min(round(ratio * _WORDS), _WORDS - 1)}u",
            "seed": f"{seed}u",
            "number": f"{number}u",
        }
        return Kernel("dropout.c.j2", name, values, (*node.inputs, *node.outputs))


for _op in (Dropout(), RandomDropout()):
    register(_op)
