"""The slot model seen by stages: what anchor cuts speak of, and how to write them in the model's variables."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from poet_solver.cuts import Anchor, StagePoint
from poet_solver.model import INF, ONE, Model, Row
from poet_solver.slots import MANDATORY

Floats = NDArray[np.float64]


class StageView:
    """Variables of a slot model by stage."""

    def __init__(self, model: Model) -> None:
        self.model = model
        n = model.net.n_ops
        stage = [key[0] for key in model.keys]
        first_slot = [bisect_left(stage, t) for t in range(n)]
        count = len(model.net.size)
        self.held = np.full((count, n), -1, np.int64)
        """[tensor, t] -> variable of the gap over the start of stage t, or -1."""
        self.pages: dict[tuple[int, int], list[int]] = {}
        self.out = {v: var for v, var in model.page_out.items() if not model.net.is_stored_unpaged(v)}
        """Tensors that are on storage only if they were paged out -> variable."""
        self.reruns: dict[tuple[int, int], dict[int, list[int]]] = {}
        """(op, mode) -> stage -> variables."""
        for v, events in enumerate(model.events):
            slots = [slot for slot, _ in events]
            for t in range(model.net.producer[v] + 1, n):
                j = bisect_left(slots, first_slot[t])
                if 1 <= j < len(slots) and model.upper[model.hold[v] + j - 1]:
                    self.held[v, t] = model.hold[v] + j - 1
        for (v, j), var in model.page_in.items():
            if model.upper[var]:
                self.pages.setdefault((v, stage[model.events[v][j][0]]), []).append(var)
        for slot, (t, pass_, op) in enumerate(model.keys):
            for m, y in model.active(slot):
                if pass_ != MANDATORY and y != ONE:
                    self.reruns.setdefault((op, m), {}).setdefault(t, []).append(y)
        held = self.held >= 0
        self._held_at = np.nonzero(held)
        self._held_var = self.held[held]
        flat = [(v, t, var) for (v, t), many in self.pages.items() for var in many]
        self._page_table = np.array(flat, np.int64).reshape(-1, 3).T
        self._run_table = {
            entry: np.array([(t, y) for t, many in by.items() for y in many], np.int64).T
            for entry, by in self.reruns.items()
        }

    def point(self, x: Floats) -> StagePoint:
        """Sums of a point's values over stages."""
        shape = self.held.shape
        held = np.zeros(shape)
        held[self._held_at] = x[self._held_var]
        paged = np.zeros(shape)
        v, t, var = self._page_table
        np.add.at(paged, (v, t), x[var])
        rerun: dict[tuple[int, int], Floats] = {}
        for entry, (stages, variables) in self._run_table.items():
            rerun[entry] = np.bincount(stages, weights=x[variables], minlength=shape[1]).astype(np.float64)
        out = np.full(shape[0], INF)
        out[list(self.out)] = x[list(self.out.values())]
        return StagePoint(held, paged, rerun, out)

    def row(self, anchor: Anchor) -> Row:
        """The cut in the model's variables (terms fixed at 0 left out)."""
        index: list[int] = []
        for w in anchor.tensors:
            if self.held[w, anchor.t0] >= 0:
                index.append(int(self.held[w, anchor.t0]))
            if w in anchor.stored:
                index += [self.out[w]] if w in self.out else []
                continue
            for t in range(anchor.t0, anchor.s + 1):
                index += self.pages.get((w, t), ())
        for entry in anchor.entries:
            by_stage = self.reruns.get(entry, {})
            for t in range(anchor.t0, anchor.s + 1):
                index += by_stage.get(t, ())
        return Row(tuple(index), (1.0,) * len(index), 1.0, INF)
