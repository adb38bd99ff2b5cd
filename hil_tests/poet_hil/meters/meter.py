"""What a meter is: it watches training steps and says what energy each schedule step took."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from poet_hil.device import DeviceClient
from poet_hil.errors import MeterError
from poet_hil.manifest import Manifest

Floats = NDArray[np.float64]

CLOCKS_AGREE = 0.02
"""How far the marker's length may be off the device's own time of a step, relative: a resonator's error and more."""


@dataclass(frozen=True)
class StepEnergy:
    """One training step: joules and seconds of each schedule step [steps], and of what lay between them."""

    energy_j: Floats
    time_s: Floats
    idle_j: float
    idle_s: float


class Meter(ABC):
    """Watches a device. `kind` tells what its figures are; the two are never mixed in one number."""

    name: str
    kind: Literal["measured", "modelled"]
    source: str
    """How the figures come about, in words."""

    @abstractmethod
    def open(self) -> None:
        """Get ready to measure. MeterError when there is no such meter, or it does not answer."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the meter. Closing twice is fine."""

    @abstractmethod
    def watch(self, device: DeviceClient, train: Callable[[], int]) -> StepEnergy:
        """Call `train`, which trains one step and returns its duration in the device's ticks, and say what it took."""

    def power(self, on: bool) -> None:
        """Switch the board's supply. MeterError for a meter that cannot."""
        raise MeterError(
            f"{self.name} cannot switch the board's power. Configure commands that do: --power-off, --power-on."
        )

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Trace:
    """Power in watts and the marker pin's level, at `rate_hz` samples a second."""

    power_w: Floats
    marker: NDArray[np.bool_]
    rate_hz: float

    def pulse(self) -> tuple[int, int]:
        """Samples [first, end) while the marker was high. MeterError unless it rose and fell once."""
        edges = np.flatnonzero(np.diff(self.marker.astype(np.int8)))
        if len(edges) != 2 or self.marker[0]:
            raise MeterError(
                f"The marker pin changed {len(edges)} times during a training step instead of twice. Wire the board's "
                "marker pin (its board file names it) and its ground to the meter's first logic input."
            )
        return int(edges[0]) + 1, int(edges[1]) + 1


class TraceMeter(Meter):
    """A meter that records power and the marker pin; the device's own profile tells the schedule steps apart."""

    kind = "measured"

    @abstractmethod
    def start(self) -> None:
        """Begin to record."""

    @abstractmethod
    def stop(self) -> Trace:
        """End the recording and return all of it. MeterError when samples were lost."""

    def watch(self, device: DeviceClient, train: Callable[[], int]) -> StepEnergy:
        """Record a training step and cut the record by the marker and the device's profile."""
        self.start()
        try:
            ticks = train()
        finally:
            trace = self.stop()
        tick_hz = device.hello().tick_hz
        step_s = device.profile()[: len(device.manifest.steps)] / tick_hz
        return cut(trace, step_s, ticks / tick_hz)


def cut(trace: Trace, step_s: Floats, total_s: float) -> StepEnergy:
    """Integrate a trace over the schedule steps of one training step.

    `step_s`: the device's times of the steps [steps]; `total_s`: of the whole, which the marker brackets. What is left
    over lies between the steps, before each an equal part (the device notes the time there, and sends heartbeats).
    """
    first, end = trace.pulse()
    pulse_s = (end - first) / trace.rate_hz
    if abs(pulse_s - total_s) > CLOCKS_AGREE * total_s + 2.0 / trace.rate_hz:
        raise MeterError(
            f"The marker was high for {pulse_s:.6f} s, but the device says the step took {total_s:.6f} s. Check which "
            "pin is wired to the meter's first logic input, and the board file's clock."
        )
    gap_s = max(0.0, total_s - float(step_s.sum())) / max(1, len(step_s))
    starts = gap_s * np.arange(1, len(step_s) + 1) + np.concatenate([[0.0], np.cumsum(step_s)[:-1]])
    # The meter's clock decides how long a second is.
    scale = pulse_s / total_s
    joules = np.concatenate([[0.0], np.cumsum(trace.power_w[first:end])]) / trace.rate_hz
    samples = np.arange(len(joules), dtype=np.float64)

    def energy_until(seconds: Floats) -> Floats:
        return np.interp(seconds * scale * trace.rate_hz, samples, joules)

    energy = energy_until(starts + step_s) - energy_until(starts)
    time_s = step_s * scale
    return StepEnergy(
        energy, time_s, max(0.0, float(joules[-1] - energy.sum())), max(0.0, pulse_s - float(time_s.sum()))
    )


def kinds(manifest: Manifest) -> list[str]:
    """Kind of every schedule step: compute, recompute, page_in or page_out."""
    return ["recompute" if step.recompute else step.do for step in manifest.steps]
