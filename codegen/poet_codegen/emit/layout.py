"""Where everything lies: arena offsets as named constants, addresses on storage, and who is in flash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from poet_solver.problem import Place, Problem
from poet_solver.schedule import Compute, PageIn, Schedule
from poet_solver.schedule import Home as HomeStep

from poet_codegen.board import Board
from poet_codegen.emit.names import c_names, free_name
from poet_codegen.emit.pages import Pages, checked_params, page_uses, place_pages
from poet_codegen.graph import Graph, Kind
from poet_codegen.lower import Home, Lowered, static_kind

ROM, FROZEN = "rom", "frozen"
"""Homes of parameters that never change: flash, and pages of storage where flash has no room for them."""

_STATIC_NAMES = {
    Kind.LABEL: "poet_label",
    Kind.OUTPUT: "poet_output",
    Kind.LOSS: "&poet_loss",
    Kind.LEARNING_RATE: "&poet_learning_rate",
    Kind.STEP: "&poet_step_index",
}


def input_name(c_name: str) -> str:
    """The buffer of an input."""
    return f"poet_input_{c_name}"


@dataclass(frozen=True)
class Constant:
    """A named constant of the generated header."""

    name: str
    value: int
    size_bytes: int
    comment: str


@dataclass(frozen=True)
class ParamRow:
    """A parameter, or state of training, as the firmware's table and the manifest list it."""

    index: int
    name: str
    c_name: str
    shape: tuple[int, ...]
    """Of the graph's tensor; `is_transposed`: the model's, backwards."""
    is_transposed: bool
    panels: int
    """That it lies in, one behind the other."""
    elements: int
    size_bytes: int
    is_state: bool
    home: str
    at: int
    is_checked: bool
    """On storage: a training step reads all of it before it writes any parameter."""


@dataclass(frozen=True)
class Layout:
    """Addresses of one build; `PassLayout` has those of one schedule."""

    params: tuple[ParamRow, ...]
    pages_on: Pages
    pages: tuple[Mapping[str, Constant], ...]
    """For each pass: root tensor -> its page on storage."""


class PassLayout:
    """Names the arena offsets that one schedule uses, and turns tensors into C arguments."""

    def __init__(
        self, prefix: str, graph: Graph, lowered: Lowered, schedule: Schedule, names: Mapping[str, str]
    ) -> None:
        self._lowered = lowered
        self._static = static_kind(graph, lowered.root)
        self._names = names
        self._c_name = {position: names[name] for name, position in lowered.index.items()}
        self._constants: dict[tuple[str, int], Constant] = {}
        taken = set(names.values())
        root_names = {position: name for name, position in lowered.index.items()}
        self._workspaces: dict[tuple[int, int], Constant] = {}
        for tensor, offset in _instances(lowered.problem, schedule):
            c_name = self._c_name[tensor]
            if (c_name, offset) in self._constants:
                continue
            is_first = not any(known == c_name for known, _ in self._constants)
            unique = c_name if is_first else free_name(c_name, taken)
            self._constants[c_name, offset] = Constant(
                f"{prefix}_{unique.upper()}",
                offset,
                lowered.problem.tensors[tensor].size_bytes,
                root_names[tensor],
            )

        for step in schedule.steps:
            if isinstance(step, Compute) and step.workspace_offset is not None:
                size = lowered.problem.ops[step.op].modes[step.mode].workspace_bytes
                key = step.workspace_offset, size
                if key not in self._workspaces:
                    c_name = free_name("workspace", taken)
                    self._workspaces[key] = Constant(f"{prefix}_{c_name.upper()}", *key, "workspace")

    def constants(self) -> tuple[Constant, ...]:
        """The offsets, lowest first."""
        every = (*self._constants.values(), *self._workspaces.values())
        return tuple(sorted(every, key=lambda c: (c.value, c.name)))

    def workspace(self, offset: int, size_bytes: int) -> str:
        """Name of the offset of a computation's workspace."""
        return self._workspaces[offset, size_bytes].name

    def c_name(self, name: str) -> str:
        """Name of a graph tensor in C; a parameter's versions share theirs."""
        return self._names[self._lowered.root[name]]

    def arena(self, tensor: int, offset: int) -> str:
        """C expression for a tensor instance in the arena."""
        return f"ARENA({self._constants[self._c_name[tensor], offset].name})"

    def argument(self, name: str, offsets: Mapping[int, int]) -> str:
        """C expression for a graph tensor, given where each tensor of the problem is right now."""
        root = self._lowered.root[name]
        if root in self._lowered.index:
            tensor = self._lowered.index[root]
            return self.arena(tensor, offsets[tensor])
        if root in self._static:
            kind = self._static[root]
            return input_name(self._names[root]) if kind is Kind.INPUT else _STATIC_NAMES[kind]
        return f"poet_initial_{self._names[root]}"


def _instances(problem: Problem, schedule: Schedule) -> Iterable[tuple[int, int]]:
    for v, tensor in enumerate(problem.tensors):
        if tensor.start is Place.RAM and tensor.home_offset is not None:
            yield v, tensor.home_offset
    for step in schedule.steps:
        if isinstance(step, HomeStep | PageIn):
            yield step.tensor, step.offset
        elif isinstance(step, Compute):
            for v, offset in zip(problem.ops[step.op].outputs, step.offsets, strict=True):
                if offset is not None:
                    yield v, offset


def tensor_names(graph: Graph) -> dict[str, str]:
    """C names of a graph's tensors; a parameter's new version shares the parameter's name."""
    plain = c_names(name for name, tensor in graph.tensors.items() if tensor.updates is None)
    updated = {name: plain[t.updates] for name, t in graph.tensors.items() if t.updates is not None}
    return plain | updated


def build_layout(board: Board, graph: Graph, passes: Sequence[tuple[Lowered, Schedule]]) -> Layout:
    """Place parameters and pages. `passes` are training and inference; training decides where parameters are.

    Raises BoardError when the board's storage has not room for the pages.
    """
    names = tensor_names(graph)
    lowered, train = passes[0]
    ram_homes = lowered.ram_homes(train)
    on = place_pages(board, graph, passes)
    checked = checked_params(*passes[0])
    rows: list[ParamRow] = []
    for index, param in enumerate(graph.params()):
        home = lowered.home.get(param.name)
        at = on.address(on.homes[param.name]) if home is Home.STORAGE else ram_homes.get(param.name, 0)
        if param.name in on.frozen:
            at = on.address(on.frozen[param.name])
        rows.append(
            ParamRow(
                index,
                param.name,
                names[param.name],
                param.shape,
                param.is_transposed,
                lowered.panels.get(param.name, 1),
                param.elements,
                param.size_bytes,
                param.kind is Kind.STATE,
                home.value if home else FROZEN if param.name in on.frozen else ROM,
                at,
                param.name in checked,
            )
        )
    taken = set(names.values())
    known: dict[int, dict[str, Constant]] = {}
    pages: list[dict[str, Constant]] = []
    for trains, (low, schedule) in zip((True, False), passes, strict=True):
        of_pass: dict[str, Constant] = {}
        for name in dict.fromkeys(use.name for use in page_uses(low, schedule)):
            at = on.address(on.unit_of(low, name, trains))
            c_name = names[name] + _suffix(graph, low, name, trains and on.stride + on.swap > 0)
            same = known.setdefault(at, {})
            if c_name not in same:
                size = low.problem.tensors[low.index[name]].size_bytes
                same[c_name] = Constant(f"PAGE_{_free(c_name, names, taken).upper()}", at, size, name)
            of_pass[name] = same[c_name]
        for name, unit in on.frozen.items():
            size = graph.tensors[name].size_bytes
            of_pass[name] = Constant(f"PAGE_{names[name].upper()}", on.address(unit), size, name)
        pages.append(of_pass)
    return Layout(tuple(rows), on, tuple(pages))


def _suffix(graph: Graph, lowered: Lowered, name: str, moves: bool) -> str:
    """What sets the pages of a parameter's versions apart, which go by the parameter's name in C."""
    tensor = lowered.problem.tensors[lowered.index[name]]
    if tensor.start is Place.STORAGE:
        return "_before" if moves and name in lowered.home else ""
    version = graph.tensors.get(name)
    is_new = version is not None and version.updates is not None
    return "_new" if is_new and tensor.end is not Place.STORAGE else ""


def _free(c_name: str, names: Mapping[str, str], taken: set[str]) -> str:
    return c_name if c_name in names.values() else free_name(c_name, taken)
