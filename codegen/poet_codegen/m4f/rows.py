"""Sums over rows of taps: what convolutions and their input gradients have in common.

A block is `channels_out` x `outputs` sums in registers. Each takes, for every channel and every row of the window, the
taps of one row. Taps that lie outside the image are left out of the code: a block at an edge is another block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Generic, TypeVar

from poet_codegen.m4f.pipeline import FLOAT_BYTES, REGISTERS, TEMPORARIES, Assembly, register_list

_CHANNELS_OUT = (4, 2, 1)
_MOST_OUTPUTS = 16
_LEAST_STREAM = 2
"""Registers that the inputs stream through."""
_Kernel = TypeVar("_Kernel")


@dataclass(frozen=True)
class Extent:
    """Sizes of one side of a convolution, of one image."""

    channels: int
    """Of one group."""
    height: int
    width: int

    @property
    def plane(self) -> int:
        """Elements of a channel."""
        return self.height * self.width


@dataclass(frozen=True)
class Tap:
    """One product: input column (from the block's first one) x tap of the window's row, added to an output."""

    column: int
    tap: int
    output: int


@dataclass(frozen=True)
class Block:
    """Neighbouring outputs of a row, and the columns that they read."""

    outputs: int
    columns: int
    descending: bool
    """Columns are read from the last to the first, which is the order that the sums take them in."""
    taps: tuple[Tap, ...]
    """In the order of reading."""


@dataclass(frozen=True)
class PlacedBlock:
    """A block of a row: where its outputs and its columns begin."""

    block: Block
    first_output: int
    first_column: int


Source = Callable[[int, int], int | None]
"""(output, tap) -> the column that it reads; None when it is outside the image."""


def split_row(width: int, taps: int, source: Source, most_outputs: int) -> list[PlacedBlock]:
    """A row of outputs as blocks of at most `most_outputs`, as even as can be."""
    count = -(-width // most_outputs)
    bounds = [width * i // count for i in range(count + 1)]
    return [_place(first, end - first, taps, source) for first, end in pairwise(bounds)]


def _place(first: int, outputs: int, taps: int, source: Source) -> PlacedBlock:
    read = [(source(first + p, k), k, p) for p in range(outputs) for k in range(taps)]
    inside = [(column, k, p) for column, k, p in read if column is not None]
    if not inside:
        return PlacedBlock(Block(outputs, 0, False, ()), first, 0)
    low, high = min(c for c, _, _ in inside), max(c for c, _, _ in inside)
    descending = any(a[2] == b[2] and a[1] < b[1] and a[0] > b[0] for a in inside for b in inside)
    inside.sort(key=lambda entry: (-entry[0] if descending else entry[0], entry[1], entry[2]))
    block = Block(outputs, high - low + 1, descending, tuple(Tap(c - low, k, p) for c, k, p in inside))
    return PlacedBlock(block, first, low)


@dataclass(frozen=True)
class Call(Generic[_Kernel]):
    """A micro-kernel, `count` times side by side: where its columns and its outputs begin, and their steps."""

    kernel: _Kernel
    column: int
    output: int
    column_step: int
    output_step: int
    count: int


def calls_of(blocks: Iterable[tuple[_Kernel, PlacedBlock]]) -> Iterator[Call[_Kernel]]:
    """One call for each run of neighbours with the same micro-kernel."""
    for kernel, run in groupby(blocks, key=lambda pair: pair[0]):
        places = [place for _, place in run]
        columns = [p.first_column + (p.block.columns if p.block.descending else 0) for p in places]
        step = columns[1] - columns[0] if len(places) > 1 else 0
        assert columns == [columns[0] + i * step for i in range(len(places))]
        yield Call(kernel, columns[0], places[0].first_output, step, places[0].block.outputs, len(places))


@dataclass(frozen=True)
class RowSums:
    """A micro-kernel: one block's sums over all channels and rows. Strides are in elements."""

    block: Block
    channels_out: int
    window: int
    """Taps of a window's row."""
    channels: int
    """Channels that are summed over."""
    row_step: int
    """From an input row to the next; negative when rows are read from the last to the first."""
    weight_row_step: int
    output_plane: int
    """From an output channel to the next."""
    one_row: bool
    """The window has one row that is always inside: there is no loop over rows."""
    continues: bool
    """Sums start from what the outputs hold."""

    @property
    def stream(self) -> int:
        """Registers that the inputs stream through."""
        return _stream(self.channels_out, self.block.outputs, self.window)

    def lines(self, fused: bool) -> list[str]:
        """The assembly. Operands: x, w0.., y, x_skip, w_skip, channel, and row and rows unless `one_row`.

        x is the first column of the first row (one past the last where columns are read downwards). Unless the sums
        continue, there is start, too: the value that each channel's sums begin with.
        """
        sums = self.channels_out * self.block.outputs
        weights = sums
        inputs = weights + self.channels_out * self.window
        temporaries = range(REGISTERS - TEMPORARIES, REGISTERS)
        asm = Assembly(temporaries, fused)
        if self.continues:
            self._go_on(asm)
        else:
            self._start(asm, weights)
        asm.line(f"mov %[channel], #{self.channels}")
        asm.line("1:")
        if not self.one_row:
            asm.line("mov %[row], %[rows]")
            asm.line("2:")
        for o in range(self.channels_out):
            kind = "!" if self.weight_row_step == self.window else ""
            asm.line(f"vldmia %[w{o}]{kind}, {register_list(weights + o * self.window, self.window)}")
        self._row(asm, weights, inputs)
        step = -self.block.columns if self.block.descending else self.block.columns
        asm.move_pointer("x", (self.row_step - step) * FLOAT_BYTES)
        if self.weight_row_step != self.window:
            for o in range(self.channels_out):
                asm.move_pointer(f"w{o}", self.weight_row_step * FLOAT_BYTES)
        if not self.one_row:
            asm.line("subs %[row], %[row], #1")
            asm.line("bne 2b")
        asm.line("add %[x], %[x], %[x_skip]")
        for o in range(self.channels_out):
            asm.line(f"add %[w{o}], %[w{o}], %[w_skip]")
        asm.line("subs %[channel], %[channel], #1")
        asm.line("bne 1b")
        for o in range(self.channels_out):
            asm.line(f"vstmia %[y], {register_list(o * self.block.outputs, self.block.outputs)}")
            if o < self.channels_out - 1:
                # A plane can be more than an immediate holds, and this register is free by now.
                asm.line(f"movw %[channel], #{self.output_plane * FLOAT_BYTES}")
                asm.line("add %[y], %[y], %[channel]")
        return asm.lines

    def _start(self, asm: Assembly, scratch: int) -> None:
        asm.line(f"vldmia %[start], {register_list(scratch, self.channels_out)}")
        for p in range(self.block.outputs):
            for o in range(self.channels_out):
                asm.line(f"vmov.f32 s{o * self.block.outputs + p}, s{scratch + o}")

    def _go_on(self, asm: Assembly) -> None:
        for o in range(self.channels_out):
            asm.line(f"vldmia %[y], {register_list(o * self.block.outputs, self.block.outputs)}")
            if o < self.channels_out - 1:
                asm.far_step("y", self.output_plane, "channel")
        asm.far_step("y", -(self.channels_out - 1) * self.output_plane, "channel")

    def _row(self, asm: Assembly, weights: int, inputs: int) -> None:
        left = self.block.columns
        while left:
            count = min(self.stream, left)
            first = left - count if self.block.descending else self.block.columns - left
            asm.line(f"{'vldmdb' if self.block.descending else 'vldmia'} %[x]!, {register_list(inputs, count)}")
            for tap in self.block.taps:
                if first <= tap.column < first + count:
                    for o in range(self.channels_out):
                        total = o * self.block.outputs + tap.output
                        asm.add_product(total, inputs + tap.column - first, weights + o * self.window + tap.tap)
            left -= count
        asm.finish_sums()


def _stream(channels_out: int, outputs: int, window: int) -> int:
    return REGISTERS - TEMPORARIES - channels_out * (outputs + window)


def best_shape(channels_out: int, width: int, window: int, source: Source, rounds: int) -> tuple[int, int]:
    """(output channels, outputs) of a block that takes the fewest cycles a product.

    There are so many channels, a row has `width` outputs, and a block takes the taps of `rounds` rows.
    """
    best = (float("inf"), 1, 1)
    for channels in _CHANNELS_OUT:
        if channels > channels_out:
            continue
        for outputs in range(1, min(_MOST_OUTPUTS, width) + 1):
            stream = _stream(channels, outputs, window)
            if stream < _LEAST_STREAM:
                continue
            cycles = products = 0
            for placed in split_row(width, window, source, outputs):
                columns = placed.block.columns
                products += channels * len(placed.block.taps) * rounds
                cycles += rounds * (channels * (1 + window) + columns + -(-columns // stream) + _LOOP_CYCLES)
                cycles += _CALL_CYCLES + 2 * channels * outputs
            best = min(best, ((cycles + 2 * products) / max(products, 1), channels, outputs))
    return best[1], best[2]


_LOOP_CYCLES = 6
"""Pointer steps and the loop's branch, for each row."""
_CALL_CYCLES = 60
"""Of a block, beside the first and the last value of its sums."""
