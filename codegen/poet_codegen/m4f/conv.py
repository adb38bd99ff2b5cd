"""Convolution and its input gradient in blocks of sums: which micro-kernels a shape takes, and where each is called."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from poet_codegen.m4f.depthwise import ChannelBlock, blocked_channels
from poet_codegen.m4f.pipeline import FLOAT_BYTES
from poet_codegen.m4f.rows import Call, Extent, RowSums, Source, best_shape, calls_of, split_row
from poet_codegen.ops.window import Window

_LARGEST_PLANE_BYTES = 65536
_LARGEST_ROW_BYTES = 4096
_MOST_WINDOW_ROWS = 255
"""What the template's table has bits for."""
_MOST_INLINED_CHANNELS = 2


@dataclass(frozen=True)
class RowRange:
    """Which rows of the window are inside the image for one row of outputs."""

    input_row: int
    """That the first of them reads."""
    window_row: int
    rows: int


@dataclass(frozen=True)
class ChannelLoop:
    """Output channels [first, first + count) of a group, `step` at a time."""

    first: int
    count: int
    step: int
    calls: tuple[Call[int], ...]


@dataclass(frozen=True)
class BlockedSums:
    """All that the template of a blocked convolution needs."""

    kernels: tuple[RowSums, ...]
    loops: tuple[ChannelLoop, ...]
    ranges: tuple[RowRange, ...]
    """For every row of outputs."""
    source: Extent
    target: Extent
    weight_channel: int
    """Elements from one summed channel's window to the next."""
    weight_output: int
    """Elements from one output channel's windows to the next."""
    weight_row_step: int
    row_step: int
    window: int

    def is_inlined(self, kernel: int) -> bool:
        """Its registers are saved around the loops, not at each call: called in one place, with few enough operands."""
        places = [call for loop in self.loops for call in loop.calls if call.kernel == kernel]
        return len(places) == 1 and self.kernels[kernel].channels_out <= _MOST_INLINED_CHANNELS


@cache
def blocked_forward(window: Window, x: Extent, y: Extent, continues: bool) -> BlockedSums | None:
    """The blocks of y = conv(x, w) (+ y where it `continues`), one group; None for a shape that they do not cover."""
    axes = [_Forward(window, axis, size) for axis, size in ((0, x.height), (1, x.width))]
    height, width = window.kernel
    taps = height * width
    return _blocked(axes[0].source, axes[1].source, (height, width), x, y, taps, x.channels * taps, continues)


@cache
def blocked_input_gradient(window: Window, dy: Extent, dx: Extent, continues: bool) -> BlockedSums | None:
    """The blocks of the gradient of x from dy (+ dx where it `continues`); None for a shape that they do not cover."""
    axes = [_Backward(window, axis, size) for axis, size in ((0, dy.height), (1, dy.width))]
    height, width = window.kernel
    taps = height * width
    return _blocked(axes[0].source, axes[1].source, (height, width), dy, dx, dx.channels * taps, taps, continues)


@cache
def channels_forward(window: Window, x: Extent, y: Extent, has_bias: bool) -> tuple[Call[ChannelBlock], ...] | None:
    """The blocks of a channel of y = conv(x, w), each being made from one of x; None for a shape without them."""
    axes = [_Forward(window, axis, size) for axis, size in ((0, x.height), (1, x.width))]
    return blocked_channels(axes[0].source, axes[1].source, window.kernel, x, y, has_bias)


@cache
def channels_input_gradient(window: Window, dy: Extent, dx: Extent) -> tuple[Call[ChannelBlock], ...] | None:
    """The blocks of a channel of x's gradient, of which one of y was made; None for a shape without them."""
    axes = [_Backward(window, axis, size) for axis, size in ((0, dy.height), (1, dy.width))]
    return blocked_channels(axes[0].source, axes[1].source, window.kernel, dy, dx, False)


@dataclass(frozen=True)
class _Forward:
    window: Window
    axis: int
    size: int

    def source(self, output: int, tap: int) -> int | None:
        w, a = self.window, self.axis
        at = output * w.strides[a] + tap * w.dilations[a] - w.pads[a]
        return at if 0 <= at < self.size else None


@dataclass(frozen=True)
class _Backward:
    window: Window
    axis: int
    size: int

    def source(self, output: int, tap: int) -> int | None:
        w, a = self.window, self.axis
        at, rest = divmod(output + w.pads[a] - tap * w.dilations[a], w.strides[a])
        return at if rest == 0 and 0 <= at < self.size else None


def _blocked(
    rows: Source,
    columns: Source,
    kernel: tuple[int, int],
    source: Extent,
    target: Extent,
    weight_channel: int,
    weight_output: int,
    continues: bool,
) -> BlockedSums | None:
    if max(source.plane, target.plane) * FLOAT_BYTES >= _LARGEST_PLANE_BYTES or kernel[0] > _MOST_WINDOW_ROWS:
        return None
    found = _row_ranges(rows, kernel[0], target.height)
    if found is None:
        return None
    ranges, window_step, row_step = found
    one_row = all(r.rows == 1 for r in ranges)
    channels_out, most = best_shape(target.channels, target.width, kernel[1], columns, source.channels * kernel[0])
    placed = split_row(target.width, kernel[1], columns, most)
    if any(not p.block.taps for p in placed):
        return None
    longest_step = abs(row_step * source.width) + max(p.block.columns for p in placed)
    if longest_step * FLOAT_BYTES >= _LARGEST_ROW_BYTES:
        return None
    kernels: list[RowSums] = []
    loops: list[ChannelLoop] = []
    first = 0
    step = channels_out
    while first < target.channels:
        while step > target.channels - first:
            step //= 2
        count = (target.channels - first) // step * step
        sums = [
            RowSums(
                p.block,
                step,
                kernel[1],
                source.channels,
                row_step * source.width,
                window_step * kernel[1],
                target.plane,
                one_row,
                continues,
            )
            for p in placed
        ]
        kernels += [s for s in dict.fromkeys(sums) if s not in kernels]
        calls = calls_of((kernels.index(s), p) for s, p in zip(sums, placed, strict=True))
        loops.append(ChannelLoop(first, count, step, tuple(calls)))
        first += count
    return BlockedSums(
        tuple(kernels),
        tuple(loops),
        ranges,
        source,
        target,
        weight_channel,
        weight_output,
        window_step * kernel[1],
        row_step * source.width,
        kernel[1],
    )


def _row_ranges(rows: Source, height: int, outputs: int) -> tuple[tuple[RowRange, ...], int, int] | None:
    """The rows of the window that each row of outputs takes, and the steps between them in window and image.

    None when one takes none, or when the steps differ.
    """
    ranges: list[RowRange] = []
    steps: set[tuple[int, int]] = set()
    for output in range(outputs):
        taken = [(k, at) for k in range(height) if (at := rows(output, k)) is not None]
        if not taken:
            return None
        steps |= {(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(taken)}
        ranges.append(RowRange(taken[0][1], taken[0][0], len(taken)))
    if len(steps) > 1:
        return None
    window_step, row_step = steps.pop() if steps else (1, 1)
    return tuple(ranges), window_step, row_step
