"""How a kernel is written for a core with an FPU, and what that makes of its cycles. All forms leave the same bits."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from poet_codegen.cycles import CycleTable
from poet_codegen.numerics import Numerics
from poet_codegen.ops.registry import Kernel, Work

_COMPACT_CYCLES = 1.1
"""What a compact form takes, over the fast one."""


class Form(StrEnum):
    """From the one of fewest cycles to the one of least code."""

    FAST = "fast"
    COMPACT = "compact"
    PLAIN = "plain"


def in_form(kernel: Kernel, form: Form) -> Kernel:
    """The kernel with that form as its blocked one; one that has no such form keeps the next faster one."""
    if form is Form.FAST or kernel.blocked is None:
        return kernel
    if form is Form.PLAIN:
        return replace(kernel, blocked=None)
    return replace(kernel, blocked=kernel.blocked.compact or kernel.blocked)


def form_cycles(table: CycleTable, work: Work, form: Form, numerics: Numerics) -> float:
    """Cycles of a call of a kernel in a form."""
    if form is Form.PLAIN:
        return table.cycles(table.without_blocks(work))
    fast = table.cycles(work) if numerics is Numerics.SEPARATE else table.fused_cycles(work)
    return fast * (_COMPACT_CYCLES if form is Form.COMPACT else 1.0)
