"""Builds of the firmware with the fake model, for the host and for QEMU."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from poet_codegen.platformio.flags import WARNINGS as FIRMWARE_WARNINGS

HERE = Path(__file__).parent
FIRMWARE = HERE.parents[1] / "firmware"
WARNINGS = ["-std=c99", *FIRMWARE_WARNINGS, "-ffp-contract=off", "-fno-fast-math"]
SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

PAGE_MODEL = """
#include <stddef.h>
#include "poet/model.h"
static const poet_param_t params[] = {{"weight", NULL, 100, 2048, POET_HOME_STORAGE, false}};
const poet_model_t poet_model = {.params = params, .param_count = 1, .page_unit_bytes = 64, .page_units = 64,
                                 .page_window_units = 64};
"""
"""A model of which one parameter is on storage that can be written over, at PAGE_HOME; its other pages are scratch."""
PAGE_HOME, PAGE_HOME_BYTES = 2048, 100


@dataclass(frozen=True)
class Machine:
    """One of QEMU's, and how firmware for it is compiled and linked."""

    name: str
    parts: tuple[str, ...]
    """Folders of firmware/port."""
    core: tuple[str, ...]
    flash_origin: int
    flash_bytes: int
    options: tuple[str, ...] = ()
    ram_bytes: int = 128 << 10
    stack_bytes: int = 4096

    @property
    def port(self) -> str:
        return self.parts[0]


CORTEX_M0 = ("-mcpu=cortex-m0", "-mthumb", "-mfloat-abi=soft")
CORTEX_M3 = ("-mcpu=cortex-m3", "-mthumb", "-mfloat-abi=soft")
CORTEX_M4 = ("-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")
CORTEX_M7 = ("-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard")
NETDUINO = Machine(
    "netduinoplus2",
    ("stm32f4", "stm32f4_f7", "stm32", "systick", "cortexm"),
    CORTEX_M4,
    0x0800_0000,
    1 << 20,
    ("-DPOET_QEMU=1", "-DPOET_CPU_HZ=168000000u"),
)
AN386 = Machine("mps2-an386", ("mps2", "systick", "cortexm"), CORTEX_M4, 0, 4 << 20)
STELLARIS = Machine("lm3s6965evb", ("lm3s", "systick", "cortexm"), CORTEX_M3, 0, 256 << 10, ram_bytes=64 << 10)
SMARTFUSION = Machine("emcraft-sf2", ("m2s", "systick", "cortexm"), CORTEX_M3, 0, 256 << 10, ram_bytes=64 << 10)
MICROBIT = Machine(
    "microbit", ("nrf51", "nrf", "cortexm"), CORTEX_M0, 0, 128 << 10, ram_bytes=16 << 10, stack_bytes=2048
)
MACHINES = (
    NETDUINO,
    AN386,
    Machine("mps2-an500", ("mps2", "systick", "cortexm"), CORTEX_M7, 0, 4 << 20, ("-DPOET_CACHES=1",)),
    STELLARIS,
    SMARTFUSION,
    MICROBIT,
)


def runtime_sources(parts: tuple[str, ...], storage: str) -> list[str]:
    folders = (FIRMWARE / "src", *(FIRMWARE / "port" / part for part in parts))
    sources = [str(path) for folder in folders for path in sorted(folder.glob("*.c"))]
    return [*sources, str(FIRMWARE / "storage" / f"{storage}.c")]


def target_tool(name: str) -> str:
    """Path of a tool for emulated tests: missing is a skip, in CI a failure."""
    path = shutil.which(name)
    if path is None:
        message = f"{name} is not installed"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


def run_compiler(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    compiler = target_tool("arm-none-eabi-gcc")
    return subprocess.run([compiler, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def compile_target(
    machine: Machine, folder: Path, *options: str, storage: str = "semihosting"
) -> subprocess.CompletedProcess[str]:
    """Objects of the firmware with the fake model and a storage driver."""
    flags = [*WARNINGS, *machine.core, "-g", "-ffunction-sections", "-fdata-sections", *machine.options]
    flags += [f"-I{FIRMWARE / 'include'}", *(f"-I{FIRMWARE / 'port' / part}" for part in machine.parts)]
    sources = [*runtime_sources(machine.parts, storage), str(HERE / "fake_model.c")]
    return run_compiler([*flags, *options, "-c", *sources], folder)


def link_target(
    machine: Machine, objects: list[Path], output: Path, **symbols: int
) -> subprocess.CompletedProcess[str]:
    """Link for the machine's memory, unless linker symbols such as _poet_ram_bytes say otherwise."""
    flags = [*machine.core, "--specs=nano.specs", "-nostartfiles", "-Wl,--gc-sections"]
    flags.append(f"-T{FIRMWARE / 'port' / 'cortexm' / 'link.ld'}")
    memory = {
        "_poet_flash_origin": machine.flash_origin,
        "_poet_flash_bytes": machine.flash_bytes,
        "_poet_ram_origin": 0x2000_0000,
        "_poet_ram_bytes": machine.ram_bytes,
        "_poet_stack_bytes": machine.stack_bytes,
    }
    flags += [f"-Wl,--defsym={name}={value}" for name, value in (memory | symbols).items()]
    return run_compiler([*flags, *map(str, objects), "-o", str(output)], output.parent)


def build_host(output: Path, *options: str) -> Path:
    sources = [*runtime_sources(("host",), "host_file"), str(HERE / "fake_model.c")]
    include = f"-I{FIRMWARE / 'include'}"
    subprocess.run(["cc", *WARNINGS, *SANITIZERS, *options, include, *sources, "-o", str(output)], check=True)
    return output
