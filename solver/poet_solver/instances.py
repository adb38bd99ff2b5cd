"""Reader of the simple instance format: one output an op, every op repeatable, no homes, one mode.

    {"name": ..., "ops": [{"name", "inputs" (op indices), "bytes", "ws", "time", "energy",
                           "pin_t", "pin_e", "pout_t", "pout_e", "bwd"}, ...]}

Times in seconds, energies in joules, sizes in bytes; `ws` is workspace, `pin` a page-in, `pout` a page-out.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from poet_solver.errors import ProblemError
from poet_solver.problem import Mode, Op, PageCost, Problem, Tensor, parse_problem


def read_any(path: Path) -> Problem:
    """Read a problem file or an instance file, told apart by their keys. Raises ProblemError."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(f"{path}: cannot be read ({error}). Name a problem or instance file in JSON.") from error
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ProblemError(f"{path}: not JSON ({error}). Name a problem or instance file.") from error
    if isinstance(data, dict) and "tensors" not in data and "ops" in data:
        return instance_problem(data, str(path))
    return parse_problem(text, str(path))


def instance_problem(data: dict[str, Any], source: str = "instance") -> Problem:
    """The instance as a Problem without budgets. Raises ProblemError that names the field."""
    ops = data["ops"]
    if not isinstance(ops, list) or not ops:
        raise ProblemError(f"{source}: ops: must be a list of at least one op.")
    tensors: list[Tensor] = []
    built: list[Op] = []
    for k, op in enumerate(ops):
        where = f"{source}: ops[{k}]"
        if not isinstance(op, dict):
            raise ProblemError(f"{where}: must be an object.")
        name = str(op.get("name", k))
        tensors.append(
            Tensor(
                name=name,
                size_bytes=_whole(op, "bytes", where),
                page_in=PageCost(_cost(op, "pin_t", where), _cost(op, "pin_e", where)),
                page_out=PageCost(_cost(op, "pout_t", where), _cost(op, "pout_e", where)),
            )
        )
        mode = Mode(
            time_s=_cost(op, "time", where),
            energy_j=_cost(op, "energy", where),
            resident=_inputs(op, k, where),
            workspace_bytes=_whole(op, "ws", where),
        )
        built.append(Op(name, (k,), (mode,), backward=bool(op.get("bwd", False))))
    return Problem(str(data.get("name", "instance")), tuple(tensors), tuple(built))


def _cost(op: dict[str, Any], key: str, where: str) -> float:
    value = op.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise ProblemError(f"{where}.{key}: must be a number >= 0, is {value!r}. Correct that field and try again.")
    return float(value)


def _whole(op: dict[str, Any], key: str, where: str) -> int:
    value = op.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ProblemError(f"{where}.{key}: must be whole bytes >= 0, is {value!r}. Correct that field and try again.")
    return value


def _inputs(op: dict[str, Any], k: int, where: str) -> tuple[int, ...]:
    inputs = op.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(u, int) and not isinstance(u, bool) for u in inputs):
        raise ProblemError(f"{where}.inputs: must be a list of op indices, is {inputs!r}.")
    for u in inputs:
        if not 0 <= u < k:
            raise ProblemError(
                f"{where}.inputs: op {u} does not come before op {k} (a cycle, an op that does not exist, or ops out "
                "of topological order). Write the ops in topological order."
            )
    return tuple(sorted(set(inputs)))
