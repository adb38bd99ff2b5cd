"""What the solver sees: operations with modes, tensors with homes and page costs, and budgets (DESIGN §4).

A `Problem` knows nothing of ONNX or of C. It is written by poet_codegen's lowering, by hand, or read from JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from poet_solver.errors import ProblemError

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Cost = Annotated[float, Field(ge=0.0)]
Size = Annotated[int, Field(ge=0)]
Index = Annotated[int, Field(ge=0)]


class Place(StrEnum):
    """Where a tensor is before the first or after the last step of a schedule."""

    NONE = "none"
    RAM = "ram"
    STORAGE = "storage"


@dataclass(frozen=True, config=_STRICT)
class PageCost:
    """What one page-out or page-in of a whole tensor costs."""

    time_s: Cost
    energy_j: Cost
    wear_bytes: Cost = 0.0
    """Bytes erased on storage by this transfer (0 for reads)."""


@dataclass(frozen=True, config=_STRICT)
class Tensor:
    """One immutable value. An in-place update produces a new tensor (a new version), never changes one."""

    name: str
    size_bytes: Size
    page_in: PageCost | None = None
    """None: the tensor cannot be read back from storage."""
    page_out: PageCost | None = None
    """None: the tensor cannot be written to storage."""
    start: Place = Place.NONE
    """Where it is before the schedule starts. NONE: some op of the problem produces it."""
    end: Place = Place.NONE
    """Where it must be after the last step. NONE: it may be dropped after its last use."""
    home_offset: Index | None = None
    """Arena offset that the tensor must have at start and/or end, where that place is RAM; None: the solver chooses.

    Where the solver chooses, a tensor that starts and ends in RAM ends where it started, and the schedule begins with a
    Home step for it.
    """
    home_like: Index | None = None
    """For a tensor with end=RAM, start=NONE, no home_offset: the tensor with start=RAM in whose place it must end."""
    home_of: Index | None = None
    """For a tensor with end=STORAGE that is a new version of a tensor with start=STORAGE: that tensor.

    Both live in the same slot, so the old version can no longer be paged in once the new one was paged out.
    """


@dataclass(frozen=True, config=_STRICT)
class Mode:
    """One way to run an op. Plain POET is one mode an op, every operand resident."""

    time_s: Cost
    energy_j: Cost
    resident: tuple[Index, ...] = ()
    """Tensors that must be whole in RAM while the op runs."""
    streamed: tuple[Index, ...] = ()
    """Tensors read from storage while the op runs; they must be on storage, and are never whole in RAM."""
    outputs_to_storage: tuple[Index, ...] = ()
    """Outputs written straight to storage; every other output of the op goes to RAM."""
    in_place: tuple[tuple[Index, Index], ...] = ()
    """(input, output) pairs: the output takes over the input's bytes and the input is gone afterwards."""
    workspace_bytes: Size = 0
    wear_bytes: Cost = 0.0
    name: str = ""


@dataclass(frozen=True, config=_STRICT)
class Op:
    """One computation. `modes` is never empty."""

    name: str
    outputs: tuple[Index, ...]
    modes: Annotated[tuple[Mode, ...], Field(min_length=1)]
    repeatable: bool = True
    """False for ops that change state (updates) or have an effect outside the arena: they run exactly once."""
    backward: bool = False
    """True for gradient and update ops. The solver does not need it; reports and instance families do."""

    def operands(self) -> tuple[int, ...]:
        """Tensors any mode reads, resident or streamed, in ascending order."""
        return tuple(sorted({v for mode in self.modes for v in (*mode.resident, *mode.streamed)}))


@dataclass(frozen=True, config=_STRICT)
class Problem:
    """A scheduling problem. `ops` stand in a topological order, the fixed order of first computations."""

    name: str
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    ram_bytes: Size | None = None
    """Bound on the arena: every tensor instance, workspace and paging buffer. None: unbounded."""
    deadline_s: Cost | None = None
    """Bound on compute plus paging time. None: unbounded."""
    idle_power_w: Cost = 0.0
    """Power drawn all the time; adds idle_power_w x time to the energy."""
    wear_budget_bytes: Cost | None = None
    """Bound on bytes erased by one run of the schedule. None: unbounded."""
    alignment_bytes: Annotated[int, Field(ge=1)] = 1
    """Every arena offset is a multiple of this; every size and workspace must be too."""

    @model_validator(mode="after")
    def _check(self) -> Problem:
        _check_problem(self)
        return self

    def producer(self) -> tuple[int | None, ...]:
        """For every tensor the op that produces it, or None when it is there at the start."""
        made: list[int | None] = [None] * len(self.tensors)
        for index, op in enumerate(self.ops):
            for tensor in op.outputs:
                made[tensor] = index
        return tuple(made)

    def compute_time_s(self) -> float:
        """Seconds of every op once, each in its fastest mode."""
        return sum(min(mode.time_s for mode in op.modes) for op in self.ops)

    def to_json(self) -> str:
        """The problem as JSON text, the same bytes for the same problem."""
        return json.dumps(_ADAPTER.dump_python(self, mode="json", exclude_defaults=True), indent=1) + "\n"

    def digest(self) -> str:
        """SHA-256 of the JSON text, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def _check_problem(problem: Problem) -> None:
    count = len(problem.tensors)
    for v, tensor in enumerate(problem.tensors):
        where = f"tensors[{v}] ({tensor.name})"
        if tensor.size_bytes % problem.alignment_bytes:
            raise ValueError(f"{where}.size_bytes {tensor.size_bytes} is not a multiple of alignment_bytes")
        at_home = Place.RAM in (tensor.start, tensor.end)
        if tensor.home_offset is not None and not at_home:
            raise ValueError(f"{where}.home_offset is only for tensors whose start or end is 'ram'")
        wants_like = tensor.end is Place.RAM and tensor.start is not Place.RAM and tensor.home_offset is None
        if wants_like != (tensor.home_like is not None):
            raise ValueError(f"{where}.home_like must be set exactly when end is 'ram' without start or home_offset")
        if tensor.home_like is not None and not (
            tensor.home_like < count
            and problem.tensors[tensor.home_like].start is Place.RAM
            and problem.tensors[tensor.home_like].size_bytes == tensor.size_bytes
        ):
            raise ValueError(f"{where}.home_like must name a tensor of equal size that starts in RAM")
        if tensor.home_offset is not None and tensor.home_offset % problem.alignment_bytes:
            raise ValueError(f"{where}.home_offset is not a multiple of alignment_bytes")
        if tensor.start is Place.STORAGE and tensor.page_in is None and tensor.size_bytes:
            raise ValueError(f"{where}.page_in is missing, but the tensor starts on storage")
        if tensor.end is Place.STORAGE and tensor.start is not Place.STORAGE and tensor.page_out is None:
            raise ValueError(f"{where}.page_out is missing, but the tensor must end on storage")
        if tensor.home_of is not None and not (
            tensor.home_of < count
            and tensor.end is Place.STORAGE
            and problem.tensors[tensor.home_of].start is Place.STORAGE
            and problem.tensors[tensor.home_of].size_bytes == tensor.size_bytes
        ):
            raise ValueError(f"{where}.home_of must name a tensor of equal size that starts on storage")
    made: dict[int, int] = {}
    for k, op in enumerate(problem.ops):
        where = f"ops[{k}] ({op.name})"
        _check_indices(where, (*op.outputs, *op.operands()), count)
        for v in op.outputs:
            if v in made:
                raise ValueError(f"{where}.outputs: tensor {v} is already made by ops[{made[v]}]")
            if problem.tensors[v].start is not Place.NONE:
                raise ValueError(f"{where}.outputs: tensor {v} is there at the start, no op can make it")
        for v in op.operands():
            if problem.tensors[v].start is Place.NONE and v not in made:
                raise ValueError(f"{where}: reads tensor {v} before any op made it (cycle, or wrong order)")
        for m, mode in enumerate(op.modes):
            _check_mode(f"{where}.modes[{m}]", op, mode, problem)
        for v in op.outputs:
            made[v] = k
    for v, tensor in enumerate(problem.tensors):
        if tensor.start is Place.NONE and v not in made:
            raise ValueError(f"tensors[{v}] ({tensor.name}) is made by no op and is not there at the start")


def _check_mode(where: str, op: Op, mode: Mode, problem: Problem) -> None:
    if len(set(mode.resident) | set(mode.streamed)) != len(mode.resident) + len(mode.streamed):
        raise ValueError(f"{where}: a tensor stands twice in resident and streamed")
    if not set(mode.outputs_to_storage) <= set(op.outputs):
        raise ValueError(f"{where}.outputs_to_storage names a tensor that is no output of the op")
    if mode.workspace_bytes % problem.alignment_bytes:
        raise ValueError(f"{where}.workspace_bytes is not a multiple of alignment_bytes")
    for old, new in mode.in_place:
        if old not in mode.resident or new not in op.outputs or new in mode.outputs_to_storage:
            raise ValueError(f"{where}.in_place ({old}, {new}): needs a resident input and an output to RAM")
        if problem.tensors[old].size_bytes != problem.tensors[new].size_bytes:
            raise ValueError(f"{where}.in_place ({old}, {new}): the two differ in size")
    if len({old for old, _ in mode.in_place}) < len(mode.in_place) or len({new for _, new in mode.in_place}) < len(
        mode.in_place
    ):
        raise ValueError(f"{where}.in_place names a tensor twice")


def _check_indices(where: str, indices: Sequence[int], count: int) -> None:
    for v in indices:
        if v >= count:
            raise ValueError(f"{where}: tensor {v} does not exist; there are {count}")


_ADAPTER = TypeAdapter(Problem)


def parse_problem(text: str, source: str = "problem") -> Problem:
    """Read a problem from JSON text. Raises ProblemError that names `source` and the field."""
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        where = f"{source}: {field}" if field else source
        raise ProblemError(f"{where}: {what}. Correct that field and try again.") from error
