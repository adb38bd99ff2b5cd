"""InstanceNormalization and GroupNormalization: at import they become LayerNormalization of another view of x.

x [N, C, ...] is seen as [N, groups, rest], normalized over the rest, and scaled by an Affine a channel. Sources: the
definitions of the two operators in ONNX, functions of LayerNormalization's mean and variance.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from poet_codegen.graph import Tensor
from poet_codegen.ops.registry import Shape, register
from poet_codegen.ops.reshape import Reshape

if TYPE_CHECKING:
    from poet_codegen.onnx_import import ImportedNode, Importer

_EPSILON = 1e-5
_FIRST_OPSET_WITH_SCALES_A_CHANNEL = 21
"""Before, GroupNormalization had one scale and bias a group."""


class InstanceNormalization(Reshape):
    """z scale + bias, with z normalized over the axes behind the channels."""

    name = "InstanceNormalization"
    onnx: tuple[str, ...] = ("InstanceNormalization",)
    supported = "3 axes or more"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import the ONNX op."""
        x = importer.value(node, 0)
        if len(x.shape) <= 2:
            raise node.refuse(f"normalizes shape {list(x.shape)}", f"Supported: {self.supported}.")
        groups = int(node.attrs.get("num_groups", x.shape[1]))
        if groups < 1 or x.shape[1] % groups:
            raise node.refuse(f"makes {groups} groups of {x.shape[1]} channels", "Check the model.")
        grouped = (x.shape[0], groups, prod(x.shape[1:]) // groups)
        attrs = {"axis": 2, "epsilon": float(node.attrs.get("epsilon", _EPSILON))}
        (flat,) = importer.step(node, "Reshape", [x], {"shape": grouped})
        z, _, _ = importer.step(node, "LayerNormalization", [flat], attrs)
        if _is_neutral(importer, node):
            importer.add(node, "Reshape", [z], {"shape": x.shape})
        elif node.op_type == "GroupNormalization" and node.opset < _FIRST_OPSET_WITH_SCALES_A_CHANNEL:
            (y,) = importer.step(node, "Affine", [z, *self._factors(importer, node, groups, 1)], {})
            importer.add(node, "Reshape", [y], {"shape": x.shape})
        else:
            (back,) = importer.step(node, "Reshape", [z], {"shape": x.shape})
            factors = self._factors(importer, node, x.shape[1], len(x.shape) - 2)
            importer.add(node, "Affine", [back, *factors], {})

    def _factors(self, importer: Importer, node: ImportedNode, count: int, axes_behind: int) -> list[Tensor]:
        """Scale and bias, as they broadcast to channels or groups."""
        factors = []
        shape: Shape = (count, *(1 for _ in range(axes_behind)))
        for position in (1, 2):
            factor = importer.value(node, position)
            if factor.shape != (count,):
                raise node.refuse(f"scales {count} channels or groups by {list(factor.shape)}", "Check the model.")
            factors.append(importer.step(node, "Reshape", [factor], {"shape": shape})[0])
        return factors


class GroupNormalization(InstanceNormalization):
    """z scale + bias, with z normalized over groups of channels and the axes behind them."""

    name = "GroupNormalization"
    onnx = ("GroupNormalization",)


def _is_neutral(importer: Importer, node: ImportedNode) -> bool:
    """Whether scale and bias do nothing and are no parameters: exporters write ones and zeros as nodes where a
    normalization has none, for PyTorch's GroupNorm too, which has its scale and shift behind it."""
    if not all(importer.is_written(name) for name in node.inputs[1:]):
        return False
    return bool((importer.constant(node, 1) == 1.0).all() and (importer.constant(node, 2) == 0.0).all())


for _op in (InstanceNormalization(), GroupNormalization()):
    register(_op)
