"""The sliding window that convolution and pooling share: strides, dilations, padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from poet_codegen.graph import AttrValue, Node
from poet_codegen.ops.nest import times

if TYPE_CHECKING:
    from poet_codegen.onnx_import import ImportedNode


@dataclass(frozen=True)
class _Axis:
    stride: int
    dilation: int
    pad: int

    def source(self, output: str, tap: str) -> str:
        text = f"{times(output, self.stride)} + {times(tap, self.dilation)}"
        return f"{text} - {self.pad}" if self.pad else text

    def target(self, source: str, tap: str) -> str:
        padded = f"{source} + {self.pad}" if self.pad else source
        return f"{padded} - {times(tap, self.dilation)}"


@dataclass(frozen=True)
class Window:
    """A 2-D window. Pads are (top, left, bottom, right)."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]

    @staticmethod
    def of(node: Node, kernel: Sequence[int]) -> Window:
        """The window a graph node's attributes describe."""
        strides, dilations, pads = (node.ints(key) for key in ("strides", "dilations", "pads"))
        return Window(
            (kernel[0], kernel[1]),
            (strides[0], strides[1]),
            (dilations[0], dilations[1]),
            (pads[0], pads[1], pads[2], pads[3]),
        )

    def output(self, extent: Sequence[int]) -> tuple[int, int]:
        """(height, width) of the output for an input of `extent`; floor mode, as ONNX's default."""
        sizes = [
            (extent[a] + self.pads[a] + self.pads[a + 2] - self.dilations[a] * (self.kernel[a] - 1) - 1)
            // self.strides[a]
            + 1
            for a in (0, 1)
        ]
        return sizes[0], sizes[1]

    def touches_everywhere(self, extent: Sequence[int]) -> bool:
        """Every position of the window has at least one tap inside an input of `extent`."""
        return all(
            any(
                0 <= at * self.strides[a] + tap * self.dilations[a] - self.pads[a] < extent[a]
                for tap in range(self.kernel[a])
            )
            for a, count in enumerate(self.output(extent))
            for at in range(count)
        )

    def expressions(self) -> dict[str, object]:
        """C expressions between output (oy, ox), tap (ky, kx) and input (iy, ix), for the kernels' templates."""
        rows, columns = (_Axis(self.strides[a], self.dilations[a], self.pads[a]) for a in (0, 1))
        return {
            "source_row": rows.source("oy", "ky"),
            "source_column": columns.source("ox", "kx"),
            "target_row": rows.target("iy", "ky"),
            "target_column": columns.target("ix", "kx"),
            "stride_h": self.strides[0],
            "stride_w": self.strides[1],
        }

    def suffix(self) -> str:
        """The window in a C name: kernel, strides, pads, and dilations where there are any."""
        kernel, strides, dilations, pads = (
            "x".join(map(str, values)) for values in (self.kernel, self.strides, self.dilations, self.pads)
        )
        return f"k{kernel}_s{strides}_p{pads}" + (f"_d{dilations}" if self.dilations != (1, 1) else "")

    def attrs(self) -> dict[str, AttrValue]:
        """As node attributes."""
        return {"strides": self.strides, "dilations": self.dilations, "pads": self.pads}


def with_ceil_mode(window: Window, extent: Sequence[int]) -> Window:
    """The window with as much padding at the end as gives the output size of ONNX's ceil_mode.

    That rounds up, but no window may start in the padding at the end.
    """
    pads = list(window.pads)
    for a in (0, 1):
        reach = window.dilations[a] * (window.kernel[a] - 1) + 1
        span = extent[a] + pads[a] + pads[a + 2] - reach
        count = -(-span // window.strides[a]) + 1
        if (count - 1) * window.strides[a] >= extent[a] + pads[a]:
            count -= 1
        pads[a + 2] += max(0, (count - 1) * window.strides[a] - span)
    return replace(window, pads=(pads[0], pads[1], pads[2], pads[3]))


def in_two_dimensions(node: ImportedNode) -> ImportedNode:
    """A convolution or pooling over one axis as one over two, of which the first has size 1."""
    attrs = dict(node.attrs)
    for name in ("kernel_shape", "strides", "dilations"):
        if name in attrs:
            attrs[name] = (1, *attrs[name])
    if "pads" in attrs:
        begin, end = attrs["pads"]
        attrs["pads"] = (0, begin, 0, end)
    return replace(node, attrs=attrs)


def read_window(node: ImportedNode, x: Sequence[int], kernel: Sequence[int]) -> Window:
    """The window of an ONNX Conv or pooling node on input shape `x` [N, C, H, W]."""
    strides = _pair(node, "strides", (1, 1))
    dilations = _pair(node, "dilations", (1, 1))
    auto_pad = node.attrs.get("auto_pad", b"NOTSET").decode()
    if auto_pad in ("NOTSET", "VALID"):
        pads = tuple(node.attrs.get("pads", (0, 0, 0, 0))) if auto_pad == "NOTSET" else (0, 0, 0, 0)
        if len(pads) != 4 or min(pads) < 0:
            raise node.refuse(f"pads are {list(pads)}", "Four pads that are not negative are supported.")
    elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same_pads(x[2:], kernel, strides, dilations, auto_pad == "SAME_UPPER")
    else:
        raise node.refuse(f"auto_pad is {auto_pad!r}", "Use explicit pads.")
    return Window((kernel[0], kernel[1]), strides, dilations, (pads[0], pads[1], pads[2], pads[3]))


def _pair(node: ImportedNode, name: str, default: tuple[int, int]) -> tuple[int, int]:
    value = tuple(node.attrs.get(name, default))
    if len(value) != 2 or min(value) < 1:
        raise node.refuse(f"{name} is {list(value)}", "Two positive numbers are supported (2-D).")
    return value[0], value[1]


def _same_pads(
    extent: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    upper: bool,
) -> tuple[int, ...]:
    begin, end = [], []
    for size, k, s, d in zip(extent, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
        small = total // 2
        begin.append(small if upper else total - small)
        end.append(total - small if upper else small)
    return (*begin, *end)
