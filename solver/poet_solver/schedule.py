"""A schedule: the steps that run, where every tensor instance lies, and what it costs (DESIGN §4)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias


class Status(StrEnum):
    """How far a solve got."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"


@dataclass(frozen=True)
class Home:
    """Where a tensor that is in RAM before the schedule starts lies, if the problem leaves that open.

    Stands before all other steps; does nothing and costs nothing.
    """

    tensor: int
    offset: int


@dataclass(frozen=True)
class Compute:
    """Run an op in a mode. Its operands are in RAM (or on storage, if streamed) and its outputs appear."""

    op: int
    mode: int
    offsets: tuple[int | None, ...]
    """Arena offset of each output, in the op's order; None for an output that goes straight to storage."""
    workspace_offset: int | None = None


@dataclass(frozen=True)
class PageOut:
    """Write a tensor that is in RAM to storage; it stays in RAM until freed."""

    tensor: int


@dataclass(frozen=True)
class PageIn:
    """Read a tensor that is on storage into RAM."""

    tensor: int
    offset: int


@dataclass(frozen=True)
class Free:
    """The RAM instance of a tensor ends; a copy on storage stays."""

    tensor: int


Step: TypeAlias = Home | Compute | PageOut | PageIn | Free


@dataclass(frozen=True)
class Costs:
    """Energy or time split by what it was spent on."""

    compute: float = 0.0
    """First computations."""
    recompute: float = 0.0
    page_in: float = 0.0
    page_out: float = 0.0
    idle: float = 0.0
    """idle_power_w x time (zero in a time split)."""

    @property
    def total(self) -> float:
        """Sum of all kinds."""
        return self.compute + self.recompute + self.page_in + self.page_out + self.idle


@dataclass(frozen=True)
class Bound:
    """A lower bound on the energy of every schedule of a family."""

    family: str
    """In words."""
    energy_j: float


@dataclass(frozen=True)
class Schedule:
    """A solved schedule. Every figure in it is recomputed by replay() before anybody sees it."""

    problem_digest: str
    status: Status
    steps: tuple[Step, ...]
    energy: Costs
    """Joules by kind."""
    time: Costs
    """Seconds by kind."""
    wear_bytes: float
    peak_bytes: int
    """Most bytes live at once: tensor instances and workspace."""
    arena_bytes: int
    """Highest arena address in use."""
    lower_bound_j: float
    """No schedule of `bound_family` uses less energy than this."""
    bound_family: str
    """In words, the family of schedules that the bound holds for."""
    solve_s: float = 0.0
    notes: tuple[str, ...] = field(default=())
    other_bounds: tuple[Bound, ...] = ()
    """Bounds on narrower families, where they were worked out."""

    @property
    def energy_j(self) -> float:
        """Total energy in joules."""
        return self.energy.total

    @property
    def time_s(self) -> float:
        """Total time in seconds."""
        return self.time.total

    @property
    def gap(self) -> float:
        """Relative distance of the energy from the bound."""
        return max(0.0, (self.energy_j - self.lower_bound_j) / self.energy_j) if self.energy_j else 0.0

    def digest(self) -> str:
        """SHA-256 over the problem and the steps (not over how long it took to find them), in hex."""
        text = json.dumps([self.problem_digest, [step_to_dict(step) for step in self.steps]])
        return hashlib.sha256(text.encode()).hexdigest()


def step_to_dict(step: Step) -> dict[str, Any]:
    """One step as it stands in schedule.json."""
    if isinstance(step, Compute):
        out: dict[str, Any] = {"do": "compute", "op": step.op, "mode": step.mode}
        if len(step.offsets) == 1:
            out["offset"] = step.offsets[0]
        else:
            out["offsets"] = list(step.offsets)
        if step.workspace_offset is not None:
            out["workspace_offset"] = step.workspace_offset
        return out
    if isinstance(step, Home):
        return {"do": "home", "tensor": step.tensor, "offset": step.offset}
    if isinstance(step, PageOut):
        return {"do": "page_out", "tensor": step.tensor}
    if isinstance(step, PageIn):
        return {"do": "page_in", "tensor": step.tensor, "offset": step.offset}
    return {"do": "free", "tensor": step.tensor}
