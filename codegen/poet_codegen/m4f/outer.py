"""Products of a column and a row, which the weight gradient of a fully connected layer is for one image.

A block keeps some of the row in registers while all of the column goes by: y[r][c] = a[r] * b[c], or SGD's step by
that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from poet_codegen.m4f.pipeline import FLOAT_BYTES, LARGEST_IMMEDIATE, REGISTERS, Assembly, register_list, two_sizes
from poet_codegen.m4f.products import End

_AHEAD = 3
"""Registers for products on their way through SGD's step."""
_MOST_ROWS = 65535
_MOST_STEP = 1 << 24
_LOADED = (4, 3, 2, 1)


@dataclass(frozen=True)
class OuterBlock:
    """A micro-kernel: `columns` columns of all rows."""

    rows: int
    columns: int
    y_step: int
    """Elements from a row of y to the next."""
    end: End
    loaded: int
    """Elements of a that are loaded at once."""

    def fits(self) -> bool:
        """Registers are enough."""
        return self._first_free <= REGISTERS

    @property
    def _first_free(self) -> int:
        return 2 * self.columns + self.loaded + (_AHEAD + 1 if self.end is End.SGD else 0)

    def cycles(self) -> float:
        """Modelled, of all rows."""
        row = 5 * self.columns + 4 if self.end is End.SGD else 2 * self.columns + 2
        return self.rows * (row + (1 + self.loaded + 4) / self.loaded) + _CALL_CYCLES

    @property
    def far_step(self) -> int:
        """Bytes between rows where an immediate does not hold them, else 0."""
        size = self.y_step * FLOAT_BYTES
        return size if size >= LARGEST_IMMEDIATE else 0

    def lines(self) -> list[str]:
        """The assembly. Operands: a, b, y, count; rate for SGD, y_step where it is far."""
        asm = Assembly(())
        asm.line(f"vldmia %[b], {register_list(0, self.columns)}")
        if self.end is End.SGD:
            asm.line(f"vldr s{REGISTERS - 1}, [%[rate]]")
        self._step(asm, "sub")
        rounds, rest = divmod(self.rows, self.loaded)
        if rounds > 1:
            asm.line(f"movw %[count], #{rounds}")
            asm.line("1:")
        if rounds:
            self._round(asm, self.loaded)
        if rounds > 1:
            asm.line("subs %[count], %[count], #1")
            asm.line("bne 1b")
        if rest:
            self._round(asm, rest)
        return asm.lines

    def _step(self, asm: Assembly, operation: str) -> None:
        if self.far_step:
            asm.line(f"{operation} %[y], %[y], %[y_step]")
        else:
            asm.line(f"{operation}w %[y], %[y], #{self.y_step * FLOAT_BYTES}")

    def _round(self, asm: Assembly, rows: int) -> None:
        target, factors = self.columns, 2 * self.columns
        asm.line(f"vldmia %[a]!, {register_list(factors, rows)}")
        for r in range(rows):
            if self.end is End.SGD:
                self._step(asm, "add")
                asm.line(f"vldmia %[y], {register_list(target, self.columns)}")
                asm.lines += _descend(self.columns, factors + r, target, factors + self.loaded)
            else:
                for c in range(self.columns):
                    asm.line(f"vmul.f32 s{target + c}, s{factors + r}, s{c}")
                # Between the last product and the store, which would wait for it.
                self._step(asm, "add")
            asm.line(f"vstmia %[y], {register_list(target, self.columns)}")


def _descend(columns: int, factor: int, target: int, ahead: int) -> Iterator[str]:
    """target -= rate * (factor * column): both products are rounded, as in C, and none is waited for."""
    for i in range(columns + 2):
        if i < columns:
            yield f"vmul.f32 s{ahead + i % _AHEAD}, s{factor}, s{i}"
        if 0 <= i - 1 < columns:
            at = ahead + (i - 1) % _AHEAD
            yield f"vmul.f32 s{at}, s{REGISTERS - 1}, s{at}"
        if i >= 2:
            yield f"vsub.f32 s{target + i - 2}, s{target + i - 2}, s{ahead + (i - 2) % _AHEAD}"


@dataclass(frozen=True)
class OuterCall:
    """A micro-kernel, for columns [first, first + count) a block at a time."""

    kernel: OuterBlock
    first: int
    count: int


@cache
def blocked_outer(rows: int, columns: int, end: End) -> tuple[OuterCall, ...] | None:
    """The blocks of a [rows] x [columns] product, y being dense; None for a shape or an end that they do not cover."""
    if end is End.BUFFER or rows > _MOST_ROWS or columns >= _MOST_STEP:
        return None
    best: tuple[float, list[tuple[OuterBlock, int]]] | None = None
    for parts in two_sizes(columns, REGISTERS):
        plan = []
        for width, times in parts:
            blocks = [OuterBlock(rows, width, columns, end, loaded) for loaded in _LOADED]
            fitting = [block for block in blocks if block.fits()]
            if fitting:
                plan.append((min(fitting, key=OuterBlock.cycles), times))
        cycles = sum(block.cycles() * times for block, times in plan) * (1.0 + _KERNEL_PENALTY * len(plan))
        if len(plan) == len(parts) and (best is None or cycles < best[0]):
            best = (cycles, plan)
    assert best is not None
    calls, first = [], 0
    for block, times in best[1]:
        calls.append(OuterCall(block, first, times * block.columns))
        first += times * block.columns
    return tuple(calls)


_CALL_CYCLES = 15
_KERNEL_PENALTY = 0.005
"""What a micro-kernel more is thought to cost, as a share of all cycles."""
