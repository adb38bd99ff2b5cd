"""`poet verify`: the promise that a schedule changes no bit, checked on the run that was made."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import typer
from poet_hil.dataset import Dataset, load_npz
from poet_hil.device import DeviceClient
from poet_hil.errors import DatasetError, SessionError
from poet_hil.link import Link
from poet_hil.manifest import Manifest, load_build
from poet_hil.results import LOSSES_NAME, loss_bits
from poet_hil.session import TrainingResult, TrainingSession
from poet_hil.targets.host import HostTarget

from poet_codegen.build import write_project
from poet_codegen.cli.build_commands import Folder, keep_everything
from poet_codegen.cli.console import console, error_console
from poet_codegen.cli.run_record import RunRecord, read_record, write_record
from poet_codegen.emit.project import Pass
from poet_codegen.folder import BuildFolder, sha256
from poet_codegen.plan import Plan, load_plan
from poet_codegen.platformio.host import build_host
from poet_codegen.report import write_report


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="verify")(verify_command)


def verify_command(dir: Folder = Path("build")) -> None:
    """Train the last run again on this machine, twice: with the same schedule, and keeping everything in memory.

    Every loss and every weight must equal the device's, bit for bit. Exit code 1 when one differs.
    """
    folder = BuildFolder(dir)
    record = read_record(folder)
    if record is None:
        raise SessionError(f"{dir} has no finished run to verify. Run `poet train` first.")
    if record.first_step:
        raise SessionError(
            f"The last run began after {record.first_step} other steps, so it cannot be repeated from the model's own "
            "weights. Run `poet flash` and `poet train`, then verify."
        )
    data = _same_data(record, load_build(dir).manifest)
    plan = load_plan(folder)
    losses = loss_bits(folder.run / LOSSES_NAME)
    reference = replace(plan, train=Pass(plan.train.graph, plan.train.lowered, keep_everything(plan)))
    verdicts = {}
    for name, variant in (("this schedule", plan), ("keeping everything", reference)):
        with error_console().status(f"Training {record.steps} steps on this machine, {name}"):
            result, bits = _train_on_host(variant, data, record)
        stopped_at = None if result.stopped is None else result.stopped.step
        same = (bits, result.weights_digest, stopped_at) == (
            losses,
            record.weights_digest,
            record.not_finite_at_step,
        )
        verdicts[name] = same
        word = "[green]equal, bit for bit[/]" if same else f"[red]differ[/] ({_difference(bits, losses)})"
        console().print(f"Device against this machine, {name}: {len(bits)} losses and all weights {word}")
    write_record(folder, record.with_verdict(all(verdicts.values())))
    write_report(folder)
    if not all(verdicts.values()):
        raise typer.Exit(1)


def _same_data(record: RunRecord, manifest: Manifest) -> Dataset:
    path = Path(record.data)
    split = load_npz(path, manifest)
    if sha256(path.read_bytes()) != record.data_sha256 or split.train is None:
        raise DatasetError(f"{path} has changed since the run that is to be verified. Restore it, or train again.")
    return split.train


def _train_on_host(plan: Plan, data: Dataset, record: RunRecord) -> tuple[TrainingResult, list[str]]:
    with tempfile.TemporaryDirectory(prefix="poet-verify-") as temporary:
        root = Path(temporary)
        write_project(plan, root / "project")
        build_host(root / "project", numerics=plan.request.numerics)
        build = load_build(root)
        target = HostTarget(build)
        target.open()
        try:
            session = TrainingSession(DeviceClient(Link(target), build.manifest), root / "run")
            result = session.train(data, record.plan())
        finally:
            target.close()
    return result, [f"{bits:08x}" for bits in result.losses.astype("<f4").view("<u4")]


def _difference(ours: list[str], theirs: list[str]) -> str:
    for step, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a != b:
            return f"first at step {step}: {b} on the device, {a} here"
    return "in the weights" if len(ours) == len(theirs) else f"{len(theirs)} losses on the device, {len(ours)} here"
