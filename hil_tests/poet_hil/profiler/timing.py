"""Modelled cycles of executed instructions: a core's timing table applied to what the profiler counted."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from poet_hil.errors import TargetError
from poet_hil.profiler.instructions import Image, Instruction, Kind
from poet_hil.profiler.plugin import Region

_Cycles = Annotated[int, Field(ge=0)]
_MANY = (Kind.LOAD_MANY, Kind.STORE_MANY, Kind.FP_LOAD_MANY, Kind.FP_STORE_MANY, Kind.FP_LOAD, Kind.FP_STORE)
_ONE_REGISTER = (Kind.LOAD, Kind.STORE)
_FP_RESULT = (Kind.FP_ADD, Kind.FP_MULTIPLY, Kind.FP_MAC, Kind.FP_DIVIDE, Kind.FP_ROOT, Kind.FP_CONVERT)
_FP_PIPE = (*_FP_RESULT, Kind.FP_COMPARE)
_MEMORY = (*_MANY, *_ONE_REGISTER)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Transfer(_Strict):
    base: _Cycles
    per_register: _Cycles


class SingleIssue(_Strict):
    """A core that runs one instruction after the other (Cortex-M0, M3, M4)."""

    source: str
    model: Literal["single_issue"]
    branch_refill: _Cycles
    fp_result_stall: _Cycles
    overlap_saves: _Cycles
    return_from_stack: _Cycles
    """What a list of registers takes on top where the program counter is one of them, beside the refill."""
    cycles: dict[Kind, _Cycles]
    """Without rows for what the core does not have."""
    transfer: _Transfer

    def segment_cycles(self, instructions: Sequence[Instruction]) -> int:
        """Cycles of a straight line of instructions, without the refill after a branch that is taken."""
        total = 0
        before: Instruction | None = None
        for now in instructions:
            total += self._own_cycles(now, before)
            if before and before.kind in _FP_RESULT and before.writes & _early_reads(now):
                total += self.fp_result_stall
            before = now
        return total

    def _own_cycles(self, now: Instruction, before: Instruction | None) -> int:
        if now.kind in _MANY:
            extra = self.return_from_stack if now.kind is Kind.LOAD_MANY and "pc" in now.writes else 0
            return self.transfer.base + self.transfer.per_register * now.registers + extra
        cycles = self.cycles.get(now.kind)
        if cycles is None:
            raise TargetError(f"The timing table has no row for {now.kind.value}. Build the firmware for this core.")
        if now.kind in _ONE_REGISTER and (_overlaps(now, before) or _is_buffered(now)):
            return cycles - self.overlap_saves
        return cycles


def _overlaps(now: Instruction, before: Instruction | None) -> bool:
    if before is None or before.kind not in _ONE_REGISTER:
        return False
    return not (before.kind is Kind.LOAD and before.writes & now.reads)


def _is_buffered(now: Instruction) -> bool:
    return now.kind is Kind.STORE and not now.register_offset


class _Accumulator(_Strict):
    late_read: _Cycles


class DualIssue(_Strict):
    """A core that starts up to two instructions a cycle, in order (Cortex-M7)."""

    source: str
    model: Literal["dual_issue"]
    branch_refill: _Cycles
    latency: dict[Kind, _Cycles]
    """From an instruction to one that reads its result; 1 where there is no row."""
    occupancy: dict[Kind, _Cycles]
    """How long a unit takes no other instruction; 1 where there is no row."""
    accumulator: _Accumulator

    def segment_cycles(self, instructions: Sequence[Instruction]) -> int:
        """Cycles of a straight line of instructions that begins with idle units."""
        ready: dict[str, int] = {}
        free = {"fp": 0, "memory": 0, "divide": 0}
        cycle = slots = loads_in_cycle = 0
        for now in instructions:
            if now.kind in (Kind.NOP, Kind.IT):
                continue
            unit = "fp" if now.kind in _FP_PIPE else "memory" if now.kind in _MEMORY else ""
            is_single_load = now.kind in (Kind.LOAD, Kind.FP_LOAD) and now.registers == 1
            start = max([cycle, *(self._ready(ready, now, name) for name in now.reads)])
            # Two loads of one register can go in one cycle; nothing else shares a unit.
            pairs = is_single_load and loads_in_cycle == 1 and start == cycle
            if unit and not pairs:
                start = max(start, free[unit])
            if start == cycle and slots == 2:
                start += 1
            if start > cycle:
                cycle, slots, loads_in_cycle = start, 0, 0
            slots = 2 if now.kind in (Kind.BRANCH, Kind.CALL) else slots + 1
            busy = self.occupancy.get(now.kind, 1)
            if unit == "memory":
                busy = max(1, (now.registers + 1) // 2)
                loads_in_cycle = loads_in_cycle + 1 if is_single_load else 2
            if unit:
                free[unit] = cycle + busy
            for name in now.writes:
                ready[name] = cycle + self.latency.get(now.kind, 1)
        return max([cycle + 1, *free.values()]) if instructions else 0

    def _ready(self, ready: dict[str, int], now: Instruction, register: str) -> int:
        at = ready.get(register, 0)
        if register == now.accumulator and register not in _early_reads(now):
            return at - self.accumulator.late_read
        return at


def _early_reads(instruction: Instruction) -> frozenset[str]:
    """All registers that an instruction reads at once; the accumulator of a multiply-accumulate comes later."""
    return instruction.reads - {instruction.accumulator} if instruction.accumulator else instruction.reads


Core = SingleIssue | DualIssue


@dataclass(frozen=True)
class Profile:
    """A region, priced. `hot_bytes`: code, in lines of 16 bytes, that 99 % of the executed instructions come from."""

    instructions: int
    cycles: int | None
    """None for a core without a timing table: only instructions are counted."""
    by_kind: dict[Kind, int]
    hot_bytes: int


@cache
def timing_table(core: str) -> Core | None:
    """A core's table, as boards name it ('cortex-m4'); None for one that has none.

    Raises TargetError for a table that is malformed.
    """
    resource = files("poet_hil.profiler").joinpath("timing_data", f"{core}.toml")
    if not resource.is_file():
        return None
    data = tomllib.loads(resource.read_text(encoding="utf-8"))
    try:
        adapter: TypeAdapter[Core] = TypeAdapter(Annotated[Core, Field(discriminator="model")])
        return adapter.validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise TargetError(f"{core}.toml: {field}: {first['msg']}.") from error


class Pricer:
    """Prices the regions of one firmware on one core."""

    def __init__(self, image: Image, core: Core | None) -> None:
        self._image = image
        self._core = core
        self._known: dict[tuple[int, int], tuple[tuple[Instruction, ...], int]] = {}

    def price(self, region: Region) -> Profile:
        """Cycles and counts of a region."""
        by_kind: dict[Kind, int] = {}
        instructions = cycles = 0
        runs: list[tuple[int, int, int]] = []
        for segment in region.segments:
            code, static_cycles = self._segment(segment.first, segment.end)
            instructions += segment.executions * len(code)
            cycles += segment.executions * static_cycles
            if self._core:
                cycles += segment.taken * self._core.branch_refill
            for instruction in code:
                by_kind[instruction.kind] = by_kind.get(instruction.kind, 0) + segment.executions
            runs.append((segment.executions * len(code), segment.first, segment.end))
        return Profile(instructions, cycles if self._core else None, by_kind, _hot_bytes(runs, instructions))

    def _segment(self, first: int, end: int) -> tuple[tuple[Instruction, ...], int]:
        if (first, end) not in self._known:
            code = self._image.decode(first, end)
            self._known[first, end] = (code, self._core.segment_cycles(code) if self._core else 0)
        return self._known[first, end]


_LINE_BYTES = 16
_HOT_SHARE = 0.99


def _hot_bytes(runs: list[tuple[int, int, int]], instructions: int) -> int:
    lines: set[int] = set()
    covered = 0
    for executed, first, end in sorted(runs, reverse=True):
        if covered >= _HOT_SHARE * instructions:
            break
        covered += executed
        lines.update(range(first // _LINE_BYTES, (end - 1) // _LINE_BYTES + 1))
    return _LINE_BYTES * len(lines)
