"""A schedule as a report tells it: its marked steps, and every tensor instance from its first to its last step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from poet_solver.problem import Place, Problem
from poet_solver.replay import Block, live_map
from poet_solver.schedule import Compute, Free, PageIn, PageOut, Step

from poet_codegen.emit.project import Pass
from poet_codegen.graph import Kind, Role


class Memory(StrEnum):
    """What bytes of the arena are for."""

    PARAMETER = "parameter"
    STATE = "state"
    ACTIVATION = "activation"
    GRADIENT = "gradient"
    WORKSPACE = "workspace"


class Origin(StrEnum):
    """How an instance came into RAM."""

    RESIDENT = "resident"
    COMPUTED = "computed"
    RECOMPUTED = "recomputed"
    PAGED_IN = "paged in"
    UPDATED = "updated in place"


class Do(StrEnum):
    """What a step does."""

    COMPUTE = "compute"
    RECOMPUTE = "recompute"
    PAGE_IN = "page in"
    PAGE_OUT = "page out"


@dataclass(frozen=True)
class Instance:
    """A tensor (or workspace) that owns bytes of the arena over the steps first..last, both included."""

    tensor: int | None
    name: str
    memory: Memory
    offset: int
    size_bytes: int
    first: int
    last: int
    origin: Origin
    made_by: str
    """The step's title that made it; empty for what is there from the start."""


@dataclass(frozen=True)
class TimelineStep:
    """A step that the firmware marks: a computation or a page transfer. Other steps take no time and are left out."""

    index: int
    do: Do
    title: str
    """ONNX node or tensor, as the model names it."""
    op: str
    """Operator; empty for a page step."""
    size_bytes: int
    """Bytes a page step moves, or a computation writes."""
    live_bytes: int
    energy_j: float
    time_s: float
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    computes: tuple[int, int] | None = None
    """The problem's op, and its mode; None for a page step."""

    @property
    def words(self) -> str:
        """The step in words."""
        return f"{self.title} ({self.op})" if self.op else f"{self.do.value} {self.title}"


@dataclass(frozen=True)
class Timeline:
    """The steps of a schedule and what the arena holds during them."""

    steps: tuple[TimelineStep, ...]
    instances: tuple[Instance, ...]
    """By first step, then by offset."""
    peak_step: int
    """The first step at which most bytes are live."""

    def alive(self, step: int) -> tuple[Instance, ...]:
        """Instances during a step, highest address first."""
        there = (i for i in self.instances if i.first <= step <= i.last)
        return tuple(sorted(there, key=lambda i: (-i.offset, i.name)))


def memory_classes(source: Pass) -> tuple[Memory, ...]:
    """For every tensor of the problem what it is."""
    lowered = source.lowered
    names = {position: name for name, position in lowered.index.items()}
    out: list[Memory] = []
    for v, made_by in enumerate(lowered.problem.producer()):
        tensor = source.graph.tensors[names[v]]
        owner = source.graph.tensors[tensor.updates or tensor.name]
        if owner.kind is Kind.STATE:
            out.append(Memory.STATE)
        elif tensor.kind in (Kind.PARAM, Kind.UPDATED):
            out.append(Memory.PARAMETER)
        elif made_by is None or lowered.nodes[made_by].role is Role.FORWARD:
            out.append(Memory.ACTIVATION)
        else:
            out.append(Memory.GRADIENT)
    return tuple(out)


def build_timeline(source: Pass) -> Timeline:
    """Follow a schedule. Raises ReplayError for one that does not replay."""
    problem = source.lowered.problem
    rows = live_map(problem, source.schedule.steps)
    tracker = _Tracker(source)
    steps: list[TimelineStep] = []
    seen: set[int] = set()
    for step, blocks in zip(source.schedule.steps, rows, strict=True):
        if isinstance(step, Free):
            tracker.drop(step.tensor)
        if not isinstance(step, Compute | PageIn | PageOut):
            continue
        live = sum(block.size_bytes for block in blocks)
        steps.append(_describe(source, step, len(steps), live, again=isinstance(step, Compute) and step.op in seen))
        tracker.see(steps[-1], step, blocks)
        if isinstance(step, Compute):
            seen.add(step.op)
    peak = max(range(len(steps)), key=lambda i: (steps[i].live_bytes, -i))
    instances = sorted(tracker.finished(), key=lambda i: (i.first, i.offset, i.name))
    return Timeline(tuple(steps), tuple(instances), peak)


def _describe(source: Pass, step: Compute | PageIn | PageOut, index: int, live: int, *, again: bool) -> TimelineStep:
    problem = source.lowered.problem
    if isinstance(step, Compute):
        op, node = problem.ops[step.op], source.lowered.nodes[step.op]
        mode = op.modes[step.mode]
        size = sum(problem.tensors[v].size_bytes for v in op.outputs)
        do = Do.RECOMPUTE if again else Do.COMPUTE
        costs = (mode.energy_j, mode.time_s)
        chosen = (step.op, step.mode)
        return TimelineStep(index, do, node.label, node.op, size, live, *costs, mode.resident, op.outputs, chosen)
    tensor = problem.tensors[step.tensor]
    is_in = isinstance(step, PageIn)
    cost = tensor.page_in if is_in else tensor.page_out
    assert cost is not None, "the replay has checked it"
    do = Do.PAGE_IN if is_in else Do.PAGE_OUT
    moved = (step.tensor,)
    reads, writes = ((), moved) if is_in else (moved, ())
    return TimelineStep(index, do, tensor.name, "", tensor.size_bytes, live, cost.energy_j, cost.time_s, reads, writes)


class _Tracker:
    """Joins the blocks of consecutive steps into instances."""

    def __init__(self, source: Pass) -> None:
        self._problem: Problem = source.lowered.problem
        self._memory = memory_classes(source)
        self._open: dict[int, Instance] = {}
        self._closed: list[Instance] = []
        self._origin: dict[int, tuple[Origin, str]] = {}

    def drop(self, tensor: int) -> None:
        """The instance of a tensor ends with the step before."""
        if tensor in self._open:
            self._closed.append(self._open.pop(tensor))

    def see(self, marked: TimelineStep, step: Step, blocks: Iterable[Block]) -> None:
        """Take in what is live during a step."""
        in_place: dict[int, int] = {}
        is_update = False
        if isinstance(step, Compute):
            op = self._problem.ops[step.op]
            in_place = {new: old for old, new in op.modes[step.mode].in_place}
            is_update = not op.repeatable
        if not isinstance(step, PageOut):
            plain = {
                Do.COMPUTE: Origin.COMPUTED,
                Do.RECOMPUTE: Origin.RECOMPUTED,
                Do.PAGE_IN: Origin.PAGED_IN,
            }[marked.do]
            for v in marked.writes:
                self.drop(v)
                self._origin[v] = (Origin.UPDATED if is_update and v in in_place else plain, marked.words)
        for block in blocks:
            if block.tensor is None:
                self._closed.append(self._workspace(marked, block))
            elif block.tensor in self._open:
                self._open[block.tensor] = replace(self._open[block.tensor], last=marked.index)
            elif block.size_bytes:
                self._open[block.tensor] = self._begin(marked.index, block.tensor, block)
        for old in in_place.values():
            self.drop(old)

    def finished(self) -> list[Instance]:
        """All instances."""
        return [*self._closed, *self._open.values()]

    def _begin(self, index: int, tensor: int, block: Block) -> Instance:
        origin, made_by = self._origin.get(tensor, (Origin.RESIDENT, ""))
        name = self._problem.tensors[tensor].name
        memory = self._memory[tensor]
        return Instance(tensor, name, memory, block.offset, block.size_bytes, index, index, origin, made_by)

    def _workspace(self, marked: TimelineStep, block: Block) -> Instance:
        index = marked.index
        return Instance(
            None,
            f"workspace of {marked.title}",
            Memory.WORKSPACE,
            block.offset,
            block.size_bytes,
            index,
            index,
            Origin.COMPUTED,
            marked.words,
        )


def next_use(timeline: Timeline, problem: Problem, tensor: int, step: int) -> str:
    """Why a tensor is in RAM at a step, in words."""
    now = timeline.steps[step]
    if tensor in now.writes:
        return "written by this step"
    if tensor in now.reads:
        return "read by this step"
    for later in timeline.steps[step + 1 :]:
        if tensor in later.reads:
            return f"waits for step {later.index}"
        if tensor in later.writes:
            break
    if problem.tensors[tensor].end is Place.NONE:
        return "not read again"
    return "kept for the next training step"
