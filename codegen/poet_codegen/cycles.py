"""What a kernel costs on a core, before anybody measured it: a linear model in multiply-adds and elements."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from poet_codegen.errors import BoardError
from poet_codegen.numerics import Numerics
from poet_codegen.ops.registry import Work

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_Cycles = Annotated[float, Field(ge=0.0)]


@dataclass(frozen=True, config=_STRICT)
class KernelCycles:
    """cycles = call + macs x per_mac + elements x per_element."""

    call: _Cycles
    per_mac: _Cycles
    per_element: _Cycles
    fused_per_mac: _Cycles | None = None
    """With fused numerics; None: blocks have no such form, and the plain kernel runs."""
    source: str = ""
    """What measured the row, where it is not the table's source: a command."""


@dataclass(frozen=True, config=_STRICT)
class CycleTable:
    """One core's kernels."""

    source: str
    spread: Annotated[float, Field(gt=0.0)]
    """Relative: true cycles are thought to lie in the model x (1 ± spread)."""
    kernel: dict[str, KernelCycles] = Field(default_factory=dict)
    floor: dict[Numerics, _Cycles] = Field(default_factory=dict)
    """The fewest cycles of a multiply-add: its arithmetic alone."""
    default: KernelCycles | None = None
    """Of kernels without a row, on cores where arithmetic takes so long that little else counts."""

    def cycles(self, work: Work) -> float:
        """Modelled cycles of one call. KeyError for a kernel without a row: every op has one, or there is a default."""
        # A kernel whose plain form has no row of its own has but one form, or costs the same.
        row = self.kernel.get(work.kernel) or self.kernel.get(work.kernel.removesuffix("_plain"), self.default)
        if row is None:
            raise KeyError(work.kernel)
        own = row.call + work.macs * row.per_mac + work.elements * row.per_element
        return own + sum(self.cycles(part) for part in work.also)

    def fused_cycles(self, work: Work) -> float:
        """Modelled cycles of one call with fused numerics."""
        row = self.kernel.get(work.kernel)
        own = replace(work, also=())
        if row is None or row.fused_per_mac is None:
            cycles = self.cycles(self.without_blocks(own))
        else:
            cycles = row.call + work.macs * row.fused_per_mac + work.elements * row.per_element
        return cycles + sum(self.fused_cycles(part) for part in work.also)

    def without_blocks(self, work: Work) -> Work:
        """The same work by plain kernels."""
        row = f"{work.kernel}_plain"
        return replace(
            work,
            kernel=row if row in self.kernel else work.kernel,
            also=tuple(self.without_blocks(part) for part in work.also),
        )


@cache
def cycle_table(core: str) -> CycleTable:
    """The table of a core as boards name it ('cortex-m4'). Raises BoardError for a core without one."""
    folder = Path(__file__).parent / "cycles_data"
    path = folder / f"{core}.toml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise BoardError(f"There are no kernel timings for the core '{core}'; there are for {known}. Use such a board.")
    return TypeAdapter(CycleTable).validate_python(tomllib.loads(path.read_text(encoding="utf-8")))
