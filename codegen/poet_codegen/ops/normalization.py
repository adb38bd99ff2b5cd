"""LayerNormalization.

It sees x as [rows, columns], the normalized axes being the last ones. Its forward kernel leaves the
mean and 1 / sqrt(variance + epsilon) of each row, which the gradient reads beside x.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from poet_codegen.errors import ModelError
from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.m4f.lanes import with_lanes
from poet_codegen.ops.map_kernel import Formula
from poet_codegen.ops.nest import broadcast, literal, name_of_number
from poet_codegen.ops.pointwise import SUM_TO, Pointwise, Pull
from poet_codegen.ops.registry import Kernel, Op, Shape, Work, register
from poet_codegen.ops.reshape import positive_axes
from poet_codegen.ops.split import Blocks, Part, by_units

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer


class LayerNormalization(Op):
    """z = (x - mean) / sqrt(variance + epsilon) over the last axes, from `axis` on; outputs: z, mean, 1 / deviation.

    ONNX's scale and bias are an Affine behind it.
    """

    name = "LayerNormalization"
    onnx = ("LayerNormalization",)
    supported = "any axis; a scale, and a bias where there is one"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX LayerNormalization."""
        x, scale = importer.value(node, 0), importer.value(node, 1)
        (axis,) = positive_axes(node, (int(node.attrs.get("axis", -1)),), len(x.shape))
        if broadcast([x.shape, scale.shape]) != x.shape:
            raise node.refuse(f"scales shape {list(x.shape)} by {list(scale.shape)}", "Check the model.")
        attrs = {"axis": axis, "epsilon": float(node.attrs.get("epsilon", 1e-5))}
        statistics = [*node.outputs[1:], "", ""][:2]
        z, mean, inverse = importer.step(node, self.name, [x], attrs, ["", *statistics])
        for onnx_name, tensor in zip(statistics, (mean, inverse), strict=True):
            if onnx_name:
                importer.give(onnx_name, tensor)
        if node.has(2):
            importer.add(node, "Affine", [z, scale, importer.value(node, 2)], {})
        else:
            importer.add(node, "Mul", [z, scale], {})

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of x, and twice that with size 1 along the normalized axes."""
        x, axis = inputs[0].shape, node.int("axis")
        statistics = (*x[:axis], *(1 for _ in x[axis:]))
        return (x, statistics, statistics)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx from z, 1 / deviation and dz; x and the mean need not live on."""
        if grads[1] or grads[2]:
            raise ModelError(
                f"Node {node.label!r} ({node.op}): its mean or deviation is read by layers that train. "
                "Compute them by ReduceMean."
            )
        z, _, inverse = node.outputs
        tape.add_gradient(node.inputs[0], "LayerNormalizationGrad", (z, inverse, grads[0]), dict(node.attrs))

    def work(self, graph: Graph, node: Node) -> Work:
        """Three passes over x."""
        return Work("layer_norm", elements=graph.tensors[node.inputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/layer_norm.c.j2."""
        return _kernel("layer_norm", graph.tensors[node.inputs[0]].shape, node)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By rows."""
        return _by_rows(graph, node)


class LayerNormalizationGrad(Op):
    """dx = (dz - mean(dz) - z mean(dz z)) / deviation. Inputs: z, 1 / deviation, dz."""

    name = "LayerNormalizationGrad"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """That of z."""
        return (inputs[0].shape,)

    def work(self, graph: Graph, node: Node) -> Work:
        """Two passes over z and dz."""
        return Work("layer_norm", elements=graph.tensors[node.inputs[0]].elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/layer_norm_grad.c.j2."""
        return _kernel("layer_norm_grad", graph.tensors[node.inputs[0]].shape, node)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By rows."""
        return _by_rows(graph, node)


def _by_rows(graph: Graph, node: Node) -> tuple[Blocks, ...]:
    names, axis = (*node.inputs, *node.outputs), node.int("axis")
    shapes = {name: graph.tensors[name].shape[axis:] for name in names}

    def some_rows(units: int) -> Part:
        return Part({name: (units, *shape) for name, shape in shapes.items()}, {"axis": 1})

    rows = prod(graph.tensors[names[0]].shape[:axis])
    return (by_units("row", rows, {name: prod(shape) for name, shape in shapes.items()}, some_rows),)


def _kernel(stem: str, x: Shape, node: Node) -> Kernel:
    axis = node.int("axis")
    rows, columns = prod(x[:axis]), prod(x[axis:])
    name = f"{stem}_{rows}x{columns}"
    values = {"rows": rows, "columns": columns, "divisor": literal(float(columns))}
    # The gradient reads 1 / deviation, in which epsilon is already.
    if stem == "layer_norm":
        epsilon = node.float("epsilon")
        name += f"_e{name_of_number(epsilon)}"
        values["epsilon"] = literal(epsilon)
    kernel = Kernel(f"{stem}.c.j2", name, {"name": name, **values}, (*node.inputs, *node.outputs))
    return with_lanes(kernel, columns)


register(LayerNormalization())
register(LayerNormalizationGrad())
register(
    Pointwise(
        "Affine",
        Formula("affine", "Affine map of", ("x", "scale", "shift"), "y", "{x} * {scale} + {shift}"),
        {"x": Pull("Mul", ("dy", "scale")), "scale": Pull("Mul", ("dy", "x")), "shift": Pull(SUM_TO, ("dy",))},
    )
)
