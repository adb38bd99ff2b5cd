"""The build's manifest.json, all that the harness knows about a build."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from poet_hil.errors import ManifestError

FORMAT = 3
ELEMENT_BYTES = 4

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Positive = Annotated[int, Field(gt=0)]
Bytes = Annotated[int, Field(ge=0)]
Shape = Annotated[tuple[Positive, ...], Field(max_length=8)]
BatchShape = Annotated[tuple[Positive, ...], Field(min_length=1, max_length=8)]


class _Frozen(BaseModel):
    """Immutable; fields that a newer generator added are left out, a change of meaning changes `format`."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _Array(_Frozen):
    """An array of float32 or int32 with a name. `bytes` is its size."""

    name: str
    shape: Shape
    bytes: Positive

    @model_validator(mode="after")
    def _size_follows_from_shape(self) -> Self:
        if self.bytes != math.prod(self.shape) * ELEMENT_BYTES:
            raise ValueError(f"{self.name!r} of shape {list(self.shape)} cannot occupy {self.bytes} bytes")
        return self


class Input(_Array):
    """What a sample is written to; the first axis is the batch.

    `index_range`: where an int32 input picks rows of a table, its values must lie in [first, second), negative ones
    counting from the end.
    """

    shape: BatchShape
    dtype: Literal["float32", "int32"]
    index_range: tuple[int, int] | None = None


class Output(_Array):
    """What the model answers; the first axis is the batch."""

    shape: BatchShape
    dtype: Literal["float32"]


class Param(_Array):
    """A parameter, or `state` of its training; `home` is where it lives between steps.

    `shape` is the model's. The device has it `transposed`, with its axes backwards, or not; and then its columns in so
    many `panels`, one behind the other.
    """

    index: Annotated[int, Field(ge=0)]
    home: Literal["ram", "storage", "rom", "frozen"]
    state: bool = False
    transposed: bool = False
    panels: Positive = 1


class Label(_Array):
    """What the output is compared with: int32 class indices, each in [0, classes), or float32 targets (classes 0)."""

    shape: BatchShape
    dtype: Literal["float32", "int32"]
    classes: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _classes_are_indices(self) -> Self:
        if (self.dtype == "int32") != (self.classes > 0):
            raise ValueError(f"{self.classes} classes do not go with labels of {self.dtype}")
        return self

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Step(_Frozen):
    """A schedule step: what it computes or moves in bytes, planned energy in joules and time in seconds.

    `macs` and `elements` say how much it computes, `kernel` by which C function and `kernel_digest` by which code; 0
    and empty for a page. `transfer_s` and `transfer_j` are what the board's storage model has a page's transfer take,
    or those of a computation in tiles, without the processor's own work; else 0. Of these, `hidden_s` is at the same
    time as the processor's work, where that takes `hidden_within_s` in all, as the board's cycle table has it.
    """

    index: Annotated[int, Field(ge=0)]
    do: Literal["compute", "page_in", "page_out"]
    name: str
    op: str
    recompute: bool
    bytes: Bytes
    macs: Annotated[int, Field(ge=0)] = 0
    elements: Annotated[int, Field(ge=0)] = 0
    kernel: str = ""
    kernel_digest: str = ""
    transfer_s: Annotated[float, Field(ge=0)] = 0.0
    transfer_j: Annotated[float, Field(ge=0)] = 0.0
    hidden_s: Annotated[float, Field(ge=0)] = 0.0
    hidden_within_s: Annotated[float, Field(ge=0)] = 0.0
    energy_j: float
    time_s: float


class Image(_Frozen):
    """A storage device's file, poet_storage.bin of the run: its size, and the byte that a new one is full of."""

    bytes: Positive
    fill: Annotated[int, Field(ge=0, le=255)]


class Qemu(_Frozen):
    """How to emulate the board."""

    machine: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    args: tuple[str, ...] = ()
    image: Image | None = None


class Board(_Frozen):
    """The board.

    `core` is its processor's ('cortex-m4'), `clock_hz` how fast that runs, `run_w` and `sleep_w` its power then and
    while it sleeps (watts, the board file's), `storage` what it pages to, `ram_bytes` what the firmware was linked
    for, `baud` bits a second of its serial port.
    """

    id: str
    core: str = ""
    clock_hz: Annotated[int, Field(ge=0)] = 0
    run_w: Annotated[float, Field(ge=0)] = 0.0
    sleep_w: Annotated[float, Field(ge=0)] = 0.0
    storage: str = ""
    kind: Literal["qemu", "serial", "host"]
    ram_bytes: Positive
    baud: Positive
    qemu: Qemu | None = None

    @model_validator(mode="after")
    def _emulated_board_names_its_machine(self) -> Self:
        if self.kind == "qemu" and self.qemu is None:
            raise ValueError("a board of kind 'qemu' needs the table 'qemu'")
        return self


class Energy(_Frozen):
    """Planned energy of one training step in joules, by kind, and where the figures come from."""

    compute: float
    recompute: float
    page_in: float
    page_out: float
    idle: float
    source: str


class Initial(_Frozen):
    """Weights that flash had no room for: `file` belongs on storage at `address`."""

    file: str
    address: Bytes


class Manifest(_Frozen):
    """manifest.json. Sizes are in bytes, paths relative to the manifest's folder."""

    format: Literal[3]
    tool_version: str
    abi: int
    model_digest: Digest
    schedule_digest: Digest
    board: Board
    inputs: Annotated[tuple[Input, ...], Field(min_length=1)]
    loss: Literal["cross-entropy", "soft-cross-entropy", "mse", "bce"]
    label: Label
    output: Output
    params: tuple[Param, ...]
    steps: tuple[Step, ...]
    """The marked steps of one training step, in order."""
    infer_steps: tuple[Step, ...] = ()
    """Those of inference, numbered behind them."""
    arena_bytes: Bytes
    budget_bytes: Bytes
    peak_bytes: Bytes
    energy_j: Energy
    initial: Initial | None = None
    frozen: Initial | None = None
    """Pages of parameters that never change, which storage must hold."""
    firmware_elf: str
    host_executable: str

    @model_validator(mode="after")
    def _tables_are_in_order(self) -> Self:
        for what, indices in (
            ("params", [p.index for p in self.params]),
            ("steps", [s.index for s in (*self.steps, *self.infer_steps)]),
        ):
            if indices != list(range(len(indices))):
                raise ValueError(f"{what} must be listed by index, from 0, with none left out")
        for what, names in (
            ("params", [p.name for p in self.params]),
            ("inputs", [i.name for i in self.inputs]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"two {what} have the same name")
        for path in (self.firmware_elf, self.host_executable, *(i.file for i in (self.initial, self.frozen) if i)):
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"{path!r} is not a path inside the project folder")
        return self

    @property
    def marked_steps(self) -> int:
        """Schedule steps that the firmware times: those of training, then those of inference."""
        return len(self.steps) + len(self.infer_steps)

    @property
    def batch(self) -> int:
        """Samples in one training step."""
        return self.inputs[0].shape[0]


@dataclass(frozen=True)
class Build:
    """A build folder: the manifest, where it is, and where a run leaves its files."""

    manifest: Manifest
    manifest_path: Path
    manifest_sha256: str
    run_dir: Path

    @property
    def firmware_elf(self) -> Path:
        """Image for the board."""
        return self.manifest_path.parent / self.manifest.firmware_elf

    @property
    def host_executable(self) -> Path:
        """The same firmware as a program for this machine."""
        return self.manifest_path.parent / self.manifest.host_executable


def load_build(folder: Path) -> Build:
    """Read `folder`/project/manifest.json; runs go to `folder`/run."""
    path = folder.resolve() / "project" / "manifest.json"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(
            f"There is no readable manifest in the build folder {folder} ({error.strerror or error}: "
            f"{path}). Make the build first with `poet plan` and `poet build`, or name its folder."
        ) from error
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file as a whole"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ManifestError(
            f"{path} is not a manifest of format {FORMAT}: {field}: {first['msg']}{more}. It was made by "
            f"another version of poet-mcu or changed by hand; make it again with `poet build`."
        ) from error
    return Build(manifest, path, hashlib.sha256(data).hexdigest(), folder.resolve() / "run")
