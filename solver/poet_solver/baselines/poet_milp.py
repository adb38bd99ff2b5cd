"""POET's published 0-1 program (Patil et al., ICML 2022, section 4), for comparison, on CP-SAT like our own model.

For stage t and op i: R recompute, SRam and SSd in RAM and on storage at the start of the stage, Min and Mout paged in
and out during it, FreeE freed after op k within the stage, U bytes in use after op k: 5 T^2 + T E binaries. Energies
are scaled to integers; its release hands unscaled joules to the solver, which then stops at wrong optima. The deadline
counts paging, as everywhere here; its release does not. One output an op, one mode, no homes: what POET knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ortools.sat.python import cp_model

from poet_solver.cpsat import SCALE
from poet_solver.errors import ProblemError
from poet_solver.interrupt import Interrupt
from poet_solver.net import Net
from poet_solver.plan import Action, Do, complete

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
    n = net.n_ops - 2
    modes = [net.modes[k + 1][0] for k in range(n)]
    size = [net.size[net.outputs[k + 1][0]] for k in range(n)]
    inputs = [[net.producer[v] - 1 for v in modes[k].resident] for k in range(n)]
    readers: list[list[int]] = [[] for _ in range(n)]
    for k in range(n):
        for u in inputs[k]:
            readers[u].append(k)
    cp = cp_model.CpModel()

    def table(name: str) -> list[list[cp_model.IntVar]]:
        return [[cp.new_bool_var(f"{name}{t}_{i}") for i in range(n)] for t in range(n)]

    run, ram, disk, page_in, page_out = table("R"), table("SRam"), table("SSd"), table("Min"), table("Mout")
    for t in range(n):
        cp.add(run[t][t] == 1)
        for i in range(n):
            if i > t:
                cp.add(run[t][i] == 0)
            if i >= t:
                cp.add(ram[t][i] == 0)
                cp.add(disk[t][i] == 0)
            if t + 1 < n:
                cp.add(ram[t + 1][i] <= ram[t][i] + run[t][i] + page_in[t][i])
                cp.add(disk[t + 1][i] <= disk[t][i] + page_out[t][i])
            cp.add(page_in[t][i] <= disk[t][i])
            cp.add(page_out[t][i] <= ram[t][i])
            for u in inputs[i]:
                cp.add(run[t][i] <= run[t][u] + ram[t][u])
        _add_memory(cp, net, t, n, size, inputs, readers, run, ram, page_in)
    unit = SCALE / max(sum(m.energy_j for m in modes), 1e-300)
    tensors = [net.outputs[k + 1][0] for k in range(n)]
    terms: list[cp_model.IntVar] = []
    energy: list[int] = []
    seconds: list[float] = []
    for t in range(n):
        for i in range(n):
            back, out = net.page_in[tensors[i]], net.page_out[tensors[i]]
            for var, cost in ((run[t][i], modes[i]), (page_in[t][i], back), (page_out[t][i], out)):
                if cost is None:
                    cp.add(var == 0)
                    continue
                terms.append(var)
                energy.append(math.floor(cost.energy_j * unit))
                seconds.append(cost.time_s)
    deadline = net.problem.deadline_s
    if deadline is not None:
        scale = _TIME_SCALE / max(deadline, 1e-300)
        cp.add(cp_model.LinearExpr.weighted_sum(terms, [math.floor(s * scale) for s in seconds]) <= _TIME_SCALE)
    cp.minimize(cp_model.LinearExpr.weighted_sum(terms, energy))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = time_limit_s
    solver.parameters.num_workers = threads
    solver.parameters.random_seed = seed
    solver.parameters.catch_sigint_signal = False
    solver.best_bound_callback = lambda bound: on_bound(bound / unit)

    class _OnSolution(cp_model.CpSolverSolutionCallback):
        def on_solution_callback(self) -> None:
            actions: list[Action] = [(Do.COMPUTE, 0, 0)]
            for t in range(n):
                actions += [(Do.PAGE_IN, tensors[i], 0) for i in range(n) if t and self.value(page_in[t - 1][i])]
                actions += [(Do.COMPUTE, i + 1, 0) for i in range(t + 1) if self.value(run[t][i])]
            offer(complete(net, (*actions, (Do.COMPUTE, net.end, 0))))

    with interrupt.watching(solver):
        solver.solve(cp, _OnSolution())
    on_bound(max(0.0, solver.best_objective_bound) / unit)


def _add_memory(
    cp: cp_model.CpModel,
    net: Net,
    t: int,
    n: int,
    size: list[int],
    inputs: list[list[int]],
    readers: list[list[int]],
    run: list[list[cp_model.IntVar]],
    ram: list[list[cp_model.IntVar]],
    page_in: list[list[cp_model.IntVar]],
) -> None:
    """U[t, k] within the budget for every op k of the stage; FreeE[t, i, k] linearised by its hazards."""
    live = sum(size[i] * (ram[t][i] + page_in[t][i]) for i in range(n))
    for k in range(t + 1):
        workspace = net.modes[k + 1][0].new_bytes - size[k]
        live = live + size[k] * run[t][k]
        cp.add(live + workspace * run[t][k] <= net.ram_bytes)
        for i in {*inputs[k], k}:
            free = cp.new_bool_var(f"FreeE{t}_{i}_{k}")
            hazards = [run[t][j] for j in readers[i] if j > k and j <= t]
            if t + 1 < n:
                hazards.append(ram[t + 1][i])
            cp.add(free <= run[t][k])
            for hazard in hazards:
                cp.add(free + hazard <= 1)
            live = live - size[i] * free
