"""Build the project's firmware as a host executable: the same sources with the host's port and storage
driver.

It gives the same bits as the board (tests compare them), runs where no emulator is, and can be debugged.
"""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from poet_codegen.errors import ToolError
from poet_codegen.numerics import Numerics
from poet_codegen.platformio.firmware import Progress
from poet_codegen.platformio.flags import host_flags
from poet_codegen.platformio.tools import find_host_cc

_SOURCES = ("src", "lib/poet/src", "host/src")
_INCLUDES = ("include", "src", "lib/poet/include")


def build_host(
    project_dir: Path,
    progress: Progress | None = None,
    numerics: Numerics = Numerics.SEPARATE,
    more_flags: Sequence[str] = (),
) -> Path:
    """Build `project_dir`/host/firmware with the host's C compiler and return its path.

    `progress` is called with one line for each step; `more_flags` go to compiler and linker, such as a sanitizer's.
    Raises ToolError with the compiler's first errors.
    """
    project_dir = project_dir.resolve()
    compiler = str(find_host_cc().path)
    sources = [path for folder in _SOURCES for path in sorted((project_dir / folder).rglob("*.c"))]
    if not sources:
        raise ToolError(f"{project_dir} has no C sources. Make the project first: 'poet plan'.")
    flags = (*host_flags(), *(("-mfma",) if numerics is Numerics.FUSED and _has_fma() else ()))
    includes = [f"-I{folder}" for folder in _INCLUDES]
    target = project_dir / "host" / "firmware"
    target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=project_dir / "host") as folder:
        work = Path(folder)
        names = [source.relative_to(project_dir).as_posix() for source in sources]
        objects = [str(work / f"{number}.o") for number in range(len(names))]

        def compile_one(name: str, item: str) -> None:
            _run([compiler, *flags, *more_flags, *includes, "-c", name, "-o", item], project_dir)

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for name, _ in zip(names, pool.map(compile_one, names, objects), strict=True):
                if progress is not None:
                    progress(f"Compiled {name}")
        if progress is not None:
            progress("Linking host/firmware")
        linked = work / "firmware"
        _run([compiler, *more_flags, *objects, "-lm", "-o", str(linked)], project_dir)
        linked.replace(target)
    return target


def _has_fma() -> bool:
    """Whether this x86 has the instruction; without it the C library's fmaf gives the same bits, slowly."""
    cpu = Path("/proc/cpuinfo")
    return platform.machine() == "x86_64" and cpu.exists() and " fma " in cpu.read_text(encoding="utf-8")


def _run(command: list[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[:8])
        raise ToolError(
            f"The host build failed: '{' '.join(command[:1] + command[-4:])}' ended with exit code "
            f"{done.returncode}. {said}"
        )
