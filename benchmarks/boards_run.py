"""Train the digits project on every emulated board, paging through the board's own driver, and compare the bits.

Each board plans, builds, trains and verifies by the commands that a user has; the host then trains the same and must
reach the same losses and weights, bit for bit, with the same schedule and keeping everything. Run as `make boards-run`;
`--steps 2` is what CI does.
"""

from __future__ import annotations

import argparse
import json
import runpy
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from readme import line, markdown, write_table

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "examples" / "digits"
POET = Path(sys.executable).parent / "poet"
STEPS = 50
COLUMNS = ("board", "core", "pages go to", "channels", "arena", "a step has", "loss, first and last ten", "bits")


@dataclass(frozen=True)
class Run:
    """One board, and what it trains: the digits model with so many channels, in so much RAM."""

    board: str
    storage: str
    """The driver."""
    channels: int = 12
    ram: str = "24K"


RUNS = (
    Run("qemu_netduinoplus2", "semihosting"),
    Run("qemu_lm3s6965", "sd_spi"),
    Run("qemu_emcraft_sf2", "spi_nor"),
    Run("qemu_microbit", "nrf_nvmc", channels=6, ram="8K"),
    Run("qemu_mps2_an386", "memory_mapped"),
    Run("qemu_mps2_an500", "semihosting"),
)


def main() -> None:
    """Run those that were asked for; of all at once, README's table is written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("boards", nargs="*", help="names; all without")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    chosen = [run for run in RUNS if not arguments.boards or run.board in arguments.boards]
    rows = []
    for run in chosen:
        with tempfile.TemporaryDirectory(prefix="poet-run-") as folder:
            row, equal = train(run, arguments.steps, Path(folder))
        print(line(row), end="", flush=True)
        if not equal:
            raise SystemExit(f"{run.board} does not train to the host's bits.")
        rows.append(row)
    if len(rows) == len(RUNS) and arguments.steps == STEPS:
        write_table("boards-run", markdown(COLUMNS, rows))
        print("README.md has the table.")


def train(run: Run, steps: int, folder: Path) -> tuple[tuple[str, ...], bool]:
    """A row of the table, and whether all bits are equal."""
    build_model = runpy.run_path(str(DIGITS / "make_model.py"))["build_model"]
    write_data = runpy.run_path(str(DIGITS / "make_data.py"))["write_data"]
    model, data, where = folder / "digits.onnx", folder / "digits.npz", ["--dir", str(folder / "build")]
    onnx.save(build_model(run.channels), model)
    write_data(data)
    # Only paging, and no deadline: recomputation would be cheaper on some boards, and pages are what this is about.
    plan = ["--storage", run.storage, "--ram", run.ram, "--technique", "page", "--deadline", "0", "--time-limit", "20"]
    poet("plan", str(model), "--board", run.board, *plan, *where)
    poet("build", *where)
    poet("flash", *where)
    try:
        poet("train", "--data", str(data), "--steps", str(steps), "--lr", "0.02", *where)
    finally:
        poet("stop", *where)
    poet("verify", *where)
    record: dict[str, Any] = json.loads((folder / "build/run/run.json").read_text(encoding="utf-8"))
    if record["page_outs"] == 0 or record["page_ins"] == 0:
        raise SystemExit(f"{run.board} paged nothing; give it less RAM.")
    losses = np.loadtxt(folder / "build/run/losses.csv", delimiter=",", skiprows=1, usecols=3)
    core = json.loads((folder / "build/project/manifest.json").read_text(encoding="utf-8"))["board"]["core"]
    cells = (
        f"`{run.board}`",
        core.removeprefix("cortex-").upper(),
        f"`{run.storage}`",
        str(run.channels),
        f"{record['arena_bytes']:,}",
        f"{record['page_outs']} page-outs, {record['page_ins']} page-ins",
        f"{losses[:10].mean():.3f} → {losses[-10:].mean():.3f}",
        "equal" if record["bit_identical"] else "NOT EQUAL",
    )
    return cells, bool(record["bit_identical"])


def poet(*arguments: str) -> None:
    """Run one command; ends the program with what it said when it fails."""
    result = subprocess.run([POET, *arguments], check=False, capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"`poet {' '.join(arguments)}` failed.\n{result.stdout}{result.stderr}")


if __name__ == "__main__":
    main()
