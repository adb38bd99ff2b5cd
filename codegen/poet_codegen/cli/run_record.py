"""run.json: what a run measured, and what it was asked to do (enough to run it again)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from poet_codegen.folder import BuildFolder, FolderError, write_atomic


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RunRecord:
    """One training run on one device."""

    data: str
    data_sha256: str
    learning_rate: float
    rate_schedule: Literal["constant", "halve_each_pass"]
    epochs: int
    first_step: int
    """Steps the device had trained before; 0 when it began with the model's own weights."""
    steps: int
    seconds: float
    """Wall time of the host; says nothing of the board."""
    loss_bits: dict[str, list[str]]
    """float32 bits of the first and last ten losses, in hex."""
    weights_digest: str
    recompute_calls: int
    """In one step, counted by the firmware; the next two likewise."""
    page_outs: int
    page_ins: int
    arena_bytes: int
    budget_bytes: int
    peak_bytes: int
    arena_high_water_bytes: int
    """Highest byte of the arena that the firmware touched, by painting."""
    stack_high_water_bytes: int
    stack_bytes: int
    energy: dict[str, float | str]
    """Joules of one step by kind, and their source."""
    shuffle_seed: int | None = None
    test_accuracy: float | None = None
    bit_identical: bool | None = None
    """After `poet verify`: losses and weights equal those of the host, with this schedule and keeping everything."""

    def with_accuracy(self, accuracy: float) -> RunRecord:
        """The record with the test set's result."""
        return replace(self, test_accuracy=accuracy)

    def with_verdict(self, bit_identical: bool) -> RunRecord:
        """The record with the verification's result."""
        return replace(self, bit_identical=bit_identical)


_ADAPTER = TypeAdapter(RunRecord)


def write_record(folder: BuildFolder, record: RunRecord) -> None:
    """Write run/run.json."""
    write_atomic(folder.run / "run.json", _ADAPTER.dump_json(record, indent=1, exclude_none=True) + b"\n")


def read_record(folder: BuildFolder) -> RunRecord | None:
    """The record of the build folder's run, or None when there was none. Raises FolderError when it is damaged."""
    path = folder.run / "run.json"
    if not path.exists():
        return None
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise FolderError(f"{path}: {field}: {first['msg']}. Run `poet train` again.") from error
