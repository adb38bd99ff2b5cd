"""QEMU as a meter: executed cycles at the board's power figures, storage traffic at its storage model's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from poet_hil.device import DeviceClient
from poet_hil.errors import MeterError
from poet_hil.manifest import Build
from poet_hil.meters.meter import Meter, StepEnergy
from poet_hil.profiler.steps import QemuClock


class QemuMeter(Meter):
    """The emulated board under the profiler; `target` is what has to be trained. Nothing of it is measured."""

    kind = "modelled"
    name = "QEMU"

    def __init__(self, build: Build, folder: Path) -> None:
        board = build.manifest.board
        if not (board.clock_hz and board.run_w):
            raise MeterError("The build does not say what power its board draws. Run `poet build` again.")
        self._build = build
        self._clock = QemuClock(build, folder)
        self.target = self._clock.target
        power = f"{board.run_w:g} W at {board.clock_hz / 1e6:g} MHz"
        self.source = f"{self._clock.source}, x {power}; pages by the board's storage model"

    def open(self) -> None:
        """Nothing: the counts come with the target."""

    def close(self) -> None:
        """Nothing."""

    def watch(self, device: DeviceClient, train: Callable[[], int]) -> StepEnergy:
        """Cycles at run power, and what the storage model has each page take. Nothing idles: drivers poll, or the core
        waits awake.

        Here nothing transfers while the core computes. What of both would have been at once is the plan's figure, in
        proportion where the work took fewer cycles than planned: no less can it have been.
        """
        train()
        board, steps = self._build.manifest.board, self._build.manifest.steps
        busy_s = self._clock.cycles(device, steps) / board.clock_hz
        planned_s = np.array([step.hidden_within_s or np.inf for step in steps])
        hidden_s = np.array([step.hidden_s for step in steps]) * np.minimum(1.0, busy_s / planned_s)
        energy_j = (busy_s - hidden_s) * board.run_w + np.array([step.transfer_j for step in steps])
        time_s = busy_s - hidden_s + np.array([step.transfer_s for step in steps])
        return StepEnergy(energy_j, time_s, 0.0, 0.0)

    def power(self, on: bool) -> None:
        """Off ends the emulator, on starts it again: storage keeps what was written."""
        if on:
            self.target.open()
        else:
            self.target.close()
