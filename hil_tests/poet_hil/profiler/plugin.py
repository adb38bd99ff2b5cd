"""The QEMU plugin: compiled when it is first used, attached to QEMU's command line, its output read."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from poet_hil.errors import TargetError, TargetMissing

_FLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")


@dataclass(frozen=True)
class Segment:
    """A straight line of instructions [first, end) that ran `executions` times; `taken`: jumps away at its end."""

    first: int
    end: int
    executions: int
    taken: int


@dataclass(frozen=True)
class Region:
    """What ran between a pair of markers."""

    segments: tuple[Segment, ...]

    def within(self, ranges: Sequence[tuple[int, int]]) -> Region:
        """What of it ran at addresses [first, end) of some ranges."""
        return Region(tuple(s for s in self.segments if any(first <= s.first < end for first, end in ranges)))


def build_plugin(folder: Path) -> Path:
    """The compiled plugin in `folder`, made with the machine's C compiler unless it is there already.

    Raises TargetMissing without a compiler, TargetError when it fails.
    """
    source = files("poet_hil.profiler").joinpath("plugin.c").read_bytes()
    library = folder.resolve() / f"poet_profiler_{hashlib.sha256(source).hexdigest()[:16]}.so"
    if library.exists():
        return library
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise TargetMissing("Profiling needs a C compiler on this machine, and there is no `cc`. Install gcc or clang.")
    folder.mkdir(parents=True, exist_ok=True)
    part = library.with_suffix(f".{os.getpid()}.part")
    command = [compiler, *_FLAGS, "-x", "c", "-", "-o", str(part)]
    result = subprocess.run(command, input=source, capture_output=True, check=False)
    if result.returncode != 0:
        message = result.stderr.decode(errors="replace").strip()
        raise TargetError(f"QEMU's profiler plugin did not compile:\n{message}\nSet CC to another C compiler.")
    part.replace(library)
    return library


def plugin_arguments(library: Path, output: Path) -> list[str]:
    """QEMU's arguments that load the plugin and send its counts to `output`."""
    for path in (library, output):
        if "," in str(path):
            raise TargetError(f"QEMU takes no comma in a plugin's path: {path}. Use another folder.")
    return ["-plugin", f"{library},out={output}"]


def read_regions(output: Path) -> Iterator[Region]:
    """The regions in the order in which they ended. Raises TargetError for a file that the plugin did not write."""
    yield from RegionReader(output).new()


class RegionReader:
    """Reads what the plugin writes while the firmware runs. Each region is flushed as it ends."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._offset = 0
        self._line = 0

    def new(self) -> list[Region]:
        """The regions since the last call, oldest first. Raises TargetError for a file that is not the plugin's."""
        with self._output.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        self._offset += len(text)
        regions: list[list[Segment]] = []
        for line in text.decode("ascii", errors="replace").splitlines():
            self._line += 1
            words = line.split()
            if words == ["R"]:
                regions.append([])
            elif regions and len(words) == 5 and words[0] == "S":
                regions[-1].append(Segment(int(words[1], 16), int(words[2], 16), int(words[3]), int(words[4])))
            else:
                raise TargetError(f"{self._output}, line {self._line}: {line!r} is not of the profiler. Profile again.")
        return [Region(tuple(segments)) for segments in regions]
