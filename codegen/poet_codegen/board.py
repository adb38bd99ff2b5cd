"""Boards: what a TOML file in boards/ says, checked, and the costs derived from it.

Every electrical or timing figure names its source; one that is an estimate also gives its spread, so that a
report can say how far to trust it.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from poet_solver.problem import PageCost
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from poet_codegen.errors import BoardError, nearest_names
from poet_codegen.resources import data_dir

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

PAGE_HEADER_BYTES = 16
"""POET_PAGE_HEADER_BYTES of firmware/include/poet/page.h; tests compare the two."""

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
_Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, config=_STRICT)
class Figure:
    """A physical quantity in the unit its field's name ends in, and where the number comes from."""

    value: Annotated[float, Field(ge=0.0)]
    source: Annotated[str, Field(min_length=8)]
    """Data sheet and page, public code, or 'estimate: ...'."""
    spread: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Relative: the true value is thought to lie in value x (1 ± spread). Required for estimates."""

    @model_validator(mode="after")
    def _check(self) -> Figure:
        if self.is_estimate and self.spread is None:
            raise ValueError("an estimate needs its spread, for instance spread = 0.3 for ±30 %")
        return self

    @property
    def is_estimate(self) -> bool:
        """Whether nobody measured or published this figure for this part."""
        return self.source.lower().startswith("estimate")


@dataclass(frozen=True, config=_STRICT)
class Cpu:
    """The core and its clock."""

    core: Annotated[str, Field(pattern=r"^cortex-[am][0-9]+(plus)?$")]
    """As the compiler's -mcpu names it."""
    clock_hz: _Positive
    fpu: Annotated[str, Field(pattern=r"^fp[a-z0-9-]+$")] | None = None
    """As the compiler's -mfpu names it; None: soft float."""
    cycles: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] | None = None
    """The file of cycles_data with what kernels cost; None: the core's."""

    @property
    def cycle_table(self) -> str:
        """Name of the table with what kernels cost."""
        return self.cycles or self.core


@dataclass(frozen=True, config=_STRICT)
class MemoryRegion:
    """A range of addresses."""

    name: _Name
    """'flash' holds code and constants, 'ram' data, arena and stack; others are a storage device's, or just listed."""
    origin: Annotated[int, Field(ge=0)]
    size_bytes: _Positive
    note: str = ""


@dataclass(frozen=True, config=_STRICT)
class Erase:
    """What one erase costs on a device that must erase before it writes."""

    block_bytes: _Positive
    time_s: Figure
    power_w: Figure


@dataclass(frozen=True, config=_STRICT)
class StorageInQemu:
    """How QEMU attaches a storage device."""

    args: tuple[str, ...] = ()
    """Added to those of the machine; the device's image is the file poet_storage.bin of the run."""
    image_bytes: _Positive | None = None
    """Size of that image, which is made where there is none; None: QEMU or the firmware makes it."""
    erased: bool = False
    """Whether a new image is full of 0xFF, as erased flash is, or of 0."""


@dataclass(frozen=True, config=_STRICT)
class Storage:
    """A device that tensors are paged to. A transfer of n bytes takes latency + n / rate."""

    driver: _Name
    """firmware/storage/<driver>.c; also what `poet plan --storage` chooses it by."""
    models: str
    """What the figures are of, for reports: 'SD card over SPI'."""
    size_bytes: _Positive
    read_latency_s: Figure
    read_bytes_per_s: Figure
    write_latency_s: Figure
    write_bytes_per_s: Figure
    read_power_w: Figure
    """Drawn by the device while it reads, the CPU's power not included."""
    write_power_w: Figure
    erase: Erase | None = None
    """None: the device needs no erase, or hides it."""
    endurance_erases: Figure | None = None
    """Erases (or writes, where nothing is erased) that a block survives; None: unknown."""
    overlaps: Annotated[str, Field(min_length=8)] | None = None
    """What brings the bytes of a read while the core computes (DMA), and where that is from; None: the core polls."""
    memory: _Name | None = None
    """The memory region that it is, for drivers of memory; None: it is behind a bus of its own."""
    defines: dict[_Name, Annotated[int, Field(ge=0)] | _Name] = Field(default_factory=dict)
    """Preprocessor definitions that driver and port want for it: pins, clock, JEDEC id."""
    qemu: StorageInQemu = StorageInQemu()

    @model_validator(mode="after")
    def _check(self) -> Storage:
        for field in ("read_bytes_per_s", "write_bytes_per_s"):
            if getattr(self, field).value == 0.0:
                raise ValueError(f"{field} is 0; a transfer would never end")
        return self


@dataclass(frozen=True, config=_STRICT)
class Power:
    """Power of the microcontroller by state, at the clock of [cpu]."""

    run_w: Figure
    sleep_w: Figure


@dataclass(frozen=True, config=_STRICT)
class Uart:
    """The serial link to the host."""

    peripheral: str
    """For people: 'USART1, TX PA9, RX PA10'."""
    baud: _Positive = 115200


@dataclass(frozen=True, config=_STRICT)
class PlatformIO:
    """How PlatformIO names the board. The generated platformio.ini is built from it."""

    platform: Literal["ststm32", "nordicnrf52"]
    board: _Name
    upload_protocols: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], ...] = ()
    """The first one is the default; none: nothing to upload to."""
    openocd_target: _Name | None = None
    """OpenOCD's name of the part, for uploads where PlatformIO's registry cannot be reached."""


@dataclass(frozen=True, config=_STRICT)
class Qemu:
    """How QEMU runs the board."""

    machine: str
    args: tuple[str, ...] = ()
    """Added to the command line as they stand."""


@dataclass(frozen=True, config=_STRICT)
class Firmware:
    """What a board's firmware is built with."""

    port: str
    uart: Uart
    platformio: PlatformIO


@dataclass(frozen=True, config=_STRICT)
class Board:
    """One board file."""

    name: _Name
    title: Annotated[str, Field(min_length=1)]
    cpu: Cpu
    memory: tuple[MemoryRegion, ...]
    stack_bytes: _Positive
    """Reserved for the stack in 'ram'."""
    storage_devices: Annotated[tuple[Storage, ...], Field(min_length=1)]
    """The first one is what a project uses, unless `poet plan --storage` says another."""
    power: Power
    port: _Name | None = None
    """firmware/port/<port>/. A board without port, uart and platformio is there for planning only."""
    uart: Uart | None = None
    platformio: PlatformIO | None = None
    qemu: Qemu | None = None
    defines: dict[_Name, Annotated[int, Field(ge=0)] | _Name] = Field(default_factory=dict)
    """Preprocessor definitions the port wants: numbers or identifiers."""

    @model_validator(mode="after")
    def _check(self) -> Board:
        names = [region.name for region in self.memory]
        for wanted in ("flash", "ram"):
            if names.count(wanted) != 1:
                raise ValueError(f"memory must have exactly one region named '{wanted}'")
        by_origin = sorted(self.memory, key=lambda region: region.origin)
        for low, high in pairwise(by_origin):
            if low.origin + low.size_bytes > high.origin:
                raise ValueError(f"memory regions '{low.name}' and '{high.name}' overlap")
        if self.stack_bytes % 8 or self.stack_bytes >= self.ram.size_bytes:
            raise ValueError("stack_bytes must be a multiple of 8 and smaller than the region 'ram'")
        for field in ("uart", "platformio") if self.port is not None else ():
            if getattr(self, field) is None:
                raise ValueError(f"the table '{field}' is missing; only a board without a port can do without it")
        drivers = [storage.driver for storage in self.storage_devices]
        if len(set(drivers)) != len(drivers):
            raise ValueError("two storage devices have the same driver")
        for storage in self.storage_devices:
            region = next((region for region in self.memory if region.name == storage.memory), None)
            if storage.memory is not None and (region is None or storage.size_bytes > region.size_bytes):
                raise ValueError(
                    f"the storage device '{storage.driver}' needs a memory region '{storage.memory}' of its size"
                )
        return self

    @property
    def kind(self) -> Literal["qemu", "serial", "plan"]:
        """Whether firmware runs in QEMU, on a board at a serial port, or there is none: for planning only."""
        if self.port is None:
            return "plan"
        return "qemu" if self.qemu is not None else "serial"

    @property
    def firmware(self) -> Firmware:
        """What firmware is built with. Raises BoardError for a board that is there for planning only."""
        if self.port is None or self.uart is None or self.platformio is None:
            raise BoardError(
                f"{self.name} ({self.title}) is there for planning only: the firmware has no port for it. 'poet plan' "
                "tells what a step would cost there; to train, plan for a board that 'poet boards' says runs."
            )
        return Firmware(self.port, self.uart, self.platformio)

    @property
    def flash(self) -> MemoryRegion:
        """Where code and constants go."""
        return self._region("flash")

    @property
    def ram(self) -> MemoryRegion:
        """Where data, arena and stack go."""
        return self._region("ram")

    @property
    def storage(self) -> Storage:
        """The storage device that a project pages to."""
        return self.storage_devices[0]

    @property
    def energy_per_cycle_j(self) -> float:
        """Energy of one CPU cycle while it computes: run_w / clock_hz."""
        return self.power.run_w.value / self.cpu.clock_hz

    @property
    def seconds_per_cycle(self) -> float:
        """Duration of one CPU cycle: 1 / clock_hz."""
        return 1.0 / self.cpu.clock_hz

    def page_in_cost(self, size_bytes: int) -> PageCost:
        """Cost of reading `size_bytes` from storage.

        time = latency + size / rate; energy = time x (device's read power + CPU's run power), for the
        driver polls. `size_bytes` is what crosses the bus, a page's header included.
        """
        store = self.storage
        time_s = store.read_latency_s.value + size_bytes / store.read_bytes_per_s.value
        return PageCost(time_s=time_s, energy_j=time_s * (store.read_power_w.value + self.power.run_w.value))

    def page_out_cost(self, size_bytes: int) -> PageCost:
        """Cost of writing `size_bytes` to storage, with the erase where the device needs one."""
        return both(self.write_cost(size_bytes), self.erase_cost(size_bytes))

    def write_cost(self, size_bytes: int) -> PageCost:
        """Cost of writing `size_bytes` to storage that is erased: as for reading, with the write figures.

        wear_bytes: `size_bytes` where nothing is ever erased, else none.
        """
        store = self.storage
        time_s = store.write_latency_s.value + size_bytes / store.write_bytes_per_s.value
        energy_j = time_s * (store.write_power_w.value + self.power.run_w.value)
        return PageCost(time_s=time_s, energy_j=energy_j, wear_bytes=0.0 if store.erase else float(size_bytes))

    def erase_cost(self, size_bytes: int) -> PageCost:
        """Cost of erasing every block that `size_bytes` touch; nothing where the device needs no erase.

        Time and energy (device + polling CPU) of each block. Erases are mostly done while the host is awaited
        (firmware's page.h); they cost as much then. wear_bytes: the bytes of those blocks.
        """
        erase = self.storage.erase
        if erase is None:
            return PageCost(time_s=0.0, energy_j=0.0)
        blocks = math.ceil(size_bytes / erase.block_bytes)
        time_s = blocks * erase.time_s.value
        return PageCost(
            time_s=time_s,
            energy_j=time_s * (erase.power_w.value + self.power.run_w.value),
            wear_bytes=float(blocks * erase.block_bytes),
        )

    def with_ram(self, size_bytes: int) -> Board:
        """This board as if its RAM ended after `size_bytes`: data, arena and stack all lie below.

        Raises BoardError when it has less, or when not even the stack fits.
        """
        if not self.stack_bytes < size_bytes <= self.ram.size_bytes:
            raise BoardError(
                f"{self.name} cannot be limited to {size_bytes} bytes of RAM: it has {self.ram.size_bytes}, and "
                f"{self.stack_bytes} are for the stack. Ask for more than the stack and for no more than there is."
            )
        limited = replace(self.ram, size_bytes=size_bytes)
        return replace(self, memory=tuple(limited if region is self.ram else region for region in self.memory))

    def with_storage(self, driver: str) -> Board:
        """This board as it pages to the storage device of that driver. Raises BoardError when it has none."""
        chosen = next((storage for storage in self.storage_devices if storage.driver == driver), None)
        if chosen is None:
            there = ", ".join(storage.driver for storage in self.storage_devices)
            raise BoardError(f"{self.name} has no storage device '{driver}'; it has {there}. Choose one of them.")
        others = tuple(storage for storage in self.storage_devices if storage is not chosen)
        return replace(self, storage_devices=(chosen, *others))

    def storage_origin(self) -> int | None:
        """Where the storage device lies in memory; None where it is behind a bus of its own."""
        name = self.storage.memory
        return None if name is None else self._region(name).origin

    def _region(self, name: str) -> MemoryRegion:
        return next(region for region in self.memory if region.name == name)


def both(first: PageCost, then: PageCost) -> PageCost:
    """Cost of two things in turn."""
    return PageCost(
        time_s=first.time_s + then.time_s,
        energy_j=first.energy_j + then.energy_j,
        wear_bytes=first.wear_bytes + then.wear_bytes,
    )


_ADAPTER = TypeAdapter(Board)


def parse_board(text: str, source: str) -> Board:
    """Read a board from TOML text. Raises BoardError that names `source` and the field."""
    try:
        return _ADAPTER.validate_python(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BoardError(f"{source}: not valid TOML: {error}. Correct that place and try again.") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        where = f"field '{field}': " if field else ""
        raise BoardError(f"{source}: {where}{message}. Correct that field and try again.") from error


def list_boards() -> tuple[str, ...]:
    """Names of the boards that come with poet-mcu, sorted."""
    return tuple(sorted(path.stem for path in data_dir("boards").glob("*.toml")))


def load_board(name: str, ram_bytes: int | None = None, storage: str | None = None) -> Board:
    """The board of that name, or the one in the file `name` where it ends in .toml.

    `ram_bytes` limits its RAM, `storage` names the driver of the storage device to page to. Raises BoardError for an
    unknown board (with the nearest names), for a malformed file (with the field), and for a limit or a device that the
    board cannot have.
    """
    if name.endswith(".toml"):
        path = Path(name)
    elif name in list_boards():
        path = data_dir("boards") / f"{name}.toml"
    else:
        raise BoardError(
            f"Unknown board '{name}'. Did you mean {nearest_names(name, list_boards())}? "
            "'poet boards' lists them all; a board of your own is named by the path of its .toml file."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BoardError(f"{path}: cannot be read ({error}). Name a readable TOML file.") from error
    board = parse_board(text, str(path))
    if board.name != path.stem:
        raise BoardError(
            f"{path}: field 'name' is '{board.name}', but the file's name says '{path.stem}'. Make the two equal."
        )
    if storage is not None:
        board = board.with_storage(storage)
    return board if ram_bytes is None else board.with_ram(ram_bytes)
