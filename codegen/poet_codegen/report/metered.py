"""Predicted against what a meter saw: by kind, by operation, and step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked

from poet_codegen.report.text import Scale, count, shown, si

_OPEN = ConfigDict(extra="ignore", allow_inf_nan=False)
_FAR = 0.25
"""A prediction that is off by more is marked."""
_MATTERS = 0.01
"""Where it is at least this share of the whole."""


@checked(frozen=True, config=_OPEN)
class MeanValue:
    """A mean over training steps, and half its 95 % confidence interval."""

    mean: float
    ci95: float


@checked(frozen=True, config=_OPEN)
class MeteredStep:
    """A schedule step: planned, and under the meter. Joules and seconds."""

    kind: str
    name: str
    op: str
    planned_j: float
    planned_s: float
    energy_j: MeanValue
    time_s: MeanValue


@checked(frozen=True, config=_OPEN)
class EnergyFacts:
    """run/energy.json, as `poet measure` wrote it."""

    kind: Literal["measured", "modelled"]
    source: str
    schedule_digest: str
    steps: int
    energy_j: MeanValue
    time_s: MeanValue
    planned_j: float
    planned_s: float
    by_kind_j: dict[str, MeanValue]
    planned_by_kind_j: dict[str, float]
    schedule: tuple[MeteredStep, ...]


@dataclass(frozen=True)
class Row:
    """Energy and time of something: predicted, under the meter, and how far the prediction is off."""

    name: str
    what: str
    css: str
    planned_j: str
    energy_j: str
    ci: str
    off_j: str
    planned_s: str
    time_s: str
    off_s: str
    is_far: bool


@dataclass(frozen=True)
class Metered:
    """The section of the page."""

    kind: str
    source: str
    summary: str
    energy_unit: str
    time_unit: str
    kinds: tuple[Row, ...]
    ops: tuple[Row, ...]
    """By operation or paged tensor, those that take most energy first."""
    steps: tuple[Row, ...]
    """In the order they run."""


def metered_section(facts: EnergyFacts) -> Metered:
    """What a meter saw beside what was planned."""
    steps = facts.schedule
    largest_j = max([facts.energy_j.mean, facts.planned_j])
    largest_s = max([facts.time_s.mean, facts.planned_s])
    energy, time = Scale.of(largest_j / 10.0), Scale.of(largest_s / 10.0)

    def row(name: str, what: str, css: str, planned: tuple[float, float], j: MeanValue, s: float | None) -> Row:
        off_j = _off(planned[0], j.mean)
        far = off_j is not None and abs(off_j) > _FAR and max(planned[0], j.mean) > _MATTERS * largest_j
        off_s = None if s is None else _off(planned[1], s)
        return Row(
            name,
            what,
            css,
            energy.number(planned[0]),
            energy.number(j.mean),
            f"±{energy.number(j.ci95)}" if j.ci95 else "",
            _signed(off_j),
            "" if s is None else time.number(planned[1]),
            "" if s is None else time.number(s),
            _signed(off_s),
            far,
        )

    groups: dict[tuple[str, str], list[MeteredStep]] = {}
    for step in steps:
        groups.setdefault((step.name, step.op), []).append(step)
    ranked = sorted(groups.items(), key=lambda item: -sum(step.energy_j.mean for step in item[1]))
    off = _off(facts.planned_j, facts.energy_j.mean)
    return Metered(
        facts.kind,
        shown(facts.source, 400),
        f"A step took {si(facts.energy_j.mean, 'J')} ± {si(facts.energy_j.ci95, 'J')} and {si(facts.time_s.mean, 's')} "
        f"({count(facts.steps)} steps, 95 % confidence); {si(facts.planned_j, 'J')} were planned, {_signed(off)}.",
        f"{energy.prefix}J",
        f"{time.prefix}s",
        tuple(
            row(
                kind.replace("_", " "),
                "",
                kind.replace("_", "-"),
                (facts.planned_by_kind_j.get(kind, 0.0), 0.0),
                j,
                None,
            )
            for kind, j in facts.by_kind_j.items()
        ),
        tuple(
            row(
                shown(name),
                op.replace("_", " "),
                "",
                (sum(step.planned_j for step in group), sum(step.planned_s for step in group)),
                MeanValue(sum(step.energy_j.mean for step in group), sum(step.energy_j.ci95 for step in group)),
                sum(step.time_s.mean for step in group),
            )
            for (name, op), group in ranked
        ),
        tuple(
            row(
                shown(step.name),
                step.kind.replace("_", " "),
                step.kind.replace("_", "-"),
                (step.planned_j, step.planned_s),
                step.energy_j,
                step.time_s.mean,
            )
            for step in steps
        ),
    )


def _off(planned: float, taken: float) -> float | None:
    return planned / taken - 1.0 if taken else None


def _signed(off: float | None) -> str:
    return "" if off is None else f"{100.0 * off:+.1f}\u202f%"
