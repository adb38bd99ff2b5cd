"""Compiler and linker flags, for the board and for the host.

What decides bits is the same on both sides: C99, no contraction of a*b+c, no fast-math (FACTS, Numerics).
"""

from __future__ import annotations

from poet_codegen.board import Board

ARITHMETIC = ("-std=c99", "-O3", "-ffp-contract=off", "-fno-fast-math")
WARNINGS = (
    "-pedantic",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wshadow",
    "-Wconversion",
    "-Wdouble-promotion",
    "-Wmissing-prototypes",
    "-Wundef",
    "-Wvla",
)


def machine_flags(board: Board) -> tuple[str, ...]:
    """Flags that choose the core; compiler and linker must agree on them, for they choose the C library
    too."""
    flags = (f"-mcpu={board.cpu.core}", "-mthumb")
    if board.cpu.fpu is None:
        return (*flags, "-mfloat-abi=soft")
    return (*flags, f"-mfpu={board.cpu.fpu}", "-mfloat-abi=hard")


def defines(board: Board) -> dict[str, str]:
    """Preprocessor definitions every file of the firmware is compiled with; numbers are unsigned."""
    values: dict[str, int | str] = {
        "POET_CPU_HZ": board.cpu.clock_hz,
        "POET_UART_BAUD": board.firmware.uart.baud,
        "POET_STORAGE_BYTES": board.storage.size_bytes,
        **({"POET_STORAGE_OVERLAPS": 1} if board.storage.overlaps else {}),
        **board.defines,
        **board.storage.defines,
    }
    return {name: f"{value}u" if isinstance(value, int) else value for name, value in sorted(values.items())}


def compile_flags(board: Board) -> tuple[str, ...]:
    """Flags for every file compiled for the board."""
    return (
        *machine_flags(board),
        *ARITHMETIC,
        *WARNINGS,
        "-ffunction-sections",
        "-fdata-sections",
        "-fstack-usage",
        *(f"-D{name}={value}" for name, value in defines(board).items()),
    )


def link_flags(board: Board) -> tuple[str, ...]:
    """Flags for the linker; the linker script takes what memory there is from the symbols defined here."""
    symbols = {
        "_poet_flash_origin": board.flash.origin,
        "_poet_flash_bytes": board.flash.size_bytes,
        "_poet_ram_origin": board.ram.origin,
        "_poet_ram_bytes": board.ram.size_bytes,
        "_poet_stack_bytes": board.stack_bytes,
    }
    origin = board.storage_origin()
    if origin is not None:
        symbols["poet_storage_memory"] = origin
    return (
        *machine_flags(board),
        "-nostartfiles",
        "--specs=nano.specs",
        *(f"-Wl,--defsym={name}={value:#x}" for name, value in symbols.items()),
    )


def host_flags() -> tuple[str, ...]:
    """Flags for every file compiled for the host."""
    return (*ARITHMETIC, *WARNINGS)
