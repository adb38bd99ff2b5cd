"""Graph + board -> Problem: which tensors share bytes, where each may live, what every op and page costs (DESIGN §4).

Static buffers (input, label, output, loss, learning rate, step) and frozen parameters in flash are outside the arena,
so that the problem does not know them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from poet_solver.problem import Mode, Place, Problem
from poet_solver.problem import Op as ProblemOp
from poet_solver.problem import Tensor as ProblemTensor
from poet_solver.schedule import Home as HomeStep
from poet_solver.schedule import Schedule

from poet_codegen.board import PAGE_HEADER_BYTES, Board
from poet_codegen.cost_model import CostModel
from poet_codegen.errors import ModelError
from poet_codegen.forms import Form
from poet_codegen.frozen import frozen_on_storage
from poet_codegen.graph import DType, Graph, Kind, Node, Role, Tensor
from poet_codegen.ops import registry
from poet_codegen.ops.backward import merge_backward
from poet_codegen.ops.chain import merge_chains
from poet_codegen.panels import has_panels, panel_choices, with_panels, with_states
from poet_codegen.tiling.modes import Place as TilingPlace
from poet_codegen.tiling.modes import ProgramOf, Tiler, footprint_bytes, has_one_pass
from poet_codegen.tiling.program import Program

ALIGNMENT_BYTES = 4
_INPUT_SHARE = 0.25
"""Of the board's RAM, at most for a static buffer of an input."""
_NEXT_BUDGET = 1.1
"""Times the budget before, in the search for what an op needs."""
_TILED_FROM = 0.5
"""Ops whose operands take more of the budget than this are offered tiled modes, too."""


class Home(StrEnum):
    """Where a trainable parameter lives between steps."""

    RAM = "ram"
    STORAGE = "storage"


class Programs(Mapping[tuple[int, int], Program]):
    """(op, mode) -> program, each written when it is asked for."""

    def __init__(self, programs: Mapping[tuple[int, int], ProgramOf]) -> None:
        self._programs = programs

    def __getitem__(self, key: tuple[int, int]) -> Program:
        return self._programs[key]()

    def __contains__(self, key: object) -> bool:
        return key in self._programs

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._programs)

    def __len__(self) -> int:
        return len(self._programs)


@dataclass(frozen=True)
class Lowered:
    """A problem with the way back to the graph."""

    problem: Problem
    nodes: tuple[Node, ...]
    """For every op of the problem the node it stands for."""
    root: Mapping[str, str]
    """Graph tensor -> the tensor whose bytes it shares (itself, unless it is a view)."""
    index: Mapping[str, int]
    """Root tensor in the arena -> tensor of the problem."""
    home: Mapping[str, Home]
    """Trainable parameter or state -> where it lives."""
    frozen: frozenset[str]
    """Parameters that never change and are read from pages of storage, not from flash."""
    programs: Mapping[tuple[int, int], Program]
    """(op, mode) of every mode that calls kernels several times, or streams operands -> what runs then."""
    forms: Mapping[str, Form]
    """Kernel name -> form, of those that are not in their fastest one."""
    panels: Mapping[str, int]
    """Weights and states that lie in panels (poet_codegen.panels) -> how many."""

    def ram_homes(self, schedule: Schedule) -> dict[str, int]:
        """Parameter with its home in RAM -> the arena offset where `schedule` has it between steps."""
        names = {position: name for name, position in self.index.items()}
        fixed = {
            names[v]: tensor.home_offset
            for v, tensor in enumerate(self.problem.tensors)
            if tensor.start is Place.RAM and tensor.home_offset is not None
        }
        return fixed | {names[step.tensor]: step.offset for step in schedule.steps if isinstance(step, HomeStep)}


def view_roots(graph: Graph) -> dict[str, str]:
    """For every tensor the one whose bytes it shares."""
    root = {name: name for name in graph.tensors}
    for node in graph.nodes:
        if registry.get(node.op).is_view:
            root[node.outputs[0]] = root[node.inputs[0]]
    return root


def static_kind(graph: Graph, root: Mapping[str, str]) -> dict[str, Kind]:
    """For every root outside the arena what buffer it is; an output that is a view makes its root the output."""
    kinds = {name: graph.tensors[name].kind for name in root if root[name] == name}
    for name, tensor in graph.tensors.items():
        if tensor.kind is Kind.OUTPUT and root[name] != name:
            if kinds[root[name]] is not Kind.VALUE:
                raise ModelError(
                    f"The model's output {name!r} is its input under another shape. There is nothing to train."
                )
            kinds[root[name]] = Kind.OUTPUT
    return {name: kind for name, kind in kinds.items() if kind.is_static}


def lower(
    graph: Graph,
    costs: CostModel,
    *,
    learned: frozenset[str],
    home: Home = Home.RAM,
    ram_homes: Mapping[str, int] | None = None,
    ram_bytes: int | None,
    deadline_factor: float | None,
    wear_budget_bytes: float | None = None,
    stored_inputs: frozenset[str] = frozenset(),
    panels: Mapping[str, int] | None = None,
) -> Lowered:
    """Build the scheduling problem of a graph on the board of `costs`.

    `learned` names the parameters that training updates: they live at `home`, all others in flash, or on storage where
    that has no room for them. An inference graph
    has no updates, yet its parameters are where training left them: `ram_homes` says where (None: the solver chooses).
    `stored_inputs` are on storage instead of in static buffers (`large_inputs`). `panels` says which weights lie so
    (None: what is cheapest is chosen).
    `deadline_factor` bounds the time to so many times the compute time of one pass, `wear_budget_bytes` what a pass may
    erase.
    """
    root = view_roots(graph)
    outside = {name: kind for name, kind in static_kind(graph, root).items() if name not in stored_inputs}
    in_pages = frozen_on_storage(costs.board, graph, learned, home is Home.RAM)
    in_arena = {n for n, t in graph.tensors.items() if root[n] == n and _in_arena(t, outside, learned | in_pages)}

    def is_large(node: Node) -> bool:
        names = (name for name in (*node.inputs, *node.outputs) if graph.tensors[name].updates is None)
        used = {root[name] for name in names} & in_arena
        return ram_bytes is not None and sum(graph.tensors[name].size_bytes for name in used) > _TILED_FROM * ram_bytes

    on_storage = {p.name for p in graph.params() if p.name in in_pages or (home is Home.STORAGE and p.name in learned)}
    if panels is None and ram_bytes is not None:
        everything = {name: number for number, name in enumerate(sorted(in_arena))}
        place = _tiling_place(graph, root, everything, {}, in_pages)
        panels = _choose_panels(graph, Tiler(graph, costs, ram_bytes, place), ram_bytes, on_storage)
    graph = with_panels(graph, panels or {})
    merged = graph.nodes
    if home is Home.STORAGE:
        # What is elementwise joins a layer only where that may run in tiles. In RAM it costs a few cycles an element
        # either way, and schedules keep more freedom with ops of their own.
        merged = merge_backward(
            replace(graph, nodes=merge_chains(graph, is_large)),
            lambda first, update: is_large(first) and is_large(update) and has_one_pass(graph, (first, update)),
        )
    inside = {name for node in graph.nodes for name in node.outputs} - {n for node in merged for n in node.outputs}
    arena = [t for t in graph.tensors.values() if t.name in in_arena - inside]
    index = {tensor.name: i for i, tensor in enumerate(arena)}
    homes = {p.name: home for p in graph.params() if p.name in learned}
    updated = graph.learned()
    tensors = tuple(_tensor(t, t.name in updated, costs, homes, ram_homes or {}, index) for t in arena)
    sizes = {position: tensor.size_bytes for position, tensor in enumerate(tensors)}
    nodes = tuple(node for node in merged if not registry.get(node.op).is_view)
    reads = Counter(root[name] for name in (*(name for node in nodes for name in node.inputs), *graph.outputs))
    tiler = Tiler(graph, costs, ram_bytes or 0, _tiling_place(graph, root, index, homes, in_pages))
    programs: dict[tuple[int, int], ProgramOf] = {}
    ops: list[ProblemOp] = []
    for k, node in enumerate(nodes):
        rule = registry.get(node.op)
        own = [tiler.whole(node)] if node.stands_for or has_panels(node) else []
        plain = [] if own else _plain_modes(node, graph, costs, root, index, reads)
        outputs = tuple(index[root[name]] for name in node.outputs if root[name] in index)
        whole = own[0][0] if own else plain[0]
        if ram_bytes is not None and footprint_bytes(whole, outputs, sizes) > _TILED_FROM * ram_bytes:
            own += tiler.modes(node)
        programs |= {(k, len(plain) + m): program for m, (_, program) in enumerate(own)}
        ops.append(
            ProblemOp(
                name=f"{node.label}: {node.op}",
                outputs=outputs,
                modes=(*plain, *(mode for mode, _ in own)),
                repeatable=rule.repeatable,
                backward=node.role in (Role.BACKWARD, Role.UPDATE),
            )
        )
    problem = Problem(
        name=graph.name,
        tensors=tensors,
        ops=tuple(ops),
        ram_bytes=ram_bytes,
        wear_budget_bytes=wear_budget_bytes,
        alignment_bytes=ALIGNMENT_BYTES,
    )
    if deadline_factor is not None:
        problem = replace(problem, deadline_s=deadline_factor * problem.compute_time_s())
    return Lowered(problem, nodes, root, index, homes, in_pages, Programs(programs), costs.forms, panels or {})


def _choose_panels(graph: Graph, tiler: Tiler, ram_bytes: int, on_storage: Collection[str]) -> dict[str, int]:
    """Weights, and the optimizer's states of them -> panels, where a layer's steps from and to storage get cheaper."""
    known: dict[object, int] = {}
    found = {}
    for choice in panel_choices(graph, ram_bytes, on_storage):
        name = choice.weights

        def energy_j(count: int, name: str = name) -> float:
            nodes = tuple(node for node in graph.nodes if name in node.inputs)
            own = with_panels(replace(graph, nodes=nodes), {name: count} if count > 1 else {})
            return sum(tiler.least_energy_j(node) for node in merge_backward(own, lambda *_: True))

        attrs = tuple(sorted(choice.forward.attrs.items()))
        shapes = tuple(graph.tensors[other].shape for other in choice.forward.inputs[:2])
        learns = sum(name in node.inputs for node in graph.nodes)
        key = (attrs, shapes, learns)
        if key not in known:
            known[key] = min(choice.counts, key=energy_j)
        if known[key] > 1:
            found[name] = known[key]
    return with_states(graph, found)


def least_in_tiles(lowered: Lowered, graph: Graph, costs: CostModel) -> tuple[str, int]:
    """The op that stands in the way when its smallest mode outgrows the budget: its name, and about how many bytes it
    needs at least, cut into tiles where it can be. A schedule may need more."""
    problem = lowered.problem
    there = problem.ram_bytes
    assert there is not None
    sizes = {position: tensor.size_bytes for position, tensor in enumerate(problem.tensors)}
    least = [min(footprint_bytes(mode, op.outputs, sizes) for mode in op.modes) for op in problem.ops]
    left = [k for k, size in enumerate(least) if size > there]
    place = _tiling_place(graph, lowered.root, lowered.index, lowered.home, lowered.frozen)
    budget, last = there, left[0]
    while left:
        last = left[0]
        budget = math.ceil(_NEXT_BUDGET * budget)
        tiler = Tiler(graph, costs, budget, place)
        left = [k for k in left if least[k] > budget and not tiler.modes(lowered.nodes[k])]
    return problem.ops[last].name, budget


def _tiling_place(
    graph: Graph, root: Mapping[str, str], index: Mapping[str, int], homes: Mapping[str, Home], frozen: frozenset[str]
) -> TilingPlace:
    in_ram = frozenset(t.name for t in graph.tensors.values() if homes.get(t.updates or t.name) is Home.RAM)
    return TilingPlace(root, index, in_ram, frozen)


def large_inputs(graph: Graph, board: Board) -> frozenset[str]:
    """Inputs that the host writes to storage, for they would take much of the board's RAM: schedules page them like
    any tensor. Only where storage is not erased, and not those whose values the device looks at."""
    most = _INPUT_SHARE * board.ram.size_bytes
    if board.storage.erase is not None:
        return frozenset()
    return frozenset(t.name for t in graph.of_kind(Kind.INPUT) if t.size_bytes > most and t.dtype is DType.FLOAT32)


def _in_arena(tensor: Tensor, outside: Mapping[str, Kind], params: frozenset[str]) -> bool:
    if tensor.name in outside:
        return False
    return tensor.kind not in (Kind.PARAM, Kind.CONSTANT) or tensor.name in params


def _tensor(
    tensor: Tensor,
    is_updated: bool,
    costs: CostModel,
    homes: Mapping[str, Home],
    ram_homes: Mapping[str, int],
    index: Mapping[str, int],
) -> ProblemTensor:
    start = end = Place.NONE
    home_of = home_like = offset = None
    if tensor.kind is Kind.INPUT:
        start = Place.STORAGE
    elif tensor.kind is Kind.PARAM and tensor.name not in homes:
        start = end = Place.STORAGE
    elif tensor.kind in (Kind.PARAM, Kind.STATE):
        start = Place(homes[tensor.name].value)
        offset = ram_homes.get(tensor.name)
        end = Place.NONE if is_updated else start
    elif tensor.updates is not None:
        end = Place(homes[tensor.updates].value)
        offset = ram_homes.get(tensor.updates)
        home_of = index[tensor.updates] if end is Place.STORAGE else None
        home_like = index[tensor.updates] if end is Place.RAM and offset is None else None
    return ProblemTensor(
        name=tensor.name,
        size_bytes=tensor.size_bytes,
        page_in=costs.page_in(tensor.size_bytes, PAGE_HEADER_BYTES),
        page_out=costs.page_out(tensor.size_bytes, PAGE_HEADER_BYTES),
        start=start,
        end=end,
        home_offset=offset,
        home_like=home_like,
        home_of=home_of,
    )


def _plain_modes(
    node: Node,
    graph: Graph,
    costs: CostModel,
    root: Mapping[str, str],
    index: Mapping[str, int],
    reads: Mapping[str, int],
) -> list[Mode]:
    """Those of the node's kernels, with all operands in RAM."""
    rule = registry.get(node.op)
    board = costs.board
    resident = tuple(dict.fromkeys(index[root[name]] for name in node.inputs if root[name] in index))
    pairs = rule.in_place_pairs(node) or _overwritten(node, graph, root, index, reads)
    in_place = tuple((index[root[node.inputs[i]]], index[root[node.outputs[o]]]) for i, o in pairs)
    modes = []
    for variant in rule.variants(graph, node):
        cycles = costs.kernel_cycles(variant.kernel, variant.work)
        modes.append(
            Mode(
                time_s=cycles * board.seconds_per_cycle,
                energy_j=cycles * board.energy_per_cycle_j,
                resident=resident,
                in_place=in_place,
                workspace_bytes=variant.workspace_bytes,
                name=variant.title,
            )
        )
    return modes


def _overwritten(
    node: Node, graph: Graph, root: Mapping[str, str], index: Mapping[str, int], reads: Mapping[str, int]
) -> tuple[tuple[int, int], ...]:
    """The (input, output) positions where the node writes its result over an input that nothing else reads.

    That costs no schedule anything: who would hold such an input can hold the result, of the same size, instead; what
    was paged out is still on storage.
    """
    if root[node.outputs[0]] not in index:
        return ()
    for position in registry.get(node.op).may_overwrite(graph, node):
        name = root[node.inputs[position]]
        if name in index and graph.tensors[name].kind is Kind.VALUE and reads[name] == 1:
            return ((position, 0),)
    return ()
