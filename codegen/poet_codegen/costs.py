"""costs.json: what `poet profile` found each kernel and each page to take, for the next plan to be made with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass as plain
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from poet_codegen.errors import CostsError, first_fault

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_Cycles = Annotated[float, Field(gt=0.0)]
_Ratio = Annotated[float, Field(ge=0.0)]
_Count = Annotated[int, Field(gt=0)]

Source = Literal["modelled", "measured"]
Transfer = Literal["page_in", "page_out"]


@dataclass(frozen=True, config=_STRICT)
class KernelCost:
    """A kernel's mean cycles over some runs, all of which lie within cycles x (1 ± spread)."""

    kernel: str
    """The C function."""
    digest: str
    """Of its code and of what that is compiled with (emit/kernel_source.py)."""
    op: str
    source: Source
    cycles: _Cycles
    spread: _Ratio
    runs: _Count


@dataclass(frozen=True, config=_STRICT)
class TransferCost:
    """A page's mean cycles over some runs, all of which lie within cycles x (1 ± spread).

    'measured' ones are of the whole transfer. 'modelled' ones are of the processor's own work alone, for an emulator's
    storage takes no time; what the device takes is then the board file's storage model.
    """

    do: Transfer
    bytes: _Count
    """Of the tensor."""
    source: Source
    cycles: _Cycles
    spread: _Ratio
    runs: _Count


@dataclass(frozen=True, config=_STRICT)
class Costs:
    """A profile of one build."""

    format: Literal[1]
    tool_version: str
    board: str
    core: str
    clock_hz: _Count
    storage: str
    """The storage device, as the board's file names it."""
    source: str
    """How the cycles came about."""
    kernels: tuple[KernelCost, ...]
    pages: tuple[TransferCost, ...]

    @cached_property
    def by_kernel(self) -> Mapping[str, KernelCost]:
        """Kernels by their C functions' names."""
        return {entry.kernel: entry for entry in self.kernels}

    def page(self, do: Transfer, size_bytes: int) -> tuple[float, Source] | None:
        """Cycles of a transfer, from the line through what was profiled; None without any of that direction."""
        entries = [entry for entry in self.pages if entry.do == do]
        if not entries:
            return None
        for entry in entries:
            if entry.bytes == size_bytes:
                return entry.cycles, entry.source
        call, per_byte = _line(entries)
        return call + per_byte * size_bytes, entries[0].source


def _line(entries: list[TransferCost]) -> tuple[float, float]:
    """(cycles a call, cycles a byte) of the least squares, neither of them negative."""
    sizes = np.array([entry.bytes for entry in entries], dtype=np.float64)
    cycles = np.array([entry.cycles for entry in entries])
    if len(entries) > 1:
        per_byte, call = np.polyfit(sizes, cycles, 1)
        if per_byte >= 0.0 and call >= 0.0:
            return float(call), float(per_byte)
    return 0.0, float(cycles.sum() / sizes.sum())


@plain(frozen=True)
class Runs:
    """What one schedule step took, in each of some runs: of a kernel, or of a page of `bytes`."""

    do: Literal["compute", "page_in", "page_out"]
    op: str
    kernel: str
    digest: str
    bytes: int
    cycles: tuple[float, ...]


def gather(steps: Iterable[Runs], source: Source) -> tuple[tuple[KernelCost, ...], tuple[TransferCost, ...]]:
    """Steps kernel by kernel and page size by page size. The spread takes in what data make of a kernel's branches."""
    kernels: dict[tuple[str, str, str], list[float]] = {}
    pages: dict[tuple[Transfer, int], list[float]] = {}
    for step in steps:
        if step.do == "compute" and not step.kernel:
            continue  # in tiles: several kernels, and transfers between them
        if step.do == "compute":
            kernels.setdefault((step.kernel, step.digest, step.op), []).extend(step.cycles)
        else:
            pages.setdefault((step.do, step.bytes), []).extend(step.cycles)
    return (
        tuple(
            KernelCost(kernel, digest, op, source, *_statistics(runs))
            for (kernel, digest, op), runs in sorted(kernels.items())
        ),
        tuple(TransferCost(do, size, source, *_statistics(runs)) for (do, size), runs in sorted(pages.items())),
    )


def _statistics(runs: list[float]) -> tuple[float, float, int]:
    """(mean, spread, count)"""
    mean = float(np.mean(runs))
    return mean, max(abs(value - mean) for value in runs) / mean, len(runs)


_COSTS = TypeAdapter(Costs)


def costs_to_json(costs: Costs) -> str:
    """The text of costs.json."""
    return _COSTS.dump_json(costs, indent=1).decode() + "\n"


def read_costs(path: Path) -> Costs:
    """Read costs.json. Raises CostsError with the field that is wrong."""
    try:
        return _COSTS.validate_json(path.read_bytes())
    except OSError as error:
        raise CostsError(f"{path} cannot be read ({error.strerror}). `poet profile` writes it.") from error
    except ValidationError as error:
        raise CostsError(f"{path}: {first_fault(error)}. Make it again with `poet profile`.") from error
