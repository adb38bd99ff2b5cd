from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import serial
from poet_hil.device import DeviceClient
from poet_hil.errors import LinkTimeout, TargetBusy, TargetDied, TargetError, TargetMissing
from poet_hil.link import Link
from poet_hil.manifest import Manifest
from poet_hil.protocol import FRAME_BYTES, Command
from poet_hil.standin import StandIn, serve
from poet_hil.targets.serial import SerialTarget
from serial.rfc2217 import PortManager

X = np.ones((1, 1, 4, 4), np.float32)
PATIENCE_S = 60.0
"""Far more than a busy machine takes; only a failure waits as long."""


@pytest.fixture
def stand_in(manifest: Manifest) -> StandIn:
    return StandIn(manifest, heartbeats=2)


@pytest.fixture
def address(stand_in: StandIn) -> Iterator[str]:
    """A stand-in on a TCP port."""
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, args=(stand_in, listener), daemon=True)
    thread.start()
    yield f"socket://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(timeout=PATIENCE_S)
    assert not thread.is_alive()


@pytest.fixture
def terminal(stand_in: StandIn) -> Iterator[str]:
    """A stand-in on a pseudo terminal."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    running = True

    def run() -> None:
        while running:
            os.write(ours, stand_in.receive(os.read(ours, 4096)))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield os.ttyname(theirs)
    running = False
    os.write(theirs, b"\0")
    thread.join(timeout=PATIENCE_S)
    os.close(ours)
    os.close(theirs)


def exercise(target: SerialTarget, manifest: Manifest) -> None:
    with target:
        client = DeviceClient(Link(target, timeout_s=PATIENCE_S), manifest)
        client.hello()
        greeted = client.link.counts.retries  # a greeting is asked often, and may be early
        client.write_sample(X, 1)
        assert client.train(0.5).steps_done == 1
        assert client.link.counts.heartbeats == 2
        assert client.read_params()["conv.weight"].shape == (16, 1, 3, 3)
        assert client.link.counts.retries == greeted


def test_a_socket(address: str, manifest: Manifest) -> None:
    exercise(SerialTarget(address), manifest)


def test_a_terminal(terminal: str, manifest: Manifest) -> None:
    exercise(SerialTarget(terminal), manifest)


def test_a_second_session_goes_on_where_the_first_ended(address: str, manifest: Manifest) -> None:
    for expected in (1, 2):
        with SerialTarget(address) as target:
            client = DeviceClient(Link(target), manifest)
            client.hello()
            client.write_sample(X, 1)
            assert client.train(0.5).steps_done == expected


def test_reset_restarts_the_firmware(address: str, manifest: Manifest, stand_in: StandIn) -> None:
    with SerialTarget(address) as target:
        client = DeviceClient(Link(target), manifest)
        client.write_sample(X, 1)
        client.train(0.5)
        target.reset()
        assert client.hello().steps_done == 0


def test_a_terminal_in_use_is_busy(terminal: str) -> None:
    with SerialTarget(terminal), pytest.raises(TargetBusy, match="in use by another program"):
        SerialTarget(terminal).open()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/dev/ttyNOWHERE9", "cannot be opened .*(Ports there are|no serial ports)"),
        ("socket://127.0.0.1:1", "cannot be opened .*refused"),
        ("rfc2217://127.0.0.1:1", "cannot be opened .*refused"),
        ("nonsense://x", "cannot be understood .*socket://host:port"),
        ("socket://127.0.0.1:99999", "cannot be opened"),
    ],
)
def test_a_missing_port_is_described(url: str, message: str) -> None:
    with pytest.raises(TargetMissing, match=message) as caught:
        SerialTarget(url).open()
    assert "\n" not in str(caught.value)


def test_a_port_without_permission_is_described() -> None:
    error = PermissionError(13, "Permission denied", "/dev/ttyX")
    assert "dialout" in str(SerialTarget("/dev/ttyX")._cannot_open(error))


def test_an_unopened_target_says_so() -> None:
    with pytest.raises(TargetError, match="not open"):
        SerialTarget("socket://127.0.0.1:1").send(b"\0")


Serve = Callable[[socket.socket], None]


@pytest.fixture
def peer() -> Iterator[Callable[[Serve], str]]:
    """Run a function on the first client of a TCP port; returns its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []

        def start(talk: Serve) -> str:
            def run() -> None:
                client, _ = listener.accept()
                with client:
                    talk(client)

            threads.append(threading.Thread(target=run, daemon=True))
            threads[-1].start()
            return f"socket://127.0.0.1:{listener.getsockname()[1]}"

        yield start
        for thread in threads:
            thread.join(timeout=PATIENCE_S)


def test_a_connection_that_ends_is_a_dead_target(peer: Callable[[Serve], str], tmp_path: Path) -> None:
    log = tmp_path / "device.log"
    log.write_text("one\ntwo\nhard fault\n")
    message = r"the board stopped: .*device\.log: one \| two \| hard fault"
    target = SerialTarget(peer(lambda client: None), name="the board", log=log)
    with target, pytest.raises(TargetDied, match=message):
        Link(target, timeout_s=PATIENCE_S, tries=1).request(Command.HELLO)


def test_a_silent_peer_is_given_up_in_time(peer: Callable[[Serve], str]) -> None:
    def listen(client: socket.socket) -> None:
        while client.recv(4096):
            pass

    with SerialTarget(peer(listen)) as target:
        begun = time.monotonic()
        with pytest.raises(LinkTimeout, match="keeps no log"):
            Link(target, timeout_s=0.1, tries=2).request(Command.HELLO)
        assert 0.2 <= time.monotonic() - begun < PATIENCE_S


def test_frames_come_whole_whatever_way_their_bytes_arrive(peer: Callable[[Serve], str]) -> None:
    def talk(client: socket.socket) -> None:
        client.recv(1)  # what comes before the port is open is not kept
        for piece in (b"\0\0ab", b"c\0d", b"\0" + b"x" * (FRAME_BYTES + 2), b"\0end\0"):
            client.sendall(piece)
            time.sleep(0.02)
        client.recv(1)

    with SerialTarget(peer(talk)) as target:
        target.send(b"\0")
        deadline = time.monotonic() + PATIENCE_S
        frames = [target.expect(deadline) for _ in range(5)]
    assert frames == [b"abc", b"d", b"x" * (FRAME_BYTES + 1), b"x", b"end"]


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo terminals are POSIX")
def test_closing_twice_is_fine(terminal: str) -> None:
    target = SerialTarget(terminal)
    target.open()
    target.open()
    target.close()
    target.close()


@pytest.fixture
def remote(address: str) -> Iterator[str]:
    """The stand-in, shared by RFC 2217."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = serial.serial_for_url(address, timeout=0.01)

    def run() -> None:
        client, _ = listener.accept()
        with client:
            client.settimeout(0.01)
            manager = PortManager(port, client.makefile("wb", buffering=0))
            while True:
                with contextlib.suppress(TimeoutError):
                    data = client.recv(4096)
                    if not data:
                        return
                    port.write(b"".join(manager.filter(data)))
                client.sendall(b"".join(manager.escape(port.read(4096))))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield f"rfc2217://127.0.0.1:{listener.getsockname()[1]}"
    thread.join(timeout=PATIENCE_S)
    port.close()
    listener.close()


@pytest.mark.filterwarnings("ignore:set(Daemon|Name).*:DeprecationWarning")
def test_a_board_elsewhere(remote: str, manifest: Manifest) -> None:
    exercise(SerialTarget(remote), manifest)
