from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from poet_hil.errors import ManifestError
from poet_hil.manifest import load_build
from pydantic import ValidationError

Data = dict[str, Any]


def test_a_build_knows_its_files(make_build: Callable[..., Any], tmp_path: Path) -> None:
    build = make_build()
    assert build.run_dir == tmp_path / "build" / "run"
    assert build.firmware_elf == tmp_path / "build" / "project" / "firmware.elf"
    assert build.host_executable.is_file()
    assert len(build.manifest_sha256) == 64
    assert build.manifest.inputs[0].shape == (1, 1, 4, 4) and build.manifest.batch == 1


def test_fields_of_a_newer_generator_are_left_out(make_build: Callable[..., Any], manifest_data: Data) -> None:
    manifest_data["later"] = {"more": 1}
    assert make_build(manifest_data).manifest.abi == 1


def test_a_manifest_cannot_be_changed(make_build: Callable[..., Any]) -> None:
    with pytest.raises(ValidationError):
        make_build().manifest.abi = 2


def test_no_build_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"No such file.*poet plan"):
        load_build(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\xff", "null"])
def test_what_is_no_manifest_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ManifestError, match="poet build"):
        load_build(tmp_path)


def change(data: Data, path: str, value: object) -> None:
    *parents, last = path.split(".")
    for key in parents:
        data = data[int(key)] if isinstance(data, list) else data[key]
    data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("format", 1, "format"),
        ("model_digest", "xyz", "model_digest"),
        ("schedule_digest", "0" * 31, "schedule_digest"),
        ("board.kind", "cloud", "board.kind"),
        ("board.qemu", None, "qemu"),
        ("board.baud", 0, "board.baud"),
        ("board.qemu.machine", "a -monitor stdio", "machine"),
        ("inputs", [], "inputs"),
        ("inputs.0.bytes", 63, "63 bytes"),
        ("inputs.0.dtype", "float64", "inputs.0.dtype"),
        ("inputs.0.shape", [], "inputs.0"),
        ("inputs.0.shape", [1, 0, 4, 4], "inputs.0.shape"),
        ("loss", "hinge", "loss"),
        ("label.bytes", 8, "label"),
        ("label.classes", 0, "0 classes"),
        ("label.dtype", "float32", "3 classes"),
        ("params.1.index", 2, "params must be listed"),
        ("params.1.home", "moon", "params.1.home"),
        ("params.1.name", "conv.weight", "same name"),
        ("steps.0.do", "dance", "steps.0.do"),
        ("steps.3.index", 0, "steps must be listed"),
        ("firmware_elf", "../../firmware.elf", "inside the project"),
        ("host_executable", "/bin/sh", "inside the project"),
        ("energy_j.compute", "much", "energy_j.compute"),
        ("arena_bytes", -1, "arena_bytes"),
    ],
)
def test_a_wrong_field_is_named(
    make_build: Callable[..., Any], manifest_data: Data, path: str, value: object, field: str
) -> None:
    change(manifest_data, path, value)
    with pytest.raises(ManifestError) as caught:
        make_build(manifest_data)
    assert field in str(caught.value) and "\n" not in str(caught.value)


def test_nan_is_refused(make_build: Callable[..., Any], manifest_data: Data) -> None:
    manifest_data["energy_j"]["compute"] = float("nan")
    assert "NaN" in json.dumps(manifest_data)
    with pytest.raises(ManifestError, match=r"energy_j\.compute"):
        make_build(manifest_data)
