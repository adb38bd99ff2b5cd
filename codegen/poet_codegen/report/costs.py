"""Where energy and time go: by kind, by operation, by paged tensor, and against keeping everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from poet_solver.problem import Place, Problem
from poet_solver.schedule import Costs, Schedule

from poet_codegen.cost_model import CostModel
from poet_codegen.emit.project import Pass
from poet_codegen.ops import registry
from poet_codegen.report.text import Scale, count, percent, shown
from poet_codegen.report.timeline import Do, Timeline, TimelineStep

KINDS = ("compute", "recompute", "page_in", "page_out", "idle")
"""Fields of Costs, in the order they are shown."""


@dataclass(frozen=True)
class KindRow:
    """A kind of cost: what it takes of energy and of time."""

    kind: str
    css: str
    energy: str
    energy_share: str
    energy_part: float
    """Share of all energy, 0 to 1, for the bar."""
    time: str
    time_share: str
    time_part: float


@dataclass(frozen=True)
class CostTable:
    """Rows with their units; the numbers of a column have the same unit."""

    energy_unit: str
    time_unit: str
    rows: tuple[KindRow, ...]
    total_energy: str
    total_time: str


@dataclass(frozen=True)
class OpRow:
    """An operation of the graph over a whole training step."""

    name: str
    op: str
    form: str
    """How its kernel is written."""
    cycles: str
    """Modelled cycles of one run per multiply-add, or per element where it has none; empty where it also transfers."""
    unit: str
    """'MAC' or 'element'."""
    floor: str
    """The fewest cycles that a multiply-add can take on the core; empty where there is none or it is not known."""
    runs: int
    recomputed: int
    energy: str
    time: str
    share: str
    part_percent: float
    """Share of the largest row's energy, 0 to 100, for the bar."""


@dataclass(frozen=True)
class PageRow:
    """A tensor that is paged."""

    name: str
    size: str
    """In bytes."""
    outs: int
    ins: int
    energy: str
    time: str


@dataclass(frozen=True)
class OpTable:
    """Operations and paged tensors, those that take most energy first."""

    energy_unit: str
    time_unit: str
    ops: tuple[OpRow, ...]
    pages: tuple[PageRow, ...]


def keep_everything_j(problem: Problem) -> float:
    """Energy in joules of running every op once and paging only what lives on storage between steps.

    No budget is regarded: each op runs in the cheapest of its modes with all operands in RAM. What starts on storage is
    read once, what must end there is written once.
    """
    modes = [
        min(
            (mode for mode in op.modes if not mode.streamed and not mode.outputs_to_storage),
            key=lambda mode: mode.energy_j + problem.idle_power_w * mode.time_s,
        )
        for op in problem.ops
    ]
    read = {v for mode in modes for v in mode.resident}
    pages = [
        cost
        for v, tensor in enumerate(problem.tensors)
        for cost in (
            tensor.page_in if tensor.start is Place.STORAGE and v in read else None,
            tensor.page_out if tensor.end is Place.STORAGE and tensor.start is not Place.STORAGE else None,
        )
        if cost is not None
    ]
    time_s = sum(mode.time_s for mode in modes) + sum(page.time_s for page in pages)
    energy_j = sum(mode.energy_j for mode in modes) + sum(page.energy_j for page in pages)
    return energy_j + problem.idle_power_w * time_s


def cost_table(schedule: Schedule) -> CostTable:
    """Energy and time of a schedule by kind."""
    energy, time = Scale.of(schedule.energy_j), Scale.of(schedule.time_s)

    def row(kind: str) -> KindRow:
        energy_j, time_s = _of(schedule.energy, kind), _of(schedule.time, kind)
        energy_part, time_part = _share(energy_j, schedule.energy_j), _share(time_s, schedule.time_s)
        return KindRow(
            kind.replace("_", " "),
            kind.replace("_", "-"),
            energy.number(energy_j),
            percent(energy_part),
            energy_part,
            time.number(time_s),
            percent(time_part),
            time_part,
        )

    return CostTable(
        f"{energy.prefix}J",
        f"{time.prefix}s",
        tuple(row(kind) for kind in KINDS),
        energy.number(schedule.energy_j),
        time.number(schedule.time_s),
    )


def op_table(source: Pass, timeline: Timeline, costs: CostModel) -> OpTable:
    """Operations and paged tensors of a schedule, by energy."""
    ops = _grouped(timeline, lambda s: s.op != "", lambda s: (s.writes, s.reads, s.title, s.op))
    pages = _grouped(timeline, lambda s: s.op == "", lambda s: (*s.writes, *s.reads))
    largest = max((_energy(group) for group in (*ops, *pages)), default=0.0)
    longest = max((_time(group) for group in (*ops, *pages)), default=0.0)
    energy, time = Scale.of(largest), Scale.of(longest)
    largest_op = max(map(_energy, ops), default=0.0)
    total = source.schedule.energy_j
    return OpTable(
        f"{energy.prefix}J",
        f"{time.prefix}s",
        tuple(
            OpRow(
                shown(group[0].title),
                group[0].op,
                *_kernel_words(source, group[0], costs),
                len(group),
                sum(step.do is Do.RECOMPUTE for step in group),
                energy.number(_energy(group)),
                time.number(_time(group)),
                percent(_share(_energy(group), total)),
                100.0 * _share(_energy(group), largest_op),
            )
            for group in ops
        ),
        tuple(
            PageRow(
                shown(group[0].title),
                count(group[0].size_bytes),
                sum(step.do is Do.PAGE_OUT for step in group),
                sum(step.do is Do.PAGE_IN for step in group),
                energy.number(_energy(group)),
                time.number(_time(group)),
            )
            for group in pages
        ),
    )


def _kernel_words(source: Pass, step: TimelineStep, costs: CostModel) -> tuple[str, str, str, str]:
    """An operation's form, cycles per unit, unit and floor, by its first run."""
    assert step.computes is not None
    op, mode = step.computes
    node, program = source.lowered.nodes[op], source.lowered.programs.get((op, mode))
    if program is not None:
        return program.title, "", "", ""
    variant = registry.get(node.op).variants(source.graph, node)[mode]
    work, form = variant.work, costs.form(variant.kernel).value
    if variant.title:
        form += f", {variant.title}"
    units = work.macs or work.elements
    if not units:
        return form, "", "", ""
    cycles = f"{step.time_s / costs.board.seconds_per_cycle / units:.2f}"
    floor = costs.floor_per_mac if work.macs else None
    return form, cycles, "MAC" if work.macs else "element", "" if floor is None else f"{floor:g}"


def _grouped(
    timeline: Timeline, wanted: Callable[[TimelineStep], bool], key: Callable[[TimelineStep], object]
) -> list[list[TimelineStep]]:
    groups: dict[object, list[TimelineStep]] = {}
    for step in timeline.steps:
        if wanted(step):
            groups.setdefault(key(step), []).append(step)
    return sorted(groups.values(), key=lambda group: (-_energy(group), group[0].index))


def _energy(steps: Iterable[TimelineStep]) -> float:
    return sum(step.energy_j for step in steps)


def _time(steps: Iterable[TimelineStep]) -> float:
    return sum(step.time_s for step in steps)


def _of(costs: Costs, kind: str) -> float:
    value = getattr(costs, kind)
    assert isinstance(value, float)
    return value


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
