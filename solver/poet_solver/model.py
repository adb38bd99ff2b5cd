"""The 0-1 model over slots and gaps (DESIGN §5), independent of any solver.

Variables, all 0-1:

    Y[i,m]  the op of slot i runs there in mode m (a constant 1 at the mandatory slot of an op with one mode)
    H[v,j]  tensor v is held in RAM over the gap between its events j-1 and j
    P[v,j]  v is paged in just before event j, a slot that reads it
    O[v]    v is written to storage once, right after it was first computed

An event of v is a slot whose op makes or reads v. `build_model` writes the rows, `poet_solver.memory` adds the memory
rows, which are many and mostly slack.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from poet_solver.net import Net
from poet_solver.slots import MANDATORY, Family, SlotKey, slot_keys

INF = float("inf")
ONE = -1
"""In place of a variable's index: the constant 1."""


@dataclass(frozen=True)
class Row:
    """lo <= sum of coef x variable <= hi."""

    index: tuple[int, ...]
    coef: tuple[float, ...]
    lo: float
    hi: float


@dataclass(frozen=True)
class Freedom:
    """What a technique may do besides running every op once."""

    family: Family
    page: bool = True
    """False: only tensors that start on storage are paged in, only those that must end there are paged out."""
    page_once: bool = False
    """Page-ins only before a tensor's first read (for the keep technique)."""

    def describe(self) -> str:
        """In words, for reports."""
        return self.family.describe() + ("" if self.page else ", without paging of temporary tensors")


@dataclass
class Model:
    """Variables and rows under construction; read-only once `build_model` has returned it."""

    net: Net
    freedom: Freedom
    keys: list[SlotKey]
    slot_of: dict[SlotKey, int]
    energy_j: list[float] = field(default_factory=list)
    time_s: list[float] = field(default_factory=list)
    wear_bytes: list[float] = field(default_factory=list)
    upper: list[int] = field(default_factory=list)
    """Upper bound of every variable, 0 or 1."""
    runs: list[list[tuple[int, int]]] = field(default_factory=list)
    """For every slot (mode, variable or ONE)."""
    events: list[list[tuple[int, bool]]] = field(default_factory=list)
    """For every tensor (slot, is it made there), in time order; the first is its first computation."""
    hold: list[int] = field(default_factory=list)
    """For every tensor the variable of its first gap; gap j is `hold + j - 1`."""
    page_in: dict[tuple[int, int], int] = field(default_factory=dict)
    """(tensor, event) -> variable."""
    page_out: dict[int, int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    """Rows with coefficients 1 and -1."""
    budgets: list[Row] = field(default_factory=list)
    """Deadline and wear, in units of the slack over what every schedule spends."""
    base_energy_j: float = 0.0
    base_time_s: float = 0.0
    base_wear_bytes: float = 0.0
    contradiction: str = ""
    """Not empty: no schedule exists, and why."""

    def variable(self, energy_j: float = 0.0, time_s: float = 0.0, wear_bytes: float = 0.0) -> int:
        """A new 0-1 variable with its costs."""
        self.energy_j.append(energy_j)
        self.time_s.append(time_s)
        self.wear_bytes.append(wear_bytes)
        self.upper.append(1)
        return len(self.upper) - 1

    def add(self, terms: list[tuple[int, float]], lo: float, hi: float) -> None:
        """A row; terms on ONE move to the bounds, terms on variables fixed at 0 go."""
        constant = sum(coef for var, coef in terms if var == ONE)
        live = [(var, coef) for var, coef in terms if var != ONE and self.upper[var]]
        lo, hi = lo - constant, hi - constant
        low = sum(min(coef, 0) for _, coef in live)
        high = sum(max(coef, 0) for _, coef in live)
        if low >= lo and high <= hi:
            return
        if high < lo or low > hi:
            self.contradiction = self.contradiction or "a row of the model cannot hold"
            return
        if not live:
            return
        self.rows.append(Row(tuple(v for v, _ in live), tuple(c for _, c in live), lo, hi))

    def forbid(self, var: int) -> None:
        """Fix a variable at 0."""
        if var == ONE:
            self.contradiction = self.contradiction or "a step that must run is impossible"
        else:
            self.upper[var] = 0

    def active(self, slot: int) -> list[tuple[int, int]]:
        """The (mode, variable) pairs of a slot that are not fixed at 0."""
        return [(m, y) for m, y in self.runs[slot] if y == ONE or self.upper[y]]


def build_model(net: Net, freedom: Freedom) -> Model:
    """Variables and all rows but memory, for the net's budgets."""
    keys = slot_keys(net, freedom.family)
    model = Model(net, freedom, keys, {key: i for i, key in enumerate(keys)})
    _add_runs(model)
    _add_events(model)
    _add_transfers(model)
    _kill_old_versions(model)
    for v in range(len(net.size)):
        _add_flow(model, v)
    _add_usefulness(model)
    _add_budget(model, model.time_s, model.base_time_s, net.problem.deadline_s)
    _add_budget(model, model.wear_bytes, model.base_wear_bytes, net.problem.wear_budget_bytes)
    return model


def _add_runs(model: Model) -> None:
    net = model.net
    for _stage, pass_, op in model.keys:
        modes = net.modes[op]
        first = pass_ == MANDATORY
        if first and len(modes) == 1:
            mode = modes[0]
            model.base_energy_j += mode.energy_j
            model.base_time_s += mode.time_s
            model.base_wear_bytes += mode.wear_bytes
            model.runs.append([(0, ONE)])
            continue
        row: list[tuple[int, int]] = []
        for m, mode in enumerate(modes):
            if mode.footprint_bytes <= net.ram_bytes and (first or mode.to_ram):
                row.append((m, model.variable(mode.energy_j, mode.time_s, mode.wear_bytes)))
        model.runs.append(row)
        terms = [(y, 1.0) for _, y in row]
        if first:
            model.add(terms, 1, 1)
        elif len(row) > 1:
            model.add(terms, -INF, 1)


def _add_events(model: Model) -> None:
    net = model.net
    model.events = [[] for _ in net.size]
    for i, (_stage, _pass, op) in enumerate(model.keys):
        for v in net.operands[op]:
            model.events[v].append((i, False))
        for v in net.outputs[op]:
            model.events[v].append((i, True))
    for events in model.events:
        while len(events) > 1 and events[-1][1]:
            events.pop()
        model.hold.append(len(model.upper))
        for _ in events[1:]:
            model.variable()


def _add_transfers(model: Model) -> None:
    """O[v] where v may go to storage, P[v,j] where it may come back."""
    net, freedom = model.net, model.freedom
    for v, events in enumerate(model.events):
        home = net.starts_on_storage[v]
        producer = net.producer[v]
        out, back = net.page_out[v], net.page_in[v]
        by_mode = any(v in mode.to_storage for mode in net.modes[producer])
        streamed = _streams(model, v)
        wanted = net.ends_on_storage[v] or (freedom.page and (streamed or (back is not None and len(events) > 1)))
        if out is not None and not home and wanted:
            model.page_out[v] = model.variable(out.energy_j, out.time_s, out.wear_bytes)
        if back is None or not (home or by_mode or v in model.page_out) or not (freedom.page or home):
            continue
        for j, (slot, made) in enumerate(events):
            if made or (j == 1 and slot == events[0][0] + 1 and not home and not by_mode):
                continue
            if freedom.page_once and j != 1:
                continue
            if any(v in net.modes[model.keys[slot][2]][m].resident for m, _ in model.runs[slot]):
                model.page_in[v, j] = model.variable(back.energy_j, back.time_s, back.wear_bytes)


def _streams(model: Model, v: int) -> bool:
    net = model.net
    ops = {model.keys[slot][2] for slot, made in model.events[v] if not made}
    return any(v in mode.streamed for op in ops for mode in net.modes[op])


def _stored(model: Model, v: int) -> list[tuple[int, float]]:
    """Terms of "v is on storage from its first computation on"."""
    net = model.net
    terms: list[tuple[int, float]] = []
    if net.starts_on_storage[v]:
        terms.append((ONE, 1.0))
    else:
        first = model.events[v][0][0]
        terms += [(y, 1.0) for m, y in model.runs[first] if v in net.modes[net.producer[v]][m].to_storage]
    if v in model.page_out:
        terms.append((model.page_out[v], 1.0))
    return terms


def _kill_old_versions(model: Model) -> None:
    """After an in-place update the old version is dead; after the new one is on storage the old copy is gone."""
    net = model.net
    for op in range(net.n_ops):
        if net.repeatable[op]:
            continue
        slot = model.slot_of[op, MANDATORY, op]
        for old in sorted({old for mode in net.modes[op] for old, _ in mode.in_place}):
            updates = [(y, 1.0) for m, y in model.runs[slot] if old in dict(net.modes[op][m].in_place)]
            always = len(updates) == len(model.runs[slot])
            for var in _uses_after(model, old, slot, held=True):
                if always:
                    model.forbid(var)
                else:
                    model.add([(var, 1.0), *updates], -INF, 1)
    for old, new in enumerate(net.next_version):
        if new is not None:
            slot = model.slot_of[net.producer[new], MANDATORY, net.producer[new]]
            for var in _uses_after(model, old, slot, held=False):
                model.forbid(var)


def _uses_after(model: Model, v: int, slot: int, held: bool) -> list[int]:
    """Variables by which `v` is read from storage after `slot`; with `held` also held or made."""
    net = model.net
    out: list[int] = []
    for j, (i, made) in enumerate(model.events[v]):
        if i <= slot:
            continue
        modes = net.modes[model.keys[i][2]]
        if held:
            out.append(model.hold[v] + j - 1)
        if (v, j) in model.page_in:
            out.append(model.page_in[v, j])
        out += [y for m, y in model.runs[i] if (made and held) or v in modes[m].streamed]
    return out


def _add_flow(model: Model, v: int) -> None:
    """Residency of `v`: who reads it finds it, and it is held no longer than something brought it."""
    net = model.net
    stored = _stored(model, v)
    if net.ends_on_storage[v]:
        model.add(stored, 1, INF)
    if v in model.page_out and stored != [(model.page_out[v], 1.0)]:
        model.add(stored, -INF, 1)
    minus_stored = [(var, -coef) for var, coef in stored]
    for j, (slot, made) in enumerate(model.events[v]):
        modes = net.modes[model.keys[slot][2]]
        here = [(model.hold[v] + j - 1, 1.0)] if j else []
        after = [(model.hold[v] + j, 1.0)] if j + 1 < len(model.events[v]) else []
        if made:
            makes = [(y, 1.0) for m, y in model.runs[slot] if v in modes[m].to_ram]
            if j:
                model.add([*here, *makes], -INF, 1)
            if after:
                model.add([*here, *makes, (after[0][0], -1.0)], 0, INF)
            if j == 0 and v in model.page_out:
                model.add([*makes, (model.page_out[v], -1.0)], 0, INF)
            continue
        reads = [(y, 1.0) for m, y in model.runs[slot] if v in modes[m].resident]
        streams = [(y, 1.0) for m, y in model.runs[slot] if v in modes[m].streamed]
        updates = [(y, 1.0) for m, y in model.runs[slot] if v in dict(modes[m].in_place)]
        page = [(model.page_in[v, j], 1.0)] if (v, j) in model.page_in else []
        minus_reads = [(y, -1.0) for y, _ in reads]
        if reads == [(ONE, 1.0)]:
            model.add([*here, *page], 1, 1)
        else:
            model.add([*here, *page, *minus_reads], 0, INF)
            if page:
                model.add([*here, *page], -INF, 1)
                model.add([*page, *minus_reads], -INF, 0)
        for use in (page, streams):
            if use:
                model.add([*use, *minus_stored], -INF, 0)
        if after:
            model.add([*here, *page, (after[0][0], -1.0)], 0, INF)
            if updates:
                model.add([*after, *updates], -INF, 1)


def _add_usefulness(model: Model) -> None:
    """A recomputation must have an output that is held on afterwards."""
    next_gap: list[list[int]] = [[] for _ in model.keys]
    for v, events in enumerate(model.events):
        for j, (slot, made) in enumerate(events[:-1]):
            if made and j:
                next_gap[slot].append(model.hold[v] + j)
    for slot, (_stage, pass_, _op) in enumerate(model.keys):
        if pass_ == MANDATORY:
            continue
        if not next_gap[slot]:
            for _, y in model.runs[slot]:
                model.forbid(y)
        elif model.runs[slot]:
            held = [(h, 1.0) for h in next_gap[slot]]
            model.add([*held, *((y, -1.0) for _, y in model.runs[slot])], 0, INF)


def _add_budget(model: Model, use: list[float], base: float, budget: float | None) -> None:
    """Sum of costs within a budget, in units of the budget's slack so that coefficients stay near 1."""
    if budget is None:
        return
    slack = budget - base
    if slack < -1e-9 * budget:
        model.contradiction = f"the base cost {base:.6g} is over the budget {budget:.6g}"
        return
    scale = 1.0 / slack if slack > 1e-9 * budget else 1e9 / max(budget, 1e-300)
    index = tuple(j for j, c in enumerate(use) if c > 0)
    model.budgets.append(Row(index, tuple(use[j] * scale for j in index), -INF, max(slack, 0.0) * scale))
