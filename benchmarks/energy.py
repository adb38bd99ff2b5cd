"""`make bench-energy`: what a training step costs by each technique, planned after a profile and executed on QEMU.

    python -m benchmarks.energy [WORD ...] [--short] [--time-limit S] [--out build/energy]

For the four MLPerf Tiny nets and the small BERT, on a Cortex-M4F (STM32F405) and a Cortex-M7 (STM32H743), with an SD
card and with a NOR flash, at 100, 70, 50 and 30 % of the memory that keeping everything takes, and at the floor:
keeping everything, paging only, recomputation only, both, and Capuchin's heuristic. Every schedule becomes firmware
and trains steps on the emulated board; its energy is the executed cycles at the board's power, and its storage traffic
by the storage device's model: all of it modelled, none of it measured by an instrument. Losses must be the same bits in
every row of a net.

The singles' schedules start the search for both, whose family contains theirs. Rows with one schedule are executed
once: so keeping everything is one execution for all budgets of a net on a board. Rows that are done are kept in
benchmarks/energy.json, as long as the profile of their kernels is the same; WORDs pick rows (bert m7 nor 0.5), --again
runs picked ones that are done. --short takes the digits instead, for minutes, and writes below --out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from poet_codegen.cost_model import CostModel
from poet_codegen.folder import Request
from poet_codegen.lower import Home, Lowered
from poet_codegen.recipe import BatchNorm, Loss, Recipe
from poet_hil.device import DeviceClient
from poet_hil.energy import KINDS, record
from poet_hil.errors import LinkError
from poet_hil.link import Link
from poet_hil.manifest import load_build
from poet_hil.meters.meter import StepEnergy
from poet_hil.meters.qemu import QemuMeter
from poet_hil.samples import random_batches
from poet_hil.storage_image import forget
from poet_solver.errors import InfeasibleError, PoetError
from poet_solver.problem import Problem
from poet_solver.replay import replay_steps
from poet_solver.schedule import Compute, Schedule, step_to_dict
from poet_solver.schedule_io import step_counts
from poet_solver.techniques import Method, schedule_with
from rich.console import Console
from rich.table import Table

from benchmarks.energy_nets import CORES, Net
from benchmarks.energy_plot import draw
from benchmarks.readme import markdown, write_table

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
RESULTS, PLOT = HERE / "energy.json", REPOSITORY / "docs" / "energy.svg"
NETS = ("resnet8", "ds_cnn", "autoencoder", "bert", "mobilenet_v1")
"""The largest last, so that a run that is cut short leaves most."""
STORES = ("sd", "nor")
BUDGETS = ("1.0", "0.7", "0.5", "0.3", "floor")
METHODS = (Method.KEEP, Method.PAGE, Method.REMAT, Method.CAPUCHIN, Method.BOTH)
"""The last one starts with what others found."""
STEPS = 2
RATE = 1e-3
PREDICTED_WITHIN = 0.03
TABLE_WITHIN = 0.25
BOOT_S = 60.0
"""Boot looks at every block's header, which takes long on a busy machine."""


def steps_digest(problem: Problem, schedule: Schedule) -> str:
    """Digest of what is executed, whatever the budget it was found for: steps, and what their modes are."""
    modes = [
        [mode.name, mode.resident, mode.streamed, mode.outputs_to_storage, mode.workspace_bytes]
        for step in schedule.steps
        if isinstance(step, Compute)
        for mode in [problem.ops[step.op].modes[step.mode]]
    ]
    steps = [step_to_dict(step) for step in schedule.steps]
    return hashlib.sha256(json.dumps([steps, modes]).encode()).hexdigest()[:32]


def rows_of(net: Net, share: str, done: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Plan all techniques at a budget, and execute what is not in `done`: digest of the steps -> what they took."""
    budget = net.budget(share)
    limited = net.lowered(budget, net.costs)
    schedules: dict[Method, Schedule] = {}
    reasons: dict[Method, str] = {}
    if net.kept.arena_bytes <= budget:
        schedules[Method.KEEP] = net.kept
    else:
        reasons[Method.KEEP] = f"needs {net.kept.arena_bytes} bytes, the budget is {budget} bytes; executed without it"
    for method in METHODS[1:]:
        try:
            schedules[method] = schedule_with(
                limited[2].problem,
                method,
                time_limit_s=net.time_limit_s,
                starts=tuple(schedules.values()) if method is Method.BOTH else (),
            )
        except InfeasibleError as error:
            reasons[method] = str(error)
    rows = []
    for method in METHODS:
        schedule = net.kept if method is Method.KEEP else schedules.get(method)
        row: dict[str, Any] = {
            "net": net.name,
            "title": net.title,
            "core": net.core,
            "storage": net.store,
            "budget": share,
            "budget_bytes": budget,
            "keep_bytes": net.peak_bytes,
            "profile": net.profile,
            "technique": method.value,
            "feasible": method in schedules,
        }
        if method in reasons:
            row["reason"] = reasons[method]
        if schedule is None:
            rows.append(row)
            continue
        setting = net.unlimited if method is Method.KEEP else limited
        digest = steps_digest(setting[2].problem, schedule)
        if digest not in done:
            done[digest] = executed(net, *setting, schedule)
        proof = {"gap": schedule.gap, "bound_family": schedule.bound_family}
        rows.append(row | proof | {"steps_digest": digest} | done[digest])
    keep_j = next(row["energy_j"] for row in rows if row["technique"] == Method.KEEP)
    for row in rows:
        if "energy_j" in row:
            row["overhead"] = row["energy_j"] / keep_j - 1.0
    return rows


EXECUTED = (
    "energy_j", "by_kind_j", "time_s", "planned_j", "planned_s", "table_j", "table_s", "arena_bytes",
    "recomputations", "page_outs", "page_ins", "in_tiles", "losses",
)  # fmt: skip
"""What `executed` finds."""


def executed(net: Net, request: Request, model: CostModel, lowered: Lowered, schedule: Schedule) -> dict[str, Any]:
    """Build a schedule, train STEPS steps on QEMU, and say what it took. Joules and seconds of one step."""
    plan = net.plan(request, model, lowered, schedule)
    net.build(plan)
    build = load_build(net.project.parent)
    losses: list[str] = []
    taken: list[StepEnergy] = []

    def train() -> int:
        answer = device.train(RATE)
        losses.append(answer.loss_bits)
        return answer.ticks

    run = net.project.parent / "run"
    forget(run)
    meter = QemuMeter(build, run)
    with meter, meter.target as target:
        device = DeviceClient(Link(target), build.manifest)
        device.hello(at_least_s=BOOT_S)
        for batch in random_batches(build.manifest, STEPS, seed=0):
            device.write_sample(*batch)
            taken.append(meter.watch(device, train))
    found = record(build.manifest, meter, taken)
    counts = step_counts(schedule.steps)
    table_j, table_s = table_prices(net, request, lowered, schedule)
    return {
        "energy_j": found.energy_j.mean,
        "by_kind_j": {kind: energy.mean for kind, energy in found.by_kind_j.items()},
        "time_s": found.time_s.mean,
        "planned_j": schedule.energy_j,
        "planned_s": schedule.time_s,
        "table_j": table_j,
        "table_s": table_s,
        "arena_bytes": schedule.arena_bytes,
        "recomputations": counts["recompute"],
        "page_outs": counts["page_out"],
        "page_ins": counts["page_in"],
        "in_tiles": sum(isinstance(s, Compute) and bool(s.mode) for s in schedule.steps),
        "losses": losses,
    }


def table_prices(net: Net, request: Request, lowered: Lowered, schedule: Schedule) -> tuple[float | None, float | None]:
    """Joules and seconds of a schedule before any profile, by the cycle table; None where ops run in tiles."""
    if any(isinstance(step, Compute) and step.mode for step in schedule.steps):
        return None, None
    by_table = net.by_table(request.ram_bytes)  # at the same budget, for that decides which ops are one
    assert [op.name for op in by_table.ops] == [op.name for op in lowered.problem.ops]
    priced = replay_steps(by_table, schedule.steps)
    return priced.energy.total, priced.time.total


def faults(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What the rows break of what they must show."""
    places: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    losses: dict[str, tuple[str, list[str]]] = {}
    for row in rows:
        place = (row["net"], row["core"], row["storage"], row["budget"])
        name = f"{' '.join(place)} {row['technique']}"
        places.setdefault(place, {})[row["technique"]] = row
        if "energy_j" not in row:
            continue
        first, bits = losses.setdefault(row["net"], (name, row["losses"]))
        if row["losses"] != bits:
            yield f"{name}: its losses have other bits than those of {first}"
        for what in ("j", "s"):
            taken = row["energy_j" if what == "j" else "time_s"]
            for kind, within in (("planned", PREDICTED_WITHIN), ("table", TABLE_WITHIN)):
                predicted = row[f"{kind}_{what}"]
                if predicted is not None and abs(predicted / taken - 1.0) > within:
                    unit = "energy" if what == "j" else "time"
                    yield f"{name}: {kind} {unit} is off by {predicted / taken - 1.0:+.1%}"
    for where, techniques in places.items():
        both = techniques[Method.BOTH]
        for single in (techniques[Method.PAGE], techniques[Method.REMAT]):
            if single["feasible"] and (not both["feasible"] or both["planned_j"] > single["planned_j"]):
                yield f"{' '.join(where)}: both takes more than {single['technique']}"


def place_of(row: dict[str, Any]) -> str:
    """What its techniques are compared on."""
    return " ".join(row[name] for name in ("net", "core", "storage", "budget"))


def table(rows: list[dict[str, Any]]) -> Table:
    """All rows, for the terminal."""
    columns = ("net", "core", "storage", "budget", "technique", "energy, mJ", *KINDS[:-1], "overhead", "time, s", "off")
    shown = Table(*columns, title="Energy of a training step, executed on QEMU, modelled", box=None)
    for row in rows:
        head = [row[name] for name in ("net", "core", "storage", "budget", "technique")]
        if "energy_j" not in row:
            shown.add_row(*head, "does not fit")
            continue
        kinds = [f"{1e3 * row['by_kind_j'][kind]:.3f}" for kind in KINDS[:-1]]
        off = f"{row['planned_j'] / row['energy_j'] - 1.0:+.2%}"
        time_s = f"{row['time_s']:.3f}"
        shown.add_row(*head, f"{1e3 * row['energy_j']:.3f}", *kinds, f"{row['overhead']:+.1%}", time_s, off)
    return shown


@cache
def exported(out: Path, names: tuple[str, ...]) -> Path:
    """The folder with the nets, which PyTorch writes."""
    folder = out / "nets"
    command = [sys.executable, str(REPOSITORY / "examples" / "whole_models" / "export.py"), str(folder), *names]
    subprocess.run(command, check=True)
    return folder


def nets(options: argparse.Namespace) -> Iterator[Net]:
    """What is to be planned: all nets on one board after the other, so that a run cut short leaves whole tables."""
    out: Path = options.out.resolve()
    if options.short:
        digits = REPOSITORY / "examples" / "digits" / "digits.onnx"
        yield Net("digits", "Digits", digits, Recipe(), Home.RAM, "m4", "sd", out, options.time_limit)
        return
    wanted = tuple(name for name in NETS if not (set(options.only) & set(NETS)) or name in options.only)
    folder = exported(out, wanted)
    for store in STORES:
        for core in CORES:
            for name in wanted:
                how = json.loads((folder / f"{name}.json").read_text())
                recipe = Recipe(
                    train=how["train"],
                    loss=Loss(how["loss"]),
                    batch_norm=None if how["batch_norm"] is None else BatchNorm(how["batch_norm"]),
                )
                path, home = folder / f"{name}.onnx", Home(how["home"])
                yield Net(name, how["title"], path, recipe, home, core, store, out, options.time_limit)


def agreement(rows: list[dict[str, Any]]) -> str:
    """In words, how far predictions were off what the profiler then gave, over all executed rows."""
    parts = []
    for kind, when in (("planned", "after one profile pass"), ("table", "before any, without tiles,")):
        known = [row for row in rows if row.get(f"{kind}_j")]
        worst = {
            what: max((abs(row[f"{kind}_{what}"] / row[taken] - 1.0) for row in known), default=0.0)
            for what, taken in (("j", "energy_j"), ("s", "time_s"))
        }
        parts.append(f"{when} off by at most {worst['j']:.1%} and {worst['s']:.1%} on {len(known)} rows")
    return f"A step's predicted energy and time are {', '.join(parts)}."


def summary(rows: list[dict[str, Any]]) -> str:
    """What the rows show, in a table and in words, for the README."""
    places: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        places.setdefault(place_of(row), {})[row["technique"]] = row

    def cell(name: str, core: str, store: str, share: str) -> str:
        techniques = places.get(f"{name} {core} {store} {share}")
        if techniques is None:
            return ""
        both, *others = (
            f"{100.0 * row['overhead']:.0f}" if row["feasible"] else "–"
            for row in (techniques[m] for m in (Method.BOTH, Method.PAGE, Method.REMAT, Method.CAPUCHIN))
        )
        return f"**{both}** ({', '.join(others)})"

    lines = []
    for store, core, name in product(STORES, CORES, NETS):
        if any(key.startswith(f"{name} {core} {store} ") for key in places):
            title = next(row["title"] for row in rows if row["net"] == name)
            board = f"{core.upper()}, {store.upper()}"
            lines.append([title, board, *(cell(name, core, store, share) for share in BUDGETS[1:])])
    head = ["net", "core, storage", *(f"{100.0 * float(share):.0f} %" for share in BUDGETS[1:-1]), "floor"]
    whole = len(NETS) * len(CORES) * len(STORES) * len(BUDGETS) * len(METHODS)
    feasible = {m: sum(row["technique"] == m and row["feasible"] for row in rows) for m in METHODS}
    executions = len({(place_of(row | {"budget": ""}), row["steps_digest"]) for row in rows if "steps_digest" in row})
    return (
        f"{markdown(head, lines)}\n"
        "Energy of a step over keeping everything, in %: both techniques together (paging only, recomputation only, "
        f"Capuchin's heuristic); – where none was found. {len(rows)} of {whole} rows are done, of {executions} "
        "executed schedules. "
        f"Of {len(places)} budgets, paging alone works at {feasible[Method.PAGE]}, recomputation alone at "
        f"{feasible[Method.REMAT]}, Capuchin at {feasible[Method.CAPUCHIN]}, both at {feasible[Method.BOTH]}. "
        f"{agreement(rows)}\n"
    )


def main() -> None:
    """Run what is missing, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="words a row must have: ds_cnn, m4, nor, 0.5, floor")
    parser.add_argument("--short", action="store_true", help="the digits on the M4F at two budgets")
    parser.add_argument("--again", action="store_true", help="plan and execute rows that are done, too")
    parser.add_argument("--time-limit", type=float, default=5.0, help="seconds to search for each schedule")
    parser.add_argument("--out", type=Path, default=Path("build/energy"))
    options = parser.parse_args()
    results = options.out / "short.json" if options.short else RESULTS
    rows: list[dict[str, Any]] = (
        [] if options.short or not results.exists() else json.loads(results.read_text())["rows"]
    )
    console = Console(width=180)
    failed: list[str] = []
    for net in nets(options):
        for share in ("1.0", "0.7") if options.short else BUDGETS:
            if not set(options.only) <= {net.name, net.core, net.store, share}:
                continue
            place = f"{net.key} {share}"
            try:
                if not options.again and {row["profile"] for row in rows if place_of(row) == place} == {net.profile}:
                    continue
                new = rows_of(net, share, executions_of(net, rows))
            except (PoetError, LinkError) as error:
                failed.append(f"{place}: {error}")
                console.print(failed[-1])
                continue
            rows = [row for row in rows if place_of(row) != place] + new
            if not options.short:
                rows.sort(key=lambda row: [names.index(row[field]) for field, names in _ORDER])
            results.parent.mkdir(parents=True, exist_ok=True)
            results.write_text(as_json(rows))
            console.print(table(new))
    if rows and not options.short:
        draw(rows, PLOT)
        write_table("bench-energy", summary(rows))
    console.print(agreement(rows))
    broken = [*failed, *faults(rows)]
    for line in broken:
        console.print(line)
    raise SystemExit(1 if broken else 0)


def as_json(rows: list[dict[str, Any]]) -> str:
    """A row a line."""
    figures = "modelled: cycles executed in QEMU x data-sheet power, storage by its model"
    lines = ",\n".join(json.dumps(row) for row in rows)
    return f'{{"figures": {json.dumps(figures)}, "rows": [\n{lines}\n]}}\n'


def executions_of(net: Net, rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was executed of a net on a board with these kernels: digest of the steps -> what they took."""
    here = (net.name, net.core, net.store, net.profile)
    return {
        row["steps_digest"]: {name: row[name] for name in EXECUTED}
        for row in rows
        if (row["net"], row["core"], row["storage"], row["profile"]) == here and "steps_digest" in row
    }


_ORDER: tuple[tuple[str, list[str]], ...] = (
    ("storage", list(STORES)),
    ("core", list(CORES)),
    ("net", list(NETS)),
    ("budget", list(BUDGETS)),
    ("technique", [method.value for method in METHODS]),
)


if __name__ == "__main__":
    main()
