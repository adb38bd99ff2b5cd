"""What a linked firmware occupies, read from its ELF file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from poet_codegen.board import Board, MemoryRegion
from poet_codegen.errors import ToolError

STACK_SECTION = ".stack"
"""The linker script's reservation for the stack: neither static data nor free."""


@dataclass(frozen=True)
class Footprint:
    """Sizes in bytes."""

    flash_bytes: int
    """Code, constants and the initial values of data."""
    ram_static_bytes: int
    """Data and zeroed data, the arena included; without the stack."""
    sections: dict[str, int]
    """Every section that occupies memory."""
    ram_objects: dict[str, int]
    """Every variable in RAM (arena, I/O buffers, ...), by its symbol's name; namesakes are added up."""


def read_footprint(elf: Path, board: Board) -> Footprint:
    """Sizes of a firmware for `board`. Raises ToolError when the file is no ELF file."""
    with _opened(elf) as image:
        return _footprint(image, board)


def read_functions(elf: Path) -> dict[str, int]:
    """Bytes of every function in an ELF file, by name. Raises ToolError when it is none."""
    with _opened(elf) as image:
        tables = (part for part in image.iter_sections() if isinstance(part, SymbolTableSection))
        symbols = (symbol for table in tables for symbol in table.iter_symbols())
        return {s.name: int(s["st_size"]) for s in symbols if s["st_info"]["type"] == "STT_FUNC"}


@contextmanager
def _opened(elf: Path) -> Iterator[ELFFile]:
    try:
        with elf.open("rb") as stream:
            yield ELFFile(stream)
    except (OSError, ELFError) as error:
        raise ToolError(f"{elf}: cannot be read as an ELF file ({error}). Build the firmware again.") from error


def _footprint(image: ELFFile, board: Board) -> Footprint:
    sections: dict[str, int] = {}
    objects: dict[str, int] = {}
    flash_bytes = ram_bytes = 0
    for section in image.iter_sections():
        if isinstance(section, SymbolTableSection):
            for symbol in section.iter_symbols():
                if symbol["st_info"]["type"] == "STT_OBJECT" and _within(symbol["st_value"], board.ram):
                    objects[symbol.name] = objects.get(symbol.name, 0) + int(symbol["st_size"])
        size = int(section["sh_size"])
        if not section["sh_flags"] & SH_FLAGS.SHF_ALLOC or size == 0:
            continue
        sections[section.name] = size
        in_ram = _within(section["sh_addr"], board.ram)
        if section["sh_type"] != "SHT_NOBITS":
            flash_bytes += size
        if in_ram and section.name != STACK_SECTION:
            ram_bytes += size
    return Footprint(flash_bytes, ram_bytes, sections, dict(sorted(objects.items())))


def _within(address: int, region: MemoryRegion) -> bool:
    return region.origin <= address < region.origin + region.size_bytes
