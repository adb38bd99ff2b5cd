"""The host side of devices/console.c: a storage driver alone, on QEMU's devices or on models that can go wrong."""

from __future__ import annotations

import random
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from poet_hil.protocol import Status, status_text

from .builds import FIRMWARE, HERE, SANITIZERS, WARNINGS, Machine, link_target, run_compiler

DEVICES = HERE / "devices"
CRC32 = [FIRMWARE / "src" / f"{name}.c" for name in ("crc32", "crc32_table")]
MOST_DATA_BYTES = 3072
TIMEOUT_S = 60.0
MODELS = {"sd_spi": "sd_card", "spi_nor": "nor_flash", "nrf_nvmc": "nrf_flash", "memory_mapped": "bus_memory"}
"""Driver -> the model of its device."""


@dataclass(frozen=True)
class Info:
    """poet_storage_info_t."""

    size_bytes: int
    erase_bytes: int
    write_bytes: int
    endurance_erases: int
    name: str


class StatusError(Exception):
    """A call that returned an error."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


class Console:
    """Calls the driver; each call raises StatusError for what is not POET_OK."""

    def __init__(
        self, send: Callable[[bytes], object], receive: Callable[[int], bytes], stop: Callable[[], int]
    ) -> None:
        self._send = send
        self._receive = receive
        self.stop = stop
        self._greet()

    def _greet(self) -> None:
        """Wait until the program says that it is up: what comes before the UART is up is lost."""
        assert self._receive(4) == bytes(4)

    def call(self, operation: str, address: int = 0, size: int = 0, data: bytes = b"") -> bytes:
        request = struct.pack("<cII", operation.encode(), address, size) + data
        self._send(struct.pack("<I", len(request)) + request)
        (length,) = struct.unpack("<I", self._receive(4))
        answer = self._receive(length)
        (status,) = struct.unpack_from("<i", answer)
        if status != Status.OK:
            raise StatusError(Status(status))
        return answer[4:]

    def init(self) -> None:
        self.call("I")

    def info(self) -> Info:
        answer = self.call("N")
        return Info(*struct.unpack_from("<4I", answer), answer[16:].decode())

    def read(self, address: int, size: int) -> bytes:
        parts = [
            self.call("R", address + at, min(MOST_DATA_BYTES, size - at)) for at in range(0, size, MOST_DATA_BYTES)
        ]
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        for at in range(0, len(data), MOST_DATA_BYTES):
            part = data[at : at + MOST_DATA_BYTES]
            self.call("W", address + at, len(part), part)

    def erase(self, address: int, size: int) -> None:
        self.call("E", address, size)

    def sync(self) -> None:
        self.call("S")

    def go_wrong(self, how: int, parameter: int = 0) -> None:
        """See the list at the head of each model."""
        self.call("F", how, parameter)

    def reset(self) -> None:
        """Reboot the emulated board; what was on the line is gone."""
        request = struct.pack("<cII", b"X", 0, 0)
        self._send(struct.pack("<I", len(request)) + request)
        self._greet()


def build_with_model(driver: str, model: str, folder: Path, *options: str) -> Path:
    """A driver with a model of its device, as a program of this machine with sanitizers."""
    executable = folder / driver
    sources = [DEVICES / "console.c", DEVICES / "hal.c", DEVICES / f"{model}.c", *CRC32]
    include = [f"-I{path}" for path in (FIRMWARE / "include", DEVICES, DEVICES / "fake")]
    command = ["cc", *WARNINGS, *SANITIZERS, *include, *options, str(FIRMWARE / "storage" / f"{driver}.c")]
    subprocess.run([*command, *map(str, sources), "-o", str(executable)], check=True)
    return executable


def start_with_model(executable: Path) -> Console:
    """Run what build_with_model() made; time passes there only as the model wants."""
    process = subprocess.Popen([executable], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    to, answers = process.stdin, process.stdout

    def send(data: bytes) -> None:
        to.write(data)
        to.flush()

    def receive(size: int) -> bytes:
        data = answers.read(size)
        if len(data) < size:
            raise ConnectionError(f"the driver ended with exit code {process.wait(5)}; its model says why on stderr")
        return data

    def stop() -> int:
        to.close()
        answers.close()
        return process.wait(TIMEOUT_S)

    return Console(send, receive, stop)


def build_for_machine(machine: Machine, driver: str, folder: Path, *options: str, **symbols: int) -> Path:
    """A driver on one of QEMU's machines."""
    flags = [*WARNINGS, *machine.core, "-O2", "-g", "-ffunction-sections", "-fdata-sections", *machine.options]
    folders = [FIRMWARE / "port" / part for part in machine.parts]
    flags += [f"-I{path}" for path in (FIRMWARE / "include", DEVICES, *folders)]
    sources = [DEVICES / "console.c", DEVICES / "none.c", *CRC32]
    sources += [FIRMWARE / "storage" / f"{driver}.c", *(path for part in folders for path in sorted(part.glob("*.c")))]
    built = run_compiler([*flags, *options, "-c", *map(str, sources)], folder)
    assert (built.returncode, built.stderr) == (0, "")
    elf = folder / "console.elf"
    built = link_target(machine, sorted(folder.glob("*.o")), elf, **symbols)
    assert (built.returncode, built.stderr) == (0, "")
    return elf


def start_on_machine(qemu: str, machine: Machine, elf: Path, folder: Path, *arguments: str) -> Console:
    """Run what build_for_machine() made."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    name, _, options = machine.name.partition(",")
    command = [qemu, "-M", ",".join(filter(None, (name, options))), "-display", "none", "-monitor", "none"]
    command += ["-serial", f"tcp:127.0.0.1:{port},server=on,wait=on,nodelay=on", "-kernel", str(elf), *arguments]
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            line = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
            break
        except ConnectionRefusedError:
            assert process.poll() is None and time.monotonic() < deadline, "QEMU does not start"
            time.sleep(0.02)

    def receive(size: int) -> bytes:
        data = b""
        while len(data) < size:
            some = line.recv(size - len(data))
            if not some:
                raise ConnectionError("QEMU closed the line")
            data += some
        return data

    def stop() -> int:
        line.close()
        process.terminate()
        try:
            return process.wait(TIMEOUT_S)
        finally:
            process.kill()

    return Console(line.sendall, receive, stop)


Start = Callable[..., Console]


def names(*of: str) -> dict[str, int]:
    """The enum at the head of a model."""
    return {name: index for index, name in enumerate(of)}


def fails(status: Status, call: Callable[..., object], *arguments: object) -> None:
    """The call returns this status, which has a text of its own."""
    with pytest.raises(StatusError) as caught:
        call(*arguments)
    assert caught.value.status is status
    assert "which is not known here" not in status_text(status)


def exercise(console: Console, seed: int, rounds: int, most_bytes: int) -> dict[int, bytes]:
    """Write, read back, cross all boundaries, erase, anywhere on the device; returns what was left where."""
    random_ = random.Random(seed)
    info = console.info()
    left: dict[int, bytes] = {}
    if info.erase_bytes == 1:
        # Two windows: at the start, and over the last byte.
        window = min(6 * most_bytes, info.size_bytes // 2)
        for base in (0, info.size_bytes - window):
            kept = bytearray(console.read(base, window))
            for _ in range(rounds):
                size = random_.choice((1, 7, 8, 511, 512, 513, random_.randrange(1, most_bytes)))
                at = random_.choice((0, window - size, random_.randrange(window - size + 1)))
                data = random_.randbytes(size)
                console.write(base + at, data)
                kept[at : at + size] = data
                at = random_.randrange(window)
                size = random_.randrange(1, min(most_bytes, window - at) + 1)
                assert console.read(base + at, size) == kept[at : at + size]
            left[base] = bytes(kept)
    else:
        unit = info.erase_bytes
        most_bytes = min(most_bytes, unit - 64)
        for base in (0, info.size_bytes - 2 * unit):
            console.erase(base, 2 * unit)
            # Up to the unit's end and over it, in pieces that leave no gap, and of which two at most share a word.
            first = base + unit - most_bytes
            data = random_.randbytes(2 * most_bytes)
            at = 0
            while at < len(data):
                size = max(info.write_bytes, random_.choice((1, 2, 3, 5, 255, 256, 257, random_.randrange(most_bytes))))
                console.write(first + at, data[at : at + size])
                at += size
            assert console.read(first, len(data)) == data
            assert console.read(first - 64, 64) == b"\xff" * 64
            assert console.read(first + len(data), 64) == b"\xff" * 64
            left[first] = data
            fails(Status.RANGE, console.erase, base + 1, unit)
            # The other unit keeps what it has.
            console.erase(base, unit)
            left[first] = b"\xff" * most_bytes + data[most_bytes:]
            assert console.read(first, len(data)) == left[first]
    console.sync()
    for outside in (info.size_bytes - 1, info.size_bytes, 0xFFFF_FFFF):
        fails(Status.STORAGE_FULL, console.write, outside, b"ab")
        fails(Status.STORAGE_FULL, console.call, "R", outside, 2)
    return left
