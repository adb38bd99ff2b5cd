"""`poet profile`: what each kernel and each page takes on the target, for the next plan."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from numpy.typing import NDArray
from poet_hil import launcher
from poet_hil.device import DeviceClient
from poet_hil.link import Link
from poet_hil.manifest import Build, Step, load_build
from poet_hil.profiler.steps import DeviceClock, QemuClock, StepClock, profile_steps
from poet_hil.samples import Batch
from rich.markup import escape

from poet_codegen.build import write_project
from poet_codegen.cli.attach import progress_bar
from poet_codegen.cli.batches import batches
from poet_codegen.cli.build_commands import Folder
from poet_codegen.cli.console import console, facts, next_step
from poet_codegen.costs import Costs, Runs, costs_to_json, gather
from poet_codegen.cover import NEAR, Cover
from poet_codegen.folder import BuildFolder, write_atomic
from poet_codegen.plan import load_plan
from poet_codegen.platformio.firmware import build_firmware

_RATE = 1e-3
_COVER_LIMIT_S = 5.0
_MOST_S = 600.0
"""Further builds that take no longer need not be asked for."""
_VAIN = 3
"""Searches in a row without a further mode, until what is left is taken not to run within the memory."""


class Reach(StrEnum):
    """Which modes of ops a profile runs."""

    USED = "used"
    NEAR = "near"
    ALL = "all"

    def names(self, cover: Cover, used: frozenset[str]) -> frozenset[str]:
        """Those modes, by their names in a profile."""
        return used if self is Reach.USED else cover.modes(NEAR) if self is Reach.NEAR else cover.modes()


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="profile")(profile_command)


def profile_command(
    dir: Folder = Path("build"),
    runs: Annotated[int, typer.Option(min=1, help="Training steps to take the mean of.")] = 3,
    data: Annotated[
        Path | None,
        typer.Option(
            help="npz file to take samples from. Default: random ones; branches may fall otherwise with real data."
        ),
    ] = None,
    reach: Annotated[
        Reach | None,
        typer.Option(
            "--modes",
            help="Which ways to run an op: those that the schedule uses; near, also those that take at most 100 times "
            "as long as the op's quickest; or all. More than the used ones take further builds, on emulated boards "
            "alone. Default: as many as take about ten minutes.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the costs go. Default: costs.json in the build folder.")
    ] = None,
) -> None:
    """Run every op and page of a build on the target, and write what they take to costs.json.

    On an emulated board QEMU counts the instructions and a timing table prices them: those cycles are modelled, and
    what the storage device takes for a page stays the board file's model. A real board (after `poet flash`) is
    trained for some steps and asked for its own clock's ticks, which are measured; what it had learnt is lost.
    Modes of ops that the schedule does not use are run on an emulated board in builds of their own (--modes).

    Then: [cyan]poet plan model.onnx --board ... --costs build/costs.json[/]
    """
    folder = BuildFolder(dir)
    build, plan = load_build(dir), load_plan(folder)
    is_emulated = build.manifest.board.kind == "qemu"
    if reach not in (None, Reach.USED) and not is_emulated:
        raise typer.BadParameter(
            f"{reach} takes further builds, which only an emulated board runs by itself. Leave it out.",
            param_hint="--modes",
        )
    samples = batches(build, data, runs)
    with progress_bar("Profiling") as bar:
        task = bar.add_task("training steps", total=runs)
        with profiled(build) as (clock, device):
            rows = _take_runs(build, clock, device, samples, lambda done: bar.update(task, completed=done))
        cover = Cover(plan)
        used = cover.run_by(plan)
        wanted = (reach or _default_reach(cover, used, is_emulated)).names(cover, used) - used
        further = bar.add_task("further modes", total=len(wanted), visible=bool(wanted))

        def progress(left: int, words: str) -> None:
            bar.update(further, completed=len(wanted) - left, description=words)

        more, left, builds = _other_modes(cover, wanted, samples[:1], progress)
        rows += more
    seen, offered = used | (wanted - left), cover.modes()
    costs = costs_of(build, clock, rows, f"{len(seen)} of {len(offered)} modes of ops")
    path = out or folder.costs
    write_atomic(path, costs_to_json(costs))
    spread = max((entry.spread for entry in costs.kernels), default=0.0)
    screen = console()
    screen.print(
        facts(
            [
                ("Source", escape(f"{clock.kind}: {costs.source}")),
                (
                    "Kernels",
                    f"{len(costs.kernels)}, of which runs differ by up to ±{spread:.1%}",
                ),
                (
                    "Pages",
                    f"{len(costs.pages)} sizes and directions" if costs.pages else "none: the schedule pages nothing",
                ),
                ("Modes", _modes_run(cover, seen, builds, is_emulated)),
                ("Costs", escape(str(path))),
            ]
        )
    )
    screen.print(next_step(f"poet plan ... --costs {path}", "plans with them."))


@contextmanager
def profiled(build: Build) -> Iterator[tuple[StepClock, DeviceClient]]:
    """The clock of the build's board and the device, running: an emulator of its own, or the board that was flashed."""
    with tempfile.TemporaryDirectory(prefix="poet-profile-") as temporary:
        clock: StepClock
        if build.manifest.board.kind == "qemu":
            clock = QemuClock(build, Path(temporary))
        else:
            clock = DeviceClock(build, launcher.attach(build))
        with clock.target as target:
            device = DeviceClient(Link(target), build.manifest)
            device.hello()
            yield clock, device


def take_costs(
    build: Build,
    clock: StepClock,
    device: DeviceClient,
    samples: Sequence[Batch],
    progress: Callable[[int], None] = lambda done: None,
) -> Costs:
    """Train on each of the samples and infer once, and gather what the steps took."""
    return costs_of(build, clock, _take_runs(build, clock, device, samples, progress))


def costs_of(build: Build, clock: StepClock, rows: Sequence[Runs], extent: str = "") -> Costs:
    """The costs of a build that some runs make; `extent` says of what they are."""
    kernels, pages = gather(rows, clock.kind)
    board, version = build.manifest.board, build.manifest.tool_version
    source = f"{clock.source}; {extent}" if extent else clock.source
    return Costs(1, version, board.id, board.core, board.clock_hz, board.storage, source, kernels, pages)


def _take_runs(
    build: Build,
    clock: StepClock,
    device: DeviceClient,
    samples: Sequence[Batch],
    progress: Callable[[int], None] = lambda done: None,
) -> list[Runs]:
    manifest = build.manifest

    def train(number: int) -> None:
        progress(number)
        device.write_sample(*samples[number])
        device.train(_RATE)

    def infer(number: int) -> None:
        device.write_input(samples[number][0])
        device.infer()

    rows = _rows(manifest.steps, profile_steps(clock, device, manifest.steps, train, len(samples)))
    return rows + _rows(manifest.infer_steps, profile_steps(clock, device, manifest.infer_steps, infer, 1))


def _default_reach(cover: Cover, used: frozenset[str], is_emulated: bool) -> Reach:
    """As many modes as take no more than `_MOST_S`."""
    for reach in (Reach.ALL, Reach.NEAR) if is_emulated else ():
        if cover.effort(reach.names(cover, used) - used)[1] <= _MOST_S:
            return reach
    return Reach.USED


def _modes_run(cover: Cover, seen: frozenset[str], builds: int, is_emulated: bool) -> str:
    """What was run of what there is, and what the rest would take."""
    offered = cover.modes()
    text = f"{len(seen)} of {len(offered)}" + (f", in {builds} further builds" if builds else "")
    left = offered - seen
    if not left:
        return text
    passes, seconds = cover.effort(left)
    how = f"; --modes all takes {passes} builds or more, about {_minutes(seconds)}" if is_emulated else ""
    return f"{text}; the others keep the cycle table's costs{how}"


def _minutes(seconds: float) -> str:
    return f"{math.ceil(seconds / 60)} min"


def _other_modes(
    cover: Cover, left: frozenset[str], samples: Sequence[Batch], progress: Callable[[int, str], None]
) -> tuple[list[Runs], frozenset[str], int]:
    """What modes take that the plan's schedule does not run, in builds of their own.

    Returns their runs, the names of those that no schedule could run, and the number of builds. `progress` gets how
    many are left, and words.
    """
    rows: list[Runs] = []
    builds = turn = vain = 0
    while left and vain < _VAIN:
        passes, seconds = cover.effort(left)
        progress(len(left), f"{len(left)} further modes, {passes} builds or more, about {_minutes(seconds)}")
        other = cover.next(left, turn, _COVER_LIMIT_S)
        turn += 1
        if other is None:
            vain += 1
            continue
        left -= cover.run_by(other)
        builds, vain = builds + 1, 0
        with tempfile.TemporaryDirectory(prefix="poet-profile-") as temporary:
            project = Path(temporary) / "project"
            write_project(other, project)
            build_firmware(project, other.board)
            build = load_build(Path(temporary))
            with profiled(build) as (clock, device):
                rows += _take_runs(build, clock, device, samples)
    return rows, left, builds


def _rows(steps: Sequence[Step], cycles: NDArray[Any]) -> list[Runs]:
    return [
        Runs(step.do, step.op, step.kernel, step.kernel_digest, step.bytes, tuple(map(float, column)))
        for step, column in zip(steps, cycles.T, strict=True)
    ]
