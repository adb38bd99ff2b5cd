"""Assembly text of multiply-adds that never wait: VMUL and VADD of different sums interleaved.

On the Cortex-M4F an instruction that reads the result of the floating-point instruction before it waits a cycle, and a
fused VFMA takes three, so that VMUL and VADD with another product between them are the fastest way to add a product
(2 cycles), and one that gives the bits of C without contraction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

FLOAT_BYTES = 4
REGISTERS = 32
"""Single-precision registers of the FPU."""
TEMPORARIES = 2
"""Registers for products that are still to be added."""
LARGEST_IMMEDIATE = 4096
"""Bytes that adding to a pointer needs a register for."""
_DEPTH = 2


def register_list(first: int, count: int) -> str:
    """s4-s7, in braces."""
    return f"{{s{first}}}" if count == 1 else f"{{s{first}-s{first + count - 1}}}"


def two_sizes(extent: int, most: int) -> Iterator[list[tuple[int, int]]]:
    """All ways to cut an extent into parts of one or two sizes: (size, how many)."""
    for large in range(1, min(most, extent) + 1):
        count, rest = divmod(extent, large)
        if rest == 0:
            yield [(large, count)]
        # Fewer large ones leave more for a second size.
        for fewer in range(min(count, large)):
            left = rest + fewer * large
            if count == fewer:
                continue
            for small in range(1, large):
                if left and left % small == 0:
                    yield [(large, count - fewer), (small, left // small)]


class Assembly:
    """Lines of assembly; operands of the C statement around them are written as %[name].

    `fused`: a product is added without rounding it before, which a Cortex-M7 does in a cycle, and other bits.
    """

    def __init__(self, temporaries: Sequence[int], fused: bool = False) -> None:
        self._fused = fused
        self.lines: list[str] = []
        self._temporaries = tuple(temporaries)
        self._next = 0
        self._pending: list[tuple[int, int, int]] = []

    def line(self, text: str) -> None:
        """An instruction or a label."""
        self.lines.append(text)

    def add_product(self, total: int, a: int, b: int) -> None:
        """s[total] += s[a] * s[b], in the order of the calls. The sum is written a few instructions later."""
        self._multiply(total, total, a, b)

    def start_sum(self, total: int, a: int, b: int, start: int | None) -> None:
        """s[total] = s[start] + s[a] * s[b]; without a start the product alone."""
        if start is None:
            self.line(f"vmul.f32 s{total}, s{a}, s{b}")
            return
        if self._fused:
            self.line(f"vmov.f32 s{total}, s{start}")
        self._multiply(total, start, a, b)

    def finish_sums(self) -> None:
        """Write the sums that are pending; needed before anything else reads them, or control leaves this line."""
        while self._pending:
            self._add_oldest()

    def _multiply(self, total: int, base: int, a: int, b: int) -> None:
        if self._fused:
            self.line(f"vfma.f32 s{total}, s{a}, s{b}")
            return
        temporary = self._temporaries[self._next % len(self._temporaries)]
        self._next += 1
        self.line(f"vmul.f32 s{temporary}, s{a}, s{b}")
        self._pending.append((total, base, temporary))
        if len(self._pending) >= _DEPTH:
            self._add_oldest()

    def _add_oldest(self) -> None:
        total, base, temporary = self._pending.pop(0)
        self.line(f"vadd.f32 s{total}, s{base}, s{temporary}")

    def move_pointer(self, pointer: str, size_bytes: int) -> None:
        """pointer += size_bytes."""
        if size_bytes == 0:
            return
        size = abs(size_bytes)
        if size >= LARGEST_IMMEDIATE:
            raise ValueError(f"{size_bytes} bytes do not fit into an instruction")
        self.line(f"{'addw' if size_bytes > 0 else 'subw'} %[{pointer}], %[{pointer}], #{size}")

    def far_step(self, pointer: str, elements: int, scratch: str) -> None:
        """pointer += elements floats, however many; `scratch` is an operand that may be overwritten."""
        size = abs(elements) * FLOAT_BYTES
        if size < LARGEST_IMMEDIATE:
            self.move_pointer(pointer, elements * FLOAT_BYTES)
            return
        self.line(f"movw %[{scratch}], #{size & 0xFFFF}")
        if size >> 16:
            self.line(f"movt %[{scratch}], #{size >> 16}")
        self.line(f"{'add' if elements > 0 else 'sub'} %[{pointer}], %[{pointer}], %[{scratch}]")
