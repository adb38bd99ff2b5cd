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

from poet_codegen.cli.attach import progress_bar
from poet_codegen.cli.batches import batches
from poet_codegen.cli.build_commands import Folder
from poet_codegen.cli.console import console, facts, next_step, si
from poet_codegen.costs import Costs, Runs, costs_to_json, gather
from poet_codegen.folder import BuildFolder, write_atomic

_RATE = 1e-3


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
    out: Annotated[
        Path | None, typer.Option(help="Where the costs go. Default: costs.json in the build folder.")
    ] = None,
) -> None:
    """Run every op and page of a build on the target, and write what they take to costs.json.

    On an emulated board QEMU counts the instructions and a timing table prices them: those cycles are modelled, and
    what the storage device takes for a page stays the board file's model. A real board (after `poet flash`) is
    trained for some steps and asked for its own clock's ticks, which are measured; what it had learnt is lost.

    Then: [cyan]poet plan model.onnx --board ... --costs build/costs.json[/]
    """
    folder = BuildFolder(dir)
    build = load_build(dir)
    samples = batches(build, data, runs)
    with progress_bar("Profiling") as bar, profiled(build) as (clock, device):
        task = bar.add_task("training steps", total=runs)
        costs = take_costs(build, clock, device, samples, lambda done: bar.update(task, completed=done))
    path = out or folder.costs
    write_atomic(path, costs_to_json(costs))
    spread = max((entry.spread for entry in costs.kernels), default=0.0)
    seconds = sum(entry.cycles * entry.runs for entry in costs.kernels) / runs / costs.clock_hz
    screen = console()
    screen.print(
        facts(
            [
                ("Source", escape(f"{clock.kind}: {costs.source}")),
                (
                    "Kernels",
                    f"{len(costs.kernels)}, of which runs differ by up to ±{spread:.1%}; {si(seconds, 's')} a step",
                ),
                (
                    "Pages",
                    f"{len(costs.pages)} sizes and directions" if costs.pages else "none: the schedule pages nothing",
                ),
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
    manifest = build.manifest

    def train(number: int) -> None:
        progress(number)
        device.write_sample(*samples[number])
        device.train(_RATE)

    def infer(number: int) -> None:
        device.write_input(samples[number][0])
        device.infer()

    rows = _rows(manifest.steps, profile_steps(clock, device, manifest.steps, train, len(samples)))
    rows += _rows(manifest.infer_steps, profile_steps(clock, device, manifest.infer_steps, infer, 1))
    kernels, pages = gather(rows, clock.kind)
    board = manifest.board
    return Costs(
        1, manifest.tool_version, board.id, board.core, board.clock_hz, board.storage, clock.source, kernels, pages
    )


def _rows(steps: Sequence[Step], cycles: NDArray[Any]) -> list[Runs]:
    return [
        Runs(step.do, step.op, step.kernel, step.kernel_digest, step.bytes, tuple(map(float, column)))
        for step, column in zip(steps, cycles.T, strict=True)
    ]
