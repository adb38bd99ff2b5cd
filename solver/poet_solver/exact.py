"""Exact optimum of small problems by Dijkstra over (ops done, RAM set, stored set), for checking the model.

It uses the meaning of a schedule directly - any step at any time - and none of the slots, gaps or families of the
solver. Only the order of first computations is fixed. Exponential: for problems of up to about ten tensors.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
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
    heap: list[tuple[float, float, float, _State]] = []
    if search.live_bytes(start[1]) <= search.budget:
        heap.append((0.0, 0.0, 0.0, start))
    settled: dict[_State, list[tuple[float, float]]] = {}
    while heap:
        energy, seconds, wear, state = heapq.heappop(heap)
        labels = settled.setdefault(state, [])
        if labels and (single or any(t <= seconds and w <= wear for t, w in labels)):
            continue
        labels.append((seconds, wear))
        if len(settled) > max_states:
            raise OverflowError(f"more than {max_states} states")
        if search.is_final(state):
            return energy
        for e, t, w, following in search.moves(state):
            if seconds + t <= deadline and wear + w <= wear_budget and (not single or following not in settled):
                heapq.heappush(heap, (energy + e, seconds + t, wear + w, following))
    return None


class _Exact:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.sizes = [t.size_bytes for t in problem.tensors]
        self.budget = math.inf if problem.ram_bytes is None else problem.ram_bytes
        self.end_ram = self.bits(v for v, t in enumerate(problem.tensors) if t.end is Place.RAM)
        self.end_storage = self.bits(v for v, t in enumerate(problem.tensors) if t.end is Place.STORAGE)
        self.same_slot: list[int] = [0] * len(self.sizes)
        for v, t in enumerate(problem.tensors):
            if t.home_of is not None:
                self.same_slot[v] |= 1 << t.home_of
                self.same_slot[t.home_of] |= 1 << v

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
        return sum(size for v, size in enumerate(self.sizes) if ram >> v & 1)

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
        for k, op in enumerate(self.problem.ops[: done + 1]):
            if k < done and not op.repeatable:
                continue
            for mode in op.modes:
                following = self.run(state, live, k, mode)
                if following is not None:
                    yield mode.energy_j + idle * mode.time_s, mode.time_s, mode.wear_bytes, following

    def run(self, state: _State, live: int, k: int, mode: Mode) -> _State | None:
        done, ram, stored, dead = state
        op = self.problem.ops[k]
        resident = self.bits(iter(mode.resident))
        streamed = self.bits(iter(mode.streamed))
        outputs = self.bits(iter(op.outputs))
        to_storage = self.bits(iter(mode.outputs_to_storage))
        overwritten = self.bits(old for old, _ in mode.in_place)
        taken_over = self.bits(new for _, new in mode.in_place)
        if resident & ~ram or streamed & ~stored or streamed & dead or outputs & (ram | dead):
            return None
        new = self.live_bytes(outputs & ~to_storage & ~taken_over)
        if live + new + mode.workspace_bytes > self.budget:
            return None
        for v in mode.outputs_to_storage:
            stored &= ~self.same_slot[v]
        return (
            max(done, k + 1),
            (ram & ~overwritten) | (outputs & ~to_storage),
            stored | to_storage,
            dead | (0 if op.repeatable else overwritten),
        )
