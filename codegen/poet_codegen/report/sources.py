"""The figures that every modelled number rests on, each with where it comes from and how far to trust it."""

from __future__ import annotations

from dataclasses import dataclass

from poet_codegen.board import Board, Figure
from poet_codegen.costs import Costs
from poet_codegen.cycles import cycle_table
from poet_codegen.report.text import count, shown, si

_SOURCE_KINDS = ("measured", "modelled", "data sheet", "public code", "estimate")


@dataclass(frozen=True)
class SourceRow:
    """A figure and its source."""

    what: str
    value: str
    spread: str
    kind: str
    """measured, modelled, data sheet, public code, estimate, or other."""
    source: str


def source_rows(board: Board, costs: Costs | None = None) -> tuple[SourceRow, ...]:
    """The board's figures that costs are made from, the timings of its core's kernels, and a profile's."""
    store, power = board.storage, board.power
    kernels = cycle_table(board.cpu.cycle_table)
    rows = [
        _row("CPU running", si(power.run_w.value, "W"), power.run_w),
        _row("CPU asleep", si(power.sleep_w.value, "W"), power.sleep_w),
        _text_row("Cycles of the kernels", "a table", kernels.spread, kernels.source),
        _row("Storage read, latency", si(store.read_latency_s.value, "s"), store.read_latency_s),
        _row("Storage read, rate", _rate(store.read_bytes_per_s), store.read_bytes_per_s),
        _row("Storage read, power", si(store.read_power_w.value, "W"), store.read_power_w),
        _row("Storage write, latency", si(store.write_latency_s.value, "s"), store.write_latency_s),
        _row("Storage write, rate", _rate(store.write_bytes_per_s), store.write_bytes_per_s),
        _row("Storage write, power", si(store.write_power_w.value, "W"), store.write_power_w),
    ]
    if costs is not None:
        spread = max((entry.spread for entry in costs.kernels), default=0.0)
        kind = costs.kernels[0].source if costs.kernels else "modelled"
        rows.insert(
            2,
            _text_row("Cycles of profiled kernels", f"{len(costs.kernels)}", spread or None, f"{kind}: {costs.source}"),
        )
    if store.erase is not None:
        block = f"{count(store.erase.block_bytes)} B block"
        rows.append(_row(f"Storage erase, {block}", si(store.erase.time_s.value, "s"), store.erase.time_s))
        rows.append(_row("Storage erase, power", si(store.erase.power_w.value, "W"), store.erase.power_w))
    if store.endurance_erases is not None:
        figure = store.endurance_erases
        rows.append(_row("Storage endurance", f"{count(figure.value)} erases a block", figure))
    return tuple(rows)


def _rate(figure: Figure) -> str:
    return si(figure.value / 1e6, "MB/s")


def _row(what: str, value: str, figure: Figure) -> SourceRow:
    return _text_row(what, value, figure.spread, figure.source)


def _text_row(what: str, value: str, spread: float | None, source: str) -> SourceRow:
    lowered = source.lower()
    kind = next((k for k in _SOURCE_KINDS if lowered.startswith(k)), "other")
    rest = source[len(kind) :].lstrip(": ") if kind != "other" else source
    return SourceRow(what, value, f"±{100 * spread:.3g}\u202f%" if spread else "", kind, shown(rest, 400))
