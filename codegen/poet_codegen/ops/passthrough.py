"""Ops that leave a value as it is: they vanish at import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from poet_codegen.graph import DType
from poet_codegen.ops.registry import register
from poet_codegen.ops.reshape import Reshape

if TYPE_CHECKING:
    from poet_codegen.onnx_import import ImportedNode, Importer


class Identity(Reshape):
    """y is x."""

    name = "Identity"
    onnx: tuple[str, ...] = ("Identity",)
    supported = "anything"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Identity."""
        importer.alias(node)


class Cast(Reshape):
    """y is x: a conversion of float32 to float32, or of integers to integers."""

    name = "Cast"
    onnx: tuple[str, ...] = ("Cast", "CastLike")
    supported = "float32 to float32, integers to integers; anything among constants"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Cast."""
        kinds = {"FLOAT": DType.FLOAT32, "INT32": DType.INT32, "INT64": DType.INT32}
        to = node.attrs["to"]
        # A name up to operator set 5, a number from 6 on.
        wanted = to.decode() if isinstance(to, bytes) else TensorProto.DataType.Name(to)
        if wanted not in kinds:
            raise node.refuse(f"converts to {wanted}", f"Supported: {self.supported}.")
        importer.value(node, 0, kinds[wanted])
        importer.alias(node)


for _op in (Identity(), Cast()):
    register(_op)
