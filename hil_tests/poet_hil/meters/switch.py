"""Taking a board's power away: through its meter, or through commands that the user has for a relay or a USB hub."""

from __future__ import annotations

import shlex
import subprocess
import time
from typing import Protocol

from poet_hil.errors import MeterError, TargetMissing
from poet_hil.target import Target

PORT_TIMEOUT_S = 10.0
"""How long a port may take to come back with the power."""
_POLL_S = 0.1
OFF_S = 1.0
"""How long the power stays away: capacitors have to run empty."""
_COMMAND_TIMEOUT_S = 30.0


class PowerSwitch(Protocol):
    """Switches a board's supply: a meter that supplies it, or commands."""

    def power(self, on: bool) -> None:
        """Switch it. MeterError when that fails."""


class CommandSwitch:
    """Two commands of the user's, such as uhubctl's."""

    def __init__(self, off: str, on: str) -> None:
        self._commands = {False: shlex.split(off), True: shlex.split(on)}

    def power(self, on: bool) -> None:
        """Run the command; its exit code has to be 0."""
        command = self._commands[on]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_COMMAND_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MeterError(
                f"The power command {shlex.join(command)!r} cannot be run ({error}). Correct it."
            ) from error
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-200:]
            raise MeterError(
                f"The power command {shlex.join(command)!r} failed with exit code {done.returncode}: {said}"
            )


class SwitchedTarget(Target):
    """A target whose reset takes its power away."""

    def __init__(self, target: Target, switch: PowerSwitch, off_s: float = OFF_S) -> None:
        self.name = target.name
        self.log = target.log
        self._target = target
        self._switch = switch
        self._off_s = off_s

    def open(self) -> None:
        """Power, then the port, which with some boards is there only then."""
        self._switch.power(True)
        deadline = time.monotonic() + PORT_TIMEOUT_S
        while True:
            try:
                return self._target.open()
            except TargetMissing:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)

    def send(self, data: bytes) -> None:
        """As the target."""
        self._target.send(data)

    def expect(self, deadline: float) -> bytes | None:
        """As the target."""
        return self._target.expect(deadline)

    def reset(self) -> None:
        """Off, a while, on, and open again."""
        self._target.close()
        self._switch.power(False)
        time.sleep(self._off_s)
        self.open()

    def close(self) -> None:
        """Let go of the port; the power stays."""
        self._target.close()
