"""`poet measure`: the energy of training steps, by kind, under a meter."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from poet_hil import launcher
from poet_hil.device import DeviceClient
from poet_hil.energy import KINDS, EnergyRecord, Mean, measure_steps
from poet_hil.errors import MeterError
from poet_hil.link import Link
from poet_hil.manifest import Build, load_build
from poet_hil.meters.choose import METERS, make_meter
from poet_hil.meters.meter import Meter
from poet_hil.meters.qemu import QemuMeter
from rich.markup import escape
from rich.table import Table

from poet_codegen.cli.attach import progress_bar
from poet_codegen.cli.batches import batches
from poet_codegen.cli.build_commands import Folder
from poet_codegen.cli.console import console, si
from poet_codegen.folder import BuildFolder, write_atomic
from poet_codegen.report import write_report

_RATE = 1e-3


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="measure")(measure_command)


def measure_command(
    dir: Folder = Path("build"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps to watch.")] = 10,
    meter: Annotated[
        str, typer.Option(help=f"What measures a real board: {METERS}. An emulated board needs none.")
    ] = "",
    supply: Annotated[float, typer.Option(help="Volts that a source meter supplies the board with.")] = 3.3,
    data: Annotated[Path | None, typer.Option(help="npz file to take samples from. Default: random ones.")] = None,
) -> None:
    """Train some steps under a meter, and write energy and time of a step by kind to run/energy.json.

    A board's marker pin has to be wired to the meter's first logic input: it is high during a step, and the device's
    own profile tells apart what happened within. On an emulated board the meter is QEMU: executed cycles at the
    board's power figures, and pages by its storage model; those figures are modelled. Either way the device trains,
    by random samples unless --data is given.
    """
    folder = BuildFolder(dir)
    build = load_build(dir)
    samples = batches(build, data, steps)
    with progress_bar("Measuring") as bar, metered(build, meter, supply) as (watcher, device):
        task = bar.add_task("training steps", total=steps)
        record = measure_steps(device, watcher, samples, _RATE, lambda done: bar.update(task, completed=done))
    write_atomic(folder.energy, record.model_dump_json(indent=1) + "\n")
    write_report(folder)
    screen = console()
    screen.print(_table(record))
    screen.print(f"{record.kind.capitalize()}: {escape(record.source)}. {record.steps} steps; ± is 95 % confidence.")


@contextmanager
def metered(build: Build, name: str, supply_v: float) -> Iterator[tuple[Meter, DeviceClient]]:
    """The meter, watching, and the device, running: an emulator of its own, or the board that was flashed."""
    emulated = build.manifest.board.kind == "qemu"
    if emulated and name:
        raise MeterError(f"{build.manifest.board.id} is emulated: leave --meter out, QEMU itself is the meter.")
    if not emulated and not name:
        raise MeterError(f"{build.manifest.board.id} is a real board, which needs a meter. Give --meter: {METERS}.")
    with tempfile.TemporaryDirectory(prefix="poet-measure-") as temporary:
        meter: Meter
        if emulated:
            meter = QemuMeter(build, Path(temporary))
            target = meter.target
        else:
            meter = make_meter(name, supply_v)
            target = launcher.attach(build)
        # The meter first: it may be what supplies the board.
        with meter, target:
            device = DeviceClient(Link(target), build.manifest)
            device.hello()
            yield meter, device


def _table(record: EnergyRecord) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("Of a step", "Energy", "planned", "Time"):
        table.add_column(name, justify="left" if name == "Of a step" else "right")
    for kind in KINDS:
        planned = record.planned_by_kind_j[kind]
        energy, time = record.by_kind_j[kind], record.by_kind_s[kind]
        table.add_row(kind.replace("_", "-"), _shown(energy, "J"), si(planned, "J"), _shown(time, "s"))
    off = record.planned_j / record.energy_j.mean - 1.0 if record.energy_j.mean else 0.0
    total = f"{si(record.planned_j, 'J')} ({off:+.1%})"
    table.add_row("[b]all[/]", _shown(record.energy_j, "J"), total, _shown(record.time_s, "s"))
    return table


def _shown(value: Mean, unit: str) -> str:
    return f"{si(value.mean, unit)} ± {si(value.ci95, unit)}"
