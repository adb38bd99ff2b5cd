"""Brings back a device that went away in the middle of a run: a cable was pulled, or it was reset."""

from __future__ import annotations

import time

from poet_hil.device import DeviceClient
from poet_hil.errors import DeviceError, LinkTimeout, TargetBusy, TargetDied, TargetMissing
from poet_hil.protocol import TrainStep

RECONNECT_S = 30.0
"""How long a device may be away: a board that enumerates on USB again takes some seconds."""
TRIES = 5
"""How often in a row a run is taken up without a step that is new."""
_PAUSE_S = 0.25
_AWAY = (LinkTimeout, TargetDied, TargetMissing, TargetBusy)


def went_away(error: BaseException | None) -> bool:
    """Whether the device may come back from this."""
    return isinstance(error, _AWAY)


class Recovery:
    """Counts how often a run was taken up. `reconnect_s` seconds are waited each time; 0: never."""

    def __init__(self, device: DeviceClient, reconnect_s: float) -> None:
        self.count = 0
        self._device = device
        self._reconnect_s = reconnect_s
        self._furthest = -1
        self._without_progress = 0

    def may_try(self, step: int) -> bool:
        """Whether to take up a run that stopped at a step: not for ever, where the same steps fail again and again."""
        if step > self._furthest:
            self._furthest, self._without_progress = step, 0
        self._without_progress += 1
        return self._reconnect_s > 0 and self._without_progress <= TRIES

    def reconnect(self) -> tuple[TrainStep | None, int]:
        """Open the target until the device answers; (the answer to the TRAIN that was under way, its steps_done).

        A device that was not reset gives that answer again, or executes the TRAIN that it has not heard. LinkError when
        it does not come back in time.
        """
        deadline = time.monotonic() + self._reconnect_s
        while True:
            try:
                target = self._device.link.target
                target.close()
                target.open()
                answer = self._finish()
                steps_done = self._device.hello().steps_done
            except _AWAY:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
            else:
                self.count += 1
                return answer, steps_done

    def restart(self) -> int:
        """Reset a device whose parameters are not those of this run; it comes up at its newest checkpoint, or anew."""
        self._device.reset()
        self.count += 1
        return self._device.hello().steps_done

    def _finish(self) -> TrainStep | None:
        try:
            return self._device.finish_train()
        except DeviceError:
            # It was reset: it knows of no sample, so that it refused.
            return None
