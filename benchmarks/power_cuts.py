"""Cut the power of a training run everywhere, boot again, and see that the run ends with the bits of an uncut one.

The digits project trains five steps with a checkpoint after each, its parameters on storage. On this machine every
write and erase is cut once (before it, in its middle, and in its middle with noise in the rest), on storage that can be
written over and on storage like NOR flash. In QEMU, boards with an SD card and with NOR flash are killed (SIGKILL) at
random times. Run as `make power-cuts`; it writes docs/power-cuts.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from poet_codegen.build import build as build_project
from poet_codegen.build import write_project
from poet_codegen.folder import BuildFolder
from poet_codegen.lower import Home
from poet_codegen.plan import make_plan, make_request, save_plan
from poet_codegen.platformio.host import build_host
from poet_codegen.recipe import DEFAULT_RECIPE
from poet_hil import process
from poet_hil.device import DeviceClient
from poet_hil.errors import LinkError
from poet_hil.link import Link
from poet_hil.manifest import Build, load_build
from poet_hil.results import weights_digest
from poet_hil.targets.host import host_program
from poet_hil.targets.qemu import qemu_program
from poet_hil.targets.serial import SerialTarget

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "examples" / "digits" / "digits.onnx"
REPORT = ROOT / "docs" / "power-cuts.md"
RAM_BYTES = 24 * 1024
STEPS = 5
BOOT_S = 180.0
"""A busy machine may take long to boot."""
KINDS = ("cut", "tear", "noise")
HEAD = """# Power cuts

Written by `make power-cuts`: the digits project trains 5 steps, a checkpoint after each, its parameters on storage.
Power goes, the device boots, goes on by itself from its newest checkpoint, and must end with the bits of an uncut run.

| where | how | cuts | lost at most the step in flight | ended with the same bits |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Medium:
    """Where a run's pages go."""

    title: str
    board: str
    like: str | None
    """Of the host's storage file; None: in QEMU, on the board's own device."""


HOST = (
    Medium("host file", "qemu_netduinoplus2", ""),
    Medium("host file like NOR flash", "qemu_emcraft_sf2", "nor:65536"),
)
QEMU = (
    Medium("QEMU lm3s6965evb, SD card", "qemu_lm3s6965", None),
    Medium("QEMU emcraft-sf2, SPI NOR flash", "qemu_emcraft_sf2", None),
)


@dataclass
class Count:
    """Of cuts, and of those that came out right."""

    cuts: int = 0
    resumed: int = 0
    same: int = 0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--every", type=int, default=1, help="cut only every so many-th operation")
    arguments.add_argument("--kills", type=int, default=25, help="of each board in QEMU")
    arguments.add_argument("--only", default="", help="part of a line's first column")
    asked = arguments.parse_args()
    for medium in (*HOST, *QEMU):
        if asked.only not in medium.title:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="poet-cuts-") as folder:
            bench = Bench(medium, Path(folder))
            count = bench.sweep(asked.every) if medium.like is not None else bench.kill(asked.kills)
        which = "every write and erase" if asked.every == 1 else f"one in {asked.every} writes and erases"
        how = "SIGKILL at random times" if medium.like is None else f"{which}: before, within, with noise"
        row = f"| {medium.title} | {how} | {count.cuts} | {count.resumed} | {count.same} |"
        print(f"{row} {time.monotonic() - began:.0f} s", flush=True)
        if not count.cuts == count.resumed == count.same:
            raise SystemExit("Not every run came out right.")
        _write(medium.title, row)


def _write(title: str, row: str) -> None:
    """Put a row into the report in place of that of the same medium."""
    old = REPORT.read_text(encoding="utf-8").splitlines() if REPORT.exists() else []
    rows = {medium.title: line for medium in (*HOST, *QEMU) for line in old if line.startswith(f"| {medium.title} |")}
    rows[title] = row
    lines = (rows[medium.title] for medium in (*HOST, *QEMU) if medium.title in rows)
    REPORT.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


Event = Callable[[int], None]


def _nothing(step: int) -> None:
    pass


class Bench:
    """A build, its samples, and the bits that it must end with."""

    def __init__(self, medium: Medium, folder: Path) -> None:
        self.medium = medium
        self.run_dir = folder / "run"
        self.build = _build(medium, folder)
        manifest = self.build.manifest
        rng = np.random.default_rng(1)
        shape = manifest.inputs[0].shape
        self.x = [rng.standard_normal(shape).astype(np.float32) for _ in range(STEPS)]
        self.y = [rng.integers(0, manifest.label.classes, manifest.label.count) for _ in range(STEPS)]
        self._renew()
        with self._device() as (device, _):
            began = time.monotonic()
            self.train(device)
            self.seconds_a_step = (time.monotonic() - began) / STEPS
            self.expected = self._digest(device)

    def train(self, device: DeviceClient, before: Event = _nothing, committed: Event = _nothing) -> None:
        """Go on from where the device is to the last step."""
        for step in range(device.hello().steps_done, STEPS):
            before(step)
            device.write_sample(self.x[step], self.y[step])
            device.train(0.05)
            device.checkpoint()
            committed(step + 1)

    def sweep(self, every: int) -> Count:
        """Cut every operation of the run, in each way."""
        count = Count()
        for number, kind in enumerate(KINDS):
            for k in itertools.count(1 + number * every // len(KINDS), every):
                self._renew()
                if not self._cut(count, f"{kind}@{k}"):
                    break
        return count

    def kill(self, kills: int) -> Count:
        """Kill the process at random times in random steps."""
        count = Count()
        rng = random.Random(1)
        while count.cuts < kills:
            self._renew()
            self._cut(count, "", kill_in=rng.randrange(STEPS), after_s=rng.uniform(0.0, self.seconds_a_step))
        return count

    def _cut(self, count: Count, fault: str, kill_in: int | None = None, after_s: float = 0.0) -> bool:
        """One run that is cut, and what comes of it. False when it came to its end before."""
        answered = 0

        def committed(step: int) -> None:
            nonlocal answered
            answered = step

        try:
            with self._device(fault) as (device, started):

                def before(step: int) -> None:
                    if step == kill_in:
                        threading.Timer(after_s, started.process.send_signal, [signal.SIGKILL]).start()

                self.train(device, before, committed)
                return False
        except LinkError:
            pass
        count.cuts += 1
        with self._device() as (device, _):
            resumed = device.hello().steps_done
            count.resumed += resumed in (answered, answered + 1)
            self.train(device)
            same = self._digest(device) == self.expected
            count.same += same
        if not same or resumed < answered:
            print(f"{self.medium.title} {fault}: answered {answered}, resumed {resumed}, same bits: {same}")
        return True

    def _digest(self, device: DeviceClient) -> str:
        return weights_digest(device.read_params(), self.build.manifest)

    def _renew(self) -> None:
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self.run_dir.mkdir()

    @contextmanager
    def _device(self, fault: str = "") -> Iterator[tuple[DeviceClient, process.Started]]:
        like = self.medium.like
        os.environ["POET_STORAGE_FAULT"] = fault
        if like:
            os.environ["POET_STORAGE_LIKE"] = like
        else:
            os.environ.pop("POET_STORAGE_LIKE", None)
        program = qemu_program(self.build) if like is None else host_program(self.build)
        started = process.start(program, self.run_dir, self.run_dir / "log")
        try:
            with SerialTarget(started.url) as target:
                device = DeviceClient(Link(target), self.build.manifest)
                device.hello(at_least_s=BOOT_S)
                yield device, started
        finally:
            process.end_child(started.process, timeout_s=10.0)


def _build(medium: Medium, folder: Path) -> Build:
    request = make_request(MODEL, medium.board, RAM_BYTES, None, Home.STORAGE, DEFAULT_RECIPE, "page", 0)
    plan = make_plan(request, MODEL, threads=1, time_limit_s=20.0)
    if medium.like is None:
        save_plan(plan, MODEL, BuildFolder(folder))
        build_project(plan, BuildFolder(folder))
    else:
        write_project(plan, folder / "project")
        build_host(folder / "project")
    return load_build(folder)


if __name__ == "__main__":
    main()
