"""What the firmware can do, as methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poet_hil import protocol
from poet_hil.errors import DatasetError, DigestMismatch, LinkError, ProtocolError
from poet_hil.link import Link
from poet_hil.manifest import Input, Manifest, Param
from poet_hil.protocol import Command

STORAGE_TIMEOUT_S = 15.0  # storage may have to erase before it answers
RUN_TIMEOUT_S = 5.0  # on top of what the longest schedule step may take, which sends no heartbeat
RUN_TIMEOUT_FACTOR = 4.0  # of its planned time: the plan may be off, an emulator slow
HELLO_TIMEOUT_S = 0.2
BOOT_S = 6.0
EMULATED_BOOT_S = 30.0  # boot is work of this machine, which may be busy
BOOT_BYTES_PER_S = 200_000  # at least, as boot reads the parameters of a checkpoint on storage


Sample = NDArray[Any] | Mapping[str, NDArray[Any]]
"""What the model's inputs take in one step: an array for each, by name, or the array of the only one."""


class DeviceClient:
    """A device that runs the firmware of one build."""

    def __init__(self, link: Link, manifest: Manifest) -> None:
        self.link = link
        self.manifest = manifest
        longest_s = max((step.time_s for step in manifest.steps), default=0.0)
        read = sum(p.bytes for p in manifest.params if p.home == "storage")
        boot_s = (EMULATED_BOOT_S if manifest.board.kind == "qemu" else BOOT_S) + read / BOOT_BYTES_PER_S
        self._hello_tries = round(boot_s / HELLO_TIMEOUT_S)
        self._run_timeout_s = RUN_TIMEOUT_S + RUN_TIMEOUT_FACTOR * longest_s

    def hello(self, at_least_s: float = 0.0) -> protocol.Hello:
        """Ask who is there; DigestMismatch when the firmware is not of this build.

        Asks often and for long enough: a device that restarts hears nothing until it is up. `at_least_s` is for
        emulated boards on a machine that is too busy to boot them in time.
        """
        tries = max(self._hello_tries, round(at_least_s / HELLO_TIMEOUT_S))
        answer = self.link.request(Command.HELLO, timeout_s=HELLO_TIMEOUT_S, tries=tries)
        hello = protocol.Hello.unpack(answer)
        wanted = self.manifest
        sizes = (
            ("model digest", hello.model_digest.hex(), wanted.model_digest),
            ("schedule digest", hello.schedule_digest.hex(), wanted.schedule_digest),
            ("arena bytes", hello.arena_bytes, wanted.arena_bytes),
            ("input bytes", hello.input_bytes, sum(array.bytes for array in wanted.inputs)),
            ("label bytes", hello.label_bytes, wanted.label.bytes),
            ("output bytes", hello.output_bytes, wanted.output.bytes),
            ("number of parameters", hello.param_count, len(wanted.params)),
            ("number of schedule steps", hello.schedule_steps, wanted.marked_steps),
        )
        for what, there, here in sizes:
            if there != here:
                raise DigestMismatch(
                    f"The firmware on {self.link.target.name} was built from another model or plan (board "
                    f"{protocol.text(hello.board)!r}, poet-mcu {protocol.text(hello.tool_version)}): its "
                    f"{what} is {there}, the build's is {here}. Run `poet flash` to put this build on it."
                )
        if hello.payload_max != protocol.PAYLOAD_BYTES:
            raise ProtocolError(
                f"The firmware on {self.link.target.name} takes payloads of {hello.payload_max} bytes, this "
                f"poet-mcu sends {protocol.PAYLOAD_BYTES}. Run `poet build` and `poet flash` with the "
                f"poet-mcu that trains."
            )
        return hello

    def write_input(self, x: Sample) -> None:
        """Write the inputs of one step, of the manifest's shapes and types; all are checked before one is sent.

        `x` is an array for each input, by name, or the array of the only input.
        """
        wanted = self.manifest.inputs
        given = x if isinstance(x, Mapping) else {wanted[0].name: x}
        if given.keys() != {array.name for array in wanted}:
            raise DatasetError(
                f"The model's inputs are {', '.join(array.name for array in wanted)}, but arrays for "
                f"{', '.join(given) or 'none'} were given. Give one for each."
            )
        for index, data in enumerate([_packed(given[array.name], array) for array in wanted]):

            def head(offset: int, index: int = index) -> bytes:
                return protocol.request_index_offset(index, offset)

            self.link.write(Command.WRITE_INPUT, head, data)

    def write_sample(self, x: Sample, y: int | Sequence[int] | NDArray[Any]) -> None:
        """Write inputs and labels of one step; the device checks classes and indices when it trains.

        `y` holds integers, or float32 targets, as many as the manifest's label; any shape will do.
        """
        label = self.manifest.label
        values = np.asarray(y).reshape(-1)
        fits = values.dtype == np.float32 if not label.classes else np.issubdtype(values.dtype, np.integer)
        if values.size != label.count or not fits:
            what = "class index" if label.classes else "float32 target"
            raise DatasetError(
                f"A step takes {label.count} labels of type {label.dtype}, but {values.size} of type "
                f"{values.dtype} were given. Give one {what} for each element of the label {list(label.shape)}."
            )
        self.write_input(x)
        data = values.astype("<i4" if label.classes else "<f4").tobytes()
        self.link.write(Command.WRITE_LABEL, protocol.request_offset, data)

    def train(self, learning_rate: float) -> protocol.TrainStep:
        """Train one step on the sample that was written."""
        return protocol.TrainStep.unpack(
            self.link.request(Command.TRAIN, protocol.request_train(learning_rate), timeout_s=self._run_timeout_s)
        )

    def finish_train(self) -> protocol.TrainStep | None:
        """Complete a train() that was interrupted (Ctrl-C); None when the interrupt came before it.

        The device does not train twice for it.
        """
        payload = self.link.finish(Command.TRAIN)
        return None if payload is None else protocol.TrainStep.unpack(payload)

    def infer(self) -> NDArray[np.float32]:
        """Run forward on the input that was written; returns an array of the manifest's output shape."""
        protocol.InferDone.unpack(self.link.request(Command.INFER, timeout_s=self._run_timeout_s))
        output = self.manifest.output
        data = self.link.read(Command.READ_OUTPUT, protocol.request_span, output.bytes)
        return _unpacked(data, output.shape)

    def read_params(self, on_read: Callable[[int, int], None] | None = None) -> dict[str, NDArray[np.float32]]:
        """Read all parameters, by name, in the manifest's order; `on_read(done, total)` gets the bytes so far."""
        total = sum(param.bytes for param in self.manifest.params)
        found: dict[str, NDArray[np.float32]] = {}
        done = 0
        for param in self.manifest.params:
            found[param.name] = self.read_param(param)
            done += param.bytes
            if on_read is not None:
                on_read(done, total)
        return found

    def read_param(self, param: Param) -> NDArray[np.float32]:
        """Read one parameter."""

        def head(offset: int, length: int) -> bytes:
            return protocol.request_param_span(param.index, offset, length)

        data = self.link.read(Command.READ_PARAM, head, param.bytes)
        shape = param.shape[::-1] if param.transposed else param.shape
        values = _unpacked(data, shape)
        if param.panels > 1:
            rows, columns = shape
            values = values.reshape(param.panels, rows, columns // param.panels).swapaxes(0, 1).reshape(shape)
        return values.T.copy() if param.transposed else values

    def write_params(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Write parameters by name; all are checked before the first is sent. Frozen ones are refused."""
        params = {param.name: param for param in self.manifest.params}
        packed: list[tuple[int, bytes]] = []
        for name, value in values.items():
            param = params.get(name)
            if param is None:
                raise LinkError(f"The model has no parameter {name!r}. It has: {', '.join(params)}.")
            if param.home in ("rom", "frozen"):
                raise LinkError(
                    f"The parameter {name!r} is frozen. Leave it out, or plan with it among the trainable parameters."
                )
            packed.append((param.index, _packed(value, param)))
        for index, data in packed:

            def head(offset: int, index: int = index) -> bytes:
                return protocol.request_index_offset(index, offset)

            self.link.write(Command.WRITE_PARAM, head, data)

    def status(self) -> protocol.DeviceStatus:
        """Read the device's counters."""
        return protocol.DeviceStatus.unpack(self.link.request(Command.STATUS))

    def profile(self) -> NDArray[np.uint32]:
        """Ticks of every step of the last training step's schedule, then of the last inference's.

        hello().tick_hz of them are a second.
        """
        ticks: list[int] = []
        while len(ticks) < self.manifest.marked_steps:
            first, some = protocol.unpack_profile(
                self.link.request(Command.PROFILE, protocol.request_profile(len(ticks)))
            )
            if first != len(ticks) or not some:
                raise ProtocolError(
                    f"{self.link.target.name} answered PROFILE of step {len(ticks)} with {len(some)} figures "
                    f"from step {first}. Run `poet build` and `poet flash` with the poet-mcu that trains."
                )
            ticks += some
        return np.array(ticks, dtype=np.uint32)

    def checkpoint(self) -> int:
        """Save parameters and steps_done to the device's storage; returns the sequence number."""
        return protocol.Checkpointed.unpack(self.link.request(Command.CHECKPOINT, timeout_s=STORAGE_TIMEOUT_S)).sequence

    def restore(self) -> protocol.Restored:
        """Go back to the newest good checkpoint."""
        return protocol.Restored.unpack(self.link.request(Command.RESTORE, timeout_s=STORAGE_TIMEOUT_S))

    def init(self) -> None:
        """Start anew: no checkpoint, initial parameters, no step trained."""
        self.link.request(Command.INIT, timeout_s=STORAGE_TIMEOUT_S)

    def reset(self) -> protocol.Hello:
        """Restart the firmware through its own command and greet it again."""
        self.link.request(Command.RESET)
        return self.hello()


def _packed(value: NDArray[Any], array: Input | Param) -> bytes:
    dtype = array.dtype if isinstance(array, Input) else "float32"
    if value.dtype != dtype or value.shape != array.shape:
        raise DatasetError(
            f"{array.name!r} is {dtype} of shape {list(array.shape)}, but {value.dtype} of shape "
            f"{list(value.shape)} was given. Convert or reshape it."
        )
    if isinstance(array, Param) and array.transposed:
        value = value.T
    if isinstance(array, Param) and array.panels > 1:
        rows, columns = value.shape
        value = value.reshape(rows, array.panels, columns // array.panels).swapaxes(0, 1)
    return np.ascontiguousarray(value, dtype="<i4" if dtype == "int32" else "<f4").tobytes()


def _unpacked(data: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    assert len(data) == math.prod(shape) * 4
    return np.frombuffer(data, dtype="<f4").reshape(shape).astype(np.float32)
