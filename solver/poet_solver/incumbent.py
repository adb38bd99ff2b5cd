"""The best plan and bounds of a running solve, shared by its threads."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from poet_solver.interrupt import Interrupt
from poet_solver.net import Net
from poet_solver.pack import layout_of, pack, peak_bytes
from poet_solver.plan import Action, Do, Plan, actions_of_plan, complete, plan_of_actions

CLOSED_GAP = 1e-6
"""Relative gap at which a family counts as solved."""

_LEAST_ORDER_GAIN = 1e-5
"""Relative gain for which the given order of first computations is left."""

_PACK_TEST_S = 0.5

_MOST_IMPROVEMENTS = 30


@dataclass(frozen=True)
class Progress:
    """News from a running solve."""

    phase: str
    elapsed_s: float
    energy_j: float
    """Of the best schedule so far; infinity before the first."""
    bound_j: float
    """Best lower bound so far, over every schedule in the given order of first computations."""
    other_bounds: Mapping[str, float] = field(default_factory=dict)
    """Family, in words -> best lower bound on it, where narrower families are worked on too."""

    @property
    def gap(self) -> float:
        """Relative distance of the two."""
        if math.isinf(self.energy_j):
            return 1.0
        return max(0.0, self.energy_j - self.bound_j) / self.energy_j if self.energy_j else 0.0


@dataclass
class Search:
    """Incumbent and bounds; every method may be called from any thread."""

    net: Net
    deadline: float
    """Monotonic seconds."""
    interrupt: Interrupt
    progress: Callable[[Progress], None] | None = None
    started: float = field(default_factory=time.monotonic)
    plan: Plan | None = None
    actions: tuple[Action, ...] = ()
    energy_j: float = math.inf
    bounds: dict[str, float] = field(default_factory=dict)
    """Family, in words -> lower bound in joules on its schedules."""
    widest: str = ""
    """The family whose bound is reported first; it contains all others."""
    reported: set[str] = field(default_factory=set)
    """Other families whose bounds are worth reporting."""
    phase: str = "start"
    test_packing: bool = False
    """Keep the best plan that can be given addresses too: homes in RAM leave holes that not every plan can fill."""
    improvements: list[tuple[Action, ...]] = field(default_factory=list)
    """The last plans that were the best, the best one at the end: where it fits no addresses, another may."""
    on_better: Callable[[tuple[Action, ...]], object] | None = None
    """Told of every better plan."""
    prefer_packed: bool = False
    """`offer_actions` answers whether the plan is the best with addresses, instead of the best without."""
    packed_actions: tuple[Action, ...] = ()
    packed_energy_j: float = math.inf
    fixed_order_j: float = math.inf
    """Energy of the best plan seen in the given order of first computations; infinity while that is the best of all."""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def arena_bytes(self) -> int:
        """Budget for addresses: the problem's own, even where the search runs with a lower one."""
        ram = self.net.problem.ram_bytes
        return self.net.ram_bytes if ram is None else ram

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, 0 after an interrupt."""
        return 0.0 if self.interrupt.stop else self.deadline - time.monotonic()

    @property
    def bound_j(self) -> float:
        """Bound of the widest family."""
        return self.bounds.get(self.widest, 0.0)

    def bound_of(self, family: str) -> float:
        """Best bound on a family: its own or that of the widest, which contains it."""
        return max(self.bounds.get(family, 0.0), self.bound_j)

    def is_closed(self, family: str) -> bool:
        """No schedule of the family is better than the incumbent by more than a rounding error."""
        return math.isfinite(self.energy_j) and self.energy_j - self.bound_of(family) <= CLOSED_GAP * self.energy_j

    def offer(self, plan: Plan) -> bool:
        """Take the plan if it is legal and better."""
        return self.offer_actions(complete(self.net, actions_of_plan(plan)))

    def offer_actions(self, actions: tuple[Action, ...]) -> bool:
        """Take a complete action list if it is legal and better."""
        energy, _, _ = costs_of(self.net, actions)
        with self._lock:
            if self.breaks_budget(actions):
                return False
            if self.energy_j <= energy < self.fixed_order_j < math.inf and runs_in_order(actions):
                fits = peak_bytes(layout_of(self.net, actions).rectangles) <= self.net.ram_bytes
                self.fixed_order_j = energy if fits else self.fixed_order_j
            if energy >= max(self.energy_j, self.packed_energy_j if self.test_packing else 0.0):
                return False
            rectangles = layout_of(self.net, actions).rectangles
            if peak_bytes(rectangles) > self.net.ram_bytes:
                return False
            is_packed = (
                self.test_packing
                and energy < self.packed_energy_j
                and pack(rectangles, self.arena_bytes, _PACK_TEST_S) is not None
            )
            if is_packed:
                self.packed_actions, self.packed_energy_j = actions, energy
            plan = plan_of_actions(self.net, actions)
            is_reordered = plan is None and not runs_in_order(actions)
            if energy >= self.energy_j * (1 - _LEAST_ORDER_GAIN if is_reordered else 1):
                return is_packed
            if not is_reordered:
                self.fixed_order_j = math.inf
            elif math.isinf(self.fixed_order_j):
                self.fixed_order_j = self.energy_j
            self.actions, self.energy_j, self.plan = actions, energy, plan
            self.improvements = [*self.improvements[1 - _MOST_IMPROVEMENTS :], actions]
            self.tell()
            if self.on_better is not None:
                self.on_better(actions)
            return is_packed if self.prefer_packed else True

    def pack_improvements(self, deadline: float) -> None:
        """Keep the best earlier plan that can be given addresses; at `deadline` (monotonic seconds) one more is tried.

        The best plan itself is left out: the caller tried it.
        """
        for actions in reversed(self.improvements[:-1]):
            energy, _, _ = costs_of(self.net, actions)
            if energy >= self.packed_energy_j:
                return
            if pack(layout_of(self.net, actions).rectangles, self.arena_bytes, _PACK_TEST_S) is not None:
                self.packed_actions, self.packed_energy_j = actions, energy
                return
            if time.monotonic() > deadline:
                return

    def breaks_budget(self, actions: tuple[Action, ...]) -> bool:
        """The actions take longer than the deadline, or wear more than their budget."""
        _, seconds, wear = costs_of(self.net, actions)
        problem = self.net.problem
        return (problem.deadline_s is not None and seconds > problem.deadline_s * (1 + 1e-9)) or (
            problem.wear_budget_bytes is not None and wear > problem.wear_budget_bytes * (1 + 1e-9)
        )

    def raise_bound(self, family: str, bound_j: float) -> None:
        """Take a better lower bound."""
        with self._lock:
            if bound_j > self.bounds.get(family, 0.0):
                self.bounds[family] = bound_j
                self.tell()

    def enter(self, phase: str) -> None:
        """Start a phase."""
        with self._lock:
            self.phase = phase
            self.tell()

    def tell(self) -> None:
        """Report progress."""
        if self.progress is not None:
            elapsed = time.monotonic() - self.started
            bound = min(self.bound_j, self.energy_j)
            others = {family: min(self.bound_of(family), self.energy_j) for family in list(self.reported)}
            self.progress(Progress(self.phase, elapsed, self.energy_j, bound, others))


def runs_in_order(actions: tuple[Action, ...]) -> bool:
    """First computations stand in the given order."""
    highest = -1
    for do, what, _ in actions:
        if do is Do.COMPUTE:
            if what > highest + 1:
                return False
            highest = max(highest, what)
    return True


def costs_of(net: Net, actions: tuple[Action, ...]) -> tuple[float, float, float]:
    """Energy in joules (idle power included), time in seconds, wear in bytes."""
    energy = seconds = wear = 0.0
    for do, what, m in actions:
        if do is Do.FREE:
            continue
        cost = net.modes[what][m] if do is Do.COMPUTE else (net.page_in if do is Do.PAGE_IN else net.page_out)[what]
        assert cost is not None
        energy += cost.energy_j
        seconds += cost.time_s
        wear += cost.wear_bytes
    return energy, seconds, wear
