"""Convolutions of one channel each, and their input gradients: down the image with the weights in registers.

A block is some neighbouring outputs of a few rows. Its input rows are read once for all of these; then the next rows
follow, and so on to the bottom of the image. What lies outside the image is left out of the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

from poet_codegen.m4f.pipeline import (
    FLOAT_BYTES,
    LARGEST_IMMEDIATE,
    REGISTERS,
    TEMPORARIES,
    Assembly,
    register_list,
)
from poet_codegen.m4f.rows import Block, Call, Extent, PlacedBlock, Source, calls_of, split_row

_MOST_ROWS = 4
_MOST_OUTPUTS = 16
_LEAST_STREAM = 2
_MOST_CODE_BYTES = 8192
_FREE = REGISTERS - TEMPORARIES


@dataclass(frozen=True)
class _ReadRow:
    """A row of the input, and what it is multiplied for."""

    step: int
    """Rows from the one before."""
    taps: tuple[tuple[int, int], ...]
    """(row of outputs, row of the window)."""


@dataclass(frozen=True)
class _Rows:
    """Some rows of outputs, `repeat` times one below the other."""

    outputs: int
    first: int
    """Input row that is read first, of the first time."""
    advance: int
    """Input rows from one time to the next."""
    read: tuple[_ReadRow, ...]
    repeat: int


@dataclass(frozen=True)
class ChannelBlock:
    """A micro-kernel: a column of outputs of one channel."""

    block: Block
    rows: tuple[_Rows, ...]
    window: tuple[int, int]
    source: Extent
    target: Extent
    has_bias: bool

    @property
    def _sums(self) -> int:
        return max(rows.outputs for rows in self.rows) * self.block.outputs

    @property
    def _taps(self) -> int:
        return self.window[0] * self.window[1]

    @property
    def _stream(self) -> int:
        """Registers that the inputs stream through; one more holds what sums start with."""
        return min(_FREE - self._sums - self._taps - 1, self.block.columns)

    def fits(self) -> bool:
        """Registers and immediates are enough, and every sum has a product."""
        tallest = max(abs(read.step) for rows in self.rows for read in rows.read) + 1
        height = max(sum(abs(read.step) for read in rows.read) + abs(rows.advance) for rows in self.rows)
        reach = (tallest + height) * self.source.width + self.block.columns
        covered = {tap.output for tap in self.block.taps}
        return (
            self._stream >= min(_LEAST_STREAM, self.block.columns)
            and max(reach, self.target.width) * FLOAT_BYTES < LARGEST_IMMEDIATE
            and len(covered) == self.block.outputs
        )

    def cost(self) -> tuple[int, int]:
        """(modelled cycles of one channel, bytes of code)."""
        cycles, code = _CALL_CYCLES + self._taps, 0
        for rows in self.rows:
            products = len(self.block.taps) * sum(len(read.taps) for read in rows.read)
            loads = len(rows.read) * (self.block.columns - (-self.block.columns // self._stream) + 1)
            cycles += rows.repeat * (2 * products + loads + rows.outputs * (self.block.outputs + 2) + _LOOP_CYCLES)
            code += 8 * products + 4 * loads
        return cycles, code

    def lines(self, fused: bool) -> list[str]:
        """The assembly. Operands: x, w, y, count, and start with a bias.

        x is the first column of the channel (one past the last where columns are read downwards).
        """
        asm = Assembly(range(_FREE, REGISTERS), fused)
        weights, start = self._sums, self._sums + self._taps
        asm.line(f"vldmia %[w], {register_list(weights, self._taps)}")
        if self.has_bias:
            asm.line(f"vldr s{start}, [%[start]]")
        else:
            asm.line("mov %[count], #0")
            asm.line(f"vmov s{start}, %[count]")
        row = 0
        for number, rows in enumerate(self.rows):
            asm.far_step("x", (rows.first - row) * self.source.width, "count")
            if rows.repeat > 1:
                asm.line(f"movw %[count], #{rows.repeat}")
                asm.line(f"{number + 1}:")
            self._group(asm, rows)
            last = rows.first + sum(read.step for read in rows.read)
            if rows.repeat > 1:
                asm.move_pointer("x", (rows.first + rows.advance - last) * self.source.width * FLOAT_BYTES)
                asm.line("subs %[count], %[count], #1")
                asm.line(f"bne {number + 1}b")
                last = rows.first + rows.advance * rows.repeat
            row = last
        return asm.lines

    def _group(self, asm: Assembly, rows: _Rows) -> None:
        block, width = self.block, self.window[1]
        weights, start = self._sums, self._sums + self._taps
        inputs = start + 1
        begun: set[int] = set()
        back = block.columns if block.descending else -block.columns
        for position, read in enumerate(rows.read):
            if position:
                asm.move_pointer("x", (read.step * self.source.width + back) * FLOAT_BYTES)
            for first, count in self._chunks():
                asm.line(f"{'vldmdb' if block.descending else 'vldmia'} %[x]!, {register_list(inputs, count)}")
                for tap in block.taps:
                    if not first <= tap.column < first + count:
                        continue
                    for output_row, window_row in read.taps:
                        total = output_row * block.outputs + tap.output
                        factors = inputs + tap.column - first, weights + window_row * width + tap.tap
                        if total in begun:
                            asm.add_product(total, *factors)
                        else:
                            asm.start_sum(total, *factors, start)
                            begun.add(total)
        asm.finish_sums()
        asm.move_pointer("x", back * FLOAT_BYTES)
        for r in range(rows.outputs):
            asm.line(f"vstmia %[y], {register_list(r * block.outputs, block.outputs)}")
            asm.line(f"addw %[y], %[y], #{self.target.width * FLOAT_BYTES}")

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """(first column, columns) of each load, in the order of reading."""
        left = self.block.columns
        parts = -(-left // self._stream)
        for part in range(parts):
            count = -(-left // (parts - part))
            yield (left - count if self.block.descending else self.block.columns - left), count
            left -= count


def blocked_channels(
    rows: Source, columns: Source, window: tuple[int, int], source: Extent, target: Extent, has_bias: bool
) -> tuple[Call[ChannelBlock], ...] | None:
    """The blocks of a channel, from left to right; None for a shape that they do not cover."""
    best: tuple[int, list[tuple[ChannelBlock, PlacedBlock]]] | None = None
    for height in range(1, min(_MOST_ROWS, target.height) + 1):
        groups = _row_groups(rows, window[0], target.height, height)
        if groups is None:
            continue
        for outputs in range(1, min(_MOST_OUTPUTS, target.width) + 1):
            placed = split_row(target.width, window[1], columns, outputs)
            blocks = [ChannelBlock(p.block, groups, window, source, target, has_bias) for p in placed]
            if not all(block.block.taps and block.fits() for block in blocks):
                continue
            costs = {block: block.cost() for block in blocks}
            cycles = sum(costs[block][0] for block in blocks)
            if sum(code for _, code in costs.values()) > _MOST_CODE_BYTES:
                continue
            if best is None or cycles < best[0]:
                best = (cycles, list(zip(blocks, placed, strict=True)))
    return None if best is None else tuple(calls_of(best[1]))


def _row_groups(rows: Source, window_rows: int, extent: int, height: int) -> tuple[_Rows, ...] | None:
    """Rows of outputs, `height` at a time; None where one has no product, or sums would take rows out of order."""
    single: list[_Rows] = []
    for first in range(0, extent, height):
        outputs = min(height, extent - first)
        taken: dict[int, list[tuple[int, int]]] = {}
        order: list[list[int]] = []
        for r in range(outputs):
            met = [(at, k) for k in range(window_rows) if (at := rows(first + r, k)) is not None]
            if not met:
                return None
            order.append([at for at, _ in met])
            for at, k in met:
                taken.setdefault(at, []).append((r, k))
        descending = any(later < earlier for ats in order for earlier, later in pairwise(ats))
        read = sorted(taken, reverse=descending)
        if any(ats != sorted(ats, reverse=descending) for ats in order):
            return None
        steps = [0, *(b - a for a, b in pairwise(read))]
        reads = tuple(_ReadRow(step, tuple(taken[at])) for step, at in zip(steps, read, strict=True))
        single.append(_Rows(outputs, read[0], 0, reads, 1))
    return tuple(_merged(single))


def _merged(single: list[_Rows]) -> Iterator[_Rows]:
    for _, run in groupby(single, key=lambda rows: (rows.outputs, rows.read)):
        same = list(run)
        advances = {b.first - a.first for a, b in pairwise(same)}
        if len(advances) > 1:
            yield from same
        else:
            first = same[0]
            yield _Rows(first.outputs, first.first, advances.pop() if advances else 0, first.read, len(same))


_CALL_CYCLES = 30
_LOOP_CYCLES = 5
