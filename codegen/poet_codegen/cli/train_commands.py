"""`poet train`, `poet eval`: sessions on a running device, and what they leave in the build folder."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from poet_hil.dataset import Dataset, load_npz
from poet_hil.errors import DatasetError, SessionError
from poet_hil.manifest import Build, Manifest, load_build
from poet_hil.protocol import DeviceStatus
from poet_hil.results import weights_digest
from poet_hil.session import StepReport, TrainingResult, TrainingSession
from rich.markup import escape

from poet_codegen.cli.attach import attached, progress_bar
from poet_codegen.cli.build_commands import Folder
from poet_codegen.cli.console import console, dir_option, facts, next_step, size
from poet_codegen.cli.run_record import RunRequest, begin_run, finish_run, read_record, same_run, write_record
from poet_codegen.export import with_weights
from poet_codegen.folder import BuildFolder, sha256, write_atomic
from poet_codegen.onnx_import import read_model
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
    app.command(name="train")(train_command)
    app.command(name="eval")(eval_command)


def train_command(
    data: Annotated[
        Path, typer.Option(help="npz file with x_train and y_train (or x and y); of several inputs, each by its name.")
    ],
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps in all. Default: --epochs passes.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 1,
    rate: Annotated[float, typer.Option("--lr", help="Learning rate of the first pass.")] = 0.01,
    schedule: Annotated[Schedule, typer.Option(help="Learning rate over the passes.")] = Schedule.HALVE,
    shuffle: Annotated[
        int | None, typer.Option(help="Seed to shuffle each pass with. Default: the file's order.")
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            min=1, help="Commit a checkpoint on the device's storage after every so many steps. Default: never."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            help="Go on with the run that was interrupted, where the device is (after a power cut: at its newest "
            "checkpoint); same options."
        ),
    ] = False,
    dir: Folder = Path("build"),
) -> None:
    """Train on the device and write the weights back into an ONNX file.

    Leaves run/trained.onnx, run/weights.npz, run/losses.csv and run/run.json in the build folder.
    """
    folder = BuildFolder(dir)
    build = load_build(dir)
    train_set = _part(data, "train", build.manifest)
    train_set.check(build.manifest)
    request = RunRequest(
        data=str(data.resolve()),
        data_sha256=sha256(data.read_bytes()),
        learning_rate=rate,
        rate_schedule=_RATE[schedule],
        epochs=epochs,
        steps_asked=steps,
        shuffle_seed=shuffle,
        first_step=0,
    )
    with progress_bar("Training") as bar, attached(build, bar) as device:
        request = same_run(folder, request) if resume else begin_run(folder, request, device.hello().steps_done)
        session = TrainingSession(device, folder.run)
        task = bar.add_task("loss -", total=None)

        def on_step(report: StepReport) -> None:
            text = f"loss {report.loss:.4f}"
            bar.update(task, completed=report.step + 1, total=report.total_steps, description=text)

        def on_read(done: int, total: int) -> None:
            bar.update(task, description=f"reading weights, {done / total:.0%} of {size(total)}")

        result = session.train(
            train_set,
            request.plan(),
            resume=resume,
            checkpoint_every=checkpoint_every,
            on_step=on_step,
            on_read=on_read,
        )
        status = device.status()
    state = {param.name for param in build.manifest.params if param.state}
    weights = {name: values for name, values in result.weights.items() if name not in state}
    trained = with_weights(read_model(folder.model), weights)
    write_atomic(folder.run / "trained.onnx", trained.SerializeToString())
    finish_run(folder, request, result, status, build.manifest)
    write_report(folder)
    screen = console()
    screen.print(facts(_train_facts(folder, build, result, status)))
    if result.stopped is not None:
        raise SessionError(f"{result.stopped} {_kept(result)}")
    command = f"poet eval{dir_option(dir)} --data {shlex.quote(str(data))}"
    screen.print(next_step(command, "measures the result on the device."))


def _train_facts(
    folder: BuildFolder, build: Build, result: TrainingResult, status: DeviceStatus
) -> list[tuple[str, str]]:
    tail = result.losses[-100:]
    loss = f"{result.losses[0]:.4f} at first, {np.mean(tail):.4f} over the last {len(tail)} steps" if len(tail) else "-"
    return [
        ("Steps", f"{len(result.losses)} in {result.seconds:.1f} s on this machine"),
        ("Loss", loss),
        (
            "Arena touched",
            f"{size(status.arena_high_water_bytes)}; the schedule's peak is {size(build.manifest.peak_bytes)}",
        ),
        ("Stack touched", f"{size(status.stack_high_water_bytes)} of {size(status.stack_bytes)}"),
        (
            "Each step",
            f"{status.recomputes} recomputations, {status.page_outs} page-outs, {status.page_ins} page-ins",
        ),
        *([("Storage wear", f"{status.erases:,} units erased since boot")] if status.erases else []),
        *([("Taken up again", f"{result.recoveries} times after the device went away")] if result.recoveries else []),
        ("Trained model", escape(str(folder.run / "trained.onnx"))),
    ]


def _kept(result: TrainingResult) -> str:
    """What a run that stopped at a loss that was not finite leaves."""
    left = f"They and the losses before it were saved, as after a whole run ({result.weights_path.parent})."
    broken = [name for name, values in result.weights.items() if not np.isfinite(values).all()]
    if broken:
        left += (
            f" Beware: that step left NaN or infinity in {len(broken)} of them, such as {broken[0]!r}; "
            "start anew from `poet flash`."
        )
    return left


def eval_command(
    data: Annotated[Path, typer.Option(help="npz file with x_test and y_test (or x and y).")],
    dir: Folder = Path("build"),
) -> None:
    """Run the test set on the device and report its accuracy, or the mean squared error of a model trained for that."""
    folder = BuildFolder(dir)
    build = load_build(dir)
    test_set = _part(data, "test", build.manifest)
    test_set.check(build.manifest)
    with progress_bar("Evaluating") as bar, attached(build, bar) as device:
        task = bar.add_task("", total=len(test_set))
        session = TrainingSession(device, folder.run)
        result = session.evaluate(test_set, on_sample=lambda done, total: bar.update(task, completed=done, total=total))
        digest = weights_digest(device.read_params(), build.manifest)
    record = read_record(folder)
    is_of_run = record is not None and record.weights_digest == digest
    if record is not None and is_of_run:
        np.save(folder.run / "predictions.npy", result.predictions)
        write_record(folder, record.with_evaluation(result))
        write_report(folder)
    screen = console()
    if result.mean_squared_error is not None:
        screen.print(f"Mean squared error: [bold]{result.mean_squared_error:.6g}[/] (over {result.total} numbers)")
    else:
        screen.print(f"Accuracy: [bold]{result.accuracy:.2%}[/] ({result.correct} of {result.total})")
    for label, (correct, there) in enumerate(result.per_class):
        if there:
            screen.print(f"  class {label}: {correct} of {there}")
    if is_of_run:
        screen.print(next_step(f"poet verify{dir_option(dir)}", "proves that the schedule changed no bit."))
    else:
        screen.print("The device's weights are not those that a finished `poet train` left here: nothing was recorded.")


def _part(path: Path, part: Literal["train", "test"], manifest: Manifest) -> Dataset:
    split = load_npz(path, manifest)
    chosen = split.train if part == "train" else split.test
    if chosen is None:
        raise DatasetError(f"{path} has no x_{part} and y_{part} (nor x and y). Add them, or name another file.")
    return chosen
