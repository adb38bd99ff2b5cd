"""A kernel's C, and a digest of all that decides how many cycles it takes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache

from poet_codegen.board import Board
from poet_codegen.numerics import Numerics
from poet_codegen.ops.registry import Kernel
from poet_codegen.platformio.flags import ARITHMETIC, machine_flags
from poet_codegen.render import render
from poet_codegen.resources import data_dir

_DIGEST_HEX = 16
_CALLED = ("src/math.c", "include/poet/math.h", "src/random.c", "include/poet/random.h")
"""Below firmware/: what kernels call."""


def takes_blocked(kernel: Kernel, board: Board, numerics: Numerics) -> bool:
    """Whether the board runs a kernel's blocked form. Not all have one for fused numerics."""
    if kernel.blocked is None or board.cpu.fpu is None:
        return False
    return numerics is Numerics.SEPARATE or kernel.blocked.fuses


def kernel_source(kernel: Kernel, board: Board, numerics: Numerics) -> str:
    """C of a kernel; where the board's core takes the blocked form, the host still takes the plain one."""
    plain = render(f"kernels/{kernel.template}", **kernel.values)
    if not takes_blocked(kernel, board, numerics):
        return plain
    assert kernel.blocked is not None
    blocked = render(f"kernels/{kernel.blocked.template}", **kernel.blocked.render_values(numerics is Numerics.FUSED))
    return f"#ifdef POET_M4F\n{blocked}#else\n{plain}#endif\n"


def kernel_digest(kernel: Kernel, board: Board, numerics: Numerics) -> str:
    """Changes with the kernel's code, the functions it calls, the core and the compiler's flags; not with the clock."""
    source = kernel_source(kernel, board, numerics)
    text = "\n".join((source, numerics.value, *machine_flags(board), *ARITHMETIC, _called()))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_HEX]


def kernels_digest(kernels: Sequence[Kernel], board: Board, numerics: Numerics) -> str:
    """Of an op that calls several."""
    digests = "\n".join(kernel_digest(kernel, board, numerics) for kernel in kernels)
    return hashlib.sha256(digests.encode()).hexdigest()[:_DIGEST_HEX]


@cache
def _called() -> str:
    return "\n".join((data_dir("firmware") / name).read_text(encoding="utf-8") for name in _CALLED)
