"""What a program costs on a board: its kernels, every transfer with its latency, and what both do at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from poet_solver.problem import PageCost

from poet_codegen.board import PAGE_HEADER_BYTES, Board, both
from poet_codegen.cost_model import CostModel
from poet_codegen.ops.registry import Work
from poet_codegen.tiling.program import (
    FLOAT_BYTES,
    ROW_CRC_BYTES,
    Call,
    Check,
    Loop,
    Move,
    Pick,
    Program,
    Start,
    StartNext,
    Statement,
    Wait,
    without_loops,
)


@dataclass(frozen=True)
class Cost:
    """Of a program on a board."""

    time_s: float
    energy_j: float
    wear_bytes: float


@dataclass(frozen=True)
class Transfer:
    """So many equal transfers between storage and memory; of a header `data_bytes` is 0."""

    is_write: bool
    data_bytes: int
    header_bytes: int
    times: int
    erased_bytes: int = 0
    """Of a page that is erased before its first tile, where the device needs that."""

    def price(self, board: Board) -> PageCost:
        """What the storage device takes for one of them, by the board's model."""
        if not self.is_write:
            return board.page_in_cost(self.data_bytes + self.header_bytes)
        return both(board.write_cost(self.data_bytes + self.header_bytes), board.erase_cost(self.erased_bytes))


def transfers(program: Program, size_bytes: Mapping[str, int]) -> Iterator[Transfer]:
    """Every transfer, the header of each pass included. `size_bytes` are those of the streamed tensors."""
    for step, times in program.counted():
        if isinstance(step, Move) and step.streamed:
            yield Transfer(step.to_tensor, step.shape.run_bytes, 0, times * step.shape.runs)
        elif isinstance(step, Pick) and step.streamed:
            yield Transfer(False, step.row_bytes, 0, times * step.count)
            yield Transfer(False, 0, ROW_CRC_BYTES, times * step.count)
    for (tensor, is_write), moved in program.streams().items():
        passes, rest = divmod(moved, size_bytes[tensor])
        assert not rest, f"{program.title}: tiles of {tensor} do not cover it"
        page_bytes = PAGE_HEADER_BYTES + size_bytes[tensor] if is_write else 0
        yield Transfer(is_write, 0, PAGE_HEADER_BYTES, passes, page_bytes)


def device_cost(program: Program, board: Board, size_bytes: Mapping[str, int]) -> PageCost:
    """What the storage device takes for the program's transfers, by the board's model, checksums left out."""
    time_s = energy_j = 0.0
    for one in transfers(program, size_bytes):
        price = one.price(board)
        time_s += one.times * price.time_s
        energy_j += one.times * price.energy_j
    return PageCost(time_s, energy_j)


@dataclass(frozen=True)
class Overlap:
    """What the storage device and the processor of a program do at once."""

    hidden_s: float
    """Time that transfers and work take together less than one after the other."""
    processor_s: float
    """All work of the processor with which that is so."""

    def within(self, processor_s: float) -> float:
        """The time hidden where the work takes `processor_s`, all of it longer or shorter alike; at least so much."""
        return self.hidden_s * min(1.0, processor_s / self.processor_s) if self.hidden_s else 0.0


def overlap(program: Program, costs: CostModel, size_bytes: Mapping[str, int]) -> Overlap:
    """Of tiles that are read ahead, by the cost of kernels and transfers.

    A tile's read and the work that follows its start take the longer of both, up to the next use of the device. What
    DMA takes from the core on the bus and the few cycles to start it are left out. `size_bytes` are those of the
    streamed tensors.
    """
    hidden_s = sum(
        times * min(sum(_read_s(move, costs)[0] for move in moves), sum(_work_s(step, costs) for step in work))
        for times, moves, work in _at_once(program.body, 1)
    )
    if not hidden_s:
        return Overlap(0.0, 0.0)
    cycles, time_s, _, _ = _parts(program, costs, size_bytes)
    device_s = device_cost(program, costs.board, size_bytes).time_s
    return Overlap(hidden_s, cycles * costs.board.seconds_per_cycle + max(0.0, time_s - device_s))


_Levels = tuple[tuple[Sequence[Statement], Sequence[Statement]], ...]
"""(body, what follows the loop) of each loop round a statement, the innermost first."""
_AtOnce = Iterator[tuple[int, tuple[Move, ...], Sequence[Statement]]]


def _at_once(body: Sequence[Statement], times: int, levels: _Levels = ()) -> _AtOnce:
    """(how often, tiles that are read, statements up to the next use of the device) of each start."""
    started: list[Start] = []
    for position, step in enumerate(body):
        rest = body[position + 1 :]
        if isinstance(step, Loop):
            yield from _at_once(step.body, times * (step.end - step.first), ((step.body, rest), *levels))
        elif isinstance(step, Start):
            started.append(step)
            if not isinstance(rest[0], Start):
                yield from _started(started, times, rest, levels)
                started = []
        elif isinstance(step, StartNext):
            yield from _started([step], times, rest, levels)


def _started(steps: Sequence[Start | StartNext], times: int, rest: Sequence[Statement], levels: _Levels) -> _AtOnce:
    """Of starts that `rest` follows, up to the end of the innermost loop's body."""
    moves = tuple(step.move for step in steps if isinstance(step, Start))
    if moves:
        yield times, moves, _without_device(rest)
    for step in steps:
        if isinstance(step, StartNext):
            (body, behind), *outer = levels
            turns = times // (step.last + 1)
            yield times - turns, step.moves, _without_device((*rest, *body))
            yield from _started(step.after, turns, (*rest, *behind), tuple(outer))


def _without_device(steps: Sequence[Statement]) -> list[Statement]:
    """What is done before the device is used."""
    found = list(takewhile(lambda step: not _uses_device(step), steps))
    used = steps[len(found)] if len(found) < len(steps) else None
    return found + _without_device(used.body) if isinstance(used, Loop) else found


def _uses_device(step: Statement) -> bool:
    return any(
        isinstance(one, Start | StartNext | Wait) or (isinstance(one, Move | Pick) and one.streamed)
        for one in without_loops([step])
    )


def _work_s(step: Statement, costs: CostModel) -> float:
    """Of statements that do not use the device."""
    spc = costs.board.seconds_per_cycle
    if isinstance(step, Loop):
        return (step.end - step.first) * sum(_work_s(inner, costs) for inner in step.body)
    if isinstance(step, Check):
        return _read_s(step.move, costs)[1]
    if isinstance(step, Call):
        return costs.kernel_cycles(step.kernel, step.work) * spc
    return _copy_cycles(step, costs) * spc if isinstance(step, Move | Pick) else 0.0


def _read_s(move: Move, costs: CostModel) -> tuple[float, float]:
    """(what the device takes to read a tile, the processor for its checksum)."""
    run, runs = move.shape.run_bytes, move.shape.runs
    transfer = costs.board.page_in_cost(run)
    whole_s = costs.with_checksum("page_in", run, transfer).time_s
    joined = costs.table_cycles(Work("tile")) if runs > 1 else 0.0
    checksum_s = runs * max(0.0, whole_s - transfer.time_s) + joined * costs.board.seconds_per_cycle
    return runs * min(transfer.time_s, whole_s), checksum_s


def cost(program: Program, costs: CostModel, size_bytes: Mapping[str, int]) -> Cost:
    """Compute, and every transfer with its latency and checksum. `size_bytes` are those of the streamed tensors.

    A profile that has the whole program prices what the processor does in it. Of what is read ahead only the longer of
    transfer and work takes time (`overlap`); the device draws its power while it transfers, and the CPU its run power
    all the time, for it waits awake.
    """
    board = costs.board
    both_at_once = overlap(program, costs, size_bytes)
    hidden_s, profiled = both_at_once.hidden_s, None
    if costs.costs is not None:
        device = device_cost(program, board, size_bytes)
        # A board's clock saw of the transfers what was not hidden.
        profiled = costs.program_cycles(program.profile_name, program.kernels, device.time_s - hidden_s)
    if profiled is not None:
        cycles, is_measured = profiled
        if not is_measured:
            hidden_s = both_at_once.within(cycles * board.seconds_per_cycle)
        time_s, energy_j = device.time_s, device.energy_j
        wear_bytes = sum(one.times * one.price(board).wear_bytes for one in transfers(program, size_bytes))
    else:
        cycles, time_s, energy_j, wear_bytes = _parts(program, costs, size_bytes)
    time_s, energy_j = time_s + cycles * board.seconds_per_cycle, energy_j + cycles * board.energy_per_cycle_j
    return Cost(time_s - hidden_s, energy_j - hidden_s * board.power.run_w.value, wear_bytes)


def _parts(program: Program, costs: CostModel, size_bytes: Mapping[str, int]) -> tuple[float, float, float, float]:
    """(cycles of kernels and copies; time, energy and wear of transfers with their checksums)."""
    cycles = time_s = energy_j = wear_bytes = 0.0
    for step, times in program.counted():
        if isinstance(step, Call):
            cycles += times * costs.kernel_cycles(step.kernel, step.work)
        elif not step.streamed:
            cycles += times * _copy_cycles(step, costs)
        elif isinstance(step, Move) and step.shape.runs > 1:
            cycles += times * costs.table_cycles(Work("tile"))
    for one in transfers(program, size_bytes):
        price = costs.with_checksum("page_out" if one.is_write else "page_in", one.data_bytes, one.price(costs.board))
        time_s += one.times * price.time_s
        energy_j += one.times * price.energy_j
        wear_bytes += one.times * price.wear_bytes
    return cycles, time_s, energy_j, wear_bytes


def _copy_cycles(step: Move | Pick, costs: CostModel) -> float:
    """Of a tile in RAM."""
    moved = step.shape.size_bytes if isinstance(step, Move) else step.count * step.row_bytes
    return costs.table_cycles(Work("elementwise", elements=moved // FLOAT_BYTES))
