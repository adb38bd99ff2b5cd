"""Firmware as a process of this machine: start, recognise, end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from poet_hil.errors import TargetDied, TargetError
from poet_hil.target import log_tail

START_S = 30.0
"""A program opens its port at once; on a machine that is busy enough, at once takes seconds."""
_POLL_S = 0.02
_START_TRIES = 5


@dataclass(frozen=True)
class Program:
    """A program that serves the device's serial port on a TCP port; `argv(port)` is its command line.

    `prepare(folder)` makes what it needs in the folder that it runs in.
    """

    name: str
    argv: Callable[[int], list[str]]
    prepare: Callable[[Path], None] = lambda folder: None


@dataclass(frozen=True)
class Started:
    """A running program, and the serial_for_url address of its device."""

    process: subprocess.Popen[bytes]
    url: str


def start(program: Program, folder: Path, log: Path, *, timeout_s: float = START_S, append: bool = False) -> Started:
    """Start a program in `folder`, its output in `log`, and wait until its port is open.

    It gets a session of its own, so that Ctrl-C in the terminal does not end it. TargetDied when it ends
    early or does not open its port within `timeout_s` seconds.
    """
    for attempt in range(_START_TRIES):
        port = _free_port()
        process = _popen(program, port, folder, log, append)
        try:
            ready = _wait_for_port(process, port, timeout_s)
        except BaseException:
            # Ctrl-C: nobody would know of the process.
            end_child(process, timeout_s=2.0)
            raise
        if ready:
            # Reaps the process when it ends while we live; it goes on when we end first.
            threading.Thread(target=process.wait, daemon=True).start()
            return Started(process, f"socket://127.0.0.1:{port}")
        code = process.poll()
        if code is None:
            end_child(process, timeout_s=2.0)
            raise TargetDied(
                f"{program.name} did not open its port 127.0.0.1:{port} within {timeout_s:g} s. "
                f"{log_tail(log)} See the log; `poet doctor` checks the tools."
            )
        # Between our choice and its use, another program may have taken the port.
        taken = "in use" in log.read_text(encoding="utf-8", errors="replace")
        if not taken or attempt == _START_TRIES - 1:
            raise TargetDied(
                f"{program.name} {how_it_ended(code)} as soon as it was started. {log_tail(log)} "
                f"`poet doctor` checks the tools, `poet build` makes the firmware again."
            )
    raise AssertionError("every attempt returns or raises")


def how_it_ended(code: int) -> str:
    """Describe a process's exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def identity(pid: int) -> str | None:
    """Tell a process from a later one with the same id: when it started. None when it does not run."""
    if Path("/proc/self/stat").exists():
        return _identity_from_proc(pid)
    ps = shutil.which("ps")
    if ps is None:
        raise TargetError(
            "Processes cannot be told apart on this system, so that emulated targets cannot be kept running. Use "
            "Linux or macOS, or a board on a serial port."
        )
    return _identity_from_ps(pid, ps)


def _identity_from_proc(pid: int) -> str | None:
    try:
        text = (Path("/proc") / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in parentheses may hold anything. Behind it come the state and, 20th, the start time.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _identity_from_ps(pid: int, ps: str) -> str | None:
    command = [ps, "-o", "stat=", "-o", "lstart=", "-p", str(pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split(maxsplit=1)
    return None if len(shown) < 2 or shown[0].startswith("Z") else shown[1].strip()


def end_child(process: subprocess.Popen[bytes], *, timeout_s: float) -> None:
    """End a process that this one started: ask it to, so that it writes out what it holds, then kill it."""
    process.terminate()
    try:
        process.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end(pid: int, *, timeout_s: float) -> bool:
    """Ask a process to end (SIGTERM), so that it writes out what it holds; kill it when `timeout_s` pass.

    False when it had to be killed.
    """
    started = identity(pid)
    if started is None:
        return True
    for request, wait_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 5.0)):
        try:
            os.kill(pid, request)
        except ProcessLookupError:
            return True
        if has_ended(pid, started, within_s=wait_s):
            return request is signal.SIGTERM
    return False


def has_ended(pid: int, started: str, *, within_s: float) -> bool:
    """Tell whether the process that `started` names ends within some seconds."""
    deadline = time.monotonic() + within_s
    while identity(pid) == started:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _popen(program: Program, port: int, folder: Path, log: Path, append: bool) -> subprocess.Popen[bytes]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        program.prepare(folder)
        with log.open("ab" if append else "wb") as output:
            return subprocess.Popen(
                program.argv(port),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise TargetError(
            f"{program.name} cannot be started in {folder} ({error}). Check that the folder can be written, "
            f"and make the firmware again on this machine with `poet build`."
        ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(process: subprocess.Popen[bytes], port: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
            return True
        except OSError:
            time.sleep(_POLL_S)
    return False
