"""`poet plan`, `poet build`, `poet report`: from the model to firmware, without a device."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import onnx
import typer
from poet_solver.errors import InfeasibleError, PoetError
from poet_solver.incumbent import Progress
from poet_solver.phases import Technique
from poet_solver.pipeline import solve
from poet_solver.schedule import Compute, Schedule, Status
from poet_solver.schedule_io import step_counts
from rich.markup import escape

from poet_codegen.board import load_board
from poet_codegen.budget import fit_to_board
from poet_codegen.build import build
from poet_codegen.cli.console import console, dir_option, error_console, facts, next_step, si, size
from poet_codegen.cli.quantities import parse_days, parse_size
from poet_codegen.costs import read_costs
from poet_codegen.errors import BoardError
from poet_codegen.folder import BuildFolder, Lifetime
from poet_codegen.graph import Kind, Role
from poet_codegen.head import final_softmax
from poet_codegen.lower import Home
from poet_codegen.numerics import Numerics
from poet_codegen.onnx_batch_norm import batch_norms
from poet_codegen.onnx_import import read_model
from poet_codegen.parts import layers_of
from poet_codegen.plan import Plan, load_plan, make_plan, make_request, save_plan
from poet_codegen.recipe import DEFAULT_RECIPE, BatchNorm, Dropouts, Loss, Optimizer, Recipe
from poet_codegen.report import write_report
from poet_codegen.tiling.ahead import WORDS

_DEFAULT = DEFAULT_RECIPE
Folder = Annotated[Path, typer.Option("--dir", help="Build folder: what the commands leave for each other.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="plan")(plan_command)
    app.command(name="build")(build_command)
    app.command(name="report")(report_command)


def plan_command(
    model: Annotated[Path, typer.Argument(help="ONNX model with fixed shapes, in float32, of one output.")],
    board: Annotated[str, typer.Option(help="Board name (see `poet boards`), or a path to your own .toml.")],
    ram: Annotated[
        str | None,
        typer.Option(
            help="RAM for tensors (the arena): bytes, 32K or 1M. Default: all that the linked firmware leaves."
        ),
    ] = None,
    deadline: Annotated[
        float,
        typer.Option(help="Longest step, as a multiple of its pure compute time; paging counts. 0: none."),
    ] = 2.0,
    train: Annotated[
        str,
        typer.Option(
            help="What learns: all, last:N (layers), bias, norm, lora:RANK (adapters of low rank beside the weights of "
            "dense layers, which stay frozen; lora:8:*.query.* for those weights alone), or names with * and ?; "
            "several with commas."
        ),
    ] = "all",
    batch_norm: Annotated[
        BatchNorm | None,
        typer.Option(
            help="How BatchNormalization trains: train (statistics of each batch), frozen (running statistics), or "
            "fold (into the layer before). To be chosen where the model has any."
        ),
    ] = None,
    dropout: Annotated[
        Dropouts,
        typer.Option(help="Which Dropout nodes drop in training: those that the model says train, all, or none."),
    ] = Dropouts.MODEL,
    dropout_seed: Annotated[int, typer.Option(help="Seed of the masks that Dropout draws.")] = 0,
    loss: Annotated[
        Loss,
        typer.Option(
            help="What is made small: cross-entropy (labels are classes), soft-cross-entropy (labels are rows of "
            "probabilities), mse (mean squared error), or bce (binary cross entropy of logits)."
        ),
    ] = Loss.CROSS_ENTROPY,
    optimizer: Annotated[
        Optimizer, typer.Option(help="How gradients change weights, by PyTorch's formulas and with its defaults.")
    ] = _DEFAULT.optimizer,
    momentum: Annotated[float, typer.Option(help="Of sgd, such as 0.9: keeps one state a weight.")] = _DEFAULT.momentum,
    nesterov: Annotated[bool, typer.Option("--nesterov", help="Of sgd with momentum: look ahead.")] = False,
    beta1: Annotated[
        float, typer.Option(help="Of adam and adamw, which keep two states a weight: decay of the mean gradient.")
    ] = _DEFAULT.beta1,
    beta2: Annotated[float, typer.Option(help="Likewise: decay of the mean squared gradient.")] = _DEFAULT.beta2,
    epsilon: Annotated[float, typer.Option(help="Likewise: added to the divisor.")] = _DEFAULT.epsilon,
    weight_decay: Annotated[
        float | None,
        typer.Option(
            help="Pulls every trained parameter to 0, biases and norms too unless --no-decay names them: joins the "
            "gradient (sgd, adam), or scales the weight (adamw). Default: 0.01 for adamw, else 0."
        ),
    ] = None,
    no_decay: Annotated[
        str, typer.Option(help="What weight decay spares, chosen as by --train: bias,norm is usual. Default: nothing.")
    ] = _DEFAULT.no_decay,
    accumulate: Annotated[
        int,
        typer.Option(
            help="Micro-batches an update: each step adds its gradients to a sum (one state a weight), every N-th one "
            "trains with their mean, at its own learning rate. Losses are those of the micro-batches."
        ),
    ] = _DEFAULT.accumulate,
    winograd: Annotated[
        bool,
        typer.Option(
            "--winograd",
            help="Compute 3x3 convolutions by Winograd's F(2x2, 3x3): 16 products where the direct sum has 36. It "
            "rounds otherwise: losses and weights have other bits (the same on host and board, at any budget).",
        ),
    ] = False,
    params: Annotated[
        Home,
        typer.Option(help="Where learning parameters and state live between steps: ram, or storage (paged each step)."),
    ] = Home.RAM,
    technique: Annotated[
        Technique,
        typer.Option(help="What the schedule may do: both, page only, remat only, or keep everything."),
    ] = Technique.BOTH,
    board_ram: Annotated[
        str | None,
        typer.Option(help="Link for a board with only this much RAM, stack and all data included: 131072 or 128K."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Page to this storage device of the board, by its driver, such as sd_spi. Default: its first."
        ),
    ] = None,
    lifetime: Annotated[
        str | None,
        typer.Option(help="How long storage has to last: 2y, 90d or 500h. With --steps-per-day."),
    ] = None,
    steps_per_day: Annotated[
        float | None, typer.Option(min=0, help="Training steps a day that --lifetime is reckoned with.")
    ] = None,
    costs: Annotated[
        Path | None,
        typer.Option(help="costs.json of `poet profile`: plan with what kernels and pages took on the target."),
    ] = None,
    code: Annotated[
        str | None,
        typer.Option(
            help="What the kernels' code may take, about: 65536 or 64K. Those that cost the fewest cycles a byte then "
            "take smaller and slower forms; bits stay. Default: what the board's flash leaves."
        ),
    ] = None,
    numerics: Annotated[
        Numerics,
        typer.Option(
            help="How sums of products round: separate (after the product and after the sum: the fast one on a "
            "Cortex-M4F) or fused (once, by fused multiply-adds: the fast one on a Cortex-M7; cores with an FPU). "
            "Their bits differ; each has the same on host and board."
        ),
    ] = Numerics.SEPARATE,
    out: Annotated[Path, typer.Option("--dir", "--out", help="Build folder to write.")] = Path("build"),
    time_limit: Annotated[float, typer.Option(help="Seconds to search at most; the best found is kept.")] = 60.0,
    threads: Annotated[int, typer.Option(min=1, help="Solver threads.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
) -> None:
    """Build the training graph and find the schedule of least energy.

    Example: [cyan]poet plan model.onnx --board qemu_netduinoplus2 --ram 32K --deadline 2.0[/]

    With Adam on means of 4 samples: add [cyan]--optimizer adam --accumulate 4[/], and [cyan]--params storage[/] where
    its state does not fit into RAM. The learning rate is given to `poet train`.
    """
    ram_bytes = parse_size(ram) if ram is not None else None
    recipe = Recipe(
        train=train,
        loss=loss,
        batch_norm=batch_norm,
        dropout=dropout,
        dropout_seed=dropout_seed,
        optimizer=optimizer,
        momentum=momentum,
        nesterov=nesterov,
        beta1=beta1,
        beta2=beta2,
        epsilon=epsilon,
        weight_decay=weight_decay,
        no_decay=no_decay,
        accumulate=accumulate,
        winograd=winograd,
    )
    if not math.isfinite(deadline) or deadline < 0:
        raise typer.BadParameter(f"--deadline {deadline}: give a multiple of the compute time, such as 2.0.")
    board_ram_bytes = parse_size(board_ram) if board_ram is not None else None
    description = load_board(board, board_ram_bytes, storage)
    if (lifetime is None) != (steps_per_day is None):
        raise typer.BadParameter("--lifetime and --steps-per-day go together: --lifetime 2y --steps-per-day 500.")
    lasts = Lifetime(parse_days(lifetime), steps_per_day) if lifetime and steps_per_day else None
    profile = None if costs is None else read_costs(costs)
    most = description.ram.size_bytes - description.stack_bytes
    if ram_bytes is not None and ram_bytes > most:
        raise BoardError(
            f"--ram asks for {ram_bytes} bytes, but {description.name} has {description.ram.size_bytes} bytes of RAM, "
            f"{description.stack_bytes} of them for the stack: {most} at most. Ask for less, or leave --ram out."
        )
    with error_console().status("Reading the model") as status:

        def show(news: Progress) -> None:
            best = "no schedule yet" if math.isinf(news.energy_j) else f"best {si(news.energy_j, 'J')}"
            status.update(f"Solving, {news.phase}: {best}, bound {si(news.bound_j, 'J')}, gap {news.gap:.2%}")

        def make(budget: int) -> Plan:
            request = make_request(
                model,
                board,
                budget,
                deadline or None,
                params,
                recipe,
                technique.value,
                seed,
                board_ram_bytes,
                profile,
                storage,
                lasts,
                numerics,
                parse_size(code) if code is not None else None,
            )
            return make_plan(request, model, threads=threads, time_limit_s=time_limit, progress=show, costs=profile)

        try:
            plan = make(ram_bytes) if ram_bytes is not None else fit_to_board(description, make)
        except InfeasibleError as error:
            if params is Home.STORAGE:
                raise
            hint = "With --params storage parameters need not stay in RAM between steps."
            raise PoetError(f"{error} {hint}") from error
        folder = BuildFolder(out)
        save_plan(plan, model, folder)
        status.update("Writing the report")
        report = write_report(folder)
        keep = keep_everything(plan)
    screen = console()
    screen.print(facts([*_plan_facts(plan, keep), *_batch_norm_fact(plan, read_model(model)), *_dropout_fact(plan)]))
    screen.print(f"Report: {report}")
    if plan.board.kind == "plan":
        screen.print(f"{plan.board.name} is there for planning only; there is no firmware to build for it.")
    else:
        screen.print(next_step(f"poet build{dir_option(out)}", "makes the firmware."))


def keep_everything(plan: Plan) -> Schedule:
    """The schedule that keeps every tensor until its last use, whatever memory that takes: the yardstick."""
    free = replace(plan.train.lowered.problem, ram_bytes=None, deadline_s=None)
    return solve(free, technique="keep")


def _forms_words(plan: Plan) -> str:
    counts = Counter(plan.costs.forms.values())
    words = " and ".join(f"{count} {form.value}" for form, count in sorted(counts.items()))
    return f"{words}, the others in their fastest form: so they fit the flash"


def _plan_facts(plan: Plan, keep: Schedule) -> list[tuple[str, str]]:
    schedule = plan.train.schedule
    counts = step_counts(schedule.steps)
    graph = plan.train.graph
    overhead = schedule.energy_j / keep.energy_j - 1.0
    learned = sum(t.size_bytes for t in graph.of_kind(Kind.PARAM) if t.name in graph.learned())
    state = sum(t.size_bytes for t in graph.of_kind(Kind.STATE))
    if schedule.status is Status.OPTIMAL:
        quality = "optimal: no schedule uses less energy, among " + schedule.bound_family
    else:
        quality = f"no schedule uses more than {schedule.gap:.2%} less energy, among {schedule.bound_family}"
    return [
        (
            "Model",
            f"{escape(graph.name)}: {len(plan.train.lowered.nodes)} ops a step, {size(learned)} of parameters learn",
        ),
        ("Loss", plan.request.recipe.loss.value),
        *((("Kernels", _forms_words(plan)),) if plan.costs.forms else ()),
        *((("Numerics", plan.request.numerics.value),) if plan.request.numerics is Numerics.FUSED else ()),
        ("Optimizer", escape(plan.request.recipe.optimizer_words()) + (f"; {size(state)} of state" if state else "")),
        ("Board", f"{escape(plan.board.title)}, {size(plan.board.ram.size_bytes)} of RAM"),
        (
            "Memory",
            f"{size(schedule.peak_bytes)} of {size(plan.request.ram_bytes)}; "
            f"keeping everything takes {size(keep.peak_bytes)}",
        ),
        (
            "Schedule",
            f"{counts['recompute']} recomputations, {counts['page_out']} page-outs, {counts['page_in']} page-ins",
        ),
        (
            "Energy",
            f"{si(schedule.energy_j, 'J')} a step (modelled), {overhead:+.2%} over keeping everything",
        ),
        ("Time", f"{si(schedule.time_s, 's')} a step (modelled)"),
        *_wear_fact(plan),
        *_ahead_fact(plan),
        *_code_fact(plan),
        ("Proof", escape(quality)),
        ("Costs", escape(plan.costs.source)),
        *(("Warning", f"[yellow]{escape(note)}[/]") for note in plan.costs.notes(graph)),
        *(("Note", escape(note)) for note in (*_softmax_notes(plan), *_sharing_notes(plan), *schedule.notes)),
    ]


def _ahead_fact(plan: Plan) -> list[tuple[str, str]]:
    """How often tiles are read while kernels compute, where storage lets them."""
    if plan.board.storage.overlaps is None:
        return []
    ops, steps = plan.train.lowered.problem.ops, plan.train.schedule.steps
    titles = [ops[step.op].modes[step.mode].name for step in steps if isinstance(step, Compute)]
    return [("Read ahead", f"tiles of {sum(WORDS in title for title in titles)} of {len(titles)} computations")]


def _code_fact(plan: Plan) -> list[tuple[str, str]]:
    """How steps in tiles are written, where there are any."""
    code = plan.steps_code
    if not code.tiled:
        return []
    words = f"about {size(code.unrolled_bytes)} of the {size(code.room_bytes)} that flash leaves for steps"
    if code.is_shared:
        return [("Code", f"steps that are alike share their loops: each by itself would take {words}")]
    return [("Code", f"each step by itself, {words}")]


def _wear_fact(plan: Plan) -> list[tuple[str, str]]:
    """What a step takes of storage, where that counts."""
    wear = plan.wear
    if not wear.bytes_a_step or (wear.unit_bytes is None and wear.steps is None):
        return []
    taken = f"{wear.bytes_a_step:,.0f} bytes written"
    if wear.unit_bytes is not None:
        taken = f"{wear.bytes_a_step / wear.unit_bytes:g} erases of {size(wear.unit_bytes)}"
    if wear.steps is None:
        return [("Storage wear", f"{taken} a step; the board file does not say what the device endures")]
    asked = plan.request.lifetime
    span = f", {asked.of_steps(wear.steps)} at {asked.steps_per_day:g} a day" if asked else ""
    beside = f"; {wear.checkpoints:,} checkpoints" if wear.checkpoints else ""
    return [("Storage wear", f"{taken} a step: {wear.steps:,} steps until worn{span}{beside}")]


def _softmax_notes(plan: Plan) -> list[str]:
    if plan.request.recipe.loss not in (Loss.CROSS_ENTROPY, Loss.SOFT_CROSS_ENTROPY):
        return []
    softmax = final_softmax(plan.model.graph)
    if softmax is None:
        return []
    return [f"The loss takes in the model's final {softmax.op} ({softmax.label}); only inference runs it."]


def _sharing_notes(plan: Plan) -> list[str]:
    """Parameters that train and that several layers read."""
    readers = Counter(name for names in layers_of(plan.model.graph) for name in names)
    learned = plan.train.graph.learned()
    return [
        f"{n} is read by {count} layers and trains as one."
        for n, count in readers.items()
        if count > 1 and n in learned
    ]


def _batch_norm_fact(plan: Plan, proto: onnx.ModelProto) -> list[tuple[str, str]]:
    """What became of the model's batch normalizations, where it has any or the user means that it has."""
    choice, before = plan.request.recipe.batch_norm, len(batch_norms(proto))
    if choice is None:
        return []
    if not before:
        why = "PyTorch's exporters fold it unless told not to"
        return [("Batch norm", f"the model has none, so --batch-norm {choice.value} changes nothing; {why}")]
    after = sum(node.op == "BatchNormalization" for node in plan.model.graph.nodes)
    said = {
        BatchNorm.TRAIN: f"{after} by the statistics of each batch; the running ones follow",
        BatchNorm.FROZEN: f"{after} by their running statistics, which stay as they are",
        BatchNorm.FOLD: f"{before - after} folded into the layers before, in model.onnx too"
        + (f"; {after} have no such layer and are frozen" if after else ""),
    }
    return [("Batch norm", said[choice])]


def _dropout_fact(plan: Plan) -> list[tuple[str, str]]:
    """How many of the model's Dropouts drop in training, where it has any or the user means that it has."""
    nodes = sum(node.op == "Dropout" for node in plan.model.graph.nodes)
    drop = sum(node.op == "RandomDropout" and node.role is Role.FORWARD for node in plan.train.graph.nodes)
    recipe = plan.request.recipe
    if not nodes and recipe.dropout is Dropouts.ALL:
        why = "PyTorch's exporters leave it out in evaluation mode"
        return [("Dropout", f"the model has none, so --dropout all changes nothing; {why}")]
    if not nodes:
        return []
    if drop:
        return [("Dropout", f"{drop} of {nodes} drop in training, seed {recipe.dropout_seed}")]
    why = "as asked" if recipe.dropout is Dropouts.NONE else "the model has them for inference; --dropout all lets them"
    return [("Dropout", f"none of {nodes} drops in training: {why}")]


def build_command(dir: Folder = Path("build")) -> None:
    """Generate the C project of a plan and build it, for the board and for this machine."""
    folder = BuildFolder(dir)
    with error_console().status("Generating C") as status:
        plan = load_plan(folder)
        sizes = build(plan, folder, lambda line: status.update(escape(line)))
        write_report(folder)
    screen = console()
    free = sizes.ram_total_bytes - sizes.ram_static_bytes - sizes.stack_bytes
    screen.print(
        facts(
            [
                ("Firmware", escape(str(folder.project / "firmware.elf"))),
                ("Flash", f"{size(sizes.flash_bytes)} of {size(sizes.flash_total_bytes)}"),
                (
                    "RAM",
                    f"arena {size(sizes.arena_bytes)}, other data {size(sizes.ram_static_bytes - sizes.arena_bytes)}, "
                    f"stack {size(sizes.stack_bytes)}, free {size(free)}",
                ),
                ("Compiler", escape(sizes.compiler)),
                ("Sources", f"{folder.project / 'src'} (an ordinary PlatformIO project)"),
            ]
        )
    )
    screen.print(next_step(f"poet flash{dir_option(dir)}", "puts it on the board, or starts the emulated one."))


def report_command(dir: Folder = Path("build")) -> None:
    """Write the HTML report of a build again; plan, build, train and eval keep it up to date themselves."""
    console().print(f"Report: {write_report(BuildFolder(dir))}")
