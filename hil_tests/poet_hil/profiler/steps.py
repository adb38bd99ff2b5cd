"""What each step of a schedule takes: executed and priced in QEMU, or by a board's own clock.

In QEMU a computation costs the cycles of the instructions it executes. A page is another matter: QEMU's storage takes
no time, so that of a page only the processor's own work (checksum, bookkeeping) is counted, and what the device takes
is left to the board's storage model. A board's clock sees both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from poet_hil.device import DeviceClient
from poet_hil.errors import TargetError
from poet_hil.manifest import Build, Step
from poet_hil.profiler.instructions import Image
from poet_hil.profiler.plugin import Region, RegionReader, build_plugin, plugin_arguments
from poet_hil.profiler.timing import Pricer, timing_table
from poet_hil.target import Target
from poet_hil.targets.qemu import QemuTarget

PAGE_CODE = ("poet_page_", "poet_crc32", "poet_bytes_", "memcpy", "memset")
"""What the processor does for a page beside driving the device, which QEMU's device answers at once."""

Kind = Literal["modelled", "measured"]


class StepClock(ABC):
    """Tells what each schedule step of a training step took."""

    kind: Kind
    source: str
    """In words, for costs.json and reports."""
    target: Target
    """What trains; not opened yet."""

    @abstractmethod
    def cycles(self, device: DeviceClient, steps: Sequence[Step]) -> NDArray[np.float64]:
        """Processor cycles of `steps`, the manifest's of training or of inference, whichever was run last: [steps].

        'measured' ones of a page include the transfer, 'modelled' ones do not.
        """


class QemuClock(StepClock):
    """The emulated board under the profiler. Raises TargetError for a core without markers or timing table."""

    kind = "modelled"

    def __init__(self, build: Build, folder: Path) -> None:
        core = timing_table(build.manifest.board.core)
        if core is None:
            raise TargetError(
                f"There is no timing table for the core {build.manifest.board.core!r}, so that the instructions QEMU "
                "executes cannot be turned into cycles. Use another emulated board, or a real one."
            )
        self._build = build
        folder.mkdir(parents=True, exist_ok=True)
        output = folder / "profile.txt"
        output.unlink(missing_ok=True)
        self.target = QemuTarget(build, folder, plugin_arguments(build_plugin(folder), output))
        self._regions = RegionReader(output)
        image = Image(build.firmware_elf)
        self._pricer = Pricer(image, core)
        self._page_code = image.functions(PAGE_CODE)
        self.source = f"instructions executed in QEMU x the timing table of {build.manifest.board.core}: {core.source}"

    def cycles(self, device: DeviceClient, steps: Sequence[Step]) -> NDArray[np.float64]:
        """Priced instructions; of a page step only those of the processor's own work."""
        regions = self._regions.new()
        if len(regions) < len(steps):
            raise TargetError(
                f"QEMU's profiler saw {len(regions)} steps of the schedule instead of {len(steps)}. Build the firmware "
                "again with `poet build`."
            )
        # What ran before comes first.
        return np.array(
            [
                self._price(region if step.do == "compute" else region.within(self._page_code))
                for step, region in zip(steps, regions[-len(steps) :], strict=True)
            ]
        )

    def _price(self, region: Region) -> float:
        cycles = self._pricer.price(region).cycles
        assert cycles is not None
        return float(cycles)


class DeviceClock(StepClock):
    """The device's own ticks, read after each training step with the protocol's PROFILE command."""

    kind = "measured"

    def __init__(self, build: Build, target: Target) -> None:
        if not build.manifest.board.clock_hz:
            raise TargetError("The build does not say how fast the board's clock is. Run `poet build` again.")
        self.target = target
        self._clock_hz = build.manifest.board.clock_hz
        self.source = f"ticks of {target.name}"

    def cycles(self, device: DeviceClient, steps: Sequence[Step]) -> NDArray[np.float64]:
        """Ticks, in cycles of the board's clock."""
        ticks = device.profile()[[step.index for step in steps]]
        return ticks.astype(np.float64) * (self._clock_hz / device.hello().tick_hz)


def profile_steps(
    clock: StepClock, device: DeviceClient, steps: Sequence[Step], run: Callable[[int], None], runs: int
) -> NDArray[np.float64]:
    """What each of `steps` took in each of some calls of `run`, which trains or infers: [runs, steps]."""
    rows = []
    for number in range(runs):
        run(number)
        rows.append(clock.cycles(device, steps))
    return np.array(rows)
