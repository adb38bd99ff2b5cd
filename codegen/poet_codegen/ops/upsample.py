"""Upsample and Resize by whole factors to the nearest neighbour: each element is repeated along the axes that grow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poet_codegen.ops.registry import Shape, register
from poet_codegen.ops.reshape import Reshape, positive_axes

if TYPE_CHECKING:
    from poet_codegen.onnx_import import ImportedNode, Importer

_SAME_AS_REPEATING = {
    "half_pixel": ("round_prefer_floor", "round_prefer_ceil"),
    "half_pixel_symmetric": ("round_prefer_floor", "round_prefer_ceil"),
    "asymmetric": ("floor",),
}
"""Resize's coordinates and roundings that pick element i / factor for output i, when the factor is whole."""


class Upsample(Reshape):
    """y repeats x: an Expand of x with an axis of size 1 behind each axis that grows."""

    name = "Upsample"
    onnx: tuple[str, ...] = ("Upsample", "Resize")
    supported = "nearest neighbour; whole constant factors"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Upsample and Resize."""
        x = importer.value(node, 0)
        mode = node.attrs.get("mode", b"nearest").decode()
        if mode != "nearest":
            raise node.refuse(f"interpolates in mode {mode!r}", f"Supported: {self.supported}.")
        if node.op_type == "Resize" and node.opset > 10:
            _check_coordinates(node)
        factors = _factors(importer, node, x.shape)
        if all(factor == 1 for factor in factors):
            importer.alias(node)
            return
        pairs = list(zip(x.shape, factors, strict=True))
        apart = tuple(size for old, factor in pairs for size in ((old, 1) if factor > 1 else (old,)))
        grown = tuple(size for old, factor in pairs for size in ((old, factor) if factor > 1 else (old,)))
        (thin,) = importer.step(node, "Reshape", [x], {"shape": apart})
        (wide,) = importer.step(node, "Expand", [thin], {"shape": grown, "factor": 1.0})
        importer.add(node, "Reshape", [wide], {"shape": tuple(old * factor for old, factor in pairs)})


def _check_coordinates(node: ImportedNode) -> None:
    coordinates = node.attrs.get("coordinate_transformation_mode", b"half_pixel").decode()
    rounding = node.attrs.get("nearest_mode", b"round_prefer_floor").decode()
    if node.attrs.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise node.refuse("keeps the aspect ratio", "Give scales instead of sizes.")
    if rounding not in _SAME_AS_REPEATING.get(coordinates, ()):
        raise node.refuse(
            f"picks elements by {coordinates!r} with {rounding!r}", "Use 'asymmetric' with 'floor', or 'half_pixel'."
        )


def _factors(importer: Importer, node: ImportedNode, x: Shape) -> Shape:
    """One whole factor an axis, from the scales or the sizes, wherever the operator set has them."""
    newer = node.op_type == "Resize" and node.opset > 10
    axes = positive_axes(node, tuple(node.attrs.get("axes", range(len(x)))), len(x))
    given: list[float] = []
    if "height_scale" in node.attrs:
        given = [1.0, 1.0, node.attrs["height_scale"], node.attrs["width_scale"]]
    elif "scales" in node.attrs:
        given = list(node.attrs["scales"])
    elif node.has(2 if newer else 1):
        given = importer.constant(node, 2 if newer else 1).ravel().tolist()
    if not given and node.has(3):
        sizes = importer.constant(node, 3).ravel().tolist()
        given = [size / x[axis] for size, axis in zip(sizes, axes, strict=False)]
    if len(given) != len(axes) or any(factor < 1 or factor != int(factor) for factor in given):
        raise node.refuse(f"resizes shape {list(x)} by {given}", "Whole factors of 1 and more are supported.")
    by_axis = dict(zip(axes, given, strict=True))
    return tuple(int(by_axis.get(axis, 1)) for axis in range(len(x)))


register(Upsample())
