"""The tests on a running target, where there is none: they skip, and say why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).parents[2] / "hil_tests"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--board", "nucleo_f446re"], "the board nucleo_f446re is real: give its --port"),
        (["--board", "nucleo_f446re", "--port", "/dev/ttyNOT_THERE"], "/dev/ttyNOT_THERE"),
        (["--board", "nucleo_f446re", "--port", "rfc2217://127.0.0.1:1"], "rfc2217://127.0.0.1:1"),
    ],
)
def test_a_board_that_is_not_there_skips_with_its_reason(arguments: list[str], reason: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "POET_BUILD_DIR")}
    command = [sys.executable, "-m", "pytest", "-q", "-rs", str(SUITE / "test_device.py"), "-k", "hello", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    said = "".join(done.stdout.split())
    assert done.returncode == 0 and "1skipped" in said and "".join(reason.split()) in said, done.stdout
