"""The pipeline from an ONNX file to a solved schedule; of it only `save_plan` and `load_plan` touch files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

import onnx
from poet_solver.errors import InfeasibleError
from poet_solver.incumbent import Progress
from poet_solver.pipeline import solve
from poet_solver.problem import PageCost, Problem
from poet_solver.replay import replay
from poet_solver.schedule import Schedule
from poet_solver.schedule_io import read_schedule, schedule_to_json
from pydantic import TypeAdapter

from poet_codegen.autodiff import build_training_graph, fuse_updates, inference_graph
from poet_codegen.board import Board
from poet_codegen.by_feature import with_rows_by_feature
from poet_codegen.code_budget import budget_of, choose_forms
from poet_codegen.cost_model import CostModel
from poet_codegen.costs import Costs, costs_to_json, read_costs
from poet_codegen.emit.nests import StepsCode, steps_code
from poet_codegen.emit.pages import Pages, check_room, checkpoint_bytes, place_pages, ring_units
from poet_codegen.emit.project import BuildInput, Pass, check_inputs
from poet_codegen.errors import BoardError
from poet_codegen.export import with_weights
from poet_codegen.folder import BuildFolder, FolderError, Lifetime, Request, remove, sha256, write_atomic
from poet_codegen.forms import Form
from poet_codegen.graph import Array, Graph, Kind
from poet_codegen.lower import Home, Lowered, large_inputs, least_in_tiles, lower
from poet_codegen.numerics import Numerics
from poet_codegen.onnx_import import Model, import_onnx, read_model
from poet_codegen.onnx_prepare import prepare
from poet_codegen.ops.winograd import with_winograd
from poet_codegen.panels import stored
from poet_codegen.recipe import Recipe
from poet_codegen.selection import select_trainable
from poet_codegen.wear import Wear, as_least_wear, wear_budget_bytes, wear_of


@dataclass(frozen=True)
class Plan:
    """A model on a board with its two schedules."""

    request: Request
    board: Board
    model: Model
    train: Pass
    infer: Pass
    costs: CostModel

    @property
    def steps_code(self) -> StepsCode:
        """What the steps take of flash, and whether those that are alike share their loops."""
        both = [(one.lowered, one.schedule) for one in (self.train, self.infer)]
        return steps_code(self.board, self.train.graph, both)

    def build_input(self) -> BuildInput:
        """What the emitter takes."""
        return BuildInput(
            self.train,
            self.infer,
            self.stored_weights,
            self.board,
            self.request.ram_bytes,
            self.request.tool_version,
            self.request.recipe.loss.value,
            self.costs.source,
            self.request.numerics,
        )

    @property
    def stored_weights(self) -> dict[str, Array]:
        """The model's weights as they lie on the device."""
        graph, panels = self.train.graph, self.train.lowered.panels
        return {name: stored(name, array, graph, panels) for name, array in self.model.weights.items()}

    @cached_property
    def pages(self) -> Pages:
        """Where pages lie on storage. Raises BoardError when there is not room for them."""
        passes = [(one.lowered, one.schedule) for one in (self.train, self.infer)]
        return place_pages(self.board, self.train.graph, passes)

    def with_room(self) -> Plan:
        """This plan, when storage has room for its pages; else BoardError."""
        assert self.pages
        return self

    @property
    def wear(self) -> Wear:
        """What a training step takes of storage."""
        return wear_of(self.board, self.pages.units, self.train.schedule.wear_bytes)


def tool_version() -> str:
    """Version of the installed poet-mcu."""
    return version("poet-mcu")


def make_request(
    model_path: Path,
    board: str,
    ram_bytes: int,
    deadline_factor: float | None,
    home: Home,
    recipe: Recipe,
    technique: str,
    seed: int,
    board_ram_bytes: int | None = None,
    costs: Costs | None = None,
    storage: str | None = None,
    lifetime: Lifetime | None = None,
    numerics: Numerics = Numerics.SEPARATE,
    code_bytes: int | None = None,
) -> Request:
    """What was asked, with the digests of the model and of the profile it is to be planned with."""
    digest = sha256(inlined(model_path))
    return Request(
        tool_version(),
        str(model_path),
        digest,
        board,
        ram_bytes,
        deadline_factor,
        home,
        recipe,
        technique,
        seed,
        board_ram_bytes,
        None if costs is None else sha256(costs_to_json(costs).encode()),
        storage,
        lifetime,
        numerics,
        code_bytes,
    )


def inlined(model_path: Path) -> bytes:
    """The model as one file, weights included that stand in files beside it. Raises ModelError."""
    data: bytes = read_model(model_path).SerializeToString(deterministic=True)
    return data


def prepared(model_path: Path, recipe: Recipe) -> onnx.ModelProto:
    """The model as the recipe trains it, weights included that stand in files beside it. Raises ModelError."""
    return prepare(read_model(model_path), recipe.batch_norm, recipe.train)


def make_plan(
    request: Request,
    model_path: Path,
    *,
    threads: int,
    time_limit_s: float,
    progress: Callable[[Progress], None] | None = None,
    costs: Costs | None = None,
) -> Plan:
    """Import, differentiate, lower and solve; `costs` is a profile, the one of `request`.

    Raises ModelError, BoardError or InfeasibleError. A schedule always replays before it is returned.
    """
    board = request.load_board()
    _check_numerics(request.numerics, board)
    proto = prepared(model_path, request.recipe)
    model = import_onnx(proto)
    with_weights(proto, model.weights)  # what cannot be written back is found before training, not after
    train_graph, infer_graph = build_graphs(model, request.recipe)
    if request.home is Home.STORAGE:
        check_room(board, train_graph, train_graph.learned())
    model_of_costs = CostModel(board, costs, request.numerics, _forms(request, board, train_graph, infer_graph))
    train_low = lower_training(request, model_of_costs, train_graph)
    search = partial(solve, time_limit_s=time_limit_s, threads=threads, seed=request.seed, technique=request.technique)
    try:
        schedule = search(train_low.problem, progress=progress)
    except InfeasibleError as error:
        if request.lifetime is not None:
            least = search(as_least_wear(train_low.problem), progress=progress)
            raise _lasts_shorter(error, request.lifetime, board, train_graph, least) from error
        if error.needed_bytes > request.ram_bytes and request.home is Home.STORAGE:
            raise _outgrows(error, train_low, train_graph, model_of_costs) from error
        if train_low.problem.deadline_s is None:
            raise
        fastest = search(_as_least_time(train_low.problem), progress=progress)
        raise _takes_longer(error, request, board, train_low.problem, fastest) from error
    infer_low = lower_inference(request, model_of_costs, train_graph, infer_graph, train_low, schedule)
    infer_schedule = solve(infer_low.problem, time_limit_s=time_limit_s, threads=threads, seed=request.seed)
    return Plan(
        request,
        board,
        model,
        Pass(train_graph, train_low, schedule),
        Pass(infer_graph, infer_low, infer_schedule),
        model_of_costs,
    ).with_room()


def _lasts_shorter(
    error: InfeasibleError, asked: Lifetime, board: Board, train: Graph, least: Schedule
) -> InfeasibleError:
    """What to say where no schedule was found that storage outlasts, and `least` is the one that wears it least."""
    ring = ring_units(board, checkpoint_bytes(train, train.learned()))
    lasts = wear_of(board, ring, least.wear_bytes).steps
    if lasts is None or lasts >= asked.steps:
        return error
    text = (
        f"{board.storage.models} of {board.name} does not last {asked.steps:,} training steps. The longest lifetime "
        f"that works is {asked.of_steps(lasts)} at {asked.steps_per_day:g} steps a day ({lasts:,} steps). Ask for that "
        "(--lifetime, --steps-per-day), give more RAM, or train less of the model."
    )
    return InfeasibleError(
        text, op_name=error.op_name, needed_bytes=error.needed_bytes, budget_bytes=error.budget_bytes
    )


def _outgrows(error: InfeasibleError, lowered: Lowered, graph: Graph, costs: CostModel) -> InfeasibleError:
    """What to say where an op does not fit, not even in tiles."""
    name, needed = least_in_tiles(lowered, graph, costs)
    text = (
        f"Op {name} needs about {needed} bytes of RAM at least, in tiles where it can be cut, and the budget is "
        f"{error.budget_bytes}. Plan with --ram {needed} or more, or train less of the model (--train)."
    )
    return InfeasibleError(text, op_name=name, needed_bytes=needed, budget_bytes=error.budget_bytes)


def _as_least_time(problem: Problem) -> Problem:
    """The problem of the schedule that takes least time: its energies are times, and there is no deadline."""

    def page(cost: PageCost | None) -> PageCost | None:
        return None if cost is None else replace(cost, energy_j=cost.time_s)

    return replace(
        problem,
        tensors=tuple(replace(t, page_in=page(t.page_in), page_out=page(t.page_out)) for t in problem.tensors),
        ops=tuple(replace(op, modes=tuple(replace(m, energy_j=m.time_s) for m in op.modes)) for op in problem.ops),
        idle_power_w=0.0,
        deadline_s=None,
    )


def _takes_longer(
    error: InfeasibleError, asked: Request, board: Board, problem: Problem, fastest: Schedule
) -> InfeasibleError:
    """What to say where no schedule was found that keeps the deadline, and `fastest` is the one of least time."""
    assert problem.deadline_s is not None
    if fastest.time_s <= problem.deadline_s:
        return error
    compute_s = problem.compute_time_s()
    text = (
        f"A step in {asked.ram_bytes} bytes of RAM takes {fastest.time_s:.4g} s at best with {board.storage.models} of "
        f"{board.name}; the deadline is {problem.deadline_s:.4g} s, {asked.deadline_factor:g} times the compute time. "
        f"A deadline that works is --deadline {math.ceil(100.0 * fastest.time_s / compute_s) / 100.0:g}; more RAM or "
        "faster storage (--storage) also help."
    )
    return InfeasibleError(
        text, op_name=error.op_name, needed_bytes=error.needed_bytes, budget_bytes=error.budget_bytes
    )


def _check_numerics(numerics: Numerics, board: Board) -> None:
    """Raise BoardError where the board's core does not have the arithmetic in hardware.

    In software a fused multiply-add takes some hundred cycles, and C libraries disagree on its last bit.
    """
    if numerics is Numerics.FUSED and board.cpu.fpu is None:
        raise BoardError(
            f"{board.name} has no floating-point unit, so no fused multiply-add. Leave --numerics fused out, or use a "
            "board with a Cortex-M4F or M7."
        )


def build_graphs(model: Model, recipe: Recipe) -> tuple[Graph, Graph]:
    """(training graph, inference graph) of a model that is trained as `recipe` says. Raises ModelError."""
    check_inputs(model.graph)
    trainable = select_trainable(model.graph, recipe.train)
    forward = with_rows_by_feature(model.graph)
    train = fuse_updates(build_training_graph(forward, trainable, recipe))
    infer = inference_graph(forward, train.of_kind(Kind.STATE))
    return (with_winograd(train), with_winograd(infer)) if recipe.winograd else (train, infer)


def _forms(request: Request, board: Board, train: Graph, infer: Graph) -> Mapping[str, Form]:
    """Which kernels are written smaller, so that they fit what was asked or what the board's flash leaves."""
    asked = request.code_bytes
    most = budget_of(board, train) if asked is None else asked
    return choose_forms((train, infer), board, most, request.numerics)


def lower_training(request: Request, costs: CostModel, train: Graph) -> Lowered:
    """The scheduling problem of a training step."""
    budget = None
    if request.lifetime is not None:
        bytes_ = checkpoint_bytes(train, train.learned())
        budget = wear_budget_bytes(costs.board, bytes_, request.lifetime.steps)
    return lower(
        train,
        costs,
        learned=train.learned(),
        home=request.home,
        ram_bytes=request.ram_bytes,
        deadline_factor=request.deadline_factor,
        wear_budget_bytes=budget,
        stored_inputs=_stored_inputs(request, costs.board, train),
    )


def lower_inference(
    request: Request, costs: CostModel, train: Graph, infer: Graph, train_low: Lowered, schedule: Schedule
) -> Lowered:
    """The scheduling problem of inference, with the parameters where the training schedule has them."""
    return lower(
        infer,
        costs,
        learned=train.learned(),
        home=request.home,
        ram_homes=train_low.ram_homes(schedule),
        ram_bytes=request.ram_bytes,
        deadline_factor=None,
        stored_inputs=_stored_inputs(request, costs.board, infer),
        panels=train_low.panels,
    )


def _stored_inputs(request: Request, board: Board, graph: Graph) -> frozenset[str]:
    return large_inputs(graph, board) if request.home is Home.STORAGE else frozenset()


def save_plan(plan: Plan, model_path: Path, folder: BuildFolder) -> None:
    """Write the plan's files; what later commands made from an earlier plan is removed."""
    for stale in (folder.project, folder.run, folder.report, folder.request, folder.plan_costs):
        remove(stale)
    if plan.costs.costs is not None:
        write_atomic(folder.plan_costs, costs_to_json(plan.costs.costs))
    write_atomic(folder.model, prepared(model_path, plan.request.recipe).SerializeToString(deterministic=True))
    write_atomic(folder.graph, plan.train.graph.to_json())
    write_atomic(folder.problem, plan.train.lowered.problem.to_json())
    write_atomic(folder.schedule, schedule_to_json(plan.train.schedule))
    write_atomic(folder.infer_problem, plan.infer.lowered.problem.to_json())
    write_atomic(folder.infer_schedule, schedule_to_json(plan.infer.schedule))
    # Last: a folder with plan.json is complete.
    write_atomic(folder.request, TypeAdapter(Request).dump_json(plan.request, indent=1) + b"\n")


def load_plan(folder: BuildFolder) -> Plan:
    """Read a saved plan; the schedules are replayed again, so a damaged file cannot reach a board."""
    request = folder.read_request()
    board = request.load_board()
    model = import_onnx(read_model(folder.need(folder.model, "poet plan")))
    train_graph, infer_graph = build_graphs(model, request.recipe)
    forms = _forms(request, board, train_graph, infer_graph)
    costs = CostModel(board, _read_costs(folder, request), request.numerics, forms)
    train_low = lower_training(request, costs, train_graph)
    schedule = _read(folder, folder.schedule, train_low)
    infer_low = lower_inference(request, costs, train_graph, infer_graph, train_low, schedule)
    infer_schedule = _read(folder, folder.infer_schedule, infer_low)
    return Plan(
        request,
        board,
        model,
        Pass(train_graph, train_low, schedule),
        Pass(infer_graph, infer_low, infer_schedule),
        costs,
    )


def _read_costs(folder: BuildFolder, request: Request) -> Costs | None:
    """The profile that a plan was made with. Raises FolderError when it is not that one any more."""
    if request.costs_sha256 is None:
        return None
    path = folder.need(folder.plan_costs, "poet plan")
    if sha256(path.read_bytes()) != request.costs_sha256:
        raise FolderError(f"{path} has changed since the plan was made with it. Run `poet plan` again.")
    return read_costs(path)


def _read(folder: BuildFolder, path: Path, lowered: Lowered) -> Schedule:
    schedule = read_schedule(folder.need(path, "poet plan"))
    replay(lowered.problem, schedule)
    return schedule
