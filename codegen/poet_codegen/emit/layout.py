"""Where everything lies: arena offsets as named constants, addresses on storage, and who is in flash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from poet_solver.problem import Place, Problem
from poet_solver.schedule import Compute, PageIn, PageOut, Schedule
from poet_solver.schedule import Home as HomeStep

from poet_codegen.emit.names import c_names, free_name
from poet_codegen.graph import Graph, Kind
from poet_codegen.lower import PAGE_TRAILER_BYTES, Home, Lowered, static_kind

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
    elements: int
    size_bytes: int
    is_state: bool
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


def build_layout(graph: Graph, schedules: Sequence[tuple[Lowered, Schedule]]) -> Layout:
    """Place parameters and pages. `schedules` are those of all passes, training first; it decides where parameters are.

    A tensor has one page in all passes, and no two tensors share a byte, except the versions of a parameter whose home
    is storage: the new one replaces the old one there.
    """
    names = tensor_names(graph)
    lowered, train = schedules[0]
    ram_homes = lowered.ram_homes(train)
    rows: list[ParamRow] = []
    taken = set(names.values())
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
                param.kind is Kind.STATE,
                home.value if home else "rom",
                at,
            )
        )
    for low, schedule in schedules:
        paged = {step.tensor for step in schedule.steps if isinstance(step, PageIn | PageOut)}
        chosen = (low.problem.ops[s.op].modes[s.mode] for s in schedule.steps if isinstance(s, Compute))
        paged |= {v for mode in chosen for v in (*mode.streamed, *mode.outputs_to_storage)}
        for name, tensor in sorted(low.index.items(), key=lambda item: item[1]):
            owner = graph.tensors[name].updates
            if tensor not in paged or name in pages:
                continue
            if owner is not None and low.problem.tensors[tensor].end is Place.STORAGE:
                pages[name] = pages[owner]
                continue
            # A parameter's new version goes by the parameter's name in C, but has a page of its own.
            c_name = names[name] if owner is None else free_name(f"{names[name]}_new", taken)
            size = low.problem.tensors[tensor].size_bytes
            pages[name] = _page(c_name, top, size, name)
            top += size + PAGE_TRAILER_BYTES
    _check_apart(pages.values())
    return Layout(tuple(rows), top, pages)


def _check_apart(pages: Iterable[Constant]) -> None:
    """Pages that overlap would swap tensors silently; replay cannot see addresses on storage, so this does."""
    end = 0
    for page in sorted(set(pages), key=lambda page: page.value):
        if page.value < end:
            raise AssertionError(f"the page of {page.comment} at {page.value} overlaps the one before it")
        end = page.value + page.size_bytes + PAGE_TRAILER_BYTES


def _page(c_name: str, at: int, size_bytes: int, name: str) -> Constant:
    return Constant(f"PAGE_{c_name.upper()}", at, size_bytes, name)
