"""Ending a search early from another thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ortools.sat.python import cp_model
from ortools.util.python.solve_interrupter import SolveInterrupter


class Interrupt:
    """Shared by searches and their caller: after `set` every search returns its best so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stop = False
        self._solvers: set[cp_model.CpSolver] = set()
        self.linear = SolveInterrupter()
        """For MathOpt solvers."""

    @property
    def stop(self) -> bool:
        """Whether searches are to end."""
        return self._stop

    def set(self) -> None:
        """End all running and future searches."""
        with self._lock:
            self._stop = True
            for solver in self._solvers:
                solver.stop_search()
        self.linear.interrupt()

    @contextmanager
    def watching(self, solver: cp_model.CpSolver) -> Iterator[None]:
        """While inside, `set` stops this solver."""
        with self._lock:
            self._solvers.add(solver)
            if self._stop:
                solver.parameters.max_time_in_seconds = 0.01
        try:
            yield
        finally:
            with self._lock:
                self._solvers.discard(solver)
