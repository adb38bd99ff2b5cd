"""The build folder: what each command leaves there for the next (one place that knows the file names)."""

from __future__ import annotations

import hashlib
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from poet_solver.errors import PoetError
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from poet_codegen.board import Board, load_board
from poet_codegen.errors import first_fault
from poet_codegen.lower import Home
from poet_codegen.numerics import Numerics
from poet_codegen.recipe import Recipe

DAYS_A_YEAR = 365.0


class FolderError(PoetError):
    """The build folder lacks what a command needs, or holds something damaged."""


@checked(frozen=True, config=ConfigDict(extra="forbid"))
class Lifetime:
    """A time of use."""

    days: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    steps_per_day: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @property
    def steps(self) -> int:
        """Training steps in it."""
        return math.ceil(self.days * self.steps_per_day)

    def of_steps(self, steps: int) -> str:
        """How long so many steps take at this pace, for people: '2.5 years'."""
        days = steps / self.steps_per_day
        return f"{days / DAYS_A_YEAR:.3g} years" if days >= DAYS_A_YEAR else f"{days:.3g} days"


@checked(frozen=True, config=ConfigDict(extra="forbid"))
class Request:
    """What `poet plan` was asked; plan.json."""

    tool_version: str
    model_path: str
    """As the user named it; the build folder has a copy."""
    model_sha256: str
    board: str
    ram_bytes: Annotated[int, Field(gt=0)]
    deadline_factor: float | None
    home: Home
    recipe: Recipe
    technique: str
    seed: int
    board_ram_bytes: Annotated[int, Field(gt=0)] | None = None
    """The RAM that firmware is linked for, where that is less than the board has."""
    costs_sha256: str | None = None
    """Of plan_costs.json, the profile that the plan was made with; None: the cycle table alone."""
    storage: str | None = None
    """Driver of the storage device to page to; None: the board's first."""
    lifetime: Lifetime | None = None
    """How long storage has to last; None: not asked."""
    numerics: Numerics = Numerics.SEPARATE
    code_bytes: Annotated[int, Field(ge=0)] | None = None
    """What the kernels' code may take; None: what the board's flash leaves."""

    def load_board(self) -> Board:
        """The board, with as much RAM and the storage device that were asked for. Raises BoardError."""
        return load_board(self.board, self.board_ram_bytes, self.storage)


@dataclass(frozen=True)
class BuildFolder:
    """Paths below one build folder."""

    path: Path

    @property
    def request(self) -> Path:
        """What was asked."""
        return self.path / "plan.json"

    @property
    def model(self) -> Path:
        """Copy of the ONNX model."""
        return self.path / "model.onnx"

    @property
    def graph(self) -> Path:
        """Training graph."""
        return self.path / "graph.json"

    @property
    def problem(self) -> Path:
        """Scheduling problem of a training step."""
        return self.path / "problem.json"

    @property
    def schedule(self) -> Path:
        """Schedule of a training step."""
        return self.path / "schedule.json"

    @property
    def infer_problem(self) -> Path:
        """Scheduling problem of inference."""
        return self.path / "infer_problem.json"

    @property
    def infer_schedule(self) -> Path:
        """Schedule of inference."""
        return self.path / "infer_schedule.json"

    @property
    def plan_costs(self) -> Path:
        """Copy of the costs that the plan was made with, where it was given some."""
        return self.path / "plan_costs.json"

    @property
    def costs(self) -> Path:
        """What profiling this build found."""
        return self.path / "costs.json"

    @property
    def project(self) -> Path:
        """PlatformIO project."""
        return self.path / "project"

    @property
    def manifest(self) -> Path:
        """What the host side of the link reads."""
        return self.project / "manifest.json"

    @property
    def sizes(self) -> Path:
        """Flash, RAM and stack of the built firmware."""
        return self.project / "sizes.json"

    @property
    def energy(self) -> Path:
        """What training steps took under a meter."""
        return self.run / "energy.json"

    @property
    def run(self) -> Path:
        """What running left: logs, losses, weights."""
        return self.path / "run"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    def need(self, path: Path, command: str) -> Path:
        """`path`, or FolderError that names the command that makes it."""
        if not path.exists():
            raise FolderError(
                f"{self.path} has no {path.relative_to(self.path)}. Run `{command}` first, or name another folder "
                "with --dir."
            )
        return path

    def read_request(self) -> Request:
        """What was asked. Raises FolderError when nothing was, or the file is damaged."""
        text = self.need(self.request, "poet plan").read_text(encoding="utf-8")
        try:
            return TypeAdapter(Request).validate_json(text)
        except ValidationError as error:
            raise FolderError(f"{self.request}: {first_fault(error)}. Run `poet plan` again.") from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data.encode() if isinstance(data, str) else data)
    temporary.replace(path)


def sync_tree(files: dict[str, bytes], target: Path) -> None:
    """Make `target` hold these files, leaving equal ones untouched so that a build tool need not rebuild them."""
    for name, data in files.items():
        path = target / name
        if not path.exists() or path.read_bytes() != data:
            write_atomic(path, data)


def remove(path: Path) -> None:
    """Delete a file or folder if it is there: what an earlier stage made obsolete must not look valid."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256(data: bytes) -> str:
    """Hex digest of a file's bytes."""
    return hashlib.sha256(data).hexdigest()
