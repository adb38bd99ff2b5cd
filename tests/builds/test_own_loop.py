"""examples/own_loop: a user's own main() trains with poet_step() on QEMU, with the bits of a session on the host."""

from __future__ import annotations

import os
import select
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from poet_codegen.build import write_project
from poet_codegen.lower import Home
from poet_codegen.plan import make_plan, make_request
from poet_codegen.platformio.firmware import build_firmware
from poet_codegen.platformio.host import build_host
from poet_codegen.recipe import DEFAULT_RECIPE
from poet_hil import process
from poet_hil.device import DeviceClient
from poet_hil.link import Link
from poet_hil.manifest import Build, load_build
from poet_hil.targets.host import HostTarget
from poet_hil.targets.qemu import qemu_program

STEPS = 40
CUT_AFTER = 25


def lines_of(build: Build, until: str) -> Iterator[str]:
    """What the program says after a key was pressed, up to the line that begins so; then the power goes."""
    started = process.start(qemu_program(build), build.run_dir, build.run_dir / "qemu.log")
    try:
        host, _, port = started.url.removeprefix("socket://").partition(":")
        with socket.create_connection((host, int(port)), 60.0) as line:
            for _ in range(300):
                line.sendall(b"x")  # what comes before the UART is up is lost
                if select.select([line], [], [], 0.2)[0]:
                    break
            text = line.makefile("r", encoding="ascii", newline="\r\n")
            for row in text:
                yield row.strip()
                if row.startswith(until):
                    return
    finally:
        started.process.kill()
        started.process.wait()


@pytest.mark.usefixtures("arm_gcc")
def test_a_loop_of_ones_own_trains_and_resumes(root: Path, tmp_path: Path) -> None:
    if shutil.which("qemu-system-arm") is None:
        assert "CI" not in os.environ, "CI has no qemu-system-arm; 'make setup' installs it"
        pytest.skip("qemu-system-arm is not on PATH; 'make setup' installs it")
    model = root / "examples/digits/digits.onnx"
    request = make_request(model, "qemu_netduinoplus2", 28 * 1024, None, Home.STORAGE, DEFAULT_RECIPE, "page", 0)
    plan = make_plan(request, model, threads=1, time_limit_s=20)
    project = tmp_path / "project"
    write_project(plan, project)
    build_host(project)
    build = load_build(tmp_path)
    build.run_dir.mkdir()

    with HostTarget(build, tmp_path) as target:
        device = DeviceClient(Link(target), build.manifest)
        expected = []
        for step in range(STEPS):
            pixels = (step * 7 + np.arange(64) * 3) % 17 / 16
            device.write_sample(pixels.astype(np.float32).reshape(1, 1, 8, 8), step % 10)
            expected.append(device.train(0.02).loss_bits)

    source = (root / "examples/own_loop/main.c").read_text(encoding="utf-8")
    define = "#define STEPS {}u\n"
    assert define.format(STEPS) in source
    # Killed in time, a program of 40 steps may still have reached the next checkpoint; one of 25 steps has not.
    short = source.replace(define.format(STEPS), define.format(CUT_AFTER))
    (project / "src/main.c").write_text(short, encoding="utf-8")
    build_firmware(project, plan.board)
    first = [line.split() for line in lines_of(build, "done")]
    assert first.pop() == ["done"]
    assert [(int(words[1]), words[4]) for words in first] == list(enumerate(expected))[:CUT_AFTER]
    # Ten steps a checkpoint: the power went after step 24, and the next boot goes on at 20.
    (project / "src/main.c").write_text(source, encoding="utf-8")
    build_firmware(project, plan.board)
    again = [line.split() for line in lines_of(build, "done")]
    assert again.pop() == ["done"]
    assert [(int(words[1]), words[4]) for words in again] == list(enumerate(expected))[20:]
