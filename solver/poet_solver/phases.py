"""The phases of a search: greedy starts, CP-SAT with anchor cuts over growing families, bounds on all schedules."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from poet_solver.baselines.capuchin import capuchin_on_energy, capuchin_schedule
from poet_solver.baselines.dtr import dtr_schedule
from poet_solver.baselines.farthest import farthest_use_schedule
from poet_solver.baselines.greedy import GiveUp
from poet_solver.baselines.hybrid import Genes, evolve
from poet_solver.baselines.keep import keep_plan
from poet_solver.baselines.stream import has_choice, streamed_starts
from poet_solver.cover_bound import cover_bound_j
from poet_solver.cpsat import SearchLimits, search_model
from poet_solver.cuts import Anchor
from poet_solver.global_bound import FAMILY, bound_all_schedules
from poet_solver.grid_bound import bound_by_grids
from poet_solver.incumbent import Search
from poet_solver.lp import Relaxation, fix_by_reduced_cost, kernel_of, relax
from poet_solver.memory import memory_of, tighten
from poet_solver.model import Freedom, Model, Row, build_model
from poet_solver.net import Net
from poet_solver.order import Reordered, in_given_order, search_orders
from poet_solver.pack import layout_of, peak_bytes
from poet_solver.plan import Action, actions_of_plan, complete, plan_of_point, point_of_plan
from poet_solver.repeats import repeats_of, spread, with_fewer_blocks
from poet_solver.slots import LISTED, MANDATORY, PAGING_ONLY, WIDE, Family, count_slots

_SMALL_SLOTS = 4000
"""A wide family of so many slots is searched whole."""

_LARGE_SLOTS = 22_000
"""No model of more slots is built."""

_KERNEL_STEP, _KERNEL_GROWTH = 0.02, 2.5
"""Limits of kernels on reduced costs, as shares of the distance between incumbent and LP: 0, the step, then growing."""

_MODELS_BUILT = 3
"""A slot model is written for the LP and for CP-SAT as well."""

_BLOCK_VARIABLES = 40_000
"""Blocks times ops of the relaxation that bounds all schedules."""

_FEW_BLOCKS = 60
"""That relaxation is solved with so many blocks first."""

_ORDER_PATIENCE_S = 20.0
"""The search over orders ends when nothing better was found for so long."""


class Technique(StrEnum):
    """What a schedule may do to fit."""

    BOTH = "both"
    PAGE = "page"
    REMAT = "remat"
    KEEP = "keep"


def freedom_of(technique: Technique, family: Family) -> Freedom:
    """What `technique` allows within `family`."""
    match technique:
        case Technique.BOTH:
            return Freedom(family)
        case Technique.PAGE:
            return Freedom(PAGING_ONLY)
        case Technique.REMAT:
            return Freedom(family, page=False)
        case Technique.KEEP:
            return Freedom(PAGING_ONLY, page=False, page_once=True)


class Run:
    """One search: which families, in which order, on which thread."""

    def __init__(self, search: Search, technique: Technique, seed: int, threads: int, free_order: bool) -> None:
        self.search = search
        self.technique = technique
        self.seed = seed
        self.threads = threads
        self.free_order = free_order
        self.anchors: tuple[Anchor, ...] = ()
        self.genes: Genes | None = None
        self.lock = threading.Lock()
        self.slots: set[tuple[int, int]] = set()
        """(stage, op): runs again that the bound on all schedules makes use of."""
        self.slot_s = 0.0
        """Seconds for building models, a slot, as last measured: what cannot be interrupted."""
        self.is_small = count_slots(search.net, WIDE) <= _SMALL_SLOTS

    def all(self) -> None:
        """Run every phase that the deadline leaves room for."""
        search = self.search
        is_small = self.is_small
        everything = FAMILY if self.technique is Technique.BOTH else f"{FAMILY}, without paging of temporary tensors"
        if self.technique in (Technique.PAGE, Technique.KEEP):
            search.widest = freedom_of(self.technique, PAGING_ONLY).describe()
        else:
            search.widest = freedom_of(self.technique, WIDE).describe() if is_small else everything
        search.raise_bound(search.widest, search.net.least_energy_j)
        search.offer(keep_plan(search.net))
        if has_choice(search.net) and self.technique in (Technique.BOTH, Technique.PAGE):
            for actions in streamed_starts(search.net):
                search.offer_actions(actions)
        starts: tuple[Callable[[Net], tuple[Action, ...]], ...] = ()
        if self.technique is Technique.BOTH:
            starts = (farthest_use_schedule, capuchin_on_energy, capuchin_schedule, dtr_schedule)
        elif self.technique is Technique.PAGE:
            starts = (farthest_use_schedule,)
        for start in starts:
            if search.actions and search.left_s <= 0:
                return
            with suppress(GiveUp):
                search.offer_actions(start(search.net))
        if self.technique is not Technique.KEEP:
            bound = cover_bound_j(
                search.net, self.technique is not Technique.PAGE, self.technique is not Technique.REMAT
            )
            search.raise_bound(search.widest, min(bound, search.energy_j))
        if self.technique in (Technique.PAGE, Technique.KEEP):
            self.explore(PAGING_ONLY, search.left_s)
            return
        self.evolve(
            min(0.08 * search.left_s, 0.3 if is_small else 12.0), most=8 * search.net.n_ops if is_small else 10_000
        )
        if has_choice(search.net) and not is_small:
            self.choose()
            return
        if has_choice(search.net):
            search.reported.add(freedom_of(self.technique, PAGING_ONLY).describe())
            self.explore(PAGING_ONLY, search.left_s * 0.4, lp_share=0.4)
        else:
            self.explore(PAGING_ONLY, search.left_s * 0.05)
        if is_small:
            listed = freedom_of(self.technique, LISTED).describe()
            search.reported.add(listed)
            self.explore(LISTED, search.left_s * 0.1)
            for family, share in ((Family(hops=4), 0.15), (Family(hops=8), 0.2), (WIDE, 0.9)):
                is_wanted = family is WIDE or not search.is_closed(listed)
                if is_wanted and not search.is_closed(search.widest):
                    self.explore(family, search.left_s * share, lp_share=0.3)
            self.reorder(min(0.5 * search.left_s, 0.5))
        elif self.threads >= 2:
            with ThreadPoolExecutor(2) as pool:
                for future in [pool.submit(self.grow, 0.5), pool.submit(self.prove, 1.0)]:
                    future.result()
        else:
            self.grow(0.35, 0.25)
            self.prove(1.0)

    def choose(self) -> None:
        """Ops with several modes: which operands are streamed matters more than what is run again."""
        search = self.search
        search.reported.add(freedom_of(self.technique, PAGING_ONLY).describe())
        if self.threads < 2:
            self.start_from_fewer_blocks(0.2 * search.left_s)
            self.explore(PAGING_ONLY, search.left_s * 0.4, lp_share=0.4)
            self.bound_modes(0.6)
            self.follow_bound(0.4 * search.left_s)
            self.grow_families(time.monotonic() + 0.4 * search.left_s)
            self.prove(1.0)
            return

        def stream_and_prove() -> None:
            self.start_from_fewer_blocks(0.3 * search.left_s)
            self.explore(PAGING_ONLY, search.left_s * 0.4, lp_share=0.4)
            self.follow_bound(0.4 * search.left_s)
            self.prove(1.0)

        def bound_and_grow() -> None:
            self.bound_modes(1.0)
            self.grow_families(search.deadline)
            self.reorder(search.left_s)

        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(stream_and_prove), pool.submit(bound_and_grow)]:
                future.result()

    def start_from_fewer_blocks(self, time_s: float) -> None:
        """Where blocks repeat, a few of them solved without recomputation give a start for all.

        Small tensors that live on from block to block add up with more of them: where they do not fit, fewer bytes do.
        """
        search = self.search
        repeats = repeats_of(search.net)
        if not repeats:
            return
        search.enter("fewer blocks")
        until = time.monotonic() + time_s
        budget = search.net.ram_bytes
        for share in (0.5, 0.5, 1.0):
            fewer = with_fewer_blocks(search.net, repeats, budget)
            left = until - time.monotonic()
            if left < 0.5 or fewer is None or fewer.net.floor_bytes(fewer.net.largest_op()) > budget:
                return
            inner = Search(fewer.net, time.monotonic() + share * left, search.interrupt)
            for actions in streamed_starts(fewer.net):
                inner.offer_actions(actions)
            Run(inner, self.technique, self.seed, 1, False).explore(PAGING_ONLY, inner.left_s, lp_share=0.4)
            start = None if inner.plan is None else spread(search.net, fewer, inner.plan)
            if start is None:
                return
            over = peak_bytes(layout_of(search.net, start).rectangles) - search.net.ram_bytes
            if over <= 0:
                search.offer_actions(start)
                return
            budget -= over

    def bound_modes(self, share: float) -> None:
        """The bound on all schedules of a net whose ops have several modes."""
        search = self.search
        search.enter("bound on all schedules")
        bound_by_grids(
            search.net,
            time.monotonic() + share * search.left_s,
            lambda bound: search.raise_bound(search.widest, min(bound, search.energy_j)),
            search.interrupt,
            lambda: search.energy_j,
            page=self.technique is Technique.BOTH,
            on_reruns=self.slots.update,
        )

    def follow_bound(self, time_s: float) -> None:
        """Better schedules that run again what the bound on all schedules makes use of running again."""
        search = self.search
        search.enter("what the bound runs again")
        slots = sorted({(stage, 0, k) for stage, k in tuple(self.slots)})
        if not slots or not search.actions:
            return
        inner = Search(
            search.net,
            min(search.deadline, time.monotonic() + time_s),
            search.interrupt,
            on_better=search.offer_actions,
        )
        inner.offer_actions(search.actions)
        run = Run(inner, self.technique, self.seed, 1, False)
        run.explore(replace(PAGING_ONLY, extra=tuple(slots)), inner.left_s, lp_share=0.4)

    def evolve(self, time_s: float, most: int, addresses: bool = False) -> None:
        """Greedy starts, evolved; they run every op in its first mode."""
        search = self.search
        if any(modes[0].footprint_bytes > search.net.ram_bytes for modes in search.net.modes):
            return
        search.enter("greedy starts")
        until = time.monotonic() + time_s
        self.genes = evolve(
            search.net,
            self.seed,
            lambda number: (
                number >= most
                or time.monotonic() > until
                or search.interrupt.stop
                or (search.is_closed(search.widest) and not addresses)
            ),
            search.offer_actions,
            page=self.technique is Technique.BOTH,
            addresses=addresses,
            best=self.genes,
        )

    def reorder(self, time_s: float) -> Reordered | None:
        """Other orders of first computations; the best one, if a better one was found."""
        search = self.search
        if time_s <= 0 or self.genes is None or not self.free_order:
            return None
        search.enter("other orders of first computations")
        until = time.monotonic() + time_s
        improved = [time.monotonic()]

        def offer(actions: tuple[Action, ...]) -> bool:
            is_best = search.offer_actions(actions)
            if is_best:
                improved[0] = time.monotonic()
            return is_best

        def should_stop() -> bool:
            now = time.monotonic()
            return now > until or now > improved[0] + _ORDER_PATIENCE_S or search.interrupt.stop

        page = self.technique is Technique.BOTH
        return search_orders(search.net, self.genes, self.seed, should_stop, offer, page=page)

    def refine(self, reordered: Reordered, time_s: float) -> None:
        """Growing families in another order of first computations."""
        search = self.search

        def offer(actions: tuple[Action, ...]) -> None:
            search.offer_actions(in_given_order(search.net, reordered.order, actions))

        inner = Search(
            reordered.net, min(search.deadline, time.monotonic() + time_s), search.interrupt, on_better=offer
        )
        inner.offer_actions(reordered.actions)
        run = Run(inner, self.technique, self.seed, 1, False)
        run.grow_families(inner.deadline)

    def grow(self, share: float, bound_share: float = 0.65) -> None:
        """Better schedules from growing families, then the bound on all schedules, then other orders."""
        search = self.search
        until = time.monotonic() + share * search.left_s
        is_large = count_slots(search.net, Family(hops=4)) > _LARGE_SLOTS
        reordered = None if is_large or self.threads < 2 else self.reorder(0.12 * search.left_s)
        if reordered is not None:
            self.refine(reordered, until - time.monotonic())
        self.grow_families(until)
        if search.interrupt.stop:
            return
        search.enter("bound on all schedules")
        until = time.monotonic() + bound_share * search.left_s
        most = _BLOCK_VARIABLES // search.net.n_ops
        for blocks in sorted({max(10, min(_FEW_BLOCKS, most)), max(10, min(search.net.n_ops, most))}):
            if search.is_closed(search.widest) or search.interrupt.stop:
                break
            bound_all_schedules(
                search.net,
                until,
                lambda bound: search.raise_bound(search.widest, min(bound, search.energy_j)),
                search.interrupt,
                goal_j=search.energy_j,
                most_blocks=blocks,
                page=self.technique is Technique.BOTH,
            )
        if self.threads >= 2:
            self.reorder(search.left_s)

    def grow_families(self, until: float) -> None:
        """Better schedules from growing families in this order, until `until` (monotonic seconds)."""
        search = self.search
        hops = (4, 6, 8, 12)
        for number, hop in enumerate(hops):
            family = Family(hops=hop)
            left = until - time.monotonic()
            if left < 1 or count_slots(search.net, family) > _LARGE_SLOTS:
                break
            self.explore(family, left * (0.5 if number + 1 < len(hops) else 1.0), lp_share=0.4)
            self.evolve(0.1 * max(0.0, until - time.monotonic()), most=100_000)

    def prove(self, share: float) -> None:
        """Bound and improve over the family of the instances' listed bounds."""
        if count_slots(self.search.net, LISTED) <= _LARGE_SLOTS:
            self.search.reported.add(freedom_of(self.technique, LISTED).describe())
            self.explore(LISTED, share * self.search.left_s, lp_share=0.45, lb_tree=True)
        else:
            self.evolve(0.8 * share * self.search.left_s, most=100_000)

    def explore(self, family: Family, time_s: float, lp_share: float = 0.0, lb_tree: bool = False) -> None:
        """LP with cuts for a share of the time, reduced-cost fixing, kernels, then CP-SAT on all that is left."""
        search = self.search
        if search.interrupt.stop or (search.actions and search.left_s <= 0) or search.is_closed(search.widest):
            return
        until = time.monotonic() + min(time_s, search.left_s)
        slots = count_slots(search.net, family)
        if search.actions and slots * self.slot_s > search.left_s:
            return
        freedom = freedom_of(self.technique, family)
        name = freedom.describe()
        search.enter(name)
        if search.plan is not None and family.recompute:
            known = tuple(key for key, _ in search.plan.runs if key[1] != MANDATORY)
            freedom = replace(freedom, family=replace(family, extra=known))
        started = time.monotonic()
        model = build_model(search.net, freedom)
        tighten(model)
        self.slot_s = _MODELS_BUILT * (time.monotonic() - started) / max(slots, _SMALL_SLOTS)
        if search.actions and search.left_s <= 0:
            return
        cap = search.energy_j
        cuts: tuple[Row, ...] = ()
        if lp_share and time.monotonic() < until and not model.contradiction:
            relaxation = relax(
                model,
                memory_of(model),
                time.monotonic() + lp_share * (until - time.monotonic()),
                on_bound=lambda bound: search.raise_bound(name, min(bound, search.energy_j)),
                interrupt=search.interrupt,
                goal_j=search.energy_j,
                known=self.anchors,
            )
            with self.lock:
                self.anchors = tuple(dict.fromkeys((*self.anchors, *relaxation.anchors)))
            cuts = relaxation.cuts
            cap = search.energy_j
            if math.isfinite(cap):
                fix_by_reduced_cost(model, relaxation, cap)
                tighten(model)
                if not self.is_small:
                    self.kernels(model, name, relaxation, until)
        if model.contradiction:
            search.raise_bound(name, cap)
        elif not search.is_closed(name) and not search.interrupt.stop:
            self.branch(model, name, cuts, until, lb_tree, cap)

    def kernels(self, model: Model, name: str, relaxation: Relaxation, until: float) -> None:
        """CP-SAT on the variables of small reduced cost, and ever more of them while that is solved to the end.

        A schedule outside a kernel sets a variable whose reduced cost is above the kernel's limit, and so costs at
        least the LP's bound plus the limit: a kernel that is solved to the end raises the bound, too.
        """
        search = self.search
        slack = search.energy_j - relaxation.bound_j
        share = 0.0
        while share < 1 and not model.contradiction and not search.is_closed(name):
            left = until - time.monotonic()
            limit = share * slack
            kernel = kernel_of(model, relaxation, limit, search.plan)
            if left < 0.5 or search.interrupt.stop or kernel is None:
                return
            outside = relaxation.bound_j + limit
            closed = self.branch(
                kernel,
                name,
                relaxation.cuts,
                time.monotonic() + min(left, max(2.0, 0.3 * left)),
                False,
                outside - 1e-6 * abs(outside),
            )
            if not closed:
                return
            share = max(_KERNEL_STEP, _KERNEL_GROWTH * share)

    def branch(self, model: Model, name: str, cuts: tuple[Row, ...], until: float, lb_tree: bool, cap: float) -> bool:
        """CP-SAT on a model from which nothing below `cap` joules was removed; whether it was solved to the end."""
        search = self.search
        rows = memory_of(model).binding_rows()
        hint = point_of_plan(model, search.plan) if search.plan is not None else None

        overran = False

        def on_point(point: NDArray[np.float64], _energy_j: float) -> None:
            nonlocal overran
            actions = complete(search.net, actions_of_plan(plan_of_point(model, point)))
            overran = overran or search.breaks_budget(actions)
            search.offer_actions(actions)

        for strict in (False, True):
            limits = SearchLimits(max(0.2, until - time.monotonic()), self.seed, lb_tree=lb_tree, strict=strict)
            result = search_model(
                model,
                rows,
                limits,
                cuts=cuts,
                hint=hint,
                below_j=search.energy_j,
                on_point=on_point,
                on_bound=None if strict else lambda bound: search.raise_bound(name, min(bound, cap)),
                interrupt=search.interrupt,
            )
            if result.point is not None:
                on_point(result.point, result.bound_j)
            if not strict:
                search.raise_bound(name, min(result.bound_j, cap))
            if not overran:
                break
        return not overran and (result.optimal or result.infeasible)
