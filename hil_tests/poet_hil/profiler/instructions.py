"""Thumb instructions of a firmware image, sorted into the classes that timing tables price."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import capstone
from capstone import arm
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from poet_hil.errors import TargetError


class Kind(StrEnum):
    """Instruction classes; a core's timing table has a row for each."""

    ALU = "alu"
    MULTIPLY = "multiply"
    MULTIPLY_ADD = "multiply_add"
    MULTIPLY_LONG = "multiply_long"
    MULTIPLY_LONG_ADD = "multiply_long_add"
    DIVIDE = "divide"
    IT = "it"
    NOP = "nop"
    BRANCH = "branch"
    CALL = "call"
    TABLE_BRANCH = "table_branch"
    LOAD = "load"
    STORE = "store"
    LOAD_MANY = "load_many"
    STORE_MANY = "store_many"
    FP_LOAD = "fp_load"
    FP_STORE = "fp_store"
    FP_LOAD_MANY = "fp_load_many"
    FP_STORE_MANY = "fp_store_many"
    FP_ADD = "fp_add"
    FP_MULTIPLY = "fp_multiply"
    FP_MAC = "fp_mac"
    FP_DIVIDE = "fp_divide"
    FP_ROOT = "fp_root"
    FP_CONVERT = "fp_convert"
    FP_COMPARE = "fp_compare"
    FP_MOVE = "fp_move"
    OTHER = "other"


@dataclass(frozen=True)
class Instruction:
    """One instruction: its class, how many 32-bit registers a transfer moves, and which registers it touches."""

    kind: Kind
    registers: int
    reads: frozenset[str]
    writes: frozenset[str]
    accumulator: str | None
    """FP_MAC: the register that is added to; it is read later than the factors."""
    register_offset: bool
    """A load or store whose address is a sum of two registers."""


_MAC = ["vmla", "vmls", "vnmla", "vnmls", "vfma", "vfms", "vfnma", "vfnms"]
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(["vadd", "vsub"], Kind.FP_ADD),
    **dict.fromkeys(["vmul", "vnmul"], Kind.FP_MULTIPLY),
    **dict.fromkeys(_MAC, Kind.FP_MAC),
    "vdiv": Kind.FP_DIVIDE,
    "vsqrt": Kind.FP_ROOT,
    **dict.fromkeys(["vcvt", "vcvtr", "vcvtb", "vcvtt"], Kind.FP_CONVERT),
    **dict.fromkeys(["vcmp", "vcmpe"], Kind.FP_COMPARE),
    **dict.fromkeys(["vmov", "vmrs", "vmsr", "fmstat", "vabs", "vneg"], Kind.FP_MOVE),
    "vldr": Kind.FP_LOAD,
    "vstr": Kind.FP_STORE,
    **dict.fromkeys(["vldmia", "vldmdb", "vpop"], Kind.FP_LOAD_MANY),
    **dict.fromkeys(["vstmia", "vstmdb", "vpush"], Kind.FP_STORE_MANY),
    **dict.fromkeys(["ldm", "ldmia", "ldmdb", "pop", "ldrd"], Kind.LOAD_MANY),
    **dict.fromkeys(["stm", "stmia", "stmdb", "push", "strd"], Kind.STORE_MANY),
    **dict.fromkeys(["ldr", "ldrb", "ldrh", "ldrsb", "ldrsh", "ldrex", "ldrexb", "ldrexh"], Kind.LOAD),
    **dict.fromkeys(["str", "strb", "strh", "strex", "strexb", "strexh"], Kind.STORE),
    **dict.fromkeys(["b", "bx", "blx", "cbz", "cbnz"], Kind.BRANCH),
    "bl": Kind.CALL,
    **dict.fromkeys(["tbb", "tbh"], Kind.TABLE_BRANCH),
    **dict.fromkeys(["sdiv", "udiv"], Kind.DIVIDE),
    "mul": Kind.MULTIPLY,
    **dict.fromkeys(["mla", "mls"], Kind.MULTIPLY_ADD),
    **dict.fromkeys(["smull", "umull"], Kind.MULTIPLY_LONG),
    **dict.fromkeys(["smlal", "umlal"], Kind.MULTIPLY_LONG_ADD),
    "it": Kind.IT,
    **dict.fromkeys(["nop", "hint"], Kind.NOP),
    **dict.fromkeys(["bkpt", "svc", "mrs", "msr", "dsb", "dmb", "isb", "cpsie", "cpsid", "wfi", "wfe"], Kind.OTHER),
}
_LOADS = (Kind.LOAD, Kind.LOAD_MANY, Kind.FP_LOAD, Kind.FP_LOAD_MANY)
_STORES = (Kind.STORE, Kind.STORE_MANY, Kind.FP_STORE, Kind.FP_STORE_MANY)
_LIST_AFTER_BASE = ["ldm", "ldmia", "ldmdb", "stm", "stmia", "stmdb", "vldmia", "vldmdb", "vstmia", "vstmdb"]


class Image:
    """The code of an ELF file."""

    def __init__(self, elf: Path) -> None:
        with elf.open("rb") as file:
            parsed = ELFFile(file)
            self._parts = [
                (segment["p_vaddr"], segment.data())
                for segment in parsed.iter_segments()
                if segment["p_type"] == "PT_LOAD" and segment["p_filesz"]
            ]
            symbols = parsed.get_section_by_name(".symtab")
            self._functions = {
                symbol.name: (symbol["st_value"] & ~1, (symbol["st_value"] & ~1) + symbol["st_size"])
                for symbol in (symbols.iter_symbols() if isinstance(symbols, SymbolTableSection) else ())
                if symbol["st_info"]["type"] == "STT_FUNC"
            }
        self._decoder = capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS)
        self._decoder.detail = True
        self._path = elf

    def functions(self, prefixes: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
        """Addresses [first, end) of the functions whose names begin so. Raises TargetError when there are none."""
        found = tuple(place for name, place in sorted(self._functions.items()) if name.startswith(prefixes))
        if not found:
            raise TargetError(
                f"{self._path} has no function {prefixes[0]}..., as after a strip. Run `poet build` again."
            )
        return found

    def decode(self, first: int, end: int) -> tuple[Instruction, ...]:
        """The instructions at addresses [first, end). Raises TargetError when they are not all of the image."""
        return tuple(self._instructions(first, end))

    def _instructions(self, first: int, end: int) -> Iterator[Instruction]:
        at = first
        for raw in self._decoder.disasm(self._bytes(first, end), first):
            yield _instruction(self._decoder, raw)
            at += raw.size
        if at != end:
            raise TargetError(f"{self._path}: there is no instruction that can be read at address {at:#x}.")

    def _bytes(self, first: int, end: int) -> bytes:
        for start, data in self._parts:
            if start <= first and end <= start + len(data):
                return bytes(data[first - start : end - start])
        raise TargetError(
            f"{self._path} has no code at {first:#x}: the profile was taken from another build. Profile again."
        )


def _instruction(decoder: capstone.Cs, raw: capstone.CsInsn) -> Instruction:
    name = decoder.insn_name(raw.id)
    kind = _KINDS.get(name, Kind.ALU)
    read_ids, write_ids = raw.regs_access()
    reads = frozenset(part for register in read_ids for part in _singles(decoder.reg_name(register)))
    writes = frozenset(part for register in write_ids for part in _singles(decoder.reg_name(register)))
    moved: frozenset[str] = frozenset()
    if kind in _LOADS:
        # Capstone leaves the lists of VLDM and VSTM out of what is read and written.
        moved = frozenset(_transferred(decoder, raw))
        writes |= moved
    elif kind in _STORES:
        moved = frozenset(_transferred(decoder, raw))
        reads |= moved
        writes -= moved
    accumulator = decoder.reg_name(raw.operands[0].reg) if kind is Kind.FP_MAC else None
    register_offset = any(o.type == arm.ARM_OP_MEM and o.mem.index for o in raw.operands)
    return Instruction(kind, len(moved), reads, writes, accumulator, register_offset)


def _transferred(decoder: capstone.Cs, raw: capstone.CsInsn) -> list[str]:
    """32-bit registers that a load or store moves: all register operands but the base of a multiple transfer."""
    names = [decoder.reg_name(o.reg) for o in raw.operands if o.type == arm.ARM_OP_REG]
    name = decoder.insn_name(raw.id)
    if name in _LIST_AFTER_BASE or name.startswith("strex"):
        # The base; of a store-exclusive, the register of its success.
        names = names[1:]
    return [part for name in names for part in _singles(name)]


def _singles(name: str) -> tuple[str, ...]:
    """A register as 32-bit registers: d3 is s6 and s7."""
    if name[0] == "d" and name[1:].isdigit():
        number = int(name[1:])
        return (f"s{2 * number}", f"s{2 * number + 1}")
    return (name,)
