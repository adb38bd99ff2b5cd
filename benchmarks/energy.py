"""`make bench-energy`: what a training step costs by each technique, planned after a profile and executed on QEMU.

    python -m benchmarks.energy [WORD ...] [--short] [--time-limit S] [--out build/energy]

For the four MLPerf Tiny nets and the small BERT, on a Cortex-M4F (STM32F405) and a Cortex-M7 (STM32H743), with an SD
card and with a NOR flash, at 100, 70, 50 and 30 % of the memory that keeping everything takes, and at the floor:
keeping everything, paging only, recomputation only, both, and Capuchin's heuristic. Every schedule becomes firmware
and trains steps on the emulated board; its energy is the executed cycles at the board's power, and its storage traffic
by the storage device's model: all of it modelled, none of it measured by an instrument. Losses must be the same bits in
every row of a net.

Rows that are done are kept in benchmarks/energy.json, as long as the profile of their kernels is the same; WORDs pick
rows (bert m7 nor 0.5). --short takes the digits instead, for minutes, and writes below --out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from poet_codegen.build import write_project
from poet_codegen.cli.profile_command import profiled, take_costs
from poet_codegen.cost_model import CostModel
from poet_codegen.costs import Costs, costs_to_json, read_costs
from poet_codegen.emit.project import Pass
from poet_codegen.folder import Request, sha256
from poet_codegen.graph import Graph
from poet_codegen.lower import Home, Lowered
from poet_codegen.onnx_import import Model, import_onnx
from poet_codegen.plan import Plan, build_graphs, lower_inference, lower_training, make_request, prepared
from poet_codegen.platformio.firmware import build_firmware
from poet_codegen.recipe import BatchNorm, Loss, Recipe
from poet_codegen.resources import data_dir
from poet_hil.device import DeviceClient
from poet_hil.energy import KINDS, record
from poet_hil.link import Link
from poet_hil.manifest import load_build
from poet_hil.meters.meter import StepEnergy
from poet_hil.meters.qemu import QemuMeter
from poet_hil.samples import random_batches
from poet_solver.baselines.keep import keep_everything_peak
from poet_solver.errors import InfeasibleError
from poet_solver.min_ram import min_ram
from poet_solver.replay import replay_steps
from poet_solver.schedule import Compute, Schedule
from poet_solver.schedule_io import step_counts
from poet_solver.techniques import Method, schedule_with
from rich.console import Console
from rich.table import Table

from benchmarks.energy_plot import plot

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
RESULTS, PLOT = HERE / "energy.json", REPOSITORY / "docs" / "energy.svg"
NETS = ("resnet8", "ds_cnn", "mobilenet_v1", "autoencoder", "bert")
CORES = {"m4": "qemu_mps2_an386", "m7": "qemu_mps2_an500"}
STORES = ("sd", "nor")
BUDGETS = ("1.0", "0.7", "0.5", "0.3", "floor")
METHODS = (Method.KEEP, Method.PAGE, Method.REMAT, Method.CAPUCHIN, Method.BOTH)
"""The last one may take over what another found."""
STEPS = 2
RATE = 1e-3
PREDICTED_WITHIN = 0.03
TABLE_WITHIN = 0.25
INFER_LIMIT_S = 5.0


@dataclass(frozen=True)
class Net:
    """A model on a board: what all its rows share."""

    name: str
    title: str
    path: Path
    recipe: Recipe
    home: Home
    core: str
    store: str
    folder: Path
    time_limit_s: float

    @property
    def key(self) -> str:
        """Of the rows."""
        return f"{self.name} {self.core} {self.store}"

    @cached_property
    def board(self) -> str:
        """The board's name, or the file of one with another storage device."""
        name = CORES[self.core]
        if self.store == "sd":
            return name
        text = (data_dir("boards") / f"{name}.toml").read_text(encoding="utf-8")
        before, _, rest = text.partition("[[storage_devices]]\n")
        after = rest[rest.index("\n[platformio]") :]
        nor = (HERE / "energy_nor.toml").read_text(encoding="utf-8")
        path = self.folder / "boards" / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(before + nor + after, encoding="utf-8")
        return str(path)

    @cached_property
    def model(self) -> Model:
        """The imported model."""
        return import_onnx(prepared(self.path, self.recipe))

    @cached_property
    def graphs(self) -> tuple[Graph, Graph]:
        """Of training and inference."""
        return build_graphs(self.model, self.recipe)

    def request(self, ram_bytes: int | None, costs: Costs | None) -> Request:
        """A plan's request; without a budget, with all the memory the board has."""
        most = 4 << 20
        return make_request(
            self.path, self.board, ram_bytes or most, None, self.home, self.recipe, "both", 0, costs=costs
        )

    def lowered(self, ram_bytes: int | None, costs: Costs | None) -> tuple[Request, CostModel, Lowered]:
        """The scheduling problem at a budget."""
        request = self.request(ram_bytes, costs)
        model = CostModel(request.load_board(), costs)
        return request, model, lower_training(request, model, self.graphs[0])

    def plan(self, request: Request, model: CostModel, lowered: Lowered, schedule: Schedule) -> Plan:
        """The schedule with one for inference."""
        train, infer = self.graphs
        infer_low = lower_inference(request, model, train, infer, lowered, schedule)
        infer_schedule = schedule_with(infer_low.problem, Method.BOTH, time_limit_s=INFER_LIMIT_S)
        board = request.load_board()
        return Plan(
            request, board, self.model, Pass(train, lowered, schedule), Pass(infer, infer_low, infer_schedule), model
        )

    @cached_property
    def costs(self) -> Costs:
        """One profile pass over the schedule that keeps everything; it serves both storage devices."""
        path = self.folder / f"{self.name}_{self.core}_costs.json"
        if not path.exists():
            request, model, lowered = self.lowered(None, None)
            schedule = schedule_with(lowered.problem, Method.KEEP)
            self.build(self.plan(request, model, lowered, schedule))
            build = load_build(self.project.parent)
            samples = random_batches(build.manifest, 2, seed=1)
            with profiled(build) as (clock, device):
                costs = take_costs(build, clock, device, samples)
            path.write_text(costs_to_json(costs))
        return read_costs(path)

    @cached_property
    def profile(self) -> str:
        """Digest of that profile: rows of other kernels are run again."""
        return sha256(costs_to_json(self.costs).encode())[:16]

    @property
    def project(self) -> Path:
        """One project for all rows of the board, so that kernels are compiled once."""
        return self.folder / f"{self.name}_{self.core}" / "project"

    def build(self, plan: Plan) -> None:
        """Firmware of a plan."""
        write_project(plan, self.project)
        build_firmware(self.project, plan.board)

    @cached_property
    def peak_bytes(self) -> int:
        """What keeping everything takes."""
        return keep_everything_peak(self.lowered(None, self.costs)[2].problem)

    @cached_property
    def floor_bytes(self) -> int:
        """The least memory in which recomputation and paging together can do without cutting ops into tiles."""
        problem = self.lowered(None, self.costs)[2].problem
        plain = replace(problem, ops=tuple(replace(op, modes=op.modes[:1]) for op in problem.ops), ram_bytes=None)
        found = min_ram(plain, Method.BOTH, time_limit_s=self.time_limit_s).ram_bytes
        assert found is not None
        return found

    def budget(self, share: str) -> int:
        """Bytes of a row's budget."""
        if share == "floor":
            return self.floor_bytes
        return int(float(share) * self.peak_bytes) // 4 * 4


def rows_of(net: Net, share: str) -> list[dict[str, Any]]:
    """Plan and execute all techniques at a budget."""
    budget = net.budget(share)
    request, model, lowered = net.lowered(budget, net.costs)
    # The yardstick has all the memory it wants.
    free = net.lowered(None, net.costs)
    schedules: dict[Method, Schedule | None] = {Method.KEEP: schedule_with(free[2].problem, Method.KEEP)}
    for method in METHODS[1:]:
        try:
            schedules[method] = schedule_with(lowered.problem, method, time_limit_s=net.time_limit_s)
        except InfeasibleError:
            schedules[method] = None
    found = [one for method, one in schedules.items() if one is not None and method is not Method.KEEP]
    schedules[Method.BOTH] = min(found, key=lambda one: one.energy_j, default=None)
    known: dict[str, dict[str, Any]] = {}
    rows = []
    for method, schedule in schedules.items():
        row = {
            "net": net.name,
            "title": net.title,
            "core": net.core,
            "storage": net.store,
            "budget": share,
            "budget_bytes": budget,
            "keep_bytes": net.peak_bytes,
            "profile": net.profile,
            "technique": method.value,
        }
        if schedule is None:
            rows.append(row | {"feasible": False})
            continue
        digest = schedule.digest()
        if digest not in known:
            setting = free if method is Method.KEEP else (request, model, lowered)
            known[digest] = executed(net, *setting, schedule)
        rows.append(row | {"feasible": schedule.arena_bytes <= budget} | known[digest])
    keep_j = next(row["energy_j"] for row in rows if row["technique"] == Method.KEEP)
    for row in rows:
        if "energy_j" in row:
            row["overhead"] = row["energy_j"] / keep_j - 1.0
    return rows


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

    with tempfile.TemporaryDirectory(prefix="poet-energy-") as temporary:
        meter = QemuMeter(build, Path(temporary))
        with meter, meter.target as target:
            device = DeviceClient(Link(target), build.manifest)
            device.hello()
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
        "gap": schedule.gap,
        "recomputations": counts["recompute"],
        "page_outs": counts["page_out"],
        "page_ins": counts["page_in"],
        "in_tiles": sum(isinstance(s, Compute) and bool(s.mode) for s in schedule.steps),
        "losses": losses,
        "schedule_digest": schedule.digest()[:32],
    }


def table_prices(net: Net, request: Request, lowered: Lowered, schedule: Schedule) -> tuple[float | None, float | None]:
    """Joules and seconds of a schedule before any profile, by the cycle table; None where ops run in tiles."""
    if any(isinstance(step, Compute) and step.mode for step in schedule.steps):
        return None, None
    table = net.lowered(request.ram_bytes, None)[2].problem
    assert [op.name for op in table.ops] == [op.name for op in lowered.problem.ops]
    priced = replay_steps(table, schedule.steps)
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
    for place, techniques in places.items():
        both = techniques[Method.BOTH]
        for single in (techniques[Method.PAGE], techniques[Method.REMAT]):
            if single["feasible"] and (not both["feasible"] or both["planned_j"] > single["planned_j"]):
                yield f"{' '.join(place)}: both takes more than {single['technique']}"


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
    """What is to be planned, in the order of the results."""
    out: Path = options.out.resolve()
    if options.short:
        digits = REPOSITORY / "examples" / "digits" / "digits.onnx"
        yield Net("digits", "Digits", digits, Recipe(), Home.RAM, "m4", "sd", out, options.time_limit)
        return
    wanted = tuple(name for name in NETS if not (set(options.only) & set(NETS)) or name in options.only)
    folder = exported(out, wanted)
    for name in wanted:
        how = json.loads((folder / f"{name}.json").read_text())
        recipe = Recipe(
            train=how["train"],
            loss=Loss(how["loss"]),
            batch_norm=None if how["batch_norm"] is None else BatchNorm(how["batch_norm"]),
        )
        path, home = folder / f"{name}.onnx", Home(how["home"])
        for core in CORES:
            for store in STORES:
                yield Net(name, how["title"], path, recipe, home, core, store, out, options.time_limit)


def main() -> None:
    """Run what is missing, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="words a row must have: ds_cnn, m4, nor, 0.5, floor")
    parser.add_argument("--short", action="store_true", help="the digits on the M4F at two budgets")
    parser.add_argument("--time-limit", type=float, default=20.0, help="seconds to search for each schedule")
    parser.add_argument("--out", type=Path, default=Path("build/energy"))
    options = parser.parse_args()
    results = options.out / "short.json" if options.short else RESULTS
    rows: list[dict[str, Any]] = (
        [] if options.short or not results.exists() else json.loads(results.read_text())["rows"]
    )
    console = Console(width=180)
    for net in nets(options):
        for share in ("1.0", "0.7") if options.short else BUDGETS:
            if not set(options.only) <= {net.name, net.core, net.store, share}:
                continue
            place = f"{net.key} {share}"
            done = {row["profile"] for row in rows if place_of(row) == place}
            if done == {net.profile}:
                continue
            rows = [row for row in rows if place_of(row) != place] + rows_of(net, share)
            results.parent.mkdir(parents=True, exist_ok=True)
            text = {
                "figures": "modelled: cycles executed in QEMU x data-sheet power, storage by its model",
                "rows": rows,
            }
            results.write_text(json.dumps(text, indent=1) + "\n")
            console.print(table(rows[-len(METHODS) :]))
    rows.sort(key=lambda row: [names.index(row[field]) for field, names in _ORDER] if not options.short else 0)
    if rows and not options.short:
        PLOT.write_text(plot(rows), encoding="utf-8")
    broken = list(faults(rows))
    for line in broken:
        console.print(line)
    raise SystemExit(1 if broken else 0)


_ORDER: tuple[tuple[str, list[str]], ...] = (
    ("net", list(NETS)),
    ("core", list(CORES)),
    ("storage", list(STORES)),
    ("budget", list(BUDGETS)),
    ("technique", [method.value for method in METHODS]),
)


if __name__ == "__main__":
    main()
