"""What a reader should know first: one sentence, and a few figures."""

from __future__ import annotations

from dataclasses import dataclass

from poet_solver.baselines.keep import keep_everything_peak
from poet_solver.schedule import Schedule, Status

from poet_codegen.plan import Plan
from poet_codegen.report.costs import keep_everything_j
from poet_codegen.report.inputs import RunSummary
from poet_codegen.report.text import exact_bytes, percent, short_bytes, shown, si
from poet_codegen.report.timeline import Do, Timeline
from poet_codegen.wear import Wear

_TECHNIQUES = {
    "both": "recomputing and paging",
    "page": "paging only",
    "remat": "recomputing only",
    "keep": "neither that nor paging",
}


@dataclass(frozen=True)
class Card:
    """A figure with its name and a remark."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Headline:
    """The top of the page."""

    model: str
    board: str
    budget: str
    status: str
    is_optimal: bool
    cards: tuple[Card, ...]


def build_headline(plan: Plan, timeline: Timeline, run: RunSummary | None) -> Headline:
    """The top of the report of a plan."""
    schedule = plan.train.schedule
    keep_j = keep_everything_j(plan.train.lowered.problem)
    return Headline(
        model=shown(plan.train.graph.name),
        board=shown(plan.board.title, 100),
        budget=short_bytes(plan.request.ram_bytes),
        status=_status(schedule, keep_j),
        is_optimal=schedule.status is Status.OPTIMAL,
        cards=tuple(_cards(plan, timeline, run, keep_j)),
    )


def _status(schedule: Schedule, keep_j: float) -> str:
    family = shown(schedule.bound_family, 400)
    if schedule.status is Status.OPTIMAL:
        return f"Proven optimal: no schedule uses less energy, to one part in 10,000, among {family}."
    if schedule.lower_bound_j <= 0.0:
        return f"Not proven: how much less energy another schedule may use is unknown, among {family}."
    overhead = schedule.energy_j - keep_j
    over = (schedule.energy_j - max(schedule.lower_bound_j, keep_j)) / overhead if overhead > 0.0 else 0.0
    of_overhead = f" ({percent(over)} of its overhead)" if over > 0.0 else ""
    return (
        f"Within {percent(schedule.gap)} of the proven bound: no schedule can save more than that share of its "
        f"energy{of_overhead}, among {family}."
    )


def _wear_words(wear: Wear) -> str:
    if wear.unit_bytes is None:
        return f"{short_bytes(round(wear.bytes_a_step))} written"
    return f"{wear.bytes_a_step / wear.unit_bytes:g} erases of {short_bytes(wear.unit_bytes)}"


def _cards(plan: Plan, timeline: Timeline, run: RunSummary | None, keep_j: float) -> list[Card]:
    schedule, problem = plan.train.schedule, plan.train.lowered.problem
    overhead = schedule.energy_j / keep_j - 1.0 if keep_j else 0.0
    keep_peak = keep_everything_peak(problem)
    slower = problem.deadline_s
    steps = [step.do for step in timeline.steps]
    again = steps.count(Do.RECOMPUTE)
    moved = exact_bytes(sum(step.size_bytes for step in timeline.steps if not step.op))
    fits = "which fits" if keep_peak <= plan.request.ram_bytes else "which does not fit"
    cards = [
        Card(
            "Energy a step",
            si(schedule.energy_j, "J"),
            f"modelled; {percent(overhead)} more than keeping everything"
            if overhead > 5e-7
            else "modelled; as little as keeping everything",
        ),
        Card(
            "Peak of the arena",
            exact_bytes(schedule.peak_bytes),
            f"budget {exact_bytes(plan.request.ram_bytes)}; keeping everything needs {exact_bytes(keep_peak)}, {fits}",
        ),
        Card(
            "Time a step",
            si(schedule.time_s, "s"),
            "modelled" + ("; no deadline" if slower is None else f"; deadline {si(slower, 's')}"),
        ),
        Card(
            "Recomputed",
            f"{again} step" if again == 1 else f"{again} steps",
            f"of {len(steps)}; allowed: {_TECHNIQUES.get(plan.request.technique, plan.request.technique)}",
        ),
        Card("Paged", f"{steps.count(Do.PAGE_OUT)} out, {steps.count(Do.PAGE_IN)} in", f"{moved} moved a step"),
    ]
    wear = plan.wear
    if wear.steps is not None:
        cards.append(Card("Storage lasts", f"{wear.steps:,} steps", f"{_wear_words(wear)} a step, by its endurance"))
    infer = plan.infer.schedule
    if run is not None and run.facts.test_accuracy is not None:
        cards.append(Card("Test accuracy", percent(run.facts.test_accuracy), "on the device, after training"))
    elif run is not None and run.facts.test_mean_squared_error is not None:
        error = f"{run.facts.test_mean_squared_error:.4g}"
        cards.append(Card("Test error", error, "mean squared, on the device, after training"))
    else:
        note = f"modelled; {si(infer.time_s, 's')}, peak {exact_bytes(infer.peak_bytes)}"
        cards.append(Card("Energy an inference", si(infer.energy_j, "J"), note))
    return cards
