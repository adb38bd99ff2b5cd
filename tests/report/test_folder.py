"""write_report and the files it reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from poet_codegen.folder import BuildFolder, FolderError
from poet_codegen.plan import Plan, save_plan
from poet_codegen.report import FirmwareSizes, write_report
from poet_codegen.report.inputs import read_run, read_sizes


@pytest.fixture
def folder(tmp_path: Path, tight: Plan, digits: Path) -> BuildFolder:
    folder = BuildFolder(tmp_path / "build")
    save_plan(tight, digits, folder)
    return folder


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


LOSSES = "step,epoch,learning_rate,loss,loss_bits,ticks\n0,0,0.02,2.5,40200000,99\n1,0,0.02,nan,7fc00000,98\n"


def test_write_report_needs_only_a_plan(folder: BuildFolder) -> None:
    path = write_report(folder)
    assert path == folder.report
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert "Training run" not in path.read_text(encoding="utf-8")
    assert [p.name for p in folder.path.iterdir() if p.name.endswith(".part")] == []


def test_write_report_reads_run_and_sizes(folder: BuildFolder) -> None:
    put(folder.run / "run.json", '{"steps": 2, "test_accuracy": 0.5, "loss_bits": {"first": []}, "new": 1}')
    put(folder.run / "losses.csv", LOSSES)
    put(folder.sizes, '{"flash_bytes": 1024, "flash_total_bytes": 4096}')
    html = write_report(folder).read_text(encoding="utf-8")
    for words in ("Training run", "50.0\u202f%", "loss-curve", "1.00\u202fKiB of 4.00\u202fKiB"):
        assert words in html


def test_no_run_no_sizes(folder: BuildFolder) -> None:
    assert read_run(folder) is None and read_sizes(folder) is None


def test_every_key_is_optional(folder: BuildFolder) -> None:
    put(folder.run / "run.json", "{}")
    put(folder.sizes, "{}")
    assert read_sizes(folder) == FirmwareSizes()
    write_report(folder)


@pytest.mark.parametrize(
    ("name", "text", "command"),
    [
        ("run/run.json", "{", "poet train"),
        ("run/run.json", "[]", "poet train"),
        ("run/run.json", '{"steps": "many"}', "poet train"),
        ("run/losses.csv", "step,loss\n0,1.0\n", "poet train"),
        ("run/losses.csv", LOSSES + "2,0,0.02\n", "poet train"),
        ("run/losses.csv", LOSSES.replace("2.5", "low"), "poet train"),
        ("project/sizes.json", '{"flash_bytes": 1.5}', "poet build"),
    ],
)
def test_damaged_files_name_the_file_and_the_next_action(
    folder: BuildFolder, name: str, text: str, command: str
) -> None:
    put(folder.path / name, text)
    with pytest.raises(FolderError, match=f"{Path(name).name}: .*`{command}`") as caught:
        write_report(folder)
    assert "\n" not in str(caught.value)
    assert not folder.report.exists()


def test_no_plan(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="poet plan"):
        write_report(BuildFolder(tmp_path))


def test_same_bytes_under_two_hash_seeds(folder: BuildFolder) -> None:
    put(folder.run / "losses.csv", LOSSES)
    script = (
        "import sys; from pathlib import Path; from poet_codegen.folder import BuildFolder; "
        "from poet_codegen.report import write_report; write_report(BuildFolder(Path(sys.argv[1])))"
    )
    results = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, str(folder.path)], check=True, env=environment)
        results.add(folder.report.read_bytes())
    assert len(results) == 1
