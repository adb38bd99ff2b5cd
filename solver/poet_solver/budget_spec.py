"""What `--ram 0.5`, `--ram 96K`, `--deadline 2.0` and `--wear 40K` mean for a problem."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from poet_solver.baselines.keep import keep_everything_peak
from poet_solver.errors import ProblemError
from poet_solver.problem import Problem

_UNITS = {"": 1, "B": 1, "K": 1024, "KB": 1024, "KIB": 1024, "M": 1024**2, "MB": 1024**2, "MIB": 1024**2}


def ram_bytes_of(text: str, problem: Problem) -> int:
    """Bytes of RAM: a share of the keep-everything peak (0.5, 80%), or bytes (65536, 96K, 1M). Raises ProblemError."""
    share = re.fullmatch(r"(\d*\.\d+|\d+\.|1)|(\d+(?:\.\d*)?)\s*%", text.strip())
    if share is not None:
        value = float(share[1]) if share[1] else float(share[2]) / 100
        if not 0 < value <= 1000:
            raise ProblemError(
                f"--ram {text}: a share must be above 0. Give a share such as 0.5, or bytes such as 96K."
            )
        return int(value * keep_everything_peak(problem))
    size = _size_of(text)
    if size is None:
        raise ProblemError(f"--ram {text}: not a size. Give a share such as 0.5, or bytes such as 65536, 96K or 1M.")
    if int(size) <= 0:
        raise ProblemError(f"--ram {text}: must be above 0. Give a share such as 0.5, or bytes such as 96K.")
    return int(size)


def deadline_s_of(text: str, problem: Problem) -> float:
    """Seconds: a factor of the compute time (2.0, 1.5x) or seconds (30s, 500ms). Raises ProblemError."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(x|s|ms)?", text.strip())
    if match is None:
        raise ProblemError(f"--deadline {text}: not a deadline. Give a factor such as 2.0, or seconds such as 30s.")
    value = float(match[1])
    least_s = problem.compute_time_s()
    seconds = value * {"s": 1.0, "ms": 1e-3}.get(match[2], least_s)
    if not math.isfinite(seconds):
        raise ProblemError(f"--deadline {text}: is {seconds} s. Give a factor such as 2.0, or seconds such as 30s.")
    if seconds < least_s * (1 - 1e-9):
        raise ProblemError(
            f"--deadline {text}: below the compute time itself, {least_s:.6g} s. Give a factor >= 1, or more seconds."
        )
    return seconds


def wear_bytes_of(text: str) -> float:
    """Bytes erased by one run: 40960, 40K, 1.5M. Raises ProblemError."""
    size = _size_of(text)
    if size is None:
        raise ProblemError(f"--wear {text}: not a size. Give bytes erased in one run, such as 40960 or 40K.")
    return size


def _size_of(text: str) -> float | None:
    """Bytes of 65536, 96K or 1.5M; None for other texts."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(match[2].upper()) if match is not None else None
    return None if match is None or unit is None else float(match[1]) * unit


def with_budgets(problem: Problem, ram: str | None, deadline: str | None, wear: str | None = None) -> Problem:
    """The problem with the budgets given on the command line in place of its own."""
    if ram is not None:
        problem = replace(problem, ram_bytes=ram_bytes_of(ram, problem))
    if deadline is not None:
        problem = replace(problem, deadline_s=deadline_s_of(deadline, problem))
    if wear is not None:
        problem = replace(problem, wear_budget_bytes=wear_bytes_of(wear))
    return problem
