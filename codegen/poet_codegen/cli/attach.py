"""The running device of a build folder, with a progress bar that also shows where a long step is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from poet_hil import launcher
from poet_hil.device import DeviceClient
from poet_hil.link import Link
from poet_hil.manifest import Build
from poet_hil.protocol import Heartbeat
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from poet_codegen.cli.console import error_console


@contextmanager
def attached(build: Build, bar: Progress | None = None) -> Iterator[DeviceClient]:
    """The device that `poet flash` left, checked to run this build's firmware."""

    def on_heartbeat(beat: Heartbeat) -> None:
        if bar is not None:
            for task in bar.tasks:
                bar.update(task.id, description=f"in step {beat.step_index} of {beat.steps_total} of the schedule")

    target = launcher.attach(build)
    target.open()
    try:
        device = DeviceClient(Link(target, on_heartbeat=on_heartbeat), build.manifest)
        device.hello()
        yield device
    finally:
        target.close()


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on the error stream, so that results can be piped."""
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=error_console()) as bar:
        yield bar
