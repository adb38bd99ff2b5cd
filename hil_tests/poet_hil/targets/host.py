"""The firmware as a program of this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from poet_hil.errors import TargetMissing
from poet_hil.manifest import Build
from poet_hil.process import Program
from poet_hil.storage_image import add_initial_weights
from poet_hil.targets.process import ProcessTarget

LOG_NAME = "host.log"


def host_program(build: Build) -> Program:
    """How to run a build's firmware on this machine."""
    executable = build.host_executable
    if not executable.is_file():
        raise TargetMissing(f"The host program {executable} is not there. Build it with `poet build`.")
    return Program(
        f"host program {executable.name}",
        lambda port: [str(executable), str(port)],
        partial(add_initial_weights, build),
    )


class HostTarget(ProcessTarget):
    """The host program, from open() to close(); storage files are in `folder`."""

    def __init__(self, build: Build, folder: Path | None = None) -> None:
        super().__init__(host_program(build), folder or build.run_dir, LOG_NAME)
