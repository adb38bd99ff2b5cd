"""Anchor cuts (DESIGN §5): every read has a source.

**Theorem.** Let tensor v be read resident at the mandatory slot s, W any set of tensors that contains v, t0 <= s a
stage boundary, and call a run of an op an entry when it makes a tensor of W in RAM and reads no resident tensor of W.
If every op that can enter had its first run before t0, then

    sum_{w in W} H_w(t0)  +  sum_{w in W, t0<=t<=s} P_w(t)  +  sum_{entries u, t0<=t<=s} R_u(t)  >=  1

H_w(t0): w is held over the start of stage t0. Proof: trace the instance read at s back. It crosses the start of t0
(H), or began by a page-in (P), or was made by an entry, whose first run is over, so again (R), or was made from a
resident tensor of W: repeat there. Slots fall strictly, so it ends. An entry first run inside [t0, s] would count as
the constant 1.

What is only on storage because it was paged out may have O_w, the page-out, in place of its P_w(t): one page-in of it
is reason enough for O_w = 1, while an LP would split it among stages and pay the page-out of one part.

Sets W are paths v, an input of v's op, an input of that one's op, ...: as good as exact minimum cuts were in trials.
The cut speaks of stages only, so it serves the slot model and the stage relaxation alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from poet_solver.net import Net

Floats = NDArray[np.float64]

_DEPTH = 9
_PER_READ = 12
"""Sets W that one read is given cuts for in one round."""
_STARTS = 30
"""Stages t0 that one set is given cuts for in one round: with fewer, the LP moves what it does to another stage."""
_MOST_PATHS = 140
"""Paths tried for one tensor."""


@dataclass(frozen=True)
class Anchor:
    """One cut: the tensors of W, the ops that enter it, from stage t0 to stage s."""

    tensors: tuple[int, ...]
    entries: tuple[tuple[int, int], ...]
    """(op, mode) pairs."""
    t0: int
    s: int
    stored: tuple[int, ...] = ()
    """Tensors of W whose page-out stands for their page-ins."""


@dataclass(frozen=True)
class StagePoint:
    """A (fractional) point summed over stages: rows are tensors or ops, columns stages."""

    held: Floats
    """[tensor, t]: held over the start of stage t."""
    paged: Floats
    """[tensor, t]: paged in within stage t."""
    rerun: dict[tuple[int, int], Floats]
    """(op, mode) -> recomputations within every stage."""
    out: Floats
    """[tensor]: paged out; infinity where it may be on storage without."""


@dataclass(frozen=True)
class Path:
    """A candidate W."""

    tensors: tuple[int, ...]
    entries: tuple[tuple[int, int], ...]
    earliest: int
    """First stage t0 that the theorem allows: after the first run of every entry."""


def paths_of(net: Net, v: int, stage: Sequence[int]) -> list[Path]:
    """Candidate sets W for reads of `v`, shortest first; `stage` of every op's first run."""
    out: list[Path] = []
    queue: list[tuple[int, ...]] = [(v,)]
    at = 0
    while at < len(queue) and len(out) < _MOST_PATHS:
        tensors = queue[at]
        at += 1
        inside = set(tensors)
        entries = tuple(
            (op, m)
            for op in sorted({net.producer[w] for w in tensors})
            for m, mode in enumerate(net.modes[op])
            if inside & set(mode.to_ram) and not inside & set(mode.resident)
        )
        out.append(Path(tensors, entries, max((stage[op] for op, _ in entries), default=0) + 1))
        if len(tensors) < _DEPTH:
            queue += [(*tensors, u) for u in net.operands[net.producer[tensors[-1]]] if u not in inside]
    return out


class Separator:
    """Finds violated cuts; remembers which it gave.

    `stage` of every op's first run: its own index, or a coarser, ascending numbering.
    """

    def __init__(self, net: Net, stage: Sequence[int]) -> None:
        self.net = net
        self.stage = stage
        self.given: set[Anchor] = set()
        self.paths: dict[int, list[Path]] = {}
        self.readers: dict[int, list[int]] = {}
        for s in range(net.n_ops):
            for v in net.sure_reads(s):
                if net.producer[v] < s - 1 and stage[net.producer[v]] < stage[s]:
                    reads = self.readers.setdefault(v, [])
                    if not reads or reads[-1] != stage[s]:
                        reads.append(stage[s])

    def violated(
        self, point: StagePoint, deadline: float = math.inf, most: int = 3000, tolerance: float = 1e-3
    ) -> list[Anchor]:
        """The most violated cuts of every read, each for many t0, at most `most` of them, the worst first.

        After `deadline` (monotonic seconds) no further tensor is looked at.
        """
        found: list[tuple[float, Anchor]] = []
        for v, reads in self.readers.items():
            if time.monotonic() > deadline:
                break
            first = self.stage[self.net.producer[v]] + 1
            if point.held[v, first : reads[-1] + 1].min() > 1 - tolerance:
                continue
            found += self._of_tensor(point, v, reads, tolerance)
        found.sort(key=lambda pair: pair[0])
        chosen = [anchor for _, anchor in found[:most]]
        self.given.update(chosen)
        return chosen

    def _of_tensor(self, point: StagePoint, v: int, reads: list[int], tolerance: float) -> list[tuple[float, Anchor]]:
        best: dict[int, list[list[tuple[float, Anchor]]]] = {}
        if v not in self.paths:
            self.paths[v] = paths_of(self.net, v, self.stage)
        for path in self.paths[v]:
            if path.earliest > reads[-1]:
                continue
            rows = list(path.tensors)
            held = point.held[rows].sum(axis=0)
            inside = np.zeros(len(held))
            split: list[tuple[int, Floats, Floats]] = []
            """(tensor, page-ins up to a stage, and before it) where the page-out is less than they are together."""
            for w in rows:
                if point.paged[w].sum() <= point.out[w] + tolerance:
                    inside = inside + point.paged[w]
                else:
                    pages = np.cumsum(point.paged[w])
                    split.append((w, pages, pages - point.paged[w]))
            for entry in path.entries:
                if entry in point.rerun:
                    inside = inside + point.rerun[entry]
            upto = np.cumsum(inside)
            start = held - upto + inside
            start[: path.earliest] = np.inf
            for s in reads:
                if s < path.earliest:
                    continue
                left = start[: s + 1] + upto[s]
                for w, pages, before in split:
                    left = left + np.minimum(pages[s] - before[: s + 1], point.out[w])
                short = np.nonzero(left < 1 - tolerance)[0]
                if not len(short):
                    continue
                spread = short[np.linspace(0, len(short) - 1, min(_STARTS, len(short))).astype(np.int64)]
                new: list[tuple[float, Anchor]] = []
                for t0 in sorted({int(np.argmin(left)), *spread.tolist()}):
                    stored = tuple(w for w, pages, before in split if pages[s] - before[t0] > point.out[w])
                    anchor = Anchor(path.tensors, path.entries, t0, s, stored)
                    if anchor not in self.given:
                        new.append((float(left[t0]), anchor))
                if new:
                    best.setdefault(s, []).append(sorted(new, key=lambda pair: pair[0]))
        found: list[tuple[float, Anchor]] = []
        for of_read in best.values():
            for new in sorted(of_read, key=lambda cuts: cuts[0][0])[:_PER_READ]:
                found += new
        return found
