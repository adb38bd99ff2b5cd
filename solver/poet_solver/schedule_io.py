"""Schedule JSON: write, parse, read. The keys are those of the schedule.json of DESIGN §2."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from poet_solver.errors import ProblemError
from poet_solver.problem import Problem
from poet_solver.schedule import (
    Bound,
    Compute,
    Costs,
    Free,
    Home,
    PageIn,
    PageOut,
    Schedule,
    Status,
    Step,
    step_to_dict,
)


def schedule_to_json(schedule: Schedule) -> str:
    """The schedule as JSON text: figures first, then one line a step.

    `energy_by_kind_j` and `time_by_kind_s` split `energy_j` and `time_s`; `counts` says how many steps of a kind
    there are (recomputations are the computes beyond the first of an op).
    """
    head: dict[str, Any] = {
        "format": 1,
        "problem_digest": schedule.problem_digest,
        "status": schedule.status.value,
        "energy_j": schedule.energy_j,
        "time_s": schedule.time_s,
        "peak_bytes": schedule.peak_bytes,
        "arena_bytes": schedule.arena_bytes,
        "lower_bound_j": schedule.lower_bound_j,
        "bound_family": schedule.bound_family,
        "gap": schedule.gap,
        "solve_s": schedule.solve_s,
        "wear_bytes": schedule.wear_bytes,
        "energy_by_kind_j": asdict(schedule.energy),
        "time_by_kind_s": asdict(schedule.time),
        "counts": step_counts(schedule.steps),
        "other_bounds": [asdict(bound) for bound in schedule.other_bounds],
        "notes": list(schedule.notes),
    }
    steps = ",\n".join("  " + json.dumps(step_to_dict(step)) for step in schedule.steps)
    body = json.dumps(head, indent=1)[:-2]
    return f'{body},\n "steps": [\n{steps}\n ]\n}}\n'


def step_counts(steps: tuple[Step, ...]) -> dict[str, int]:
    """Number of steps by kind: compute, recompute, page_out, page_in, free."""
    seen: set[int] = set()
    counts = {"compute": 0, "recompute": 0, "page_out": 0, "page_in": 0, "free": 0}
    for step in steps:
        if isinstance(step, Compute):
            counts["recompute" if step.op in seen else "compute"] += 1
            seen.add(step.op)
        elif not isinstance(step, Home):
            counts["page_out" if isinstance(step, PageOut) else "page_in" if isinstance(step, PageIn) else "free"] += 1
    return counts


def parse_schedule(text: str, source: str = "schedule", problem: Problem | None = None) -> Schedule:
    """Read a schedule from JSON text. Raises ProblemError that names `source` and the field.

    With a `problem`, tensors may also be named by the name of the op that makes them (where it has one output).
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ProblemError(f"{source}: not JSON ({error}). Name a schedule file written by poet-solver.") from error
    if not isinstance(data, dict):
        raise ProblemError(f"{source}: must be a JSON object. Name a schedule file written by poet-solver.")
    names = _tensor_names(problem) if problem is not None else {}
    steps = data.get("steps")
    if not isinstance(steps, list):
        raise ProblemError(f"{source}: steps: must be a list. Name a schedule file written by poet-solver.")
    try:
        status = Status(str(data.get("status")))
    except ValueError as error:
        raise ProblemError(f"{source}: status: {data.get('status')!r} is not 'optimal' or 'feasible'.") from error
    return Schedule(
        problem_digest=_typed(data, "problem_digest", str, source),
        status=status,
        steps=tuple(_step(item, f"{source}: steps[{i}]", names) for i, item in enumerate(steps)),
        energy=_costs(data, "energy_by_kind_j", source),
        time=_costs(data, "time_by_kind_s", source),
        wear_bytes=_number(data, "wear_bytes", source),
        peak_bytes=_typed(data, "peak_bytes", int, source),
        arena_bytes=_typed(data, "arena_bytes", int, source),
        lower_bound_j=_number(data, "lower_bound_j", source),
        bound_family=_typed(data, "bound_family", str, source),
        solve_s=_number(data, "solve_s", source),
        notes=tuple(str(note) for note in data.get("notes", [])),
        other_bounds=tuple(
            Bound(_typed(item, "family", str, source), _number(item, "energy_j", source))
            for item in data.get("other_bounds", [])
            if isinstance(item, dict)
        ),
    )


def read_schedule(path: Path, problem: Problem | None = None) -> Schedule:
    """Read a schedule file. Raises ProblemError for a missing or malformed one."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(f"{path}: cannot be read ({error}). Name a schedule file in JSON.") from error
    return parse_schedule(text, str(path), problem)


def _tensor_names(problem: Problem) -> dict[str, int]:
    return {op.name: op.outputs[0] for op in problem.ops if len(op.outputs) == 1}


def _typed(data: dict[str, Any], key: str, kind: type, source: str) -> Any:
    value = data.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ProblemError(f"{source}: {key}: must be {kind.__name__}, is {value!r}. Solve the problem again.")
    return value


def _number(data: dict[str, Any], key: str, source: str) -> float:
    value = data.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ProblemError(f"{source}: {key}: must be a finite number, is {value!r}. Solve the problem again.")
    return float(value)


def _costs(data: dict[str, Any], key: str, source: str) -> Costs:
    split = data.get(key)
    if not isinstance(split, dict):
        raise ProblemError(f"{source}: {key}: must be an object. Solve the problem again.")
    return Costs(**{f.name: _number(split, f.name, f"{source}: {key}") for f in fields(Costs)})


def _index(item: dict[str, Any], key: str, where: str, names: dict[str, int]) -> int:
    value = item.get(key)
    if isinstance(value, str) and value in names:
        return names[value]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ProblemError(f"{where}.{key}: must be an index >= 0, is {value!r}.")
    return value


def _step(item: object, where: str, names: dict[str, int]) -> Step:
    if not isinstance(item, dict):
        raise ProblemError(f"{where}: must be an object.")
    match item.get("do"):
        case "compute":
            raw = item["offsets"] if "offsets" in item else [item.get("offset")]
            if not isinstance(raw, list) or not all(_is_offset(x) for x in raw):
                raise ProblemError(f"{where}.offset: must be bytes >= 0, or null for an output to storage.")
            workspace = item.get("workspace_offset")
            if not _is_offset(workspace):
                raise ProblemError(f"{where}.workspace_offset: must be bytes >= 0, is {workspace!r}.")
            return Compute(_index(item, "op", where, {}), _index(item, "mode", where, {}), tuple(raw), workspace)
        case "home":
            return Home(_index(item, "tensor", where, names), _index(item, "offset", where, {}))
        case "home":
            return Home(_index(item, "tensor", where, names), _index(item, "offset", where, {}))
        case "page_out":
            return PageOut(_index(item, "tensor", where, names))
        case "page_in":
            return PageIn(_index(item, "tensor", where, names), _index(item, "offset", where, {}))
        case "free":
            return Free(_index(item, "tensor", where, names))
        case other:
            raise ProblemError(f"{where}.do: {other!r} is not home, compute, page_out, page_in or free.")


def _is_offset(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)
