"""Targets that outlive a command: started detached, found again through run/target.json, ended on request."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from poet_hil import process
from poet_hil.errors import DigestMismatch, TargetBusy, TargetDied, TargetError, TargetMissing
from poet_hil.manifest import Build
from poet_hil.results import writable
from poet_hil.target import Target, log_tail
from poet_hil.targets import host, qemu
from poet_hil.targets.process import AttachedTarget
from poet_hil.targets.serial import SerialTarget

STATE_NAME = "target.json"
LOCK_NAME = "target.lock"


class Running(BaseModel):
    """run/target.json: how to reach the target. `pid` and `started` are of its process; a board has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    kind: Literal["qemu", "host", "serial"]
    name: str
    url: str
    baud: int
    pid: int | None = None
    started: str | None = None
    log: str | None = None
    manifest_sha256: str

    def alive(self) -> bool:
        """Tell whether the process still runs; a board is taken to be there."""
        return self.pid is None or process.identity(self.pid) == self.started


def start_detached(
    build: Build, *, kind: Literal["qemu", "host"] = "qemu", timeout_s: float = process.START_S
) -> Running:
    """Start the build's firmware in a process that outlives this one, and note it in run/target.json.

    TargetBusy when one runs already.
    """
    running = find(build)
    if running is not None and running.pid is not None and running.alive():
        raise TargetBusy(
            f"{running.name} runs already for {build.run_dir.parent} (process {running.pid}). End it with "
            f"`poet stop`, or go on with `poet train`."
        )
    program, log_name = (
        (qemu.qemu_program(build), qemu.LOG_NAME) if kind == "qemu" else (host.host_program(build), host.LOG_NAME)
    )
    started = process.start(program, build.run_dir, build.run_dir / log_name, timeout_s=timeout_s)
    try:
        running = Running(
            kind=kind,
            name=program.name,
            url=started.url,
            baud=build.manifest.board.baud,
            pid=started.process.pid,
            started=process.identity(started.process.pid),
            log=log_name,
            manifest_sha256=build.manifest_sha256,
        )
        _save(build, running)
    except BaseException:
        # Nobody would know of the process.
        process.end_child(started.process, timeout_s=timeout_s)
        raise
    return running


def remember_port(build: Build, url: str) -> Running:
    """Note that a board with this build's firmware is on the port `url`."""
    board = build.manifest.board
    running = Running(
        kind="serial",
        name=f"{board.id} on {url}",
        url=url,
        baud=board.baud,
        manifest_sha256=build.manifest_sha256,
    )
    _save(build, running)
    return running


def find(build: Build) -> Running | None:
    """Read run/target.json; None when there is none."""
    path = build.run_dir / STATE_NAME
    try:
        return Running.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        raise TargetError(
            f"{path} does not tell which target runs ({type(error).__name__}). Delete it and run `poet "
            f"flash`; a process it may have named has to be ended by hand."
        ) from error


def attach(build: Build) -> Target:
    """Return the target that was started for this build, not opened yet."""
    running = find(build)
    if running is None:
        raise TargetMissing(f"No target was started for {build.run_dir.parent}. Run `poet flash` first.")
    log = build.run_dir / running.log if running.log is not None else None
    if not running.alive():
        raise TargetDied(
            f"{running.name} (process {running.pid}) has ended. {log_tail(log)} Run `poet flash` to start it again."
        )
    if running.manifest_sha256 != build.manifest_sha256:
        raise DigestMismatch(
            f"{running.name} runs firmware of an earlier build of {build.run_dir.parent}. Run `poet flash` "
            f"to put this build on it."
        )
    if running.pid is None or running.started is None or log is None:
        return SerialTarget(running.url, running.baud, name=running.name)
    return AttachedTarget(
        running.url,
        name=running.name,
        pid=running.pid,
        started=running.started,
        log=log,
        lock=build.run_dir / LOCK_NAME,
    )


def stop(build: Build, *, timeout_s: float = 10.0) -> bool:
    """End the target that was started for this build and forget it; True when one ran."""
    running = find(build)
    if running is None:
        return False
    ran = running.pid is not None and running.alive()
    ended_itself = running.pid is None or not ran or process.end(running.pid, timeout_s=timeout_s)
    (build.run_dir / STATE_NAME).unlink(missing_ok=True)
    if not ended_itself:
        raise TargetError(
            f"{running.name} (process {running.pid}) did not end within {timeout_s:g} s and was killed; its "
            f"last writes to storage may be lost. Run `poet flash` to start it again; it checks what it "
            f"restores."
        )
    return ran


def _save(build: Build, running: Running) -> None:
    """Write the state whole or not at all."""
    with writable(build.run_dir):
        build.run_dir.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=build.run_dir, prefix=STATE_NAME, suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(running.model_dump_json(indent=2) + "\n")
            temporary.replace(build.run_dir / STATE_NAME)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
