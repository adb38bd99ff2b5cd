"""Errors of the harness. Each message is one paragraph: what happened, where, and what to do next."""

from __future__ import annotations


class LinkError(Exception):
    """Base of every error that poet_hil raises on purpose; the command line prints it without a traceback."""


class ManifestError(LinkError):
    """A build's manifest.json is missing or malformed; the message names the field."""


class TargetError(LinkError):
    """A target cannot be used."""


class TargetMissing(TargetError):
    """The port, the emulator or the executable is not there, or nothing has been started."""


class TargetBusy(TargetError):
    """Somebody else uses the target."""


class TargetDied(TargetError):
    """The target's process or its connection ended."""


class LinkTimeout(LinkError):
    """The device did not answer in time; the message has the log's name and its last lines."""


class ProtocolError(LinkError):
    """The device answered in a way that this version of the protocol does not have."""


class DigestMismatch(LinkError):
    """The firmware on the device is not the one of this build."""


class DeviceError(LinkError):
    """The device refused a command. `status` is a negative poet_status_t."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class MeterError(LinkError):
    """A meter, or a switch of the board's power, is missing or does not do what it should."""


class DatasetError(LinkError):
    """Samples or labels cannot be used; nothing was sent to the device."""


class SessionError(LinkError):
    """A run cannot start or go on as asked."""


class TrainingStopped(SessionError):
    """Training ended before its last step. `step` is the first one that did not complete, from 0."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class LossNotFinite(TrainingStopped):
    """The loss of `step` is NaN or infinite; the device has the weights of the step before."""
