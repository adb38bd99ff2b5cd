"""Matrix products in blocks of rows x columns, with the sums in registers.

y[r][c] = start + sum over k of a(r, k) * b(k, c), k ascending. Fully connected layers, 1x1 convolutions, their
gradients and MatMul are such products; they differ in how a and b lie in memory and in where a sum starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from poet_codegen.m4f.pipeline import (
    FLOAT_BYTES,
    LARGEST_IMMEDIATE,
    REGISTERS,
    TEMPORARIES,
    Assembly,
    register_list,
)

_MOST_CORE_REGISTERS = 11
"""That a block's operands take: what is left of 16 beside those that the compiler keeps for the loops."""
_MOST_INLINED_CORE_REGISTERS = 10
"""With more, the compiler may find no registers in the midst of loops: such a block is a function of its own."""
_MOST_LOOP_BYTES = 1024
"""Of a loop's body: an STM32F4 fetches that much without waiting for its flash."""
_MOST_BODY_BYTES = 2048
_COMPACT_BYTES = 384
_LARGEST_OFFSET = 1020
"""Bytes that a load or store of one register reaches from its pointer."""
_FREE = REGISTERS - TEMPORARIES


class Start(StrEnum):
    """What the sums begin with."""

    ZERO = "zero"
    ROW = "row"  # a value for each row of y
    COLUMN = "column"  # a value for each column of y
    TARGET = "target"  # what y holds
    PRODUCT = "product"  # their first product: there is no zero that would make -0 of it 0


class End(StrEnum):
    """Where the sums go."""

    STORE = "store"  # into y
    BUFFER = "buffer"  # one after the other into a buffer
    SGD = "sgd"  # y -= learning rate * sum


@dataclass(frozen=True)
class Operand:
    """How a factor lies in memory. Steps are in elements."""

    along: bool
    """Neighbours in memory follow each other in k; else in the row of a, the column of b."""
    step: int
    """From a row of a (a column of b) to the next where `along`, else from a k to the next."""
    stride: int = 1
    """From a column to the next where not `along`."""
    image: int = 0
    """Where sums go on over several images: from one to the next."""

    def offset(self, position: str) -> str:
        """C: elements to the row of a, or the column of b, that `position` stands for."""
        step = self.step if self.along else self.stride
        return position if step == 1 else f"{position} * {step}"


@dataclass(frozen=True)
class Product:
    """A [rows, depth] x [depth, columns] product."""

    rows: int
    columns: int
    depth: int
    a: Operand
    b: Operand
    y_step: int
    """From a row of y to the next."""
    start: Start = Start.ZERO
    end: End = End.STORE
    images: int = 1
    """The sums go on over so many pairs of a and b."""
    y_stride: int = 1
    """From a column of y to the next, where sums are stored."""
    compact: bool = False
    """Little code counts more than cycles."""


@dataclass(frozen=True)
class ProductBlock:
    """A micro-kernel: `rows` x `columns` sums of a product."""

    product: Product
    rows: int
    columns: int
    unroll: int
    """How many k a load of a's row (or of b's column) brings."""
    repeat: int
    """How many such loads a round of the loop has."""

    @property
    def _sums(self) -> int:
        return self.rows * self.columns

    @property
    def _starts(self) -> int:
        """Registers that hold what sums start with, until their first product is added."""
        return {Start.ZERO: 1, Start.ROW: self.rows, Start.COLUMN: self.columns}.get(self.product.start, 0)

    @property
    def _stream(self) -> int:
        """Registers that b streams through."""
        return self.unroll if self.product.b.along else min(self.columns, self._room)

    @property
    def _room(self) -> int:
        return _FREE - self._sums - self.rows * self.unroll

    @property
    def _first_adds_start(self) -> bool:
        """The first product is added to the start at once, without a copy of that in every sum."""
        if self.product.start in (Start.PRODUCT, Start.TARGET):
            return self.product.start is Start.PRODUCT
        return self._rounds == 0 and self.product.images == 1 and self._room - self._stream >= self._starts

    @property
    def _rounds(self) -> int:
        """Of the loop; 0 where the code is straight."""
        first = 1 if self.product.start is Start.PRODUCT else 0
        rounds = (self.product.depth - first) // (self.unroll * self.repeat)
        return rounds if rounds > 1 else 0

    def fits(self) -> bool:
        """Registers and code are enough."""
        product = self.product
        if self.columns * self.rows > _FREE or self._room < (self.unroll if product.b.along else min(2, self.columns)):
            return False
        if len(self.operands) > _MOST_CORE_REGISTERS:
            return False
        if (self.columns - 1) * max(product.b.stride, product.y_stride) * FLOAT_BYTES > _LARGEST_OFFSET:
            return False
        loop = self.unroll * self.repeat if self._rounds else 0
        straight = product.depth - loop * self._rounds
        code = self._sums * 8
        most = (_COMPACT_BYTES, _COMPACT_BYTES) if product.compact else (_MOST_LOOP_BYTES, _MOST_BODY_BYTES)
        return loop * code <= most[0] and (loop + straight) * code <= most[1]

    def cycles(self) -> float:
        """Modelled, of one block."""
        product = self.product
        a = (1 + self.unroll) / self.unroll * self.rows if product.a.along else 2.0 + self.rows
        if product.b.along:
            b = (1 + self.unroll) / self.unroll * self.columns
        else:
            single = product.b.stride > 1
            b = 2.0 * self.columns + 1.0 if single else self.columns - (-self.columns // self._stream) + 1.0
        cycles = product.depth * (2 * self._sums + a + b) + 4 * self._rounds
        if product.start is Start.PRODUCT:
            cycles -= self._sums
        elif product.start is Start.TARGET:
            cycles += self._sums * min(product.y_stride, 2) + 2 * self.rows
        elif not self._first_adds_start:
            cycles += self._sums
        cycles = product.images * (cycles + (len(self.pointers) + 6 if product.images > 1 else 0))
        ends = {
            End.STORE: self._sums * min(product.y_stride, 2) + 2 * self.rows,
            End.BUFFER: 1 + self._sums,
            End.SGD: 4 * self._sums + 4 * self.rows,
        }
        return cycles + ends[product.end] + 14 + 2 * len(self.pointers)

    @property
    def code_bytes(self) -> int:
        """Of its products."""
        loop = self.unroll * self.repeat if self._rounds else 0
        return (loop + self.product.depth - loop * self._rounds) * self._sums * 8

    @property
    def pointers(self) -> tuple[tuple[str, str, int], ...]:
        """(name, operand, elements from its start) of what walks through a and b."""
        found = []
        for name, operand, count in (("a", self.product.a, self.rows), ("b", self.product.b, self.columns)):
            found += [(f"{name}{i}", name, i * operand.step) for i in range(count if operand.along else 1)]
        return tuple(found)

    @property
    def operands(self) -> tuple[str, ...]:
        """The assembly's operands in core registers, written and read ones."""
        written = [name for name, _, _ in self.pointers] + ["y", "count"] + ["image"] * (self.product.images > 1)
        return (*written, *self.inputs)

    @property
    def is_inlined(self) -> bool:
        """Whether the block's code stands in the loops over blocks."""
        return len(self.operands) <= _MOST_INLINED_CORE_REGISTERS

    @property
    def inputs(self) -> tuple[str, ...]:
        """Operands that the assembly only reads, as C has them."""
        product = self.product
        found = ['[start] "r"(start)'] if product.start in (Start.ROW, Start.COLUMN) else []
        found += ['[rate] "r"(rate)'] if product.end is End.SGD else []
        found += [f'[a_move] "r"({self.a_move})'] if self.a_move else []
        found += [f'[b_move] "r"({self.b_move})'] if self.b_move else []
        return tuple(found)

    @property
    def a_move(self) -> int:
        """Bytes from the end of a row of a's memory to the next, where that needs a register; else 0."""
        return _far(self.product.a, self.rows)

    @property
    def b_move(self) -> int:
        """The same of b."""
        return _far(self.product.b, self.columns)

    def lines(self, fused: bool) -> list[str]:
        """The assembly. Operands: those of `operands`; y is where sums go, start what the first of them begins with."""
        product = self.product
        asm = Assembly(range(REGISTERS - TEMPORARIES, REGISTERS), fused)
        starts = self._load_start(asm)
        at = 0
        first = starts if self._first_adds_start else None
        if product.images > 1:
            asm.line(f"movw %[image], #{product.images}")
            asm.line("3:")
        if product.start is Start.PRODUCT:
            self._round(asm, 1, ())
            at, first = 1, None
        if self._rounds:
            asm.line(f"movw %[count], #{self._rounds}")
            asm.line("1:")
            for _ in range(self.repeat):
                self._round(asm, self.unroll, None)
            asm.line("subs %[count], %[count], #1")
            asm.line("bne 1b")
            at += self._rounds * self.repeat * self.unroll
        while at < product.depth:
            step = min(self.unroll, product.depth - at)
            self._round(asm, step, first)
            at, first = at + step, None
        if product.images > 1:
            for name, operand, _ in self.pointers:
                side = product.a if operand == "a" else product.b
                asm.far_step(name, side.image - product.depth * (1 if side.along else side.step), "count")
            asm.line("subs %[image], %[image], #1")
            asm.line("bne 3b")
        self._end(asm)
        return asm.lines

    def _load_start(self, asm: Assembly) -> tuple[int, ...]:
        """Load what sums start with. The register of each sum's start, or nothing where the sums hold it already."""
        start = self.product.start
        if start is Start.PRODUCT:
            return ()
        if start is Start.TARGET:
            for r in range(self.rows):
                self._row_of_sums(asm, "ld", r)
                if r + 1 < self.rows:
                    asm.far_step("y", self.product.y_step, "count")
            asm.far_step("y", -(self.rows - 1) * self.product.y_step, "count")
            return ()
        first = _FREE - self._starts
        if start is Start.ZERO:
            asm.line("mov %[count], #0")
            asm.line(f"vmov s{first}, %[count]")
            of = [first] * self._sums
        else:
            asm.line(f"vldmia %[start], {register_list(first, self._starts)}")
            rows = start is Start.ROW
            of = [first + (r if rows else c) for r in range(self.rows) for c in range(self.columns)]
        if not self._first_adds_start:
            # Where a start lies in a sum's register it is copied last.
            order = sorted(range(self._sums), key=lambda total: total in of)
            for total in order:
                if total != of[total]:
                    asm.line(f"vmov.f32 s{total}, s{of[total]}")
            return ()
        return tuple(of)

    def _round(self, asm: Assembly, depth: int, first: tuple[int, ...] | None) -> None:
        """Products of `depth` k. With `first`, those of the first k start the sums, from these registers if any."""
        a, b = self.product.a, self.product.b
        a0 = self._sums
        b0 = a0 + self.rows * self.unroll

        def a_register(r: int, k: int) -> int:
            return a0 + (r * self.unroll + k if a.along else k * self.rows + r)

        def add(r: int, c: int, k: int, b_register: int) -> None:
            total = r * self.columns + c
            if first is not None and k == 0:
                asm.start_sum(total, a_register(r, k), b_register, first[total] if first else None)
            else:
                asm.add_product(total, a_register(r, k), b_register)

        if a.along:
            for r in range(self.rows):
                asm.line(f"vldmia %[a{r}]!, {register_list(a_register(r, 0), depth)}")
        elif b.along:
            for k in range(depth):
                self._load_across(asm, "a", a_register(0, k), self.rows)
        if b.along:
            for c in range(self.columns):
                asm.line(f"vldmia %[b{c}]!, {register_list(b0, depth)}")
                for k in range(depth):
                    for r in range(self.rows):
                        add(r, c, k, b0 + k)
        else:
            for k in range(depth):
                if not a.along:
                    self._load_across(asm, "a", a_register(0, k), self.rows)
                for begin, count in _chunks(self.columns, self._stream):
                    if begin + count == self.columns:
                        self._load_across(asm, "b", b0, count)
                    else:
                        self._load_some(asm, "b", b0, begin, count)
                    for c in range(count):
                        for r in range(self.rows):
                            add(r, begin + c, k, b0 + c)
        asm.finish_sums()

    def _load_some(self, asm: Assembly, name: str, register: int, begin: int, count: int) -> None:
        """Some registers of a row of memory; the pointer goes along where they are neighbours."""
        stride = (self.product.a if name == "a" else self.product.b).stride
        if stride == 1:
            asm.line(f"vldmia %[{name}0]!, {register_list(register, count)}")
            return
        for i in range(count):
            asm.line(f"vldr s{register + i}, [%[{name}0], #{(begin + i) * stride * FLOAT_BYTES}]")

    def _load_across(self, asm: Assembly, name: str, register: int, count: int) -> None:
        """The last registers of a row of memory, and the step to the next row."""
        operand, whole, move = (
            (self.product.a, self.rows, self.a_move) if name == "a" else (self.product.b, self.columns, self.b_move)
        )
        self._load_some(asm, name, register, whole - count, count)
        if move:
            asm.line(f"add %[{name}0], %[{name}0], %[{name}_move]")
        else:
            asm.move_pointer(f"{name}0", (operand.step - (whole if operand.stride == 1 else 0)) * FLOAT_BYTES)

    def _end(self, asm: Assembly) -> None:
        product = self.product
        if product.end is End.BUFFER:
            asm.line(f"vstmia %[y], {register_list(0, self._sums)}")
            return
        if product.end is End.SGD:
            asm.line(f"vldr s{REGISTERS - 1}, [%[rate]]")
        for r in range(self.rows):
            if product.end is End.SGD:
                self._descend(asm, r)
            else:
                self._row_of_sums(asm, "st", r)
            if r + 1 < self.rows:
                asm.far_step("y", product.y_step, "count")

    def _row_of_sums(self, asm: Assembly, do: str, r: int) -> None:
        """Load ('ld') or store ('st') a row of sums."""
        stride = self.product.y_stride
        if stride == 1:
            asm.line(f"v{do}mia %[y], {register_list(r * self.columns, self.columns)}")
            return
        for c in range(self.columns):
            asm.line(f"v{do}r s{r * self.columns + c}, [%[y], #{c * stride * FLOAT_BYTES}]")

    def _descend(self, asm: Assembly, r: int) -> None:
        """y -= rate * sum for a row: the product is rounded, then the difference, as in C."""
        free = REGISTERS - 1 - self._sums
        chunks = _chunks(self.columns, free)
        for begin, count in chunks:
            sums = range(r * self.columns + begin, r * self.columns + begin + count)
            kind = "!" if len(chunks) > 1 else ""
            asm.line(f"vldmia %[y], {register_list(self._sums, count)}")
            for total in sums:
                asm.line(f"vmul.f32 s{total}, s{total}, s{REGISTERS - 1}")
            for i, total in enumerate(sums):
                asm.line(f"vsub.f32 s{self._sums + i}, s{self._sums + i}, s{total}")
            asm.line(f"vstmia %[y]{kind}, {register_list(self._sums, count)}")
        if len(chunks) > 1:
            asm.move_pointer("y", -self.columns * FLOAT_BYTES)


def _chunks(count: int, most: int) -> list[tuple[int, int]]:
    """(first, count) of parts of at most `most`, as even as can be."""
    parts = -(-count // most)
    bounds = [count * i // parts for i in range(parts + 1)]
    return [(bounds[i], bounds[i + 1] - bounds[i]) for i in range(parts)]


def _far(operand: Operand, loaded: int) -> int:
    move = (operand.step - (loaded if operand.stride == 1 else 0)) * FLOAT_BYTES
    return move if not operand.along and move >= LARGEST_IMMEDIATE else 0
