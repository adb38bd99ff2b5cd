"""Elementwise ops on equal shapes: Relu and Add, with their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer


class _Elementwise(Op):
    """Common to ops that treat all elements alike; `template` is the file and the stem of the C name."""

    template: str

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of the inputs."""
        return (inputs[0].shape,)

    def work(self, graph: Graph, node: Node) -> Work:
        """One operation an element."""
        return Work("elementwise", elements=graph.tensors[node.outputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/<template>.c.j2."""
        elements = graph.tensors[node.outputs[0]].elements
        name = f"{self.template}_{elements}"
        values = {"name": name, "elements": elements}
        return Kernel(f"{self.template}.c.j2", name, values, (*node.inputs, *node.outputs))


class Relu(_Elementwise):
    """y = max(x, 0)."""

    name = "Relu"
    onnx = ("Relu",)
    template = "relu"
    supported = "any shape"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Relu."""
        importer.add(node, self.name, [importer.value(node, 0)], {})

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx from y and dy: y > 0 exactly where x > 0, so x need not live on."""
        tape.add_gradient(node.inputs[0], "ReluGrad", (node.outputs[0], grads[0]), {})


class ReluGrad(_Elementwise):
    """dx = dy where y > 0, else 0. Inputs: y, dy."""

    name = "ReluGrad"
    template = "relu_grad"


class Add(_Elementwise):
    """c = a + b; also how gradients of a value with several readers are summed."""

    name = "Add"
    onnx = ("Add",)
    template = "add"
    supported = "two tensors of equal shape"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Add."""
        a, b = importer.value(node, 0), importer.value(node, 1)
        if a.shape != b.shape:
            raise node.refuse(f"adds shapes {list(a.shape)} and {list(b.shape)}", f"Supported: {self.supported}.")
        importer.add(node, self.name, [a, b], {})

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """Both inputs get dy itself: no code, no memory."""
        for x in node.inputs:
            if tape.wants(x):
                tape.accumulate(x, grads[0])


for _op in (Relu(), ReluGrad(), Add()):
    register(_op)
