"""`poet flash`, `poet train`, `poet eval`, `poet stop`: what needs a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from poet_hil import launcher
from poet_hil.dataset import Dataset, load_npz
from poet_hil.device import DeviceClient
from poet_hil.errors import DatasetError, TargetMissing
from poet_hil.link import Link
from poet_hil.manifest import Build, load_build
from poet_hil.protocol import Heartbeat
from poet_hil.session import StepReport, TrainingSession, TrainPlan
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from poet_codegen.board import load_board
from poet_codegen.cli.build_commands import Folder
from poet_codegen.cli.console import console, dir_option, error_console, facts, next_step, size
from poet_codegen.cli.run_record import RunRecord, read_record, write_record
from poet_codegen.export import with_weights
from poet_codegen.folder import BuildFolder, remove, sha256, write_atomic
from poet_codegen.onnx_import import read_model
from poet_codegen.platformio.firmware import upload_firmware
from poet_codegen.report import write_report


class Schedule(StrEnum):
    """Learning rate over the passes."""

    CONSTANT = "constant"
    HALVE = "halve"


_RATE: dict[Schedule, Literal["constant", "halve_each_pass"]] = {
    Schedule.CONSTANT: "constant",
    Schedule.HALVE: "halve_each_pass",
}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="flash")(flash_command)
    app.command(name="train")(train_command)
    app.command(name="eval")(eval_command)
    app.command(name="stop")(stop_command)


def flash_command(
    dir: Folder = Path("build"),
    port: Annotated[
        str,
        typer.Option(help="Serial port of the board: /dev/ttyACM0, COM3, rfc2217://host:port. Not for QEMU."),
    ] = "",
) -> None:
    """Put the firmware on the board; for an emulated board, start QEMU with it.

    A running emulation of this build folder is ended first, so that training starts from the model's own weights.
    """
    folder = BuildFolder(dir)
    folder.need(folder.project / "firmware.elf", "poet build")
    build = load_build(dir)
    with error_console().status("Starting") as status:
        launcher.stop(build)
        if build.manifest.board.kind == "qemu":
            if port:
                raise typer.BadParameter("--port is for real boards; this build's board is emulated.")
            running = launcher.start_detached(build, kind="qemu")
        else:
            if not port:
                raise TargetMissing(
                    f"Board {build.manifest.board.id} needs its serial port: add --port, for example "
                    "--port /dev/ttyACM0."
                )
            upload_firmware(
                folder.project,
                load_board(folder.read_request().board),
                lambda line: status.update(escape(line)),
            )
            running = launcher.remember_port(build, port)
    with _device(build) as device:
        hello = device.hello()
    screen = console()
    screen.print(
        f"{escape(running.name)} answers: model {hello.model_digest.hex()[:12]}, {hello.steps_done} steps trained."
    )
    screen.print(next_step(f"poet train{dir_option(dir)} --data FILE.npz --epochs 3", "trains on it."))


def stop_command(dir: Folder = Path("build")) -> None:
    """End the emulated board of this build folder."""
    stopped = launcher.stop(load_build(dir))
    console().print("Stopped." if stopped else "Nothing was running.")


def train_command(
    data: Annotated[Path, typer.Option(help="npz file with x_train and y_train (or x and y); y are class indices.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps in all. Default: --epochs passes.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 1,
    rate: Annotated[float, typer.Option("--lr", help="Learning rate of the first pass.")] = 0.01,
    schedule: Annotated[Schedule, typer.Option(help="Learning rate over the passes.")] = Schedule.HALVE,
    shuffle: Annotated[
        int | None, typer.Option(help="Seed to shuffle each pass with. Default: the file's order.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run that was interrupted.")] = False,
    dir: Folder = Path("build"),
) -> None:
    """Train on the device and write the weights back into an ONNX file.

    Leaves run/trained.onnx, run/weights.npz, run/losses.csv and run/run.json in the build folder.
    """
    folder = BuildFolder(dir)
    build = load_build(dir)
    train_set = _part(data, "train")
    plan = TrainPlan(rate, steps, epochs, _RATE[schedule], shuffle)
    with _bar("Training") as bar, _device(build, bar) as device:
        session = TrainingSession(device, folder.run)
        task = bar.add_task("loss -", total=None)
        first_step = 0 if resume else device.hello().steps_done
        # From the first step on, what an earlier run left is not of this device's weights any more.
        for stale in ("run.json", "trained.onnx", "predictions.npy"):
            remove(folder.run / stale)

        def on_step(report: StepReport) -> None:
            text = f"loss {report.loss:.4f}"
            bar.update(task, completed=report.step + 1, total=report.total_steps, description=text)

        result = session.train(train_set, plan, resume=resume, on_step=on_step)
        status = device.status()
    trained = with_weights(read_model(folder.model), result.weights)
    write_atomic(folder.run / "trained.onnx", trained.SerializeToString())
    record = RunRecord(
        data=str(data),
        data_sha256=sha256(data.read_bytes()),
        learning_rate=rate,
        rate_schedule=_RATE[schedule],
        epochs=epochs,
        shuffle_seed=shuffle,
        first_step=first_step,
        steps=len(result.losses),
        seconds=result.seconds,
        loss_bits=result.loss_bits,
        weights_digest=result.weights_digest,
        recompute_calls=status.recomputes,
        page_outs=status.page_outs,
        page_ins=status.page_ins,
        arena_bytes=build.manifest.arena_bytes,
        budget_bytes=build.manifest.budget_bytes,
        peak_bytes=build.manifest.peak_bytes,
        arena_high_water_bytes=status.arena_high_water_bytes,
        stack_high_water_bytes=status.stack_high_water_bytes,
        stack_bytes=status.stack_bytes,
        energy=build.manifest.energy_j.model_dump(),
    )
    write_record(folder, record)
    write_report(folder)
    tail = result.losses[-100:]
    screen = console()
    screen.print(
        facts(
            [
                ("Steps", f"{len(result.losses)} in {result.seconds:.1f} s on this machine"),
                (
                    "Loss",
                    f"{result.losses[0]:.4f} at first, {float(np.mean(tail)):.4f} over the last {len(tail)} steps",
                ),
                (
                    "Arena touched",
                    f"{size(status.arena_high_water_bytes)}; the schedule's peak is {size(build.manifest.peak_bytes)}",
                ),
                ("Stack touched", f"{size(status.stack_high_water_bytes)} of {size(status.stack_bytes)}"),
                (
                    "Each step",
                    f"{status.recomputes} recomputations, {status.page_outs} page-outs, {status.page_ins} page-ins",
                ),
                ("Trained model", escape(str(folder.run / "trained.onnx"))),
            ]
        )
    )
    screen.print(next_step(f"poet eval{dir_option(dir)} --data {data}", "measures accuracy on the device."))


def eval_command(
    data: Annotated[Path, typer.Option(help="npz file with x_test and y_test (or x and y).")],
    dir: Folder = Path("build"),
) -> None:
    """Run the test set on the device and report its accuracy."""
    folder = BuildFolder(dir)
    build = load_build(dir)
    test_set = _part(data, "test")
    with _bar("Evaluating") as bar, _device(build, bar) as device:
        task = bar.add_task("", total=len(test_set))
        session = TrainingSession(device, folder.run)
        result = session.evaluate(test_set, on_sample=lambda done, total: bar.update(task, completed=done, total=total))
    np.save(folder.run / "predictions.npy", result.predictions)
    record = read_record(folder)
    if record is not None:
        write_record(folder, record.with_accuracy(result.accuracy))
        write_report(folder)
    screen = console()
    screen.print(f"Accuracy: [bold]{result.accuracy:.2%}[/] ({result.correct} of {result.total})")
    for label, (correct, there) in enumerate(result.per_class):
        if there:
            screen.print(f"  class {label}: {correct} of {there}")
    screen.print(next_step(f"poet verify{dir_option(dir)}", "proves that the schedule changed no bit."))


def _part(path: Path, part: Literal["train", "test"]) -> Dataset:
    chosen = getattr(load_npz(path), part)
    if chosen is None:
        raise DatasetError(f"{path} has no x_{part} and y_{part} (nor x and y). Add them, or name another file.")
    assert isinstance(chosen, Dataset)
    return chosen


@contextmanager
def _device(build: Build, bar: Progress | None = None) -> Iterator[DeviceClient]:
    def on_heartbeat(beat: Heartbeat) -> None:
        if bar is not None:
            for task in bar.tasks:
                bar.update(task.id, description=f"in step {beat.step_index} of {beat.steps_total} of the schedule")

    target = launcher.attach(build)
    target.open()
    try:
        yield DeviceClient(Link(target, on_heartbeat=on_heartbeat), build.manifest)
    finally:
        target.close()


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=error_console()) as bar:
        yield bar
