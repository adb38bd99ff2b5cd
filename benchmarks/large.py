"""`make bench-large`: nets that train in far less memory than their largest op takes, executed on QEMU.

    python -m benchmarks.large [NAME ...] [--time-limit S] [--kills N | --plot] [--out build/large]

Each net is exported from PyTorch, planned for a board whose RAM ends where the linker says (arena, stack and all other
data inside), built, and trained on the emulated board with its pages in a semihosting file, and on this machine by
the schedule that keeps everything in memory: every loss and every weight must be the same bits. The losses must follow
PyTorch's within 1e-4, in float32 or in float64: where these two part, one rounding has decided for either. Times and
energies are modelled: kernel cycle table, the board file's power and storage model. Results go to benchmarks/large.json
and into README's table, row by row. With --kills the emulator is killed (SIGKILL) at so many random moments of the run,
with a checkpoint after each step: it must end with the bits of an uncut run.
With --plot the net is only planned, from unlimited RAM down to the smallest that works, and docs/large.svg drawn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import struct
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from poet_codegen.board import PAGE_HEADER_BYTES
from poet_codegen.build import Sizes, build, write_project
from poet_codegen.cli.build_commands import keep_everything
from poet_codegen.emit.layout import build_layout
from poet_codegen.emit.project import Pass
from poet_codegen.folder import BuildFolder
from poet_codegen.graph import Kind
from poet_codegen.lower import Home
from poet_codegen.ops import registry
from poet_codegen.plan import Plan, make_plan, make_request, save_plan
from poet_codegen.platformio.host import build_host
from poet_codegen.recipe import Recipe
from poet_codegen.tiling.price import transfers
from poet_hil import process
from poet_hil.device import DeviceClient
from poet_hil.errors import LinkError
from poet_hil.link import Link
from poet_hil.manifest import load_build
from poet_hil.storage_image import IMAGE_NAME, forget
from poet_hil.target import Target
from poet_hil.targets.host import HostTarget
from poet_hil.targets.qemu import LOG_NAME, QemuTarget, qemu_program
from poet_hil.targets.serial import SerialTarget
from poet_solver.errors import InfeasibleError
from poet_solver.schedule import Compute, PageIn, PageOut, Schedule

from benchmarks import large_nets
from benchmarks.large_cases import BOARD, CASES, KIB, Case
from benchmarks.large_plot import draw
from benchmarks.readme import markdown, write_table

RESULTS = Path(__file__).parent / "large.json"
PLOT = Path(__file__).parents[1] / "docs" / "large.svg"
PLOT_RAM_KIB = (4096, 1024, 512, 256, 128, 64, 48, 32, 24, 16)
OTHER_BYTES = 12_000
"""Of RAM, for the stack and the firmware's data beside arena and sample, where a net is only planned."""
TOLERANCE = 1e-4


COLUMNS = (
    *("net", "parameters", "RAM", "largest op", "keep everything", "steps", "a step reads, writes", "energy, time"),
    *("over the compulsory", "off PyTorch", "bits"),
)


@dataclass(frozen=True)
class Built:
    """A case's net, its plan and its firmware."""

    begin: large_nets.Start
    plan: Plan
    folder: BuildFolder
    sizes: Sizes


def make(name: str, case: Case, time_limit_s: float, out: Path) -> Built:
    """Export, plan, build."""
    folder = BuildFolder(out / name)
    folder.path.mkdir(parents=True, exist_ok=True)
    begin = large_nets.start(case.make, case.sample, case.classes, case.steps, case.words)
    model = folder.path / "exported.onnx"
    large_nets.export(begin, model)
    request = make_request(
        model, case.board, case.arena_bytes, None, Home.STORAGE, Recipe(train=case.train), "both", 0, case.ram_bytes
    )
    plan = make_plan(request, model, threads=2, time_limit_s=time_limit_s)
    save_plan(plan, model, folder)
    return Built(begin, plan, folder, build(plan, folder))


def run(name: str, case: Case, time_limit_s: float, out: Path) -> dict[str, Any]:
    """Export, plan, build, train on both; the row."""
    built = make(name, case, time_limit_s, out)
    begin, plan, folder = built.begin, built.plan, built.folder
    learned = {name: plan.model.weights[name] for name in plan.train.graph.learned() if name in plan.model.weights}
    chosen = None if case.train == "all" else learned
    theirs = {d: large_nets.losses(begin, case.rate, getattr(torch, d), chosen) for d in ("float32", "float64")}
    began = time.monotonic()
    ours = train(QemuTarget(load_build(folder.path)), plan, folder.run, begin, case.rate)
    qemu_s = time.monotonic() - began

    keep = keep_everything(plan)
    whole = BuildFolder(out / f"{name}_keep")
    kept = replace(plan, train=Pass(plan.train.graph, plan.train.lowered, keep))
    write_project(kept, whole.project)
    build_host(whole.project)
    reference = train(HostTarget(load_build(whole.path)), kept, whole.run, begin, case.rate)
    off = {d: float(np.max(np.abs(ours.values - those) / np.abs(those))) for d, those in theirs.items()}
    return {
        "name": name,
        **measure(case, plan, built.sizes, keep),
        "parameters": begin.parameters,
        "steps": case.steps,
        "bit_identical": ours == reference,
        "weights_digest": ours.weights_digest,
        "first_loss": float(ours.values[0]),
        "last_loss": float(ours.values[-1]),
        "largest_relative_difference": min(off.values()),
        "difference_by_precision": off,
        "qemu_s": round(qemu_s, 1),
    }


@dataclass(frozen=True)
class Trained:
    """Bits of every loss, and a digest of all parameters as they are on storage afterwards."""

    losses: tuple[str, ...]
    weights_digest: str

    @property
    def values(self) -> NDArray[np.float64]:
        """The losses."""
        return np.array([struct.unpack(">f", bytes.fromhex(bits))[0] for bits in self.losses], dtype=np.float64)


def train(target: Target, plan: Plan, run: Path, begin: large_nets.Start, rate: float) -> Trained:
    """A step a sample, from the model's own weights; the image has the parameters that the link would take long for."""
    forget(run)
    with target:
        device = DeviceClient(Link(target), load_build(run.parent).manifest)
        device.hello()
        losses = []
        for x, y in zip(begin.x, begin.y, strict=True):
            device.write_sample(x[None], int(y))
            losses.append(device.train(rate).loss_bits)
        device.checkpoint()  # an SD card's driver keeps the last block until a sync
    return Trained(tuple(losses), digest_of(plan, run))


def digest_of(plan: Plan, run: Path) -> str:
    """Of all parameters, each in that of its places which was written last."""
    layout = build_layout(plan.board, plan.train.graph, [(p.lowered, p.schedule) for p in (plan.train, plan.infer)])
    swap_bytes = layout.pages_on.address(layout.pages_on.swap)
    digest = hashlib.sha256()
    with (run / IMAGE_NAME).open("rb") as image:
        for row in layout.params:
            if row.home != Home.STORAGE.value:
                continue
            newest = -1
            for at in (row.at, row.at + swap_bytes):
                image.seek(at)
                size, turn = struct.unpack("<4x2I4x", image.read(PAGE_HEADER_BYTES))
                if size == row.size_bytes and turn > newest:
                    newest, data = turn, image.read(row.size_bytes)
            digest.update(data)
    return digest.hexdigest()


def survive(case: Case, built: Built, kills: int) -> bool:
    """Kill the emulator at random moments of the run; whether it ended with the bits of an uncut one."""
    build, run, begin = load_build(built.folder.path), built.folder.run, built.begin
    uncut = train(HostTarget(build), built.plan, run, begin, case.rate)
    began = time.monotonic()
    train(QemuTarget(build), built.plan, run, replace(begin, x=begin.x[:1], y=begin.y[:1]), case.rate)
    step_s = time.monotonic() - began
    rng = random.Random(large_nets.SEED)
    moments = sorted(rng.uniform(0, case.steps) for _ in range(kills))
    forget(run)
    losses: dict[int, str] = {}
    while len(losses) < case.steps:
        started = process.start(qemu_program(build), run, run / LOG_NAME)
        try:
            with SerialTarget(started.url) as target:
                device = DeviceClient(Link(target), build.manifest)
                for step in range(device.hello().steps_done, case.steps):
                    device.write_sample(begin.x[step][None], int(begin.y[step]))
                    timer = threading.Timer(0.0, started.process.send_signal, [signal.SIGKILL])
                    if moments and moments[0] < step + 1:
                        timer.interval = max(0.0, moments[0] - step) * step_s
                        timer.start()
                    loss = device.train(case.rate).loss_bits
                    if timer.is_alive():  # the step was faster than expected: then now, before its checkpoint
                        timer.cancel()
                        started.process.kill()
                    device.checkpoint()
                    losses[step] = loss
        except LinkError:
            print(f"killed {max(0.0, moments.pop(0) - step):.2f} of step {step + 1}", flush=True)
        finally:
            process.end_child(started.process, timeout_s=10.0)
    bits = tuple(losses[step] for step in range(case.steps))
    return Trained(bits, digest_of(built.plan, run)) == uncut


def points(case: Case, time_limit_s: float, out: Path) -> list[dict[str, Any]]:
    """Plans of a case's net at ever less RAM, down to the smallest that works; first what keeping everything takes."""
    out.mkdir(parents=True, exist_ok=True)
    model = out / "planned.onnx"
    large_nets.export(large_nets.start(case.make, case.sample, case.classes, 1, case.words), model)
    sample_bytes = 4 * int(np.prod(case.sample))
    found: list[dict[str, Any]] = []
    for kib in PLOT_RAM_KIB:
        ram_bytes = kib * KIB
        static = sample_bytes if sample_bytes <= ram_bytes / 4 else 0
        arena = ram_bytes - OTHER_BYTES - static
        request = make_request(
            model,
            case.board,
            arena,
            None,
            Home.STORAGE,
            Recipe(train=case.train),
            "both",
            0,
            ram_bytes,
        )
        try:
            plan = make_plan(request, model, threads=1, time_limit_s=time_limit_s)
        except InfeasibleError as error:
            print(f"{kib} KiB: {error}", flush=True)
            break
        bound = compulsory_j(plan)
        if not found:
            keep = keep_everything(plan)
            found.append({"ram_bytes": keep.peak_bytes, "energy_j": keep.energy_j, "compulsory_j": bound})
        energy_j = plan.train.schedule.energy_j
        found.append({"ram_bytes": ram_bytes, "energy_j": energy_j, "compulsory_j": bound})
        print(f"{kib} KiB: {energy_j:.4g} J, {energy_j / bound - 1:+.1%} over the compulsory bound", flush=True)
    return found


def compulsory_j(plan: Plan) -> float:
    """Energy of computing once, and of reading all weights that learn twice and writing them once."""
    graph = plan.train.graph
    learned = [t for t in graph.of_kind(Kind.PARAM) if t.name in graph.learned()]
    nodes = (node for node in graph.nodes if not registry.get(node.op).is_view)
    whole = (registry.get(node.op).variants(graph, node)[0] for node in nodes)
    compute_j = plan.board.energy_per_cycle_j * sum(plan.costs.kernel_cycles(one.kernel, one.work) for one in whole)
    return compute_j + sum(
        2 * plan.board.page_in_cost(t.size_bytes).energy_j + plan.board.page_out_cost(t.size_bytes).energy_j
        for t in learned
    )


def measure(case: Case, plan: Plan, sizes: Sizes, keep: Schedule) -> dict[str, Any]:
    """What the plan and the linked firmware say."""
    graph, schedule = plan.train.graph, plan.train.schedule
    learned = [t for t in graph.of_kind(Kind.PARAM) if t.name in graph.learned()]
    bound_j = compulsory_j(plan)
    reads, writes = traffic(plan)
    return {
        "model": case.model,
        "board": case.board,
        "ram_bytes": case.ram_bytes,
        "arena_bytes": schedule.arena_bytes,
        "static_bytes": sizes.ram_static_bytes,
        "stack_bytes": sizes.stack_bytes,
        "fits_ram": sizes.ram_static_bytes + sizes.stack_bytes <= case.ram_bytes,
        "flash_bytes": sizes.flash_bytes,
        "trained_parameters": sum(t.elements for t in learned),
        "largest_op_bytes": max(
            sum(plan.train.lowered.problem.tensors[v].size_bytes for v in {*op.modes[0].resident, *op.outputs})
            for op in plan.train.lowered.problem.ops
        ),
        "keep_everything_bytes": keep.peak_bytes,
        "peak_bytes": schedule.peak_bytes,
        "ops": len(plan.train.lowered.problem.ops),
        "tiled_ops": sum(
            isinstance(s, Compute) and (s.op, s.mode) in plan.train.lowered.programs for s in schedule.steps
        ),
        "read_bytes": reads[1],
        "reads": reads[0],
        "written_bytes": writes[1],
        "writes": writes[0],
        "energy_j": {**vars(schedule.energy), "total": schedule.energy_j},
        "time_s": schedule.time_s,
        "keep_everything_j": keep.energy_j,
        "compulsory_j": bound_j,
        "over_keep_everything": schedule.energy_j / keep.energy_j - 1.0,
        "over_compulsory": schedule.energy_j / bound_j - 1.0,
        "gap": schedule.gap,
        "bounds_j": {schedule.bound_family: schedule.lower_bound_j}
        | {bound.family: bound.energy_j for bound in schedule.other_bounds},
        "solve_s": round(schedule.solve_s, 1),
    }


def traffic(plan: Plan) -> tuple[tuple[int, int], tuple[int, int]]:
    """((reads, bytes), (writes, bytes)) of one step, headers left out."""
    problem, programs = plan.train.lowered.problem, plan.train.lowered.programs
    sizes = {name: tensor.size_bytes for name, tensor in plan.train.graph.tensors.items()}
    counts = [[0, 0], [0, 0]]
    for step in plan.train.schedule.steps:
        if isinstance(step, PageIn | PageOut):
            counts[isinstance(step, PageOut)][0] += 1
            counts[isinstance(step, PageOut)][1] += problem.tensors[step.tensor].size_bytes
        elif isinstance(step, Compute) and (step.op, step.mode) in programs:
            for one in transfers(programs[step.op, step.mode], sizes):
                counts[one.is_write][0] += one.times
                counts[one.is_write][1] += one.times * one.data_bytes
    return (counts[0][0], counts[0][1]), (counts[1][0], counts[1][1])


def faults(rows: list[dict[str, Any]]) -> list[str]:
    """What the rows break of the promises."""
    found = []
    for row in rows:
        if not row["bit_identical"]:
            found.append(f"{row['name']}: the bits differ from those of keeping everything")
        if not row["fits_ram"]:
            found.append(f"{row['name']}: the firmware takes more than {row['ram_bytes']} bytes of RAM")
        if not row["largest_relative_difference"] <= TOLERANCE:
            found.append(f"{row['name']}: losses differ from PyTorch's by {row['largest_relative_difference']:.1e}")
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    cells = [
        [
            row["model"] + ("" if row["board"] == BOARD else f", on {row['board']}"),
            f"{row['parameters']:,}",
            f"{row['ram_bytes'] // KIB} KiB",
            f"{row['largest_op_bytes'] // KIB} KiB",
            f"{row['keep_everything_bytes'] // KIB} KiB",
            str(row["steps"]),
            f"{row['read_bytes'] / 1e6:.1f} MB, {row['written_bytes'] / 1e6:.1f} MB",
            f"{row['energy_j']['total']:.3g} J, {row['time_s']:.3g} s",
            f"{row['over_compulsory']:+.0%}",
            f"{row['largest_relative_difference']:.0e}",
            "equal" if row["bit_identical"] else "DIFFER",
        ]
        for row in rows
    ]
    return markdown(COLUMNS, cells)


def main() -> None:
    """Run what is asked and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds to search for a schedule")
    parser.add_argument("--kills", type=int, default=0, help="kill the emulator so often, and compare bits")
    parser.add_argument("--plot", action="store_true", help="only plan, at all sizes of RAM, and draw")
    parser.add_argument("--out", type=Path, default=Path("build/large"))
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(CASES))
    if unknown:
        parser.error(f"there is no case {unknown[0]!r}; there are {', '.join(CASES)}")
    torch.set_num_threads(1)
    for name in options.names or CASES:
        if options.kills:
            same = survive(CASES[name], make(name, CASES[name], options.time_limit, options.out), options.kills)
            print(f"{name}: {options.kills} kills, bits {'equal' if same else 'DIFFER'}", flush=True)
            if not same:
                raise SystemExit(1)
            continue
        known = json.loads(RESULTS.read_text())
        if options.plot:
            known["points"][CASES[name].model] = points(CASES[name], options.time_limit, options.out)
        else:
            row = run(name, CASES[name], options.time_limit, options.out)
            known["rows"] = [*(other for other in known["rows"] if other["name"] != name), row]
            known["rows"].sort(key=lambda one: list(CASES).index(one["name"]))
            write_table("bench-large", table(known["rows"]))
            print(table([row]), flush=True)
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        if known["points"]:
            draw(known["points"], known["rows"], PLOT)
    broken = faults(json.loads(RESULTS.read_text())["rows"])
    for line in broken:
        print(line)
    raise SystemExit(1 if broken else 0)


if __name__ == "__main__":
    main()
