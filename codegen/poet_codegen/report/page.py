"""Puts the report together: `render_report` is pure, `write_report` reads and writes a build folder."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from poet_codegen.folder import BuildFolder, write_atomic
from poet_codegen.graph import model_digest
from poet_codegen.plan import Plan, load_plan
from poet_codegen.render import render
from poet_codegen.report.costs import CostTable, OpTable, cost_table, op_table
from poet_codegen.report.figures import Figure, loss_plot, memory_figure, shows_budget, to_script_json
from poet_codegen.report.headline import Headline, build_headline
from poet_codegen.report.inputs import FirmwareSizes, RunSummary, read_energy, read_run, read_sizes
from poet_codegen.report.metered import EnergyFacts, Metered, metered_section
from poet_codegen.report.peak import Peak, build_peak
from poet_codegen.report.results import Bar, Fact, run_facts, size_bars, size_notes
from poet_codegen.report.sources import SourceRow, source_rows
from poet_codegen.report.text import Scale, count, exact_bytes, shown
from poet_codegen.report.timeline import Memory, Timeline, build_timeline

_STEP_PX = 5
"""The memory map gives every step at least so many pixels; where a screen is narrower, the map scrolls in its box."""


@dataclass(frozen=True)
class StepRow:
    """A line of the schedule."""

    index: int
    do: str
    css: str
    title: str
    op: str
    size: str
    live: str
    energy: str
    time: str
    is_peak: bool


@dataclass(frozen=True)
class StepTable:
    """The schedule as a list."""

    energy_unit: str
    time_unit: str
    rows: tuple[StepRow, ...]


@dataclass(frozen=True)
class Page:
    """Everything the template shows."""

    headline: Headline
    warnings: tuple[str, ...]
    """About the costs that the plan was made with."""
    cost_source: str
    costs: CostTable
    ops: OpTable
    peak: Peak
    arena: str
    budget: str
    map_width_px: int
    has_state: bool
    """Whether the arena holds state of the optimizer."""
    schedule: StepTable
    metered: Metered | None
    """What a meter saw; None before one did."""
    loss_note: str | None
    """About the loss curve; None: there is no curve."""
    facts: tuple[Fact, ...]
    """Of the run; empty before there is one."""
    bars: tuple[Bar, ...]
    notes: tuple[str, ...]
    """About the firmware's sizes."""
    sources: tuple[SourceRow, ...]
    storage: str
    digests: tuple[tuple[str, str], ...]


def render_report(
    plan: Plan, run: RunSummary | None, sizes: FirmwareSizes | None, energy: EnergyFacts | None = None
) -> str:
    """The report as one HTML document that needs no network. The same arguments give the same text."""
    timeline = build_timeline(plan.train)
    schedule, budget = plan.train.schedule, plan.request.ram_bytes
    losses = run.losses if run is not None else ()
    figures: dict[str, Figure] = {"memory-map": memory_figure(timeline, budget, schedule.arena_bytes)}
    loss = loss_plot(losses) if losses else None
    if loss is not None:
        figures["loss-curve"] = loss.figure
    page = Page(
        headline=build_headline(plan, timeline, run),
        warnings=tuple(shown(note, 400) for note in plan.costs.notes(plan.train.graph)),
        cost_source=shown(plan.costs.source, 400),
        costs=cost_table(schedule),
        ops=op_table(plan.train, timeline, plan.costs),
        peak=build_peak(plan.train, timeline, budget),
        arena=exact_bytes(schedule.arena_bytes),
        budget=exact_bytes(budget) + ("" if shows_budget(budget, schedule.arena_bytes) else ", above the figure"),
        map_width_px=_STEP_PX * len(timeline.steps),
        has_state=any(instance.memory is Memory.STATE for instance in timeline.instances),
        schedule=_step_table(timeline),
        metered=metered_section(energy) if energy is not None else None,
        loss_note=loss.note if loss is not None else None,
        facts=run_facts(plan, timeline, run) if run is not None else (),
        bars=size_bars(sizes) if sizes is not None else (),
        notes=size_notes(sizes) if sizes is not None else (),
        sources=source_rows(plan.board, plan.costs.costs),
        storage=shown(plan.board.storage.models, 100),
        digests=_digests(plan, run),
    )
    plotly, script = get_plotlyjs(), render("report/report.js")
    return render(
        "report/report.html.j2",
        page=page,
        figures=Markup(to_script_json(figures)),
        plotly=Markup(plotly),
        script=Markup(script),
        style=Markup(render("report/style.css")),
        script_hashes=Markup(" ".join(_csp_hash(text) for text in (plotly, script))),
    )


def write_report(folder: BuildFolder) -> Path:
    """Write report.html of a build folder from what is there, whole or not at all.

    Raises FolderError when there is no plan, or a file of the folder is damaged.
    """
    plan = load_plan(folder)
    html = render_report(plan, read_run(folder), read_sizes(folder), read_energy(folder, plan.train.schedule.digest()))
    write_atomic(folder.report, html)
    return folder.report


def _csp_hash(text: str) -> str:
    """The hash by which the page's security policy admits a script: no other one runs, wherever it may come from."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _step_table(timeline: Timeline) -> StepTable:
    energy = Scale.of(max((step.energy_j for step in timeline.steps), default=0.0))
    time = Scale.of(max((step.time_s for step in timeline.steps), default=0.0))
    rows = tuple(
        StepRow(
            step.index,
            step.do.value,
            step.do.value.replace(" ", "-"),
            shown(step.title),
            step.op,
            count(step.size_bytes),
            count(step.live_bytes),
            energy.number(step.energy_j),
            time.number(step.time_s),
            step.index == timeline.peak_step,
        )
        for step in timeline.steps
    )
    return StepTable(f"{energy.prefix}J", f"{time.prefix}s", rows)


def _digests(plan: Plan, run: RunSummary | None) -> tuple[tuple[str, str], ...]:
    request, schedule = plan.request, plan.train.schedule
    rows = [
        ("poet-mcu", request.tool_version),
        ("Model file", shown(Path(request.model_path).name)),
        ("Model file, SHA-256", request.model_sha256),
        ("Training graph and weights", model_digest(plan.train.graph, plan.stored_weights, request.numerics)),
        ("Problem", schedule.problem_digest),
        ("Schedule", schedule.digest()),
        ("Trained parameters", shown(request.recipe.train)),
        ("Optimizer", shown(request.recipe.optimizer_words(), 200)),
        ("Parameters live in", request.home.value),
        ("Seed of the search", str(request.seed)),
        ("Time of the search", f"{schedule.solve_s:.1f} s"),
    ]
    if run is not None and run.facts.weights_digest is not None:
        rows.append(("Weights after training", shown(run.facts.weights_digest)))
    return tuple(rows)
