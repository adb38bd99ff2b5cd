"""The same firmware on QEMU's machines, and what its compiler and linker promise."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .builds import NETDUINO, Machine, compile_target, link_target, target_tool
from .line import (
    ARENA_PEAK_BYTES,
    CHECKPOINT,
    ERR_CORRUPT,
    ERR_NO_CHECKPOINT,
    ERR_NOT_READY,
    ERR_STORAGE,
    HELLO,
    HOMES_AT,
    INFER,
    READ_OUTPUT,
    RESET,
    RESTORE,
    STATUS,
    TRAIN,
    WEIGHT,
    WRITE_PARAM,
    Client,
    Device,
    encode,
)

pytestmark = pytest.mark.emulated
Boot = Callable[..., Device]
LEARNING_RATE = struct.pack("<f", 0.01)
TICK_HZ = {"stm32f4": 168_000_000, "mps2": 25_000_000, "lm3s": 50_000_000, "m2s": 142_000_000, "nrf51": 16_000_000}


@pytest.mark.parametrize(
    "options",
    [
        ["-O3"],
        [
            "-Os",
            "-UPOET_QEMU",
            "-UPOET_CPU_HZ",
            "-DPOET_CPU_HZ=84000000",
            "-DPOET_UART_TX_GPIO=1",
            "-DPOET_UART_TX_PIN=6",
        ],
    ],
)
def test_compiles_without_a_warning(tmp_path: Path, options: list[str]) -> None:
    """-O2 is what the other tests run."""
    built = compile_target(NETDUINO, tmp_path, *options)
    assert (built.returncode, built.stderr) == (0, "")


@pytest.mark.parametrize(
    ("symbol", "size_bytes", "region"),
    [
        ("_poet_ram_bytes", 8192, "`RAM' overflowed"),
        ("_poet_stack_bytes", 130000, "`RAM' overflowed"),
        ("_poet_flash_bytes", 8192, "`FLASH' overflowed"),
    ],
)
def test_what_does_not_fit_does_not_link(
    machine: Machine, target_objects: list[Path], tmp_path: Path, symbol: str, size_bytes: int, region: str
) -> None:
    built = link_target(machine, target_objects, tmp_path / "firmware.elf", **{symbol: size_bytes})
    assert built.returncode != 0 and region in built.stderr


def test_no_double_and_no_heap_is_linked(target_elf: Path) -> None:
    listing = subprocess.run(
        [target_tool("arm-none-eabi-nm"), str(target_elf)], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[-1] for line in listing.splitlines()}
    assert not names & {"malloc", "_malloc_r", "free", "printf", "_sbrk", "exit"}
    assert not names & {"__aeabi_dadd", "__aeabi_dmul", "__aeabi_f2d", "__aeabi_d2f"}


def run_script(client: Client) -> tuple[object, ...]:
    """All that must be the same wherever it runs."""
    client.write_sample(0.75, 0.0, 0.0, 1.5)
    losses = [client.train(0.003)[:2] for _ in range(20)]
    client.do(CHECKPOINT)
    saved = client.params()
    losses += [client.train(0.003)[:2] for _ in range(5)]
    client.do(INFER)
    output = client.do(READ_OUTPUT, struct.pack("<II", 0, 16))
    return losses, saved, client.params(), output, client.do(RESTORE)


def test_the_same_bits_as_on_the_host(boot_host: Boot, boot_qemu: Boot) -> None:
    assert run_script(boot_qemu().connect()) == run_script(boot_host().connect())


def test_hello_names_port_and_storage(machine: Machine, boot_qemu: Boot) -> None:
    fields = struct.unpack("<16s16s9I32s16s16s24sI", boot_qemu().connect().do(HELLO))
    assert fields[10] == TICK_HZ[machine.port]
    assert [text.rstrip(b"\0") for text in fields[13:15]] == [machine.port.encode(), b"semihosting file"]


def test_arena_and_stack_high_water(machine: Machine, boot_qemu: Boot) -> None:
    client = boot_qemu().connect()
    run_script(client)
    status = client.status()
    print(f"stack high water: {status.stack_high_water_bytes} of {status.stack_bytes} bytes")
    assert status.arena_high_water_bytes == ARENA_PEAK_BYTES
    assert status.stack_bytes == machine.stack_bytes
    assert 200 < status.stack_high_water_bytes < 2048


def test_a_checkpoint_outlives_the_process(boot_qemu: Boot) -> None:
    device = boot_qemu()
    client = device.connect()
    client.write_sample(1.0)
    client.train()
    client.do(CHECKPOINT)
    saved = client.params()
    device.stop()

    device = boot_qemu()
    client = device.connect()
    assert (client.status().steps_done, client.params()) == (1, saved)
    client.write_sample(1.0)
    client.train()
    assert client.params() != saved
    assert struct.unpack("<II", client.do(RESTORE)) == (1, 1)
    assert client.params() == saved
    client.do(RESET)
    client.knock()
    assert (client.status().steps_done, client.params()) == (1, saved)


def test_a_flipped_bit_in_the_semihosting_file(boot_qemu: Boot) -> None:
    device = boot_qemu()
    client = device.connect()
    client.write_sample(1.0)
    client.train()
    with device.storage.open("r+b") as file:
        file.seek(HOMES_AT + 5)
        file.write(b"\xa5")
    assert client.ask(TRAIN, LEARNING_RATE).status == ERR_CORRUPT
    assert client.ask(RESTORE).status == ERR_NO_CHECKPOINT


def test_semihosting_that_nobody_answers_is_an_error_not_a_hang(boot_qemu: Boot) -> None:
    client = boot_qemu(semihosting=False).connect()
    status = client.status()
    assert (status.storage_errors, status.last_error) == (1, ERR_STORAGE)
    client.write_sample(1.0)
    assert client.ask(TRAIN, LEARNING_RATE).status == ERR_NOT_READY


def test_bytes_that_come_during_a_step_are_not_lost(boot_qemu: Boot) -> None:
    """More than the receive buffer holds: an emulated line waits."""
    client = boot_qemu().connect()
    client.write_sample(1.0, 300.0)
    client.send(encode(TRAIN, 600, LEARNING_RATE))
    client.send(b"".join(encode(STATUS, 601 + i) for i in range(200)))
    assert [client.answer(600 + i).status for i in range(201)] == [0] * 201
    assert len(client.heartbeats) >= 1
    assert client.status().frames_dropped == 0


def test_garbage_never_silences_the_target(boot_qemu: Boot) -> None:
    random_ = random.Random(1)
    client = boot_qemu().connect()
    for _ in range(60):
        client.send(random_.randbytes(random_.randrange(1, 900)))
        client.send(encode(random_.choice(range(RESET)), random_.randrange(0xFF00), random_.randbytes(12)))
    client.send(b"\0" + encode(HELLO, 0xFFFF))
    assert client.answer(0xFFFF).status == 0


def test_a_stack_overflow_resets(machine: Machine, boot_qemu: Boot, target_objects: list[Path], tmp_path: Path) -> None:
    """The stack is the lowest thing in RAM: below it is nothing that could be overwritten."""
    elf = tmp_path / "firmware.elf"
    built = link_target(machine, target_objects, elf, _poet_stack_bytes=640)
    assert built.returncode == 0, built.stderr
    client = boot_qemu(elf).connect()
    client.write_sample(1.0)
    assert client.status().stack_bytes == 640
    client.do(CHECKPOINT)
    # Copies the pages that the checkpoint holds, piece by piece.
    client.send(encode(WRITE_PARAM, 7, struct.pack("<IIf", WEIGHT, 0, 1.0)))
    with pytest.raises(TimeoutError):
        client.socket.settimeout(0.5)
        client.answer(7)
    client.knock()
    assert client.ask(TRAIN, LEARNING_RATE).status == ERR_NOT_READY, "the sample is gone: it did reset"
