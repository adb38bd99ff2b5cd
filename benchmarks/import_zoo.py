"""`make import-zoo`: the onnx package's light models (architectures without their weights) as training problems.

Each model is imported, differentiated, lowered for a board and solved within half of its keep-everything peak; nothing
is run, for none of them fits a microcontroller. All parameters train and live on storage between steps, so that the
floor is the working set of the largest op; where that is more than half of the peak, the budget is the first multiple
of 5 % above it. Overheads are over the schedule that keeps everything in as much RAM as it takes; the deadline is
2.0 x that one's time. Batch 1, as the models have it, and so frozen statistics of batch normalization. Writes
benchmarks/import_zoo.json after every model, and the README's table once that has all of them.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import readme
from poet_codegen.board import Board, load_board
from poet_codegen.cost_model import CostModel
from poet_codegen.lower import Home, lower
from poet_codegen.onnx_import import import_onnx, read_model
from poet_codegen.onnx_prepare import prepare
from poet_codegen.plan import build_graphs
from poet_codegen.recipe import BatchNorm, Recipe
from poet_solver.errors import InfeasibleError
from poet_solver.net import build_net
from poet_solver.pipeline import solve
from poet_solver.schedule_io import step_counts
from rich import box
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
RESULTS = HERE / "import_zoo.json"
BOARD = "qemu_netduinoplus2"
RECIPE = Recipe(batch_norm=BatchNorm.FROZEN)
SHARE = 0.5
STEP = 0.05
"""Budgets above SHARE are multiples of this share."""
DEADLINE_FACTOR = 2.0
COLUMNS = ("model", "ops", "parameters", "keep, MB", "floor, MB", "RAM", "overhead", "gap")

Row = dict[str, Any]


def light_models() -> dict[str, Path]:
    """Name -> file of every light model that the installed onnx package has."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    return {path.stem.removeprefix("light_"): path for path in sorted(folder.glob("light_*.onnx"))}


def measure(path: Path, board: Board, time_limit_s: float, threads: int) -> Row:
    """Import, differentiate, lower and solve a model; its figures, sizes in bytes and overheads in percent."""
    started = time.monotonic()
    model = import_onnx(prepare(read_model(path), RECIPE.batch_norm))
    train, _ = build_graphs(model, RECIPE)
    learned = train.learned()
    problem = lower(
        train, CostModel(board), learned=learned, home=Home.STORAGE, ram_bytes=None, deadline_factor=None
    ).problem
    built_s = time.monotonic() - started
    keep = solve(problem, technique="keep")
    # Of all that keeping everything takes: to page the parameters in and out can take longer than to compute.
    problem = replace(problem, deadline_s=DEADLINE_FACTOR * keep.time_s)
    net = build_net(problem, ram_bytes=None)
    largest = net.largest_op()
    floor = net.floor_bytes(largest)
    # Not the floor itself: there all addresses are forced, and a search of seconds often finds none.
    share = max(SHARE, math.ceil(floor / keep.peak_bytes / STEP) * STEP)
    budget = int(share * keep.peak_bytes)
    row = {
        "ops": len(problem.ops),
        "parameters": sum(tensor.elements for tensor in train.params() if tensor.name in learned),
        "keep_peak_bytes": keep.peak_bytes,
        "floor_bytes": floor,
        "floor_op": net.names[largest],
        "ram_bytes": budget,
        "build_s": round(built_s, 2),
    }
    started = time.monotonic()
    try:
        schedule = solve(replace(problem, ram_bytes=budget), time_limit_s=time_limit_s, threads=threads)
    except InfeasibleError as error:
        return {**row, "status": "none found", "why": str(error), "solve_s": round(time.monotonic() - started, 1)}
    return {
        **row,
        "status": schedule.status.value,
        "energy_overhead_percent": 100 * (schedule.energy_j / keep.energy_j - 1),
        "time_overhead_percent": 100 * (schedule.time_s / keep.time_s - 1),
        "gap_percent": 100 * schedule.gap,
        "counts": step_counts(schedule.steps),
        "solve_s": round(time.monotonic() - started, 1),
    }


def cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    found = "energy_overhead_percent" in row
    return (
        name,
        f"{row['ops']:,}",
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['keep_peak_bytes'] / 1e6:.1f}",
        f"{row['floor_bytes'] / 1e6:.1f}",
        f"{100 * row['ram_bytes'] / row['keep_peak_bytes']:.0f} %",
        f"{row['energy_overhead_percent']:.2f} %" if found else row["status"],
        ("optimal" if row["status"] == "optimal" else f"{row['gap_percent']:.1f} %") if found else "",
    )


def table_of(rows: Mapping[str, Row]) -> Table:
    """For a terminal of 80 columns."""
    table = Table(box=box.SIMPLE, padding=0)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for name, row in rows.items():
        table.add_row(*cells(name, row))
    return table


def markdown(rows: Mapping[str, Row]) -> str:
    """The same for the README."""
    return readme.markdown(COLUMNS, (cells(name, row) for name, row in rows.items()), numbers=True)


def about(stored: Mapping[str, Any]) -> str:
    """What the table's figures mean."""
    return (
        f"Planned for {stored['board']} (its cycle table and storage; none of the models fits it), all parameters "
        "trained (statistics of batch normalization frozen) and kept on storage between steps, at most "
        f"{stored['time_limit_s']:g} s of solving a model. RAM: "
        "share of the keep-everything peak that was allowed: 50 %, or the first multiple of 5 % above the floor, the "
        "largest op's working set. "
        "Overhead: energy over keeping everything. Gap: what a proof is still missing."
    )


def section(stored: Mapping[str, Any]) -> str:
    """What stands between the README's marks."""
    return f"{markdown(stored['rows'])}\n{about(stored)}\n"


def main() -> None:
    models = light_models()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="some of " + ", ".join(models))
    parser.add_argument("--board", default=BOARD, help="board whose costs the problem has; default: %(default)s")
    parser.add_argument("--time-limit", type=float, default=20.0, help="seconds of solving a model")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.models) - models.keys())
    if unknown:
        parser.error(f"there is no model {unknown[0]}; there are {', '.join(models)}")
    console = Console(highlight=False)
    settings = {"board": arguments.board, "time_limit_s": arguments.time_limit, "threads": arguments.threads}
    stored: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    # Rows of other settings do not stand beside these.
    rows = stored["rows"] if {key: stored.get(key) for key in settings} == settings else {}
    for name in arguments.models or models:
        with console.status(name):
            rows[name] = measure(models[name], load_board(arguments.board), arguments.time_limit, arguments.threads)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        stored = {**settings, "max_rss_mb": most, "rows": {key: rows[key] for key in sorted(rows)}}
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    console.print(table_of(stored["rows"]))
    console.print(about(stored))
    missing = sorted(models.keys() - stored["rows"].keys())
    if missing:
        console.print(f"README.md keeps its table: {', '.join(missing)} not measured with these settings.")
        return
    readme.write_table("import-zoo", section(stored))
    console.print("README.md has the table.")


if __name__ == "__main__":
    main()
