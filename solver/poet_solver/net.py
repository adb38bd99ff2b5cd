"""The solver's own view of a Problem: two virtual ops close it, and every cost has idle power folded in.

Op 0 ("start") brings the tensors that are there at the start, op n+1 ("end") reads the tensors that must be in RAM at
the end, so that homes need no rules of their own. Op k of the problem is op k+1 here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from poet_solver.problem import PageCost, Place, Problem


@dataclass(frozen=True)
class NetMode:
    """One way to run an op."""

    resident: tuple[int, ...]
    streamed: tuple[int, ...]
    to_ram: tuple[int, ...]
    """Outputs written to RAM, the in-place ones included."""
    to_storage: tuple[int, ...]
    in_place: tuple[tuple[int, int], ...]
    """(old, new) pairs."""
    new_bytes: int
    """Workspace plus the outputs to RAM that are not in place."""
    resident_bytes: int
    time_s: float
    energy_j: float
    """Idle power included."""
    wear_bytes: float

    @property
    def footprint_bytes(self) -> int:
        """Bytes that must be live while the op runs in this mode."""
        return self.new_bytes + self.resident_bytes


@dataclass(frozen=True)
class NetPage:
    """Cost of one transfer, idle power included."""

    time_s: float
    energy_j: float
    wear_bytes: float


@dataclass(frozen=True)
class Net:
    """A Problem with start and end ops."""

    problem: Problem
    names: tuple[str, ...]
    modes: tuple[tuple[NetMode, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    operands: tuple[tuple[int, ...], ...]
    producer: tuple[int, ...]
    """Of every tensor; 0 when it is there at the start."""
    repeatable: tuple[bool, ...]
    backward: tuple[bool, ...]
    size: tuple[int, ...]
    page_in: tuple[NetPage | None, ...]
    page_out: tuple[NetPage | None, ...]
    starts_on_storage: tuple[bool, ...]
    ends_on_storage: tuple[bool, ...]
    next_version: tuple[int | None, ...]
    """Of every tensor: the one that takes over its storage slot."""
    ram_bytes: int
    """The budget; a number beyond every possible need when the problem has none."""

    @property
    def n_ops(self) -> int:
        """Number of ops, start and end included."""
        return len(self.modes)

    @property
    def end(self) -> int:
        """Index of the end op."""
        return len(self.modes) - 1

    def inputs_from(self, op: int) -> tuple[int, ...]:
        """Ops that make the operands of `op`, ascending, each once."""
        return tuple(sorted({self.producer[v] for v in self.operands[op]}))

    @cached_property
    def usable(self) -> tuple[tuple[NetMode, ...], ...]:
        """Of every op the modes that fit into the budget by themselves: no schedule has others. All where none fits."""
        fitting = (tuple(mode for mode in row if mode.footprint_bytes <= self.ram_bytes) for row in self.modes)
        return tuple(some or row for some, row in zip(fitting, self.modes, strict=True))

    @property
    def least_energy_j(self) -> float:
        """Of the first runs of all ops, each in its cheapest mode: every schedule takes that much."""
        return sum(min(mode.energy_j for mode in modes) for modes in self.usable)

    @cached_property
    def wanted_until(self) -> tuple[int, ...]:
        """For every tensor the last op before or at which it can still be wanted; -1 when nothing reads it."""
        latest = list(range(self.n_ops))
        wanted = [-1] * len(self.size)
        for k in range(self.n_ops - 1, -1, -1):
            if self.repeatable[k]:
                latest[k] = max([k, *(wanted[v] for v in self.outputs[k])])
            for v in self.operands[k]:
                wanted[v] = max(wanted[v], latest[k])
        return tuple(wanted)

    def sure_reads(self, op: int) -> set[int]:
        """Tensors that `op` reads in RAM whatever its mode."""
        return set.intersection(*(set(mode.resident) for mode in self.usable[op]))

    def is_stored_unpaged(self, v: int) -> bool:
        """`v` may be on storage without a page-out: from the start, or because a mode of its op writes it there."""
        return self.starts_on_storage[v] or any(v in mode.to_storage for mode in self.usable[self.producer[v]])

    def floor_bytes(self, op: int) -> int:
        """Fewest bytes that must be live while `op` runs, over its modes."""
        return min(mode.footprint_bytes for mode in self.modes[op])

    def largest_op(self) -> int:
        """The op with the largest such working set."""
        return max(range(self.n_ops), key=self.floor_bytes)


def build_net(problem: Problem, ram_bytes: int | None = None) -> Net:
    """Add start and end to `problem`; `ram_bytes` replaces its budget if given."""
    size = tuple(t.size_bytes for t in problem.tensors)
    at_start = [v for v, t in enumerate(problem.tensors) if t.start is not Place.NONE]
    start = NetMode(
        resident=(),
        streamed=(),
        to_ram=tuple(v for v in at_start if problem.tensors[v].start is Place.RAM),
        to_storage=tuple(v for v in at_start if problem.tensors[v].start is Place.STORAGE),
        in_place=(),
        new_bytes=sum(size[v] for v in at_start if problem.tensors[v].start is Place.RAM),
        resident_bytes=0,
        time_s=0.0,
        energy_j=0.0,
        wear_bytes=0.0,
    )
    kept = tuple(v for v, t in enumerate(problem.tensors) if t.end is Place.RAM)
    end = NetMode(kept, (), (), (), (), 0, sum(size[v] for v in kept), 0.0, 0.0, 0.0)
    modes: list[tuple[NetMode, ...]] = [(start,)]
    producer = [0] * len(size)
    for k, op in enumerate(problem.ops):
        row: list[NetMode] = []
        for mode in op.modes:
            taken_over = {new for _, new in mode.in_place}
            to_ram = tuple(v for v in op.outputs if v not in mode.outputs_to_storage)
            row.append(
                NetMode(
                    resident=mode.resident,
                    streamed=mode.streamed,
                    to_ram=to_ram,
                    to_storage=mode.outputs_to_storage,
                    in_place=mode.in_place,
                    new_bytes=mode.workspace_bytes + sum(size[v] for v in to_ram if v not in taken_over),
                    resident_bytes=sum(size[v] for v in mode.resident),
                    time_s=mode.time_s,
                    energy_j=mode.energy_j + problem.idle_power_w * mode.time_s,
                    wear_bytes=mode.wear_bytes,
                )
            )
        modes.append(tuple(row))
        for v in op.outputs:
            producer[v] = k + 1
    modes.append((end,))
    next_version: list[int | None] = [None] * len(size)
    for v, tensor in enumerate(problem.tensors):
        if tensor.home_of is not None:
            next_version[tensor.home_of] = v
    everything = sum(size) + sum(m.new_bytes for row in modes for m in row)
    budget = problem.ram_bytes if ram_bytes is None else ram_bytes
    return Net(
        problem=problem,
        names=("start", *(op.name for op in problem.ops), "end"),
        modes=tuple(modes),
        outputs=(tuple(at_start), *(op.outputs for op in problem.ops), ()),
        operands=((), *(op.operands() for op in problem.ops), kept),
        producer=tuple(producer),
        repeatable=(False, *(op.repeatable for op in problem.ops), False),
        backward=(False, *(op.backward for op in problem.ops), False),
        size=size,
        page_in=tuple(_page(t.page_in, problem.idle_power_w) for t in problem.tensors),
        page_out=tuple(_page(t.page_out, problem.idle_power_w) for t in problem.tensors),
        starts_on_storage=tuple(t.start is Place.STORAGE for t in problem.tensors),
        ends_on_storage=tuple(t.end is Place.STORAGE for t in problem.tensors),
        next_version=tuple(next_version),
        ram_bytes=everything if budget is None else min(budget, everything),
    )


def _page(cost: PageCost | None, idle_power_w: float) -> NetPage | None:
    if cost is None:
        return None
    return NetPage(cost.time_s, cost.energy_j + idle_power_w * cost.time_s, cost.wear_bytes)
