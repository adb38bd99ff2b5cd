"""A simulated arena that runs ops on demand, for the greedy baselines.

A policy is asked what to throw out when bytes are missing. Thrown-out tensors come back by page-in when they are on
storage, else by running their op again (which may in turn need its inputs back).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from poet_solver.net import Net
from poet_solver.plan import Action, Do, complete

_MOST_ACTIONS_PER_OP = 200
"""A run that needs more actions than this a graph op is given up: it thrashes."""


class GiveUp(Exception):
    """The heuristic found no schedule."""


@dataclass
class Arena:
    """State of a run."""

    net: Net
    victim: Callable[[Arena, set[int]], tuple[int, bool] | None]
    """Policy: (arena, pinned tensors) -> (tensor to throw out, write it to storage first), or None."""
    held: set[int] = field(default_factory=set)
    stored: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    actions: list[Action] = field(default_factory=list)
    done: int = 0
    """The op that is being run for the first time."""
    touched: dict[int, int] = field(default_factory=dict)
    """Tensor -> number of actions when it was last read or made."""
    uses: list[list[int]] = field(default_factory=list)
    """For every tensor the ops that read it in RAM, ascending."""
    streamed: frozenset[int] = frozenset()
    """Tensors that some op streams: they are written to storage when they are made."""

    def __post_init__(self) -> None:
        self.streamed = frozenset(v for row in self.net.modes for v in row[0].streamed)
        self.uses = [[] for _ in self.net.size]
        for k in range(self.net.n_ops):
            for v in self.net.modes[k][0].resident:
                self.uses[v].append(k)

    @property
    def live_bytes(self) -> int:
        """Bytes held."""
        return sum(map(self.net.size.__getitem__, self.held))

    def next_use(self, v: int) -> float:
        """The next op, in order, that reads `v` for its first time; infinity when none does."""
        uses = self.uses[v]
        at = bisect_left(uses, self.done)
        return uses[at] if at < len(uses) else math.inf

    def run(self) -> tuple[Action, ...]:
        """Run every op in order. Raises GiveUp."""
        for k in range(self.net.n_ops):
            self.done = k
            self.compute(k, set())
            for v in [v for v in self.held if self.next_use_after(v, k) == math.inf]:
                self.held.discard(v)
        return complete(self.net, tuple(self.actions))

    def next_use_after(self, v: int, k: int) -> float:
        """The next op after `k` that reads `v`; infinity when none does."""
        uses = self.uses[v]
        at = bisect_left(uses, k + 1)
        return uses[at] if at < len(uses) else math.inf

    def compute(self, k: int, pinned: set[int]) -> None:
        """Run op `k` in its first mode, after bringing its operands back."""
        if len(self.actions) > _MOST_ACTIONS_PER_OP * self.net.n_ops:
            raise GiveUp("the heuristic keeps recomputing")
        mode = self.net.modes[k][0]
        pinned = pinned | set(mode.resident)
        for v in sorted(mode.resident, key=lambda v: (v in self.held, -self.net.size[v])):
            self.bring(v, pinned)
        self.make_room_to_run(k, pinned)
        self.actions.append((Do.COMPUTE, k, 0))
        overwritten = {old for old, _ in mode.in_place}
        self.held -= overwritten
        if not self.net.repeatable[k]:
            self.dead |= overwritten
        self.held.update(mode.to_ram)
        self.stored.update(mode.to_storage, self.streamed.intersection(mode.to_ram))
        self.touch((*mode.resident, *mode.to_ram))

    def bring(self, v: int, pinned: set[int]) -> None:
        """Have `v` in RAM."""
        if v in self.held:
            return
        if v in self.dead:
            raise GiveUp("a tensor that was updated in place is needed again")
        if v in self.stored:
            self.make_room_for(v, pinned)
            self.actions.append((Do.PAGE_IN, v, 0))
            self.held.add(v)
            self.touch((v,))
            return
        producer = self.net.producer[v]
        if not self.net.repeatable[producer]:
            raise GiveUp("a tensor that cannot be recomputed was thrown out")
        self.compute(producer, pinned)

    def make_room_for(self, v: int, pinned: set[int]) -> None:
        """Room for one tensor."""
        self.make_room(self.net.size[v], pinned)

    def make_room_to_run(self, k: int, pinned: set[int]) -> None:
        """Room for the new outputs and the workspace of op `k`."""
        self.make_room(self.net.modes[k][0].new_bytes, pinned)

    def make_room(self, size: int, pinned: set[int]) -> None:
        """Throw tensors out until `size` more bytes fit."""
        while self.live_bytes + size > self.net.ram_bytes:
            choice = self.victim(self, pinned)
            if choice is None:
                raise GiveUp("nothing is left to throw out")
            v, write = choice
            if write:
                self.stored.add(v)
            self.held.discard(v)

    def touch(self, tensors: Iterable[int]) -> None:
        """Note that the tensors were used now."""
        for v in tensors:
            self.touched[v] = len(self.actions)

    def can_page(self, v: int) -> bool:
        """`v` may be written to storage and read back."""
        return v in self.stored or (self.net.page_out[v] is not None and self.net.page_in[v] is not None)

    def can_recompute(self, v: int) -> bool:
        """`v` may be made again by its op, as far as the op itself is concerned."""
        return self.net.repeatable[self.net.producer[v]] and v not in self.dead
