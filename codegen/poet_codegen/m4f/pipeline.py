"""Assembly text of multiply-adds that never wait: VMUL and VADD of different sums interleaved.

On the Cortex-M4F an instruction that reads the result of the floating-point instruction before it waits a cycle, and a
fused VFMA takes three, so that VMUL and VADD with another product between them are the fastest way to add a product
(2 cycles), and one that gives the bits of C without contraction.
"""

from __future__ import annotations

from collections.abc import Sequence

REGISTERS = 32
"""Single-precision registers of the FPU."""
TEMPORARIES = 2
"""Registers for products that are still to be added."""
_DEPTH = 2


def register_list(first: int, count: int) -> str:
    """s4-s7, in braces."""
    return f"{{s{first}}}" if count == 1 else f"{{s{first}-s{first + count - 1}}}"


class Assembly:
    """Lines of assembly; operands of the C statement around them are written as %[name]."""

    def __init__(self, temporaries: Sequence[int]) -> None:
        self.lines: list[str] = []
        self._temporaries = tuple(temporaries)
        self._next = 0
        self._pending: list[tuple[int, int]] = []

    def line(self, text: str) -> None:
        """An instruction or a label."""
        self.lines.append(text)

    def add_product(self, total: int, a: int, b: int) -> None:
        """s[total] += s[a] * s[b], in the order of the calls. The sum is written a few instructions later."""
        temporary = self._temporaries[self._next % len(self._temporaries)]
        self._next += 1
        self.line(f"vmul.f32 s{temporary}, s{a}, s{b}")
        self._pending.append((total, temporary))
        if len(self._pending) >= _DEPTH:
            self._add_oldest()

    def finish_sums(self) -> None:
        """Write the sums that are pending; needed before anything else reads them, or control leaves this line."""
        while self._pending:
            self._add_oldest()

    def _add_oldest(self) -> None:
        total, temporary = self._pending.pop(0)
        self.line(f"vadd.f32 s{total}, s{total}, s{temporary}")

    def move_pointer(self, pointer: str, size_bytes: int) -> None:
        """pointer += size_bytes."""
        if size_bytes == 0:
            return
        size = abs(size_bytes)
        if size >= _LARGEST_IMMEDIATE:
            raise ValueError(f"{size_bytes} bytes do not fit into an instruction")
        self.line(f"{'addw' if size_bytes > 0 else 'subw'} %[{pointer}], %[{pointer}], #{size}")


_LARGEST_IMMEDIATE = 4096
