"""`poet-solver`: solve, min-ram and replay on problem files, without the rest of poet-mcu."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from poet_solver.baselines.keep import keep_everything_peak
from poet_solver.budget_spec import with_budgets
from poet_solver.errors import PoetError
from poet_solver.incumbent import Progress
from poet_solver.instances import read_any
from poet_solver.interrupt import Interrupt
from poet_solver.min_ram import MinRam, min_ram
from poet_solver.problem import Problem
from poet_solver.replay import replay
from poet_solver.schedule import Costs, Schedule
from poet_solver.schedule_io import read_schedule, schedule_to_json, step_counts
from poet_solver.techniques import Method, schedule_with

app = typer.Typer(
    name="poet-solver",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=(
        "Energy-optimal schedules of recomputation and paging under a memory and time budget.\n\n"
        "First poet-solver min-ram FILE (how little RAM works?), then poet-solver solve FILE --ram 96K --deadline 2.0 "
        "--out schedule.json, then poet-solver replay FILE schedule.json with the same budgets.\n\n"
        "'optimal' means: no schedule that keeps the file's order of first computations uses less energy by more than "
        "0.01 % (graphs small enough to be searched whole: recomputing in at most two ascending passes before each)."
    ),
)
_out = Console()
_err = Console(stderr=True)
_T = TypeVar("_T")
_LINE_EVERY_S = 5.0

File = Annotated[
    Path,
    typer.Argument(
        help="Problem (JSON with ops and tensors, as poet plan writes it) or instance (JSON with ops only: "
        "name, inputs, bytes, ws, time, energy, pin_t, pin_e, pout_t, pout_e).",
        show_default=False,
    ),
]
Ram = Annotated[
    str | None,
    typer.Option(
        help="RAM budget: share of the keep-everything peak (0.5), or bytes (65536, 96K, 1M). Default: FILE's, or none."
    ),
]
Deadline = Annotated[
    str | None,
    typer.Option(help="Deadline: factor of the compute time (2.0), or seconds (30s). Default: FILE's, or none."),
]
Wear = Annotated[
    str | None,
    typer.Option(help="Bytes that one run may erase on storage: 40960, 40K, 1M. Default: FILE's, or any."),
]
Threads = Annotated[int, typer.Option(help="Processor cores to use.")]
TimeLimit = Annotated[float, typer.Option(help="Seconds the search may take; the best so far is returned.")]


@app.command("solve")
def solve_command(
    file: File,
    ram: Ram = None,
    deadline: Deadline = None,
    wear: Wear = None,
    technique: Annotated[
        Method,
        typer.Option(
            help="both: recompute and page. page, remat: only the one. keep: neither. Baselines: poet-milp (POET's own "
            "program), dtr (greedy recomputation), capuchin (greedy, by seconds), capuchin-energy (the same by joules)."
        ),
    ] = Method.BOTH,
    threads: Threads = 2,
    time_limit: TimeLimit = 120.0,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    keep_order: Annotated[
        bool, typer.Option("--keep-order", help="Keep the file's order of first computations.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Where to write schedule.json.")] = None,
) -> None:
    """Find the schedule of least energy and prove how far from the optimum it can be at most.

    Ctrl-C ends the search with the best schedule so far.
    """
    problem = with_budgets(read_any(file), ram, deadline, wear)
    interrupt = Interrupt()
    with _watching() as watch:
        schedule = _interruptible(
            lambda: schedule_with(
                problem,
                technique,
                time_limit_s=time_limit,
                threads=threads,
                seed=seed,
                progress=watch,
                interrupt=interrupt,
                free_order=not keep_order,
            ),
            interrupt,
        )
    _print_schedule(problem, schedule)
    if out is not None:
        _write(out, schedule_to_json(schedule))
        _out.print(f"Written to {escape(str(out))}; check it again with: poet-solver replay FILE {escape(str(out))}")


@app.command("min-ram")
def min_ram_command(
    file: File,
    deadline: Deadline = None,
    wear: Wear = None,
    technique: Annotated[list[Method] | None, typer.Option(help="Only these techniques.")] = None,
    time_limit: TimeLimit = 60.0,
) -> None:
    """Find the smallest RAM budget that works, for each technique (time limit for each)."""
    problem = with_budgets(read_any(file), None, deadline, wear)
    peak = keep_everything_peak(problem)
    table = Table(
        Column("technique", no_wrap=True), "smallest RAM, bytes", "share", "energy, J", "nothing smaller works"
    )
    interrupt = Interrupt()
    for method in technique or [m for m in Method if m is not Method.POET_MILP]:
        with _err.status(f"min-ram: {method.value}"):
            answer: MinRam = _interruptible(_bound_min_ram(problem, method, time_limit, interrupt), interrupt)
        if answer.ram_bytes is None or answer.schedule is None:
            table.add_row(method.value, "none found", "", "", "")
            continue
        share = f"{answer.ram_bytes / peak:.3f}" if peak else ""
        proven = "proven" if answer.is_proven else "not proven"
        table.add_row(method.value, f"{answer.ram_bytes:,}", share, f"{answer.schedule.energy_j:.6g}", proven)
        if interrupt.stop:
            break
    _out.print(table)
    _out.print("share: of the keep-everything peak. energy: of the first schedule that fits; solve finds better ones.")


@app.command("replay")
def replay_command(
    file: File,
    schedule_file: Annotated[Path, typer.Argument(metavar="SCHEDULE", help="schedule.json", show_default=False)],
    ram: Ram = None,
    deadline: Deadline = None,
    wear: Wear = None,
) -> None:
    """Check a schedule step by step on a byte map of the arena. Give the budgets that it was solved with."""
    problem = with_budgets(read_any(file), ram, deadline, wear)
    schedule = read_schedule(schedule_file, problem)
    replay(problem, schedule)
    _out.print("[bold green]The schedule is legal[/] and its figures are right.")
    _print_schedule(problem, schedule)


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage."""
    try:
        app()
    except PoetError as error:
        _err.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


def _bound_min_ram(problem: Problem, method: Method, time_limit_s: float, interrupt: Interrupt) -> Callable[[], MinRam]:
    return lambda: min_ram(problem, method, time_limit_s=time_limit_s, interrupt=interrupt)


def _interruptible(work: Callable[[], _T], interrupt: Interrupt) -> _T:
    """Run `work` on a thread, so that Ctrl-C can end the search and still get its best schedule."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        while True:
            try:
                return future.result(timeout=0.2)
            except TimeoutError:
                if future.done():
                    raise
            except KeyboardInterrupt:
                if interrupt.stop:
                    os._exit(130)  # a second Ctrl-C: threads of the solvers cannot be ended otherwise
                _err.print("Interrupted: finishing with the best schedule so far. Once more gives it up.")
                interrupt.set()


@contextmanager
def _watching() -> Iterator[Callable[[Progress], None]]:
    """Shows progress: on a terminal in place, else as lines, at most one in `_LINE_EVERY_S`."""
    if _err.is_terminal:
        with Live(console=_err, transient=True, refresh_per_second=8) as live:
            yield lambda news: live.update(_progress_text(news))
        return
    printed = [-math.inf]

    def watch(news: Progress) -> None:
        if math.isfinite(news.energy_j) and news.elapsed_s >= printed[0] + _LINE_EVERY_S:
            printed[0] = news.elapsed_s
            _err.print(f"{_figures(news)}  | {news.phase}", highlight=False, soft_wrap=True, markup=False)

    yield watch


def _progress_text(news: Progress) -> Text:
    narrower = [
        f"{'':8}  in part: bound {bound:.6g} J  gap {_gap(news.energy_j, bound):.3%}  over {family}"
        for family, bound in news.other_bounds.items()
        if bound > news.bound_j and math.isfinite(news.energy_j)
    ]
    return Text("\n".join((_figures(news), *narrower, f"{'':8}  {news.phase}")), no_wrap=True, overflow="ellipsis")


def _figures(news: Progress) -> str:
    energy = "none yet" if math.isinf(news.energy_j) else f"{news.energy_j:.6g} J"
    gap = "" if math.isinf(news.energy_j) else f"  gap {news.gap:.3%}"
    return f"{news.elapsed_s:6.1f} s  best {energy}  bound {news.bound_j:.6g} J{gap}"


def _gap(energy_j: float, bound_j: float) -> float:
    """Relative distance of a bound from the energy."""
    return max(0.0, energy_j - bound_j) / energy_j if energy_j else 0.0


def _print_schedule(problem: Problem, schedule: Schedule) -> None:
    base = sum(min(mode.energy_j + problem.idle_power_w * mode.time_s for mode in op.modes) for op in problem.ops)
    table = Table(show_header=False)
    table.add_row("status", schedule.status.value)
    table.add_row("energy", f"{schedule.energy_j:.6g} J{_split(schedule.energy, 'J')}")
    if base:
        table.add_row("overhead", f"{schedule.energy_j / base - 1:.4%} over every op once")
    for family, bound in ((schedule.bound_family, schedule.lower_bound_j), *_other_bounds(schedule)):
        over = f", overhead >= {bound / base - 1:.4%}" if base else ""
        table.add_row(
            "lower bound", f"{bound:.6g} J (gap {_gap(schedule.energy_j, bound):.4%}{over}) over {escape(family)}"
        )
    table.add_row("time", f"{schedule.time_s:.6g} s{_split(schedule.time, 's')}")
    budget = "" if problem.ram_bytes is None else f" of {problem.ram_bytes:,}"
    table.add_row("RAM", f"arena {schedule.arena_bytes:,} bytes{budget}; peak {schedule.peak_bytes:,}")
    counts = step_counts(schedule.steps)
    table.add_row("steps", ", ".join(f"{count} {kind.replace('_', '-')}" for kind, count in counts.items()))
    if schedule.wear_bytes:
        table.add_row("wear", f"{schedule.wear_bytes:.6g} bytes erased")
    for note in schedule.notes:
        table.add_row("note", escape(note))
    table.add_row("solved in", f"{schedule.solve_s:.2f} s")
    _out.print(table)


def _other_bounds(schedule: Schedule) -> list[tuple[str, float]]:
    return [(bound.family, bound.energy_j) for bound in schedule.other_bounds]


def _split(costs: Costs, unit: str) -> str:
    parts = [f"{name.replace('_', '-')} {value:.4g} {unit}" for name, value in asdict(costs).items() if value]
    return f" ({', '.join(parts)})" if parts else ""


def _write(path: Path, text: str) -> None:
    try:
        part = path.with_name(path.name + ".part")
        part.write_text(text)
        part.replace(path)
    except OSError as error:
        raise PoetError(f"{path}: cannot be written ({error.strerror}). Name another file with --out.") from error


if __name__ == "__main__":
    main()
