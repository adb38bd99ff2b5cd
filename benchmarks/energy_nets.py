"""The nets of `make bench-energy` on its boards: their problems, profiles, budgets and firmware."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

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
from poet_codegen.recipe import Recipe
from poet_codegen.resources import data_dir
from poet_hil.manifest import load_build
from poet_hil.samples import random_batches
from poet_solver.baselines.keep import keep_everything_peak
from poet_solver.errors import InfeasibleError
from poet_solver.min_ram import min_ram
from poet_solver.problem import Problem
from poet_solver.schedule import Schedule
from poet_solver.techniques import Method, schedule_with

CORES = {"m4": "qemu_mps2_an386", "m7": "qemu_mps2_an500"}
INFER_LIMIT_S = 1.0
FLOOR_LIMIT_S = 30.0


@cache
def imported(path: Path, recipe: Recipe) -> tuple[Model, tuple[Graph, Graph]]:
    """A model with its graphs of training and inference."""
    model = import_onnx(prepared(path, recipe))
    return model, build_graphs(model, recipe)


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
        nor = Path(__file__).with_name("energy_nor.toml").read_text(encoding="utf-8")
        path = self.folder / "boards" / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(before + nor + after, encoding="utf-8")
        return str(path)

    @property
    def model(self) -> Model:
        """The imported model."""
        return imported(self.path, self.recipe)[0]

    @property
    def graphs(self) -> tuple[Graph, Graph]:
        """Of training and inference."""
        return imported(self.path, self.recipe)[1]

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
        infer_schedule = any_schedule(infer_low.problem)
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
        build_firmware(self.project, plan.board, workspace=self.project.parent / "workspace")

    @cached_property
    def peak_bytes(self) -> int:
        """What keeping everything takes."""
        return keep_everything_peak(self.unlimited[2].problem)

    @cached_property
    def floor_bytes(self) -> int:
        """The least memory in which recomputation and paging together can do without cutting ops into tiles.

        Bytes alone decide it, so that one search serves all boards on which the ops have the same sizes.
        """
        problem = self.unlimited[2].problem
        plain = replace(problem, ops=tuple(replace(op, modes=op.modes[:1]) for op in problem.ops), ram_bytes=None)
        path = self.folder / "floors" / f"{self.name}_{sizes_digest(plain)}.txt"
        if not path.exists():
            found = min_ram(plain, Method.BOTH, time_limit_s=FLOOR_LIMIT_S).ram_bytes
            assert found is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{found}\n")
        return int(path.read_text())

    def budget(self, share: str) -> int:
        """Bytes of a row's budget."""
        if share == "floor":
            return self.floor_bytes
        return int(float(share) * self.peak_bytes) // 4 * 4

    @cached_property
    def unlimited(self) -> tuple[Request, CostModel, Lowered]:
        """The scheduling problem of the yardstick, which has all the memory it wants."""
        return self.lowered(None, self.costs)

    def by_table(self, ram_bytes: int) -> Problem:
        """The scheduling problem at a budget before any profile."""
        return self.lowered(ram_bytes, None)[2].problem

    @cached_property
    def kept(self) -> Schedule:
        """The yardstick: everything is kept."""
        return schedule_with(self.unlimited[2].problem, Method.KEEP)


def any_schedule(problem: Problem) -> Schedule:
    """A schedule of inference, which is in the firmware and in no figure."""
    try:
        return schedule_with(problem, Method.CAPUCHIN)
    except InfeasibleError:
        return schedule_with(problem, Method.BOTH, time_limit_s=INFER_LIMIT_S)


def sizes_digest(problem: Problem) -> str:
    """Digest of what decides which memory is enough: sizes, and who reads and writes what."""
    sizes = [[tensor.size_bytes, tensor.start, tensor.end] for tensor in problem.tensors]
    ops = [
        [op.outputs, op.repeatable, [[mode.resident, mode.in_place, mode.workspace_bytes] for mode in op.modes]]
        for op in problem.ops
    ]
    return hashlib.sha256(json.dumps([sizes, ops]).encode()).hexdigest()[:16]
