"""`poet profile`: what each kernel and each page takes on the target, for the next plan."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from poet_codegen.cover import covered, modes, next_cover
from poet_codegen.folder import BuildFolder, write_atomic
from poet_codegen.plan import Plan, load_plan
from poet_codegen.platformio.firmware import build_firmware

_RATE = 1e-3
_PASSES = 24
"""Builds at most that run further modes."""
_COVER_LIMIT_S = 5.0


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
    own_modes: Annotated[
        bool,
        typer.Option("--own-modes", help="Leave out modes that the schedule does not use; they take further builds."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where the costs go. Default: costs.json in the build folder.")
    ] = None,
) -> None:
    """Run every op and page of a build on the target, and write what they take to costs.json.

    On an emulated board QEMU counts the instructions and a timing table prices them: those cycles are modelled, and
    what the storage device takes for a page stays the board file's model. A real board (after `poet flash`) is
    trained for some steps and asked for its own clock's ticks, which are measured; what it had learnt is lost.
    Modes of ops that the schedule does not use are run on an emulated board in builds of their own.

    Then: [cyan]poet plan model.onnx --board ... --costs build/costs.json[/]
    """
    folder = BuildFolder(dir)
    build = load_build(dir)
    samples = batches(build, data, runs)
    with progress_bar("Profiling") as bar:
        task = bar.add_task("training steps", total=runs)
        with profiled(build) as (clock, device):
            rows = _take_runs(build, clock, device, samples, lambda done: bar.update(task, completed=done))
        plan = load_plan(folder)
        left = len(modes(plan) - covered(plan))
        if build.manifest.board.kind == "qemu" and not own_modes:
            more, left = _other_modes(plan, samples[:1], lambda words: bar.update(task, description=words))
            rows += more
    costs = costs_of(build, clock, rows)
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
                *([("Not run", f"{left} modes of ops, which keep the cycle table's costs")] if left else []),
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


def costs_of(build: Build, clock: StepClock, rows: Sequence[Runs]) -> Costs:
    """The costs of a build that some runs make."""
    kernels, pages = gather(rows, clock.kind)
    board, version = build.manifest.board, build.manifest.tool_version
    return Costs(1, version, board.id, board.core, board.clock_hz, board.storage, clock.source, kernels, pages)


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


def _other_modes(plan: Plan, samples: Sequence[Batch], progress: Callable[[str], None]) -> tuple[list[Runs], int]:
    """What modes take that the plan's schedule does not run, in builds of their own; and how many none could run."""
    seen, wanted = covered(plan), modes(plan)
    rows: list[Runs] = []
    for _ in range(_PASSES):
        if not wanted - seen:
            break
        progress(f"{len(wanted - seen)} modes that the schedule does not use")
        other = next_cover(plan, seen, _COVER_LIMIT_S)
        if other is None:
            break
        seen |= covered(other)
        with tempfile.TemporaryDirectory(prefix="poet-profile-") as temporary:
            project = Path(temporary) / "project"
            write_project(other, project)
            build_firmware(project, other.board)
            build = load_build(Path(temporary))
            with profiled(build) as (clock, device):
                rows += _take_runs(build, clock, device, samples)
    return rows, len(wanted - seen)


def _rows(steps: Sequence[Step], cycles: NDArray[Any]) -> list[Runs]:
    return [
        Runs(step.do, step.op, step.kernel, step.kernel_digest, step.bytes, tuple(map(float, column)))
        for step, column in zip(steps, cycles.T, strict=True)
    ]
