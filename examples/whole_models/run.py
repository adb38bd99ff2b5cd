"""`make whole-models`: six nets from PyTorch train on the emulated board, in a real board's memory, and follow PyTorch.

    python examples/whole_models/run.py [NET ...] [--steps N] [--exporter script] [--out build/whole_models]

Each net is written by both of PyTorch's ONNX exporters, planned at two budgets, built, and trained on QEMU at each, and
on this machine with the tight schedule and keeping everything: every loss and every weight must be the same bits. The
losses must follow PyTorch's own within 1e-4. Models that are done are kept; delete the folder to run them anew.
"""

from __future__ import annotations

import argparse
import copy
import json
import runpy
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytorch
import torch
from cases import BATCHES, CASES, KIB, Case
from numpy.typing import NDArray
from poet_codegen.build import Sizes, build, write_project
from poet_codegen.cli.build_commands import keep_everything
from poet_codegen.emit.project import Pass
from poet_codegen.folder import BuildFolder
from poet_codegen.plan import Plan, make_plan, make_request, save_plan
from poet_codegen.platformio.host import build_host
from poet_codegen.recipe import Recipe
from poet_hil.dataset import load_npz
from poet_hil.device import DeviceClient
from poet_hil.link import Link
from poet_hil.manifest import load_build
from poet_hil.session import TrainingResult, TrainingSession, TrainPlan
from poet_hil.target import Target
from poet_hil.targets.host import HostTarget
from poet_hil.targets.qemu import QemuTarget
from poet_solver.schedule_io import step_counts

BOARD = "qemu_mps2_an386"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULTS = BENCHMARKS / "whole_models.json"
README = runpy.run_path(str(BENCHMARKS / "readme.py"))
COLUMNS = (
    *("net", "board, its RAM", "parameters, trained", "ops", "keep everything", "budget", "a step has", "energy"),
    *("loss", "off PyTorch", "bits"),
)
STEPS = 20
TOLERANCE = 1e-4
LEAST_MOVE = 0.05
"""A loss that hardly moved would follow PyTorch's whatever the gradients are."""


@dataclass(frozen=True)
class Job:
    """A net by an exporter."""

    name: str
    exporter: str
    steps: int
    time_limit_s: float
    out: Path

    @property
    def case(self) -> Case:
        """The net's entry."""
        return CASES[self.name]

    @property
    def folder(self) -> Path:
        """Where its files go."""
        return self.out / self.name

    @property
    def result(self) -> Path:
        """Its rows, once they are there."""
        return self.folder / f"{self.exporter}_{self.steps}.json"


start = cache(pytorch.start)


def run(job: Job) -> list[dict[str, Any]]:
    """Export, plan, build, train everywhere; returns a row a budget."""
    case, begun = job.case, time.monotonic()
    job.folder.mkdir(parents=True, exist_ok=True)
    model, data = job.folder / f"{job.exporter}.onnx", job.folder / "data.npz"
    sample = torch.from_numpy(start(case).x[: case.batch])
    nets.export(copy.deepcopy(start(case).net), sample, job.exporter, model)
    np.savez(data, x_train=start(case).x, y_train=start(case).y)
    theirs = pytorch.losses(start(case), case, job.steps)
    rows, ends = [], []
    for budget_kib in case.budgets_kib:
        folder = BuildFolder(job.folder / f"{job.exporter}_{budget_kib}")
        plan = plan_model(case, model, budget_kib, job.time_limit_s)
        save_plan(plan, model, folder)
        sizes = build(plan, folder)
        result = train(QemuTarget(load_build(folder.path)), folder.path, data, case, job.steps)
        rows.append(measure(job, plan, sizes, result.losses.astype(np.float64), theirs))
        ends.append(result)
    ends.append(train(HostTarget(load_build(folder.path)), folder.path, data, case, job.steps))
    keep = replace(plan, train=Pass(plan.train.graph, plan.train.lowered, keep_everything(plan)))
    folder = BuildFolder(job.folder / f"{job.exporter}_keep")
    write_project(keep, folder.project)
    build_host(folder.project)
    ends.append(train(HostTarget(load_build(folder.path)), folder.path, data, case, job.steps))
    same = len({(result.losses.tobytes(), result.weights_digest) for result in ends}) == 1
    for row in rows:
        row |= {"weights_digest": ends[0].weights_digest, "bit_identical": same}
        row["seconds"] = round(time.monotonic() - begun, 1)
    job.result.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def plan_model(case: Case, model: Path, budget_kib: int, time_limit_s: float) -> Plan:
    """What `poet plan` does, without a deadline."""
    recipe = Recipe(train=case.train, loss=case.target, batch_norm=case.batch_norm)
    request = make_request(model, BOARD, budget_kib * KIB, None, case.home, recipe, "both", seed=0)
    return make_plan(request, model, threads=1, time_limit_s=time_limit_s)


def train(target: Target, folder: Path, data: Path, case: Case, steps: int) -> TrainingResult:
    """What `poet train` does, from the model's own weights."""
    samples = load_npz(data, load_build(folder).manifest).train
    assert samples is not None
    with target:
        session = TrainingSession(DeviceClient(Link(target), load_build(folder).manifest), folder / "run")
        return session.train(samples, TrainPlan(case.rate, steps, schedule="constant"))


def measure(
    job: Job, plan: Plan, sizes: Sizes, ours: NDArray[np.float64], theirs: NDArray[np.float64]
) -> dict[str, Any]:
    """The row of a run on QEMU; `theirs` are PyTorch's losses."""
    part = job.case.part
    keep, schedule, counts = keep_everything(plan), plan.train.schedule, step_counts(plan.train.schedule.steps)
    parameters = {name: p.numel() for name, p in start(job.case).net.named_parameters()}
    learned = plan.train.graph.learned()
    ram = sizes.ram_static_bytes + sizes.stack_bytes
    return {
        "net": job.case.title,
        "exporter": job.exporter,
        "board": part.board,
        "board_ram_bytes": part.ram_bytes,
        "board_flash_bytes": part.flash_bytes,
        "batch": job.case.batch,
        "parameters": sum(parameters.values()),
        "trained_parameters": sum(size for name, size in parameters.items() if name in learned),
        "ops": len(plan.train.lowered.nodes),
        "keep_everything_bytes": keep.peak_bytes,
        "budget_bytes": plan.request.ram_bytes,
        "arena_bytes": schedule.arena_bytes,
        "ram_bytes": ram,
        "flash_bytes": sizes.flash_bytes,
        "fits_board": ram <= part.ram_bytes and sizes.flash_bytes <= part.flash_bytes,
        "recomputations": counts["recompute"],
        "page_outs": counts["page_out"],
        "page_ins": counts["page_in"],
        "overhead": schedule.energy_j / keep.energy_j - 1.0,
        "gap": schedule.gap,
        "steps": len(ours),
        "first_loss": float(ours[:BATCHES].mean()),
        "last_loss": float(ours[-BATCHES:].mean()),
        "largest_relative_difference": float(np.max(np.abs(ours - theirs) / np.abs(theirs))),
    }


def faults(rows: list[dict[str, Any]]) -> list[str]:
    """What the rows break of the promises."""
    found = []
    for row in rows:
        name = f"{row['net']}, {row['exporter']}, {row['budget_bytes'] // KIB} KiB"
        if not row["bit_identical"]:
            found.append(f"{name}: the bits differ between budgets, or between QEMU and this machine")
        if not row["fits_board"]:
            found.append(f"{name}: does not fit {row['board']}")
        if not row["largest_relative_difference"] <= TOLERANCE:
            found.append(f"{name}: losses differ from PyTorch's by {row['largest_relative_difference']:.1e}")
        if row["steps"] > 2 * BATCHES and row["last_loss"] > (1.0 - LEAST_MOVE) * row["first_loss"]:
            found.append(f"{name}: the loss hardly moved")
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The README's table, in Markdown."""
    cells = [
        [
            f"{row['net']}, {row['exporter']}",
            f"{row['board']}, {row['board_ram_bytes'] // KIB} KiB",
            f"{row['parameters']:,}, {row['trained_parameters']:,}",
            str(row["ops"]),
            f"{row['keep_everything_bytes'] // KIB} KiB",
            f"{row['budget_bytes'] // KIB} KiB",
            f"{row['recomputations']} recomputations, {row['page_outs']} page-outs, {row['page_ins']} page-ins",
            f"{row['overhead']:+.0%}",
            f"{row['first_loss']:.3f} → {row['last_loss']:.3f}",
            f"{row['largest_relative_difference']:.0e}",
            "equal" if row["bit_identical"] else "DIFFER",
        ]
        for row in rows
    ]
    return str(README["markdown"](COLUMNS, cells))


def record(rows: list[dict[str, Any]]) -> None:
    """Put the rows into the file of results, in the place of older ones of the same models, and into the README."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    new = {(row["net"], row["exporter"]) for row in rows}
    rows = [row for row in known if (row["net"], row["exporter"]) not in new] + rows
    titles = [case.title for case in CASES.values()]
    rows.sort(key=lambda row: (titles.index(row["net"]), nets.EXPORTERS.index(row["exporter"]), -row["budget_bytes"]))
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    older = nets.EXPORTERS[0]
    shown = table([row for row in rows if row["exporter"] == older]).replace(f", {older} |", " |")
    README["write_table"]("whole-models", shown)


def main() -> None:
    """Run what is asked, print the table, and record the results of runs of the full length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps (default: %(default)s)")
    parser.add_argument("--exporter", choices=nets.EXPORTERS, help="only this one")
    parser.add_argument("--time-limit", type=float, default=20.0, help="seconds to search for a schedule")
    parser.add_argument("--out", type=Path, default=Path("build/whole_models"))
    options = parser.parse_args()
    unknown = sorted(set(options.nets) - set(CASES))
    if unknown:
        parser.error(f"there is no net {unknown[0]!r}; there are {', '.join(CASES)}")
    torch.set_num_threads(1)
    jobs = [
        Job(name, exporter, options.steps, options.time_limit, options.out)
        for name in options.nets or CASES
        for exporter in nets.EXPORTERS
        if options.exporter in (None, exporter)
    ]
    rows: list[dict[str, Any]] = []
    for job in jobs:
        new = json.loads(job.result.read_text()) if job.result.exists() else run(job)
        print(table(new).split("\n", 2)[2], end="", flush=True)
        rows += new
    print(table(rows))
    if options.steps == STEPS:
        record(rows)
    broken = faults(rows)
    for line in broken:
        print(line)
    raise SystemExit(1 if broken else 0)


if __name__ == "__main__":
    main()
