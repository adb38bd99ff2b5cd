"""Where everything lies: arena offsets as named constants, addresses on storage, and who is in flash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from poet_solver.problem import Place, Problem
from poet_solver.schedule import Compute, PageIn, PageOut, Schedule
from poet_solver.schedule import Home as HomeStep

from poet_codegen.emit.names import c_names
from poet_codegen.graph import Graph, Kind
from poet_codegen.lower import PAGE_TRAILER_BYTES, Home, Lowered, static_kind

_STATIC_NAMES = {
    Kind.INPUT: "poet_input",
    Kind.LABEL: "poet_label",
    Kind.OUTPUT: "poet_output",
    Kind.LOSS: "&poet_loss",
    Kind.LEARNING_RATE: "&poet_learning_rate",
}


@dataclass(frozen=True)
class Constant:
    """A named constant of the generated header."""

    name: str
    value: int
    size_bytes: int
    comment: str


@dataclass(frozen=True)
class ParamRow:
    """A parameter as the firmware's table and the manifest list it."""

    index: int
    name: str
    c_name: str
    shape: tuple[int, ...]
    elements: int
    size_bytes: int
    home: str
    at: int


@dataclass(frozen=True)
class Layout:
    """Addresses of one build; `PassLayout` has those of one schedule."""

    params: tuple[ParamRow, ...]
    storage_bytes: int
    pages: Mapping[str, Constant]
    """Root tensor -> its page on storage."""


class PassLayout:
    """Names the arena offsets that one schedule uses, and turns tensors into C arguments."""

    def __init__(
        self, prefix: str, graph: Graph, lowered: Lowered, schedule: Schedule, names: Mapping[str, str]
    ) -> None:
        self._graph = graph
        self._lowered = lowered
        self._static = static_kind(graph, lowered.root)
        self._names = names
        self._c_name = {position: names[name] for name, position in lowered.index.items()}
        self._constants: dict[tuple[str, int], Constant] = {}
        root_names = {position: name for name, position in lowered.index.items()}
        for tensor, offset in _instances(lowered.problem, schedule):
            c_name = self._c_name[tensor]
            if (c_name, offset) in self._constants:
                continue
            stem = f"{prefix}_{c_name.upper()}"
            places = sum(1 for known, _ in self._constants if known == c_name)
            self._constants[c_name, offset] = Constant(
                f"{stem}_{places + 1}" if places else stem,
                offset,
                lowered.problem.tensors[tensor].size_bytes,
                root_names[tensor],
            )

    def constants(self) -> tuple[Constant, ...]:
        """The offsets, lowest first."""
        return tuple(sorted(self._constants.values(), key=lambda c: (c.value, c.name)))

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
            return _STATIC_NAMES[self._static[root]]
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


def build_layout(graph: Graph, schedules: Sequence[tuple[Lowered, Schedule]]) -> Layout:
    """Place parameters and pages. `schedules` are those of all passes, training first, which decides where parameters
    are; scratch pages of different passes share bytes.

    Storage holds the parameters whose home it is first, then pages that only live within a pass.
    """
    names = tensor_names(graph)
    lowered, train = schedules[0]
    ram_homes = lowered.ram_homes(train)
    rows: list[ParamRow] = []
    pages: dict[str, Constant] = {}
    top = 0
    for index, param in enumerate(graph.params()):
        home = lowered.home.get(param.name)
        at = ram_homes.get(param.name, 0)
        if home is Home.STORAGE:
            at = top
            pages[param.name] = _page(names[param.name], at, param.size_bytes, param.name)
            top += param.size_bytes + PAGE_TRAILER_BYTES
        rows.append(
            ParamRow(
                index,
                param.name,
                names[param.name],
                param.shape,
                param.elements,
                param.size_bytes,
                home.value if home else "rom",
                at,
            )
        )
    highest = top
    for low, schedule in schedules:
        at = top
        for name, tensor in sorted(low.index.items(), key=lambda item: item[1]):
            paged = any(isinstance(step, PageIn | PageOut) and step.tensor == tensor for step in schedule.steps)
            owner = graph.tensors[name].updates
            if paged and owner is not None and owner in pages and low.problem.tensors[tensor].end is Place.STORAGE:
                pages[name] = pages[owner]
            elif paged and name not in pages:
                size = low.problem.tensors[tensor].size_bytes
                # An updated parameter has its parameter's name in C, but a page of its own.
                suffix = "_new" if owner is not None else ""
                pages[name] = _page(names[name] + suffix, at, size, name)
                at += size + PAGE_TRAILER_BYTES
        highest = max(highest, at)
    return Layout(tuple(rows), highest, pages)


def _page(c_name: str, at: int, size_bytes: int, name: str) -> Constant:
    return Constant(f"PAGE_{c_name.upper()}", at, size_bytes, name)
