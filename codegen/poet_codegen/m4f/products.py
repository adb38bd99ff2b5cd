"""Matrix products and fully connected layers: blocks of rows x columns, with the sums in registers.

y[r][c] = start[c] + sum over k of a[r][k] * b(k, c), k ascending. b is read along k where its columns lie in rows of
memory (`along_depth`), else along c.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from poet_codegen.m4f.pipeline import REGISTERS, TEMPORARIES, Assembly, register_list
from poet_codegen.m4f.rows import FLOAT_BYTES

_ROWS = (4, 2, 1)
_MOST_COLUMNS = 20
_MOST_POINTERS = 9
_DEPTHS = (8, 6, 4, 3, 2, 1)
_LARGEST_STEP_BYTES = 4096


@dataclass(frozen=True)
class ProductBlock:
    """A micro-kernel. Steps are in elements."""

    rows: int
    columns: int
    depth: int
    """Products of a sum."""
    unroll: int
    """How many of them a round of the loop takes."""
    along_depth: bool
    b_step: int
    """From a row of b in memory to the next."""
    y_step: int
    """From a row of y to the next."""
    has_start: bool

    def fits(self) -> bool:
        """Registers, pointers and immediates are enough."""
        pointers = self.rows + (self.columns if self.along_depth else 1)
        near = self.along_depth or self.b_step * FLOAT_BYTES < _LARGEST_STEP_BYTES
        return self._registers() <= REGISTERS - TEMPORARIES and pointers <= _MOST_POINTERS and near

    def _registers(self) -> int:
        sums = self.rows * self.columns
        loaded = self.unroll if self.along_depth else self.columns
        return sums + self.rows * self.unroll + loaded

    def cycles(self) -> float:
        """Of a round, for each product."""
        a = self.rows * (1 + self.unroll)
        b = self.columns * (1 + self.unroll) if self.along_depth else self.unroll * (2 + self.columns)
        products = self.rows * self.columns * self.unroll
        return (2 * products + a + b + _LOOP_CYCLES) / products

    @property
    def pointers(self) -> tuple[str, ...]:
        """Names of the operands that walk through a and b."""
        b = tuple(f"b{c}" for c in range(self.columns)) if self.along_depth else ("b0",)
        return (*(f"a{r}" for r in range(self.rows)), *b)

    def lines(self) -> list[str]:
        """The assembly. Operands: a0.., b0.., y, count, and start where the sums have one."""
        sums = self.rows * self.columns
        asm = Assembly(range(REGISTERS - TEMPORARIES, REGISTERS))
        if self.has_start:
            asm.line(f"vldmia %[start], {register_list(0, self.columns)}")
        else:
            asm.line("mov %[count], #0")
            asm.line("vmov s0, %[count]")
            for c in range(1, self.columns):
                asm.line(f"vmov.f32 s{c}, s0")
        for r in range(1, self.rows):
            for c in range(self.columns):
                asm.line(f"vmov.f32 s{r * self.columns + c}, s{c}")
        rounds, rest = divmod(self.depth, self.unroll)
        if rounds > 1:
            asm.line(f"movw %[count], #{rounds}")
            asm.line("1:")
        if rounds:
            self._round(asm, sums, self.unroll)
        if rounds > 1:
            asm.line("subs %[count], %[count], #1")
            asm.line("bne 1b")
        if rest:
            self._round(asm, sums, rest)
        for r in range(self.rows):
            asm.line(f"vstmia %[y], {register_list(r * self.columns, self.columns)}")
            if r + 1 < self.rows:
                asm.line(f"movw %[count], #{self.y_step * FLOAT_BYTES}")
                asm.line("add %[y], %[y], %[count]")
        return asm.lines

    def _round(self, asm: Assembly, sums: int, depth: int) -> None:
        b = sums + self.rows * self.unroll
        for r in range(self.rows):
            asm.line(f"vldmia %[a{r}]!, {register_list(sums + r * self.unroll, depth)}")
        if self.along_depth:
            for c in range(self.columns):
                asm.line(f"vldmia %[b{c}]!, {register_list(b, depth)}")
                for k in range(depth):
                    for r in range(self.rows):
                        asm.add_product(r * self.columns + c, sums + r * self.unroll + k, b + k)
        else:
            for k in range(depth):
                asm.line(f"vldmia %[b0], {register_list(b, self.columns)}")
                for c in range(self.columns):
                    for r in range(self.rows):
                        asm.add_product(r * self.columns + c, sums + r * self.unroll + k, b + c)
                asm.move_pointer("b0", self.b_step * FLOAT_BYTES)
        asm.finish_sums()


@dataclass(frozen=True)
class ProductCall:
    """A micro-kernel, for columns [first, first + count) a block at a time."""

    kernel: int
    first: int
    count: int


@dataclass(frozen=True)
class ProductRows:
    """Rows [first, first + count), `step` at a time, and the micro-kernels that their columns take."""

    first: int
    count: int
    step: int
    calls: tuple[ProductCall, ...]


@dataclass(frozen=True)
class BlockedProduct:
    """All that the template needs."""

    kernels: tuple[ProductBlock, ...]
    rows: tuple[ProductRows, ...]
    source_step: int
    """Elements of a, of b and of y: from one product to the next."""
    weight_step: int
    target_step: int


@cache
def blocked_product(rows: int, columns: int, depth: int, along_depth: bool, has_start: bool) -> BlockedProduct | None:
    """The blocks of a [rows, depth] x [depth, columns] product; b is [columns, depth] in memory if `along_depth`.

    None for a shape that they do not cover.
    """
    b_step = depth if along_depth else columns
    if max(columns, depth) * FLOAT_BYTES >= 1 << 16:
        return None
    kernels: list[ProductBlock] = []
    loops: list[ProductRows] = []
    first = 0
    while first < rows:
        best = _best(rows - first, columns, depth, along_depth, b_step, columns, has_start)
        if best is None:
            return None
        step, blocks = best
        calls = []
        for block, at, count in blocks:
            if block not in kernels:
                kernels.append(block)
            calls.append(ProductCall(kernels.index(block), at, count))
        count = (rows - first) // step * step
        loops.append(ProductRows(first, count, step, tuple(calls)))
        first += count
    return BlockedProduct(tuple(kernels), tuple(loops), rows * depth, depth * columns, rows * columns)


def _best(
    rows: int, columns: int, depth: int, along_depth: bool, b_step: int, y_step: int, has_start: bool
) -> tuple[int, list[tuple[ProductBlock, int, int]]] | None:
    best: tuple[float, int, list[tuple[ProductBlock, int, int]]] | None = None
    for step in _ROWS:
        if step > rows:
            continue
        blocks: list[tuple[ProductBlock, int, int]] = []
        at, cycles = 0, 0.0
        while at < columns:
            found = [
                ProductBlock(step, width, depth, unroll, along_depth, b_step, y_step, has_start)
                for width in range(1, min(_MOST_COLUMNS, columns - at) + 1)
                for unroll in _DEPTHS
                if unroll <= depth
            ]
            fitting = [block for block in found if block.fits()]
            if not fitting:
                break
            # A width that divides what is left needs no second micro-kernel.
            block = min(
                fitting, key=lambda b: (b.cycles() + (_REST if (columns - at) % b.columns else 0.0), -b.columns)
            )
            count = (columns - at) // block.columns * block.columns
            blocks.append((block, at, count))
            cycles += block.cycles() * count
            at += count
        if at == columns and (best is None or cycles < best[0]):
            best = (cycles, step, blocks)
    return None if best is None else best[1:]


_LOOP_CYCLES = 4
_REST = 0.1
"""Cycles a product that a micro-kernel more is thought to be worth."""
