"""What a report shows beside the plan: a run and the firmware's sizes, read from the build folder where they are."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from poet_codegen.errors import first_fault
from poet_codegen.folder import BuildFolder, FolderError
from poet_codegen.report.metered import EnergyFacts

_OPEN = ConfigDict(extra="ignore", allow_inf_nan=False)
_Checked = TypeVar("_Checked")


@dataclass(frozen=True)
class LossPoint:
    """One training step of a run."""

    step: int
    epoch: int
    learning_rate: float
    loss: float
    """May be infinite or NaN: a run that diverged is shown as one."""


@checked(frozen=True, config=_OPEN)
class RunFacts:
    """run/run.json; every key may be absent, unknown ones are left out."""

    steps: int | None = None
    not_finite_at_step: int | None = None
    seconds: float | None = None
    """On the host's clock, the link included."""
    weights_digest: str | None = None
    recompute_calls: int | None = None
    """Of the last training step, as page_outs and page_ins."""
    page_outs: int | None = None
    page_ins: int | None = None
    arena_high_water_bytes: int | None = None
    stack_high_water_bytes: int | None = None
    stack_bytes: int | None = None
    learning_rate: float | None = None
    """Of the first pass."""
    test_accuracy: float | None = None
    """0 to 1."""
    test_mean_squared_error: float | None = None
    bit_identical: bool | None = None


@checked(frozen=True, config=_OPEN)
class FirmwareSizes:
    """project/sizes.json; every key may be absent. Sizes in bytes."""

    flash_bytes: int | None = None
    flash_total_bytes: int | None = None
    ram_static_bytes: int | None = None
    """Data, the arena included; without the stack."""
    ram_total_bytes: int | None = None
    stack_bytes: int | None = None
    arena_bytes: int | None = None
    largest_frame_bytes: int | None = None
    compiler: str | None = None


@dataclass(frozen=True)
class RunSummary:
    """A run: what `poet train`, `poet eval` and `poet verify` wrote down, and the losses."""

    facts: RunFacts = field(default_factory=RunFacts)
    losses: tuple[LossPoint, ...] = ()


def read_run(folder: BuildFolder) -> RunSummary | None:
    """The run in a build folder, or None before there is one. Raises FolderError for a damaged file."""
    facts_path, losses_path = folder.run / "run.json", folder.run / "losses.csv"
    if not facts_path.exists() and not losses_path.exists():
        return None
    facts = _read_json(facts_path, RunFacts, "poet train") if facts_path.exists() else RunFacts()
    return RunSummary(facts, _read_losses(losses_path) if losses_path.exists() else ())


def read_sizes(folder: BuildFolder) -> FirmwareSizes | None:
    """The firmware's sizes, or None before it was built. Raises FolderError for a damaged file."""
    return _read_json(folder.sizes, FirmwareSizes, "poet build") if folder.sizes.exists() else None


def read_energy(folder: BuildFolder, schedule_digest: str) -> EnergyFacts | None:
    """What a meter saw of the build, or None before one did. FolderError for a damaged file or another plan's."""
    if not folder.energy.exists():
        return None
    facts = _read_json(folder.energy, EnergyFacts, "poet measure")
    if not schedule_digest.startswith(facts.schedule_digest):
        raise FolderError(f"{folder.energy} is of another schedule. Run `poet measure` again, which writes it.")
    return facts


def _read_json(path: Path, wanted: type[_Checked], command: str) -> _Checked:
    try:
        return TypeAdapter(wanted).validate_json(path.read_bytes())
    except ValidationError as error:
        raise FolderError(f"{path}: {first_fault(error)}. Run `{command}` again, which writes it.") from error


def _read_losses(path: Path) -> tuple[LossPoint, ...]:
    try:
        rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True)
        return tuple(
            LossPoint(int(row["step"]), int(row["epoch"]), float(row["learning_rate"]), float(row["loss"]))
            for row in rows
        )
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise FolderError(
            f"{path}: is not a table of losses ({error!r}). Run `poet train` again, which writes it."
        ) from error
