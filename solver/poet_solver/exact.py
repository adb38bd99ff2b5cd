"""Exact optimum of small problems by A* over (ops done, RAM set, stored set), for checking the model.

It uses the meaning of a schedule directly - any step at any time - and none of the slots, gaps or families of the
solver. Only the order of first computations is fixed. What is surely still to come, every op that never ran in its
cheapest mode, guides the search and ends branches that cannot meet the deadline. Exponential: for problems of up to
about twelve tensors.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from poet_solver.problem import Mode, Place, Problem

_State: TypeAlias = tuple[int, int, int, int]
"""(ops done, tensors in RAM, tensors on storage, dead versions); the last three are bit sets."""


def exact_optimum(problem: Problem, max_states: int = 400_000) -> float | None:
    """Least total energy in joules (idle power included), or None when no schedule is feasible.

    Addresses are not looked at: live bytes alone must fit. Raises OverflowError beyond `max_states` states.
    """
    search = _Exact(problem)
    start = search.start()
    deadline = math.inf if problem.deadline_s is None else problem.deadline_s * (1 + 1e-12)
    wear_budget = math.inf if problem.wear_budget_bytes is None else problem.wear_budget_bytes * (1 + 1e-12)
    single = math.isinf(deadline) and math.isinf(wear_budget)
    heap: list[tuple[float, float, float, float, _State]] = []
    if search.live_bytes(start[1]) <= search.budget:
        heap.append((search.least_j[0], 0.0, 0.0, 0.0, start))
    settled: dict[_State, list[tuple[float, float]]] = {}
    while heap:
        _, energy, seconds, wear, state = heapq.heappop(heap)
        labels = settled.setdefault(state, [])
        if labels and (single or any(t <= seconds and w <= wear for t, w in labels)):
            continue
        labels.append((seconds, wear))
        if len(settled) > max_states:
            raise OverflowError(f"more than {max_states} states")
        if search.is_final(state):
            return energy
        for e, t, w, following in search.moves(state):
            done = following[0]
            in_time = seconds + t + search.least_s[done] <= deadline and wear + w <= wear_budget
            if in_time and (not single or following not in settled):
                total = energy + e + search.least_j[done]
                heapq.heappush(heap, (total, energy + e, seconds + t, wear + w, following))
    return None


@dataclass(frozen=True)
class _Run:
    """One op in one mode; tensors as bit sets."""

    resident: int
    streamed: int
    outputs: int
    to_ram: int
    to_storage: int
    overwritten: int
    slots_taken: int
    """Older versions whose storage slot an output takes."""
    killed: int
    """Versions that can never be read again."""
    new_bytes: int
    """Outputs to RAM that take over no input's bytes, and workspace."""
    energy_j: float
    """Idle power included."""
    time_s: float
    wear_bytes: float


class _Exact:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.sizes = [t.size_bytes for t in problem.tensors]
        self.live: dict[int, int] = {}
        self.budget = math.inf if problem.ram_bytes is None else problem.ram_bytes
        self.end_ram = self.bits(v for v, t in enumerate(problem.tensors) if t.end is Place.RAM)
        self.end_storage = self.bits(v for v, t in enumerate(problem.tensors) if t.end is Place.STORAGE)
        self.least_j, self.least_s = [0.0], [0.0]
        """Joules and seconds that the ops that never ran take at least, by number of ops done."""
        for op in reversed(problem.ops):
            idle = problem.idle_power_w
            self.least_j.insert(0, self.least_j[0] + min(m.energy_j + idle * m.time_s for m in op.modes))
            self.least_s.insert(0, self.least_s[0] + min(m.time_s for m in op.modes))
        self.same_slot: list[int] = [0] * len(self.sizes)
        for v, t in enumerate(problem.tensors):
            if t.home_of is not None:
                self.same_slot[v] |= 1 << t.home_of
                self.same_slot[t.home_of] |= 1 << v
        self.runs = [[self.run_of(k, mode) for mode in op.modes] for k, op in enumerate(problem.ops)]

    @staticmethod
    def bits(tensors: Iterator[int]) -> int:
        return sum(1 << v for v in tensors)

    def start(self) -> _State:
        tensors = self.problem.tensors
        ram = self.bits(v for v, t in enumerate(tensors) if t.start is Place.RAM)
        stored = self.bits(v for v, t in enumerate(tensors) if t.start is Place.STORAGE)
        return (0, ram, stored, 0)

    def is_final(self, state: _State) -> bool:
        done, ram, stored, _ = state
        return done == len(self.problem.ops) and not self.end_ram & ~ram and not self.end_storage & ~stored

    def live_bytes(self, ram: int) -> int:
        if ram not in self.live:
            self.live[ram] = sum(size for v, size in enumerate(self.sizes) if ram >> v & 1)
        return self.live[ram]

    def moves(self, state: _State) -> Iterator[tuple[float, float, float, _State]]:
        done, ram, stored, dead = state
        idle = self.problem.idle_power_w
        live = self.live_bytes(ram)
        for v, tensor in enumerate(self.problem.tensors):
            bit = 1 << v
            if ram & bit:
                yield 0.0, 0.0, 0.0, (done, ram & ~bit, stored, dead)
                cost = tensor.page_out
                if cost is not None and not stored & bit:
                    after = (done, ram, stored & ~self.same_slot[v] | bit, dead)
                    yield cost.energy_j + idle * cost.time_s, cost.time_s, cost.wear_bytes, after
            elif stored & bit and not dead & bit and tensor.page_in is not None:
                cost = tensor.page_in
                if live + self.sizes[v] <= self.budget:
                    after = (done, ram | bit, stored, dead)
                    yield cost.energy_j + idle * cost.time_s, cost.time_s, cost.wear_bytes, after
        for k in range(min(done + 1, len(self.runs))):
            if k < done and not self.problem.ops[k].repeatable:
                continue
            for run in self.runs[k]:
                if run.resident & ~ram or run.streamed & (~stored | dead) or run.outputs & (ram | dead):
                    continue
                if live + run.new_bytes > self.budget:
                    continue
                following = (
                    max(done, k + 1),
                    (ram & ~run.overwritten) | run.to_ram,
                    stored & ~run.slots_taken | run.to_storage,
                    dead | run.killed,
                )
                yield run.energy_j, run.time_s, run.wear_bytes, following

    def run_of(self, k: int, mode: Mode) -> _Run:
        op = self.problem.ops[k]
        taken_over = {new for _, new in mode.in_place}
        overwritten = self.bits(old for old, _ in mode.in_place)
        to_ram = [v for v in op.outputs if v not in mode.outputs_to_storage]
        taken = 0
        for v in mode.outputs_to_storage:
            taken |= self.same_slot[v]
        return _Run(
            resident=self.bits(iter(mode.resident)),
            streamed=self.bits(iter(mode.streamed)),
            outputs=self.bits(iter(op.outputs)),
            to_ram=self.bits(iter(to_ram)),
            to_storage=self.bits(iter(mode.outputs_to_storage)),
            overwritten=overwritten,
            slots_taken=taken,
            killed=0 if op.repeatable else overwritten,
            new_bytes=mode.workspace_bytes + sum(self.sizes[v] for v in to_ram if v not in taken_over),
            energy_j=mode.energy_j + self.problem.idle_power_w * mode.time_s,
            time_s=mode.time_s,
            wear_bytes=mode.wear_bytes,
        )
