from __future__ import annotations

import copy
import json
import math
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from poet_hil.device import DeviceClient
from poet_hil.link import Link
from poet_hil.manifest import Build, Manifest, load_build
from poet_hil.standin import StandIn, StandInTarget


def _array(name: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "bytes": 4 * math.prod(shape)}


def _step(index: int, do: str, name: str, *, recompute: bool = False) -> dict[str, Any]:
    return {
        "index": index,
        "do": do,
        "name": name,
        "op": "Conv",
        "recompute": recompute,
        "bytes": 64,
        "energy_j": 1e-5,
        "time_s": 1e-4,
    }


MANIFEST: dict[str, Any] = {
    "format": 3,
    "tool_version": "0.1.0",
    "abi": 1,
    "model_digest": "0123456789abcdef" * 2,
    "schedule_digest": "fedcba9876543210" * 2,
    "board": {
        "id": "qemu_test",
        "kind": "qemu",
        "ram_bytes": 131072,
        "baud": 115200,
        "qemu": {"machine": "netduinoplus2", "args": []},
    },
    "inputs": [{**_array("image", 1, 1, 4, 4), "dtype": "float32"}],
    "loss": "cross-entropy",
    "label": {**_array("label", 1), "dtype": "int32", "classes": 3},
    "output": {**_array("logits", 1, 3), "dtype": "float32"},
    "params": [
        {"index": 0, "home": "ram", **_array("conv.weight", 16, 1, 3, 3)},
        {"index": 1, "home": "storage", **_array("conv.bias", 16)},
        {"index": 2, "home": "rom", **_array("scale")},
    ],
    "steps": [
        _step(0, "compute", "conv"),
        _step(1, "page_out", "conv.out"),
        _step(2, "page_in", "conv.out"),
        _step(3, "compute", "conv", recompute=True),
    ],
    "infer_steps": [_step(4, "compute", "conv")],
    "arena_bytes": 1000,
    "budget_bytes": 1024,
    "peak_bytes": 900,
    "energy_j": {
        "compute": 1e-3,
        "recompute": 0.0,
        "page_in": 0.0,
        "page_out": 0.0,
        "idle": 0.0,
        "source": "modelled: test",
    },
    "firmware_elf": "firmware.elf",
    "host_executable": "host/firmware",
}


@pytest.fixture
def manifest_data() -> dict[str, Any]:
    """A manifest to change at will."""
    return copy.deepcopy(MANIFEST)


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    return Manifest.model_validate(MANIFEST)


@pytest.fixture
def device(manifest: Manifest) -> DeviceClient:
    return DeviceClient(Link(StandInTarget(StandIn(manifest))), manifest)


class Clock:
    """time.monotonic() and time.sleep(): it passes only as somebody sleeps, however busy the machine is."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that the link and the tests go by."""
    clock = Clock()
    for name in ("monotonic", "sleep"):
        monkeypatch.setattr(time, name, getattr(clock, name))
    return clock


MakeBuild = Callable[..., Build]


@pytest.fixture
def make_build(tmp_path: Path) -> MakeBuild:
    """A build folder whose host program is the stand-in, or the script that is given."""

    def make(data: dict[str, Any] = MANIFEST, *, script: str | None = None) -> Build:
        project = tmp_path / "build" / "project"
        (project / "host").mkdir(parents=True, exist_ok=True)
        manifest_path = project / "manifest.json"
        manifest_path.write_text(json.dumps(data), encoding="utf-8")
        program = project / "host" / "firmware"
        serve = f'exec "{sys.executable}" -m poet_hil.standin "{manifest_path}" "$@"'
        program.write_text(f"#!/bin/sh\n{serve if script is None else script}\n", encoding="utf-8")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return load_build(tmp_path / "build")

    return make
