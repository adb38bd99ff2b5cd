"""What a run was asked (run/request.json, from its first step on) and what it measured (run/run.json, when whole)."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from poet_hil.errors import SessionError
from poet_hil.manifest import Manifest
from poet_hil.protocol import DeviceStatus
from poet_hil.session import Evaluation, TrainingResult, TrainPlan
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from poet_codegen.errors import first_fault
from poet_codegen.folder import BuildFolder, FolderError, remove, write_atomic
from poet_codegen.recipe import Recipe

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class RunRequest:
    """Enough to make the same run again."""

    data: str
    """Absolute path."""
    data_sha256: str
    learning_rate: float
    rate_schedule: Literal["constant", "halve_each_pass"]
    epochs: int
    steps_asked: int | None
    """None: `epochs` whole passes."""
    shuffle_seed: int | None
    first_step: int
    """Steps the device had trained before; 0 when it began with the model's own weights."""

    def plan(self) -> TrainPlan:
        """As the harness takes it."""
        return TrainPlan(self.learning_rate, self.steps_asked, self.epochs, self.rate_schedule, self.shuffle_seed)


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class RunRecord(RunRequest):
    """One training run on one device, whole or up to a loss that was not finite."""

    steps: int
    """Steps that were trained."""
    not_finite_at_step: int | None = None
    """The step that the run stopped at, from 0, since its loss was NaN or infinite; it is not among `steps`."""
    seconds: float
    """Wall time of the host; says nothing of the board."""
    loss_bits: dict[str, list[str]]
    """float32 bits of the first and last ten losses, in hex."""
    weights_digest: str
    recompute_calls: int
    """In one step, counted by the firmware; the next two likewise."""
    page_outs: int
    page_ins: int
    erases: int = 0
    """Units of the storage device that were erased from the device's boot to the run's end; 0 where none need be."""
    arena_bytes: int
    budget_bytes: int
    peak_bytes: int
    arena_high_water_bytes: int
    """Highest byte of the arena that the firmware touched, by painting."""
    stack_high_water_bytes: int
    stack_bytes: int
    energy: dict[str, float | str]
    """Joules of one step by kind, and their source."""
    recipe: Recipe
    """The optimizer and what else was fixed when the model was planned."""
    test_accuracy: float | None = None
    test_mean_squared_error: float | None = None
    """After `poet eval`, for a model that was trained with it."""
    bit_identical: bool | None = None
    """After `poet verify`: losses and weights equal those of the host, with this schedule and keeping everything."""

    def with_evaluation(self, result: Evaluation) -> RunRecord:
        """The record with the test set's result."""
        return replace(self, test_accuracy=result.accuracy, test_mean_squared_error=result.mean_squared_error)

    def with_verdict(self, bit_identical: bool) -> RunRecord:
        """The record with the verification's result."""
        return replace(self, bit_identical=bit_identical)


_REQUEST = TypeAdapter(RunRequest)
_RECORD = TypeAdapter(RunRecord)


def begin_run(folder: BuildFolder, request: RunRequest, steps_done: int) -> RunRequest:
    """Note what is asked. What an earlier run left is removed: from now on the device has other weights."""
    for stale in ("run.json", "trained.onnx", "predictions.npy", "weights.npz", "losses.csv"):
        remove(folder.run / stale)
    started = replace(request, first_step=steps_done)
    write_atomic(folder.run / "request.json", _REQUEST.dump_json(started, indent=1) + b"\n")
    return started


def same_run(folder: BuildFolder, request: RunRequest) -> RunRequest:
    """The request of the interrupted run. Raises SessionError when `request` asks for anything else."""
    path = folder.run / "request.json"
    if not path.exists():
        raise SessionError(f"{folder.path} has no run to go on with. Start one: `poet train` without --resume.")
    begun: RunRequest = _read(_REQUEST, path)
    for field in fields(RunRequest):
        before, now = getattr(begun, field.name), getattr(request, field.name)
        if before != now and field.name not in ("data", "first_step"):
            raise SessionError(
                f"The interrupted run has {field.name} = {before}, --resume was asked with {now}; one run cannot have "
                "both. Give the options it was started with, or start anew without --resume."
            )
    if begun.first_step:
        raise SessionError(
            f"The interrupted run began after {begun.first_step} other steps, so its place in the data is not known. "
            "Start anew without --resume."
        )
    return begun


def finish_run(
    folder: BuildFolder, request: RunRequest, result: TrainingResult, status: DeviceStatus, manifest: Manifest
) -> None:
    """Write run.json."""
    asked: dict[str, Any] = {field.name: getattr(request, field.name) for field in fields(RunRequest)}
    record = RunRecord(
        **asked,
        steps=len(result.losses),
        not_finite_at_step=None if result.stopped is None else result.stopped.step,
        seconds=result.seconds,
        loss_bits=result.loss_bits,
        weights_digest=result.weights_digest,
        recompute_calls=status.recomputes,
        page_outs=status.page_outs,
        page_ins=status.page_ins,
        erases=status.erases,
        arena_bytes=manifest.arena_bytes,
        budget_bytes=manifest.budget_bytes,
        peak_bytes=manifest.peak_bytes,
        arena_high_water_bytes=status.arena_high_water_bytes,
        stack_high_water_bytes=status.stack_high_water_bytes,
        stack_bytes=status.stack_bytes,
        energy=manifest.energy_j.model_dump(),
        recipe=folder.read_request().recipe,
    )
    write_record(folder, record)


def write_record(folder: BuildFolder, record: RunRecord) -> None:
    """Write run/run.json."""
    write_atomic(folder.run / "run.json", _RECORD.dump_json(record, indent=1) + b"\n")


def read_record(folder: BuildFolder) -> RunRecord | None:
    """The record of the build folder's run, or None when there was none. Raises FolderError when it is damaged."""
    path = folder.run / "run.json"
    return _read(_RECORD, path) if path.exists() else None


def _read(adapter: TypeAdapter[Any], path: Path) -> Any:
    try:
        return adapter.validate_json(path.read_bytes())
    except ValidationError as error:
        raise FolderError(f"{path}: {first_fault(error)}. Run `poet train` again.") from error
