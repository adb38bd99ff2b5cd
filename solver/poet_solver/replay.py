"""Independent checker of schedules: walks the steps on a byte map of the arena (DESIGN §4).

It shares no code with the solver. What it holds to be true:

- The arena is bytes 0, 1, ...; a live tensor instance or workspace owns its bytes alone. Reading a tensor needs a live
  instance of exactly that tensor, so every byte read is the value that was written.
- Storage is a set of slots, one a tensor; a new version named by `home_of` shares the slot of the old one, and writing
  it overwrites the old one.
- An in-place pair hands the input's bytes to the output; the input's instance is gone. If the op is not repeatable it
  changes state, and the old version is dead: nobody may read, page in, stream or compute it afterwards.
- Tensors that start in RAM lie at their home before the first step: the offset that the problem gives, or that of a
  Home step. At the end they (or their new version) lie there again, and nothing else is left in RAM.
- Time is the sum of all steps, energy the sum plus idle power x time.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

from poet_solver.errors import ReplayError
from poet_solver.problem import Mode, PageCost, Place, Problem
from poet_solver.schedule import Compute, Costs, Free, Home, PageIn, PageOut, Schedule, Step

_TOLERANCE = 1e-9
"""Relative slack of budget comparisons: sums of floats, not modelling freedom."""


@dataclass(frozen=True)
class Block:
    """Bytes of the arena in use during one step."""

    tensor: int | None
    """None: workspace of the op that runs."""
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class ReplayResult:
    """What a schedule really does."""

    energy: Costs
    """Joules by kind."""
    time: Costs
    """Seconds by kind."""
    wear_bytes: float
    peak_bytes: int
    """Most bytes live at once."""
    arena_bytes: int
    """Highest arena address in use."""
    recomputes: int
    page_ins: int
    page_outs: int
    live_bytes: tuple[int, ...]
    """Bytes live during each step, workspace and outputs included."""


def replay(problem: Problem, schedule: Schedule) -> ReplayResult:
    """Check a schedule and its figures. Raises ReplayError that names the step and the reason."""
    if schedule.problem_digest != problem.digest():
        raise ReplayError("The schedule belongs to another problem (digests differ). Solve this problem again.")
    result = replay_steps(problem, schedule.steps)
    for name, claimed, found in (
        ("energy_j", schedule.energy_j, result.energy.total),
        ("time_s", schedule.time_s, result.time.total),
        ("wear_bytes", schedule.wear_bytes, result.wear_bytes),
        ("peak_bytes", schedule.peak_bytes, result.peak_bytes),
        ("arena_bytes", schedule.arena_bytes, result.arena_bytes),
    ):
        if abs(claimed - found) > _TOLERANCE * max(abs(found), 1e-300):
            raise ReplayError(f"The schedule claims {name} = {claimed}, its steps give {found}. Solve again.")
    return result


def replay_steps(problem: Problem, steps: tuple[Step, ...]) -> ReplayResult:
    """Check the steps alone and work out their figures. Raises ReplayError."""
    machine = _Machine(problem)
    for index, step in enumerate(steps):
        machine.run(index, step)
    return machine.finish()


def live_map(problem: Problem, steps: tuple[Step, ...]) -> tuple[tuple[Block, ...], ...]:
    """For every step the blocks of the arena in use during it, by offset. Raises ReplayError."""
    machine = _Machine(problem)
    rows: list[tuple[Block, ...]] = []
    for index, step in enumerate(steps):
        machine.run(index, step)
        rows.append(machine.blocks)
    return tuple(rows)


@dataclass
class _Machine:
    problem: Problem
    ram: dict[int, int] = field(default_factory=dict)
    """Live tensor -> offset."""
    taken: list[tuple[int, int, str]] = field(default_factory=list)
    """(offset, end, owner) of every live block with at least one byte, sorted."""
    storage: dict[int, int] = field(default_factory=dict)
    """Slot -> the tensor it holds; a slot is named by the tensor that starts in it."""
    dead: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    live: int = 0
    peak: int = 0
    arena: int = 0
    wear: float = 0.0
    recomputes: int = 0
    page_ins: int = 0
    page_outs: int = 0
    energy: dict[str, float] = field(default_factory=dict)
    time: dict[str, float] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    blocks: tuple[Block, ...] = ()
    step: int | None = None
    homes: dict[int, int] = field(default_factory=dict)
    """Tensor that starts in RAM at a place of the schedule's choice -> that offset."""
    started: bool = False

    def __post_init__(self) -> None:
        for v, tensor in enumerate(self.problem.tensors):
            if tensor.start is Place.RAM and tensor.home_offset is not None:
                self.place(v, tensor.home_offset)
            elif tensor.start is Place.STORAGE:
                self.storage[v] = v
        self.peak = self.live

    def fail(self, reason: str) -> ReplayError:
        where = "Before the first step" if self.step is None else f"Step {self.step}"
        return ReplayError(f"{where}: {reason}.", step=self.step)

    def name(self, v: int) -> str:
        return f"tensor {v} ({self.problem.tensors[v].name})"

    def run(self, index: int, step: Step) -> None:
        self.step = index
        if isinstance(step, Home):
            self.take_home(step)
            return
        if not self.started:
            self.start()
        during = self.live
        self.blocks = ()
        if isinstance(step, Compute):
            during = self.compute(step)
        else:
            if step.tensor >= len(self.problem.tensors):
                raise self.fail(f"tensor {step.tensor} does not exist")
            if isinstance(step, PageIn):
                self.page_in(step)
                during = self.live
            elif isinstance(step, PageOut):
                self.page_out(step.tensor)
            elif isinstance(step, Free):
                self.blocks = self.snapshot()
                self.remove(step.tensor, "freed")
        self.blocks = self.blocks or self.snapshot()
        self.rows.append(during)
        self.peak = max(self.peak, during)

    def take_home(self, step: Home) -> None:
        if step.tensor >= len(self.problem.tensors):
            raise self.fail(f"tensor {step.tensor} does not exist")
        tensor = self.problem.tensors[step.tensor]
        if self.started:
            raise self.fail("a home step stands after other steps")
        if tensor.start is not Place.RAM or tensor.home_offset is not None or step.tensor in self.homes:
            raise self.fail(f"{self.name(step.tensor)} has its home already, or is not in RAM at the start")
        self.place(step.tensor, step.offset)
        self.homes[step.tensor] = step.offset
        self.blocks = self.snapshot()
        self.rows.append(self.live)
        self.peak = max(self.peak, self.live)

    def start(self) -> None:
        for v, tensor in enumerate(self.problem.tensors):
            if tensor.start is Place.RAM and v not in self.ram:
                raise self.fail(f"{self.name(v)} starts in RAM, but no home step says where")
        self.started = True

    def home_at_end(self, v: int) -> int | None:
        tensor = self.problem.tensors[v]
        if tensor.home_offset is not None:
            return tensor.home_offset
        return self.homes.get(v if tensor.home_like is None else tensor.home_like)

    def snapshot(self, workspace: Block | None = None) -> tuple[Block, ...]:
        blocks = [Block(v, at, self.problem.tensors[v].size_bytes) for v, at in self.ram.items()]
        if workspace is not None:
            blocks.append(workspace)
        return tuple(sorted(blocks, key=lambda block: (block.offset, block.size_bytes)))

    def compute(self, step: Compute) -> int:
        if step.op >= len(self.problem.ops):
            raise self.fail(f"op {step.op} does not exist")
        op = self.problem.ops[step.op]
        if step.mode >= len(op.modes):
            raise self.fail(f"op {op.name} has no mode {step.mode}")
        mode = op.modes[step.mode]
        again = step.op in self.done
        if again and not op.repeatable:
            raise self.fail(f"op {op.name} changes state and runs a second time")
        if len(step.offsets) != len(op.outputs):
            raise self.fail(f"op {op.name} has {len(op.outputs)} outputs, the step gives {len(step.offsets)} offsets")
        for v in mode.resident:
            if v not in self.ram:
                raise self.fail(f"op {op.name} reads {self.name(v)}, which is not in RAM")
        for v in mode.streamed:
            self.need_on_storage(v, f"op {op.name} streams")
        taken_over = {new: old for old, new in mode.in_place}
        for v, offset in zip(op.outputs, step.offsets, strict=True):
            self.check_output(op.name, v, offset, mode)
            if v in taken_over and offset != self.ram[taken_over[v]]:
                raise self.fail(f"op {op.name} updates {self.name(v)} in place, but its offset is another")
        during = self.run_on_map(step, mode, op.outputs, taken_over)
        for old, _ in mode.in_place:
            if not op.repeatable:
                self.dead.add(old)
        for v in mode.outputs_to_storage:
            self.write_slot(v)
        kind = "recompute" if again else "compute"
        self.charge(kind, mode.energy_j, mode.time_s, mode.wear_bytes)
        self.recomputes += again
        self.done.add(step.op)
        return during

    def check_output(self, op_name: str, v: int, offset: int | None, mode: Mode) -> None:
        if v in self.dead:
            raise self.fail(f"op {op_name} computes {self.name(v)}, an old version that was updated in place")
        if v in mode.outputs_to_storage:
            if offset is not None:
                raise self.fail(f"op {op_name} writes {self.name(v)} to storage, but the step gives an offset")
        elif offset is None:
            raise self.fail(f"op {op_name} writes {self.name(v)} to RAM, but the step gives no offset")
        if v in self.ram:
            raise self.fail(f"op {op_name} writes {self.name(v)}, which is still in RAM")

    def run_on_map(self, step: Compute, mode: Mode, outputs: tuple[int, ...], taken_over: dict[int, int]) -> int:
        """Put outputs and workspace on the map, take workspace and overwritten inputs off. Bytes live meanwhile."""
        for v, offset in zip(outputs, step.offsets, strict=True):
            if offset is not None and v not in taken_over:
                self.place(v, offset)
        workspace: Block | None = None
        if (step.workspace_offset is not None) != (mode.workspace_bytes > 0):
            raise self.fail("workspace_offset must be there exactly when the mode has workspace")
        if step.workspace_offset is not None:
            workspace = Block(None, step.workspace_offset, mode.workspace_bytes)
            self.reserve(workspace.offset, workspace.size_bytes, "the workspace")
        during = self.live
        self.blocks = self.snapshot(workspace)
        if workspace is not None:
            self.release(workspace.offset, workspace.size_bytes)
        for new, old in taken_over.items():
            at = self.ram[old]
            self.remove(old, "updated")
            self.place(new, at)
        return during

    def page_in(self, step: PageIn) -> None:
        v = step.tensor
        cost = self.problem.tensors[v].page_in
        if cost is None:
            raise self.fail(f"{self.name(v)} cannot be paged in")
        if v in self.ram:
            raise self.fail(f"{self.name(v)} is paged in, but it is in RAM already")
        self.need_on_storage(v, "page-in of")
        self.place(v, step.offset)
        self.page_ins += 1
        self.charge_page("page_in", cost)

    def page_out(self, v: int) -> None:
        cost = self.problem.tensors[v].page_out
        if cost is None:
            raise self.fail(f"{self.name(v)} cannot be paged out")
        if v not in self.ram:
            raise self.fail(f"{self.name(v)} is paged out, but it is not in RAM")
        self.write_slot(v)
        self.page_outs += 1
        self.charge_page("page_out", cost)

    def slot(self, v: int) -> int:
        home = self.problem.tensors[v].home_of
        return v if home is None else home

    def write_slot(self, v: int) -> None:
        self.storage[self.slot(v)] = v

    def need_on_storage(self, v: int, what: str) -> None:
        if v in self.dead:
            raise self.fail(f"{what} {self.name(v)}, an old version that was updated in place")
        holds = self.storage.get(self.slot(v))
        if holds is None:
            raise self.fail(f"{what} {self.name(v)}, which was never written to storage")
        if holds != v:
            raise self.fail(f"{what} {self.name(v)}, but its slot holds {self.name(holds)} by now")

    def place(self, v: int, offset: int) -> None:
        self.reserve(offset, self.problem.tensors[v].size_bytes, self.name(v))
        self.ram[v] = offset

    def remove(self, v: int, verb: str) -> None:
        if v not in self.ram:
            raise self.fail(f"{self.name(v)} is {verb}, but it is not in RAM")
        self.release(self.ram.pop(v), self.problem.tensors[v].size_bytes)

    def reserve(self, offset: int, size: int, owner: str) -> None:
        if offset % self.problem.alignment_bytes:
            raise self.fail(f"offset {offset} of {owner} is not aligned to {self.problem.alignment_bytes} bytes")
        end = offset + size
        if self.problem.ram_bytes is not None and end > self.problem.ram_bytes:
            raise self.fail(f"{owner} ends at byte {end}, past the budget of {self.problem.ram_bytes} bytes")
        if size == 0:
            return
        at = bisect_left(self.taken, (offset, end, owner))
        for left, right, other in self.taken[max(0, at - 1) : at + 1]:
            if left < end and offset < right:
                raise self.fail(f"{owner} at bytes {offset}..{end} overwrites {other} at {left}..{right}")
        insort(self.taken, (offset, end, owner))
        self.live += size
        self.arena = max(self.arena, end)

    def release(self, offset: int, size: int) -> None:
        if size:
            at = bisect_left(self.taken, (offset, offset + size, ""))
            del self.taken[at]
            self.live -= size

    def charge_page(self, kind: str, cost: PageCost) -> None:
        self.charge(kind, cost.energy_j, cost.time_s, cost.wear_bytes)

    def charge(self, kind: str, energy_j: float, time_s: float, wear_bytes: float) -> None:
        self.energy[kind] = self.energy.get(kind, 0.0) + energy_j
        self.time[kind] = self.time.get(kind, 0.0) + time_s
        self.wear += wear_bytes

    def finish(self) -> ReplayResult:
        problem = self.problem
        if not self.started:
            self.start()
        missing = [op.name for k, op in enumerate(problem.ops) if k not in self.done]
        if missing:
            raise ReplayError(f"Op {missing[0]} never runs ({len(missing)} in all).")
        for v, tensor in enumerate(problem.tensors):
            if tensor.end is Place.RAM and (v not in self.ram or self.ram[v] != self.home_at_end(v)):
                raise ReplayError(f"At the end {self.name(v)} is not in RAM at its home {self.home_at_end(v)}.")
            if tensor.end is not Place.RAM and v in self.ram:
                raise ReplayError(f"At the end {self.name(v)} is still in RAM; it must be freed after its last use.")
            if tensor.end is Place.STORAGE and self.storage.get(self.slot(v)) != v:
                raise ReplayError(f"At the end {self.name(v)} is not on storage.")
        time = Costs(**self.time)
        energy = Costs(**self.energy, idle=problem.idle_power_w * time.total)
        _check_budget("time", time.total, problem.deadline_s, "s")
        _check_budget("wear", self.wear, problem.wear_budget_bytes, "bytes")
        return ReplayResult(
            energy=energy,
            time=time,
            wear_bytes=self.wear,
            peak_bytes=self.peak,
            arena_bytes=self.arena,
            recomputes=self.recomputes,
            page_ins=self.page_ins,
            page_outs=self.page_outs,
            live_bytes=tuple(self.rows),
        )


def _check_budget(what: str, used: float, budget: float | None, unit: str) -> None:
    if budget is not None and used > budget * (1 + _TOLERANCE):
        raise ReplayError(f"The schedule uses {used:.9g} {unit} of {what}, the budget is {budget:.9g} {unit}.")
