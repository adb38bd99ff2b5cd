"""POET's published 0-1 program (Patil et al., ICML 2022, section 4), for comparison, on the solvers of our own model.

For stage t and op i: R recompute, SRam and SSd in RAM and on storage at the start of the stage, Min and Mout paged in
and out during it, FreeE freed after op k within the stage, U bytes in use after op k: 5 T^2 + T E binaries, of which
those that its own rows fix at 0 are not built. Energies, bytes and seconds are scaled; its release hands unscaled
joules to the solver, which then stops at wrong optima. The deadline counts paging, as everywhere here; its release does
not. One output an op, one mode, no homes: what POET knows.

On CP-SAT, and on HiGHS for the benchmark: which of the two is faster depends on the graph; SCIP was slower than both.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from ortools.math_opt.python import mathopt
from ortools.sat.python import cp_model

from poet_solver.cpsat import SCALE
from poet_solver.errors import ProblemError
from poet_solver.interrupt import Interrupt
from poet_solver.lp import OBJECTIVE_SCALE, add_rows
from poet_solver.model import INF, Row
from poet_solver.net import Net
from poet_solver.place import OPTIMAL_GAP
from poet_solver.plan import Action, Do, complete

FAMILY = "schedules that POET's program can express"

_TIME_SCALE = 10**7


def check_supported(net: Net) -> None:
    """Raise ProblemError where POET's program has no words for the problem."""
    for k in range(1, net.end):
        if len(net.modes[k]) != 1 or len(net.outputs[k]) != 1 or not net.repeatable[k]:
            raise ProblemError(
                f"ops[{k - 1}] ({net.names[k]}): POET's program knows one mode and one output an op and no updates. "
                "Choose another technique for this problem."
            )
    if net.outputs[0] or net.operands[net.end] or any(net.ends_on_storage):
        raise ProblemError("tensors: POET's program knows no tensors with a home. Choose another technique.")


def poet_milp(
    net: Net,
    time_limit_s: float,
    threads: int,
    seed: int,
    interrupt: Interrupt,
    offer: Callable[[tuple[Action, ...]], bool],
    on_bound: Callable[[float], None],
) -> None:
    """Solve; every schedule found goes to `offer`, every bound in joules to `on_bound`. Raises ProblemError."""
    check_supported(net)
    program = _program(net)
    cp = cp_model.CpModel()
    x = [cp.new_bool_var("") for _ in program.energy_j]
    for row in program.rows:
        expression = cp_model.LinearExpr.weighted_sum([x[j] for j in row.index], [int(c) for c in row.coef])
        if row.hi == INF:
            cp.add(expression >= int(row.lo))
        else:
            cp.add(expression <= int(row.hi))
            if row.lo == row.hi:
                cp.add(expression >= int(row.lo))
    deadline = program.net.problem.deadline_s
    if deadline is not None:
        seconds = [math.floor(s * _TIME_SCALE / max(deadline, 1e-300)) for s in program.seconds]
        cp.add(cp_model.LinearExpr.weighted_sum(x, seconds) <= _TIME_SCALE)
    unit = SCALE / _base_j(program)
    cp.minimize(cp_model.LinearExpr.weighted_sum(x, [math.floor(e * unit) for e in program.energy_j]))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = time_limit_s
    solver.parameters.num_workers = threads
    solver.parameters.linearization_level = 2
    solver.parameters.relative_gap_limit = OPTIMAL_GAP
    solver.parameters.random_seed = seed
    solver.parameters.catch_sigint_signal = False
    solver.best_bound_callback = lambda bound: on_bound(bound / unit)

    class _OnSolution(cp_model.CpSolverSolutionCallback):
        def on_solution_callback(self) -> None:
            offer(program.actions(lambda j: bool(self.value(x[j]))))

    with interrupt.watching(solver):
        solver.solve(cp, _OnSolution())
    on_bound(max(0.0, solver.best_objective_bound) / unit)


def poet_milp_on_highs(
    net: Net,
    time_limit_s: float,
    offer: Callable[[tuple[Action, ...]], bool],
    on_bound: Callable[[float], None],
) -> None:
    """The same on HiGHS: here it has one thread, tells its solution only at the end, and cannot be interrupted."""
    check_supported(net)
    program = _program(net)
    model = mathopt.Model()
    x = [model.add_binary_variable() for _ in program.energy_j]
    unit = OBJECTIVE_SCALE / _base_j(program)
    for variable, energy in zip(x, program.energy_j, strict=True):
        if energy:
            model.objective.set_linear_coefficient(variable, energy * unit)
    budget = program.net.ram_bytes
    add_rows(model, x, [row for row in program.rows if row.hi != budget], 1.0)
    add_rows(model, x, [row for row in program.rows if row.hi == budget], 1.0 / max(1, budget))
    deadline = program.net.problem.deadline_s
    if deadline is not None:
        index = tuple(j for j, s in enumerate(program.seconds) if s)
        add_rows(model, x, [Row(index, tuple(program.seconds[j] for j in index), -INF, deadline)], 1.0 / deadline)
    result = mathopt.solve(
        model,
        mathopt.SolverType.HIGHS,
        params=mathopt.SolveParameters(
            time_limit=datetime.timedelta(seconds=time_limit_s), relative_gap_tolerance=OPTIMAL_GAP
        ),
    )
    if result.solutions:
        values = result.variable_values(x)
        offer(program.actions(lambda j: values[j] > 0.5))
    bound = result.best_objective_bound() / unit
    if math.isfinite(bound):
        on_bound(bound)


@dataclass
class _Program:
    """Variables are numbers; a table holds None where the program's rows fix a variable at 0."""

    net: Net
    run: list[list[int | None]] = field(default_factory=list)
    """[t][i]: op i runs in stage t."""
    page_in: list[list[int | None]] = field(default_factory=list)
    energy_j: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    """Coefficients are whole, of memory rows in bytes."""

    def variable(self, energy_j: float = 0.0, seconds: float = 0.0) -> int:
        self.energy_j.append(energy_j)
        self.seconds.append(seconds)
        return len(self.energy_j) - 1

    def add(self, terms: list[tuple[int | None, int]], lo: float, hi: float) -> None:
        there = [(j, float(c)) for j, c in terms if j is not None]
        self.rows.append(Row(tuple(j for j, _ in there), tuple(c for _, c in there), lo, hi))

    def actions(self, is_set: Callable[[int], bool]) -> tuple[Action, ...]:
        """The steps of a solution."""
        net, steps = self.net, list[Action]([(Do.COMPUTE, 0, 0)])
        for t, row in enumerate(self.run):
            if t:
                pages = enumerate(self.page_in[t - 1])
                steps += [(Do.PAGE_IN, net.outputs[i + 1][0], 0) for i, j in pages if j is not None and is_set(j)]
            steps += [(Do.COMPUTE, i + 1, 0) for i, j in enumerate(row) if j is not None and is_set(j)]
        return complete(net, (*steps, (Do.COMPUTE, net.end, 0)))


def _program(net: Net) -> _Program:
    program = _Program(net)
    n = net.n_ops - 2
    tensors = [net.outputs[k + 1][0] for k in range(n)]
    inputs = [[net.producer[v] - 1 for v in net.modes[k + 1][0].resident] for k in range(n)]
    ram: list[list[int | None]] = []
    disk: list[list[int | None]] = []
    page_out: list[list[int | None]] = []
    for t in range(n):
        costs = [(net.modes[i + 1][0], net.page_in[tensors[i]], net.page_out[tensors[i]]) for i in range(t + 1)]
        after = [None] * (n - t)
        program.run.append([*(program.variable(c.energy_j, c.time_s) for c, _, _ in costs), *after[1:]])
        ram.append([*(program.variable() for _ in range(t)), *after])
        disk.append([*(program.variable() for _ in range(t)), *after])
        program.page_in.append([*(_priced(program, back) for _, back, _ in costs[:t]), *after])
        page_out.append([*(_priced(program, out) for _, _, out in costs[:t]), *after])
    for t in range(n):
        run, back, out = program.run[t], program.page_in[t], page_out[t]
        program.add([(run[t], 1)], 1, 1)
        for i in range(t + 1):
            if t + 1 < n:
                program.add([(ram[t][i], 1), (run[i], 1), (back[i], 1), (ram[t + 1][i], -1)], 0, INF)
                program.add([(disk[t][i], 1), (out[i], 1), (disk[t + 1][i], -1)], 0, INF)
            if back[i] is not None:
                program.add([(disk[t][i], 1), (back[i], -1)], 0, INF)
            if out[i] is not None:
                program.add([(ram[t][i], 1), (out[i], -1)], 0, INF)
            for u in inputs[i]:
                program.add([(run[u], 1), (ram[t][u], 1), (run[i], -1)], 0, INF)
        _add_memory(program, t, inputs, ram)
    return program


def _priced(program: _Program, cost: object) -> int | None:
    energy_j, seconds = getattr(cost, "energy_j", None), getattr(cost, "time_s", None)
    return None if energy_j is None or seconds is None else program.variable(energy_j, seconds)


def _add_memory(program: _Program, t: int, inputs: list[list[int]], ram: list[list[int | None]]) -> None:
    """U[t, k] within the budget for every op k of the stage; FreeE[t, i, k] linearised by its hazards."""
    net, run, back = program.net, program.run[t], program.page_in[t]
    n = len(inputs)
    size = [net.size[net.outputs[k + 1][0]] for k in range(n)]
    live: list[tuple[int | None, int]] = []
    for i in range(t):
        live += [(ram[t][i], size[i]), (back[i], size[i])]
    for k in range(t + 1):
        workspace = net.modes[k + 1][0].new_bytes - size[k]
        program.add([*live, (run[k], size[k] + workspace)], -INF, net.ram_bytes)
        live.append((run[k], size[k]))
        for i in sorted({*inputs[k], k}):
            free = program.variable()
            program.add([(run[k], 1), (free, -1)], 0, INF)
            hazards = [run[j] for j in range(k + 1, t + 1) if i in inputs[j]]
            if t + 1 < n:
                hazards.append(ram[t + 1][i])
            for hazard in hazards:
                program.add([(free, 1), (hazard, 1)], -INF, 1)
            live.append((free, -size[i]))


def _base_j(program: _Program) -> float:
    """Joules of every op once: the unit of the objective."""
    modes = program.net.modes
    return max(sum(modes[k][0].energy_j for k in range(1, program.net.end)), 1e-300)
