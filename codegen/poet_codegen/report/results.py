"""What happened after the plan: a run's facts against what was scheduled, and the firmware's sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from poet_codegen.plan import Plan
from poet_codegen.report.figures import average_window
from poet_codegen.report.inputs import FirmwareSizes, LossPoint, RunFacts, RunSummary
from poet_codegen.report.text import count, exact_bytes, percent, short_bytes, shown
from poet_codegen.report.timeline import Do, Timeline


@dataclass(frozen=True)
class Fact:
    """One line about a run. `verdict`: good, bad, or empty where nothing is judged."""

    label: str
    value: str
    note: str
    verdict: str = ""


@dataclass(frozen=True)
class Part:
    """A piece of a memory bar."""

    label: str
    css: str
    size: str
    part: float


@dataclass(frozen=True)
class Bar:
    """A memory of the board and what fills it."""

    label: str
    text: str
    parts: tuple[Part, ...]


def run_facts(plan: Plan, timeline: Timeline, run: RunSummary) -> tuple[Fact, ...]:
    """What is known of a run, checked against the schedule."""
    facts = run.facts
    out: list[Fact] = []
    if facts.test_accuracy is not None:
        out.append(Fact("Test accuracy", percent(facts.test_accuracy), "predicted on the device"))
    if facts.test_mean_squared_error is not None:
        error = f"{facts.test_mean_squared_error:.4g}"
        out.append(Fact("Test error", error, "mean squared error of what the device answered"))
    out += _bits(facts)
    out += _memory(plan, facts)
    steps = [step.do for step in timeline.steps]
    for label, counted, do in (
        ("Recomputations a step", facts.recompute_calls, Do.RECOMPUTE),
        ("Page-outs a step", facts.page_outs, Do.PAGE_OUT),
        ("Page-ins a step", facts.page_ins, Do.PAGE_IN),
    ):
        if counted is not None:
            planned = steps.count(do)
            same = counted == planned
            note = "as scheduled" if same else f"scheduled: {planned}"
            out.append(Fact(label, count(counted), f"counted by the device; {note}", _verdict(same)))
    trained = facts.steps if facts.steps is not None else len(run.losses) or None
    if trained is not None:
        out.append(Fact("Training steps", count(trained), _rates(run)))
    if facts.not_finite_at_step is not None:
        note = "the run stopped there, with the weights of the step before"
        out.append(Fact("Loss not finite", f"step {facts.not_finite_at_step}", note, "bad"))
    if run.losses:
        out.append(_last_loss(run.losses))
    if facts.seconds is not None:
        out.append(Fact("Duration", _duration(facts.seconds), "on the host's clock, the serial link included"))
    return tuple(out)


def _bits(facts: RunFacts) -> list[Fact]:
    if facts.bit_identical is None:
        return []
    note = "losses and final weights of the device, the host, and the host keeping everything"
    value = "yes" if facts.bit_identical else "no"
    return [Fact("Bit-identical", value, note, _verdict(facts.bit_identical))]


def _memory(plan: Plan, facts: RunFacts) -> list[Fact]:
    out: list[Fact] = []
    touched, schedule = facts.arena_high_water_bytes, plan.train.schedule
    if touched is not None:
        same = touched == schedule.arena_bytes
        # Packing may leave holes, and then the highest byte in use lies above the most bytes live at once.
        what = "peak" if schedule.arena_bytes == schedule.peak_bytes else "highest address"
        planned = f"the schedule's {what}"
        note = f"equals {planned}" if same else f"{planned} is {exact_bytes(schedule.arena_bytes)}"
        out.append(Fact("Arena touched", exact_bytes(touched), f"painted memory on the device; {note}", _verdict(same)))
    stack, there = facts.stack_high_water_bytes, facts.stack_bytes
    if stack is not None:
        note = "painted memory on the device" + ("" if there is None else f"; {exact_bytes(there)} are reserved")
        verdict = "" if there is None else _verdict(stack < there)
        out.append(Fact("Stack high water", exact_bytes(stack), note, verdict))
    return out


def _rates(run: RunSummary) -> str:
    rates = list(dict.fromkeys(point.learning_rate for point in run.losses))
    if not rates:
        return "" if run.facts.learning_rate is None else f"learning rate {run.facts.learning_rate:g}"
    if len(rates) > 1:
        return f"learning rate {rates[0]:g}, at the end {rates[-1]:g}"
    return f"learning rate {rates[0]:g}"


def _last_loss(losses: tuple[LossPoint, ...]) -> Fact:
    window = average_window(len(losses))
    mean = sum(point.loss for point in losses[-window:]) / window
    broken = sum(not math.isfinite(point.loss) for point in losses)
    if broken:
        note = f"{count(broken)} losses are not finite numbers: the run diverged"
        return Fact("Loss at the end", f"{mean:.4g}", note, "bad")
    return Fact("Loss at the end", f"{mean:.4g}", f"mean of the last {count(window)} steps")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _verdict(is_good: bool) -> str:
    return "good" if is_good else "bad"


def size_bars(sizes: FirmwareSizes) -> tuple[Bar, ...]:
    """Bars of flash and RAM, as far as the sizes are known."""
    bars: list[Bar] = []
    if sizes.flash_bytes is not None and sizes.flash_total_bytes:
        bars.append(_bar("Flash", sizes.flash_total_bytes, [("code and constants", "flash", sizes.flash_bytes)]))
    if sizes.ram_static_bytes is not None and sizes.ram_total_bytes:
        arena = min(sizes.arena_bytes or 0, sizes.ram_static_bytes)
        parts = [
            ("arena", "arena", arena),
            ("other static data", "static", sizes.ram_static_bytes - arena),
            ("stack, reserved", "stack", sizes.stack_bytes or 0),
        ]
        bars.append(_bar("RAM", sizes.ram_total_bytes, parts))
    return tuple(bars)


def _bar(label: str, total: int, parts: list[tuple[str, str, int]]) -> Bar:
    used = sum(size for _, _, size in parts)
    free = max(0, total - used)
    return Bar(
        label,
        f"{short_bytes(used)} of {short_bytes(total)}, {percent(used / total)}",
        tuple(
            Part(name, css, short_bytes(size), size / total)
            for name, css, size in [*parts, ("free", "unused", free)]
            if size
        ),
    )


def size_notes(sizes: FirmwareSizes) -> tuple[str, ...]:
    """What the bars do not show."""
    notes: list[str] = []
    if sizes.largest_frame_bytes is not None:
        notes.append(f"Largest stack frame: {exact_bytes(sizes.largest_frame_bytes)}.")
    if sizes.compiler is not None:
        notes.append(f"Compiler: {shown(sizes.compiler, 120)}.")
    return tuple(notes)
