"""The simulated arena with addresses: room means a hole that is long enough, so every plan of it can be packed.

Tensors with a home in RAM, and their new versions, always lie at home. Room for anything else is the cheapest window:
the sum of the scores of what lies in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from poet_solver.baselines.greedy import Arena, GiveUp
from poet_solver.net import Net
from poet_solver.problem import Place


def homes_of(net: Net, key: Sequence[float]) -> dict[int, int]:
    """Address of every tensor that starts or ends in RAM: the problem's, else side by side by ascending `key`."""
    homes: dict[int, int] = {}
    top = max((t.home_offset + t.size_bytes for t in net.problem.tensors if t.home_offset is not None), default=0)
    for v in sorted(range(len(net.size)), key=lambda v: (key[v], v)):
        tensor = net.problem.tensors[v]
        if tensor.home_offset is not None:
            homes[v] = tensor.home_offset
        elif tensor.start is Place.RAM:
            homes[v] = top
            top += tensor.size_bytes
    for v, tensor in enumerate(net.problem.tensors):
        if tensor.end is Place.RAM and v not in homes and tensor.home_like is not None:
            homes[v] = homes[tensor.home_like]
    return homes


@dataclass
class AddressArena(Arena):
    """An `Arena` whose tensors have addresses; `victim` is not asked."""

    score: Callable[[Arena, int], tuple[float, bool] | None] = lambda _arena, _v: None
    """Policy: what throwing a tensor out costs, and whether to write it to storage first; None if it must stay."""
    homes: dict[int, int] = field(default_factory=dict)
    at: dict[int, int] = field(default_factory=dict)
    """Address of every held tensor."""
    room: int = 0
    """Where the last call of `make_room` made room."""

    def compute(self, k: int, pinned: set[int]) -> None:
        """Run op `k`; its outputs are put one by one, its workspace last."""
        mode = self.net.modes[k][0]
        if k == 0:
            self.at.update({v: self.homes[v] for v in mode.to_ram})
        super().compute(k, pinned)
        for old, new in mode.in_place:
            self.at[new] = self.at[old]

    def make_room_for(self, v: int, pinned: set[int]) -> None:
        """Room for one tensor, at home if it has one."""
        self.window(self.net.size[v], pinned, self.homes.get(v))
        self.at[v] = self.room

    def make_room_to_run(self, k: int, pinned: set[int]) -> None:
        """Room for the new outputs of op `k`, then for its workspace."""
        if k == 0:
            return
        mode = self.net.modes[k][0]
        taken_over = {new for _, new in mode.in_place}
        new = [v for v in mode.to_ram if v not in taken_over]
        placed: set[int] = set()
        for v in new:
            self.make_room_for(v, pinned | placed)
            self.held.add(v)
            placed.add(v)
        workspace = mode.new_bytes - sum(self.net.size[v] for v in new)
        if workspace:
            self.window(workspace, pinned | placed, None)
        self.held -= placed

    def window(self, size: int, pinned: set[int], home: int | None) -> None:
        """Throw out what lies in the cheapest window of `size` bytes (or in the one at `home`)."""
        blocks = sorted((self.at[v], self.at[v] + self.net.size[v], v) for v in self.held if self.net.size[v])
        starts = [0, *(end for _, end, _ in blocks)] if home is None else [home]
        scores: dict[int, tuple[float, bool] | None] = {}
        best: tuple[float, int, list[int]] | None = None
        for start in starts:
            if start + size > self.net.ram_bytes:
                continue
            inside = [v for low, high, v in blocks if low < start + size and start < high]
            cost = 0.0
            for v in inside:
                if v not in scores:
                    scores[v] = None if v in pinned else self.score(self, v)
                found = scores[v]
                cost += float("inf") if found is None else found[0]
            if cost < float("inf") and (best is None or (cost, start) < best[:2]):
                best = (cost, start, inside)
        if best is None:
            raise GiveUp("no window is long enough")
        self.room = best[1]
        for v in best[2]:
            found = scores[v]
            if found is not None and found[1]:
                self.stored.add(v)
            self.held.discard(v)
