"""The programs a build calls: where they are, and what to install when they are not."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from poet_codegen.errors import ToolError

ARM_PACKAGES = ("gcc-arm-none-eabi", "libnewlib-arm-none-eabi")
"""Debian's and Ubuntu's names of the Arm compiler and its C library."""

QEMU_PACKAGE = "qemu-system-arm"


@dataclass(frozen=True)
class Compiler:
    """A C compiler."""

    path: Path
    version: str


def apt_hint(*packages: str) -> str:
    """What to type to install Debian packages, and what to do elsewhere."""
    names = " ".join(packages)
    return (
        f"On Debian or Ubuntu: 'sudo apt-get install --no-install-recommends {names}'. "
        "Elsewhere install the same programs by your system's means and put them on PATH."
    )


def find_arm_gcc() -> Compiler:
    """The Arm compiler with newlib-nano. Raises ToolError that names the package when either is missing."""
    path = shutil.which("arm-none-eabi-gcc")
    if path is None:
        raise ToolError(f"The Arm compiler arm-none-eabi-gcc is not on PATH. {apt_hint(*ARM_PACKAGES)}")
    # gcc answers with the bare name when it does not find the file.
    specs = run_tool([path, "-print-file-name=nano.specs"]).strip()
    if not Path(specs).is_absolute():
        raise ToolError(
            f"{path} comes without newlib's nano.specs, so that nothing can be linked. {apt_hint(ARM_PACKAGES[1])}"
        )
    return Compiler(Path(path), compiler_version(path))


def find_host_cc() -> Compiler:
    """The host's C compiler. Raises ToolError that names the package when there is none."""
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return Compiler(Path(path), compiler_version(path))
    raise ToolError(f"No C compiler (cc, gcc or clang) is on PATH. {apt_hint('gcc', 'libc6-dev')}")


def compiler_version(path: str) -> str:
    """The version a gcc-like compiler gives itself, such as '12.2.1'."""
    first_line = run_tool([path, "--version"]).partition("\n")[0]
    found = re.findall(r"\b\d+\.\d+(?:\.\d+)?\b", first_line)
    return str(found[-1]) if found else first_line.strip()


def run_tool(command: list[str], timeout_s: float = 30.0) -> str:
    """Standard output of a short command. Raises ToolError when it cannot be run, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"'{' '.join(command)}' cannot be run: {error}. Check that program's installation.") from error
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip() or "nothing"
        raise ToolError(
            f"'{' '.join(command)}' failed with exit code {done.returncode} and said: {said}. "
            "Check that program's installation."
        )
    return done.stdout
