"""What is asked of the solver, and docs/solver-bench.md from the figures of benchmarks/solver.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPORT = Path(__file__).parents[1] / "docs" / "solver-bench.md"

FIRST_S, FASTER, A72_PERCENT, CAPUCHIN_PERCENT, SCALE_FIRST_S, SCALE_MB = 2.0, 20.0, 1.0, 10.0, 60.0, 4096


@dataclass(frozen=True)
class Asked:
    """The best known before (overhead and bound over the listed family, %), and the gaps of total energy asked for."""

    best: str
    """As published: the last digit is rounded."""
    bound: float | None
    listed_gap: float
    wide_gap: float

    @property
    def most(self) -> float:
        """The largest overhead in % that still rounds to `best`."""
        digits = len(self.best.partition(".")[2])
        return float(self.best) + 0.5 * 10.0**-digits + 1e-9

    @property
    def is_optimum(self) -> bool:
        """`best` was proven optimal over the listed family."""
        return self.bound is not None and float(self.best) == self.bound


ASKED = {
    ("linear", "0.5"): Asked("1.0895", 1.0895, 0.01, 1.0),
    ("transformer", "0.85"): Asked("4.335", 4.335, 0.01, 1.0),
    ("vgg16_cifar", "0.7"): Asked("0.0091", None, 0.01, 1.0),
    ("vgg16_cifar", "0.5"): Asked("0.203", None, 0.01, 1.0),
    ("resnet18_cifar", "0.7"): Asked("0.058", 0.057, 0.01, 1.0),
    ("resnet18_cifar", "0.5"): Asked("0.124", 0.122, 0.01, 1.0),
    ("resnet18_cifar", "0.3"): Asked("1.3847", 1.3847, 0.01, 1.0),
    ("resnet18_cifar", "0.2"): Asked("7.78", 5.89, 2.0, 4.0),
    ("resnet18_cifar", "0.128"): Asked("24.9", 22.0, 2.0, 4.0),
    ("bert", "0.5"): Asked("2.42", 1.76, 2.0, 4.0),
    ("bert", "0.3"): Asked("6.50", 4.06, 2.0, 4.0),
    ("rn18dw_m7sd", "0.7"): Asked("0.108", 0.020, 0.01, 1.0),
    ("rn18dw_m7sd", "0.5"): Asked("0.9991", 0.9991, 0.01, 1.0),
    ("rn18dw_m7sd", "0.337"): Asked("2.160", 1.37, 0.5, 1.0),
    ("mbv2_m7sd", "0.7"): Asked("1.12", 0.23, 0.5, 1.0),
    ("mbv2_m7sd", "0.5"): Asked("2.3087", 2.2828, 0.5, 1.0),
    ("mbv2_m7sd", "0.3"): Asked("8.165", 4.80, 2.0, 4.0),
    ("bertdw_m7sd", "0.5"): Asked("0.70", 0.14, 0.5, 1.0),
    ("bertdw_m7sd", "0.3"): Asked("1.26", 0.41, 0.5, 1.0),
    ("bertdw_m7sd", "0.126"): Asked("1.98", 1.41, 0.5, 1.0),
}
"""(instance, RAM share) -> what is asked."""

Results = dict[str, dict[str, Any]]

IN_ORDER = "in-order"
"""`what` of a row of the solver that keeps the given order of first computations."""


@dataclass(frozen=True)
class Verdict:
    """One asked figure."""

    row: str
    what: str
    is_met: bool


def listed_bound(row: dict[str, Any]) -> dict[str, Any]:
    """Bound and gap over the listed family: its own, or that of all schedules, which contains it."""
    everything = {"bound_percent": row["bound_percent"], "gap_percent": row["gap_percent"]}
    return min([everything, *row["other_bounds"]], key=lambda bound: bound["gap_percent"])


def wide_gain_percent(row: dict[str, Any], asked: Asked) -> float | None:
    """Energy saved, in %, against the optimum of the listed family in the given order; None where that is not known."""
    if not asked.is_optimum:
        return None
    in_order: float = row["energy_j"] / (1 - row["order_gain_percent"] / 100)
    optimum: float = row["base_energy_j"] * (1 + asked.most / 100)
    return max(0.0, 100 * (1 - in_order / optimum))


def order_gain_percent(row: dict[str, Any], in_order: dict[str, Any] | None) -> float:
    """Energy saved by another order, in %: against a run that kept the given one, else against the best seen."""
    if in_order is None or not in_order["found"]:
        return float(row["order_gain_percent"])
    return max(0.0, 100 * (1 - float(row["energy_j"]) / float(in_order["energy_j"])))


def seconds_to(row: dict[str, Any], energy_j: float) -> float | None:
    """When the solver had a schedule of no more than so much energy."""
    return next((s for s, e in row["found_s"] if e <= energy_j * (1 + 1e-6)), None)


def verdicts(results: Results) -> list[Verdict]:
    """Every asked figure that the results can answer."""
    return [*_main(results), *_poet(results), *_a72(results), *_scale(results)]


def _main(results: Results) -> Iterator[Verdict]:
    for (name, share), asked in ASKED.items():
        row = results.get(f"{name} {share} both")
        if row is None:
            continue
        where = f"{name} {share}"
        if not row["found"]:
            yield Verdict(where, "a schedule", False)
            continue
        listed = listed_bound(row)["gap_percent"]
        over = row["overhead_percent"]
        yield Verdict(where, f"schedule {over:.4f} % <= best known {asked.best} %", over <= asked.most)
        yield Verdict(where, f"gap, listed family: {listed:.4f} % <= {asked.listed_gap} %", listed <= asked.listed_gap)
        gap = row["gap_percent"]
        yield Verdict(where, f"gap, all schedules: {gap:.4f} % <= {asked.wide_gap} %", gap <= asked.wide_gap)
        first = row["first_schedule_s"]
        yield Verdict(where, f"first schedule {first:.2f} s <= {FIRST_S:g} s", first <= FIRST_S)
        yield Verdict(where, "arena = peak", row["arena_bytes"] == row["peak_bytes"])


def _poet(results: Results) -> Iterator[Verdict]:
    for where, ours, poets in _side_by_side(results):
        if not poets["proven"]:
            yield Verdict(where, "POET's program proves nothing in its time; a schedule is found", ours["found"])
            continue
        found, proven = seconds_to(ours, poets["energy_j"]), ours["proven_s"].get("all")
        for what, seconds in (("as good a schedule", found), ("proof over all schedules", proven)):
            times = poets["seconds"] / seconds if seconds else 0.0
            yield Verdict(where, f"{what} {times:.1f} >= {FASTER:g} times faster than POET's proof", times >= FASTER)


def _a72(results: Results) -> Iterator[Verdict]:
    found = {key: row for key, row in results.items() if "@" in key and row["found"]}
    for where in sorted({key.split()[0] for key in found}):
        ours = [row["overhead_percent"] for key, row in found.items() if key.split()[0::2] == [where, "both"]]
        if ours:
            yield Verdict(where, f"overhead {max(ours):.3f} % < {A72_PERCENT:g} %", max(ours) < A72_PERCENT)
    theirs = [row["overhead_percent"] for row in found.values() if row["what"] == "capuchin"]
    if theirs:
        text = f"Capuchin pays up to {max(theirs):.1f} % at these budgets (>= {CAPUCHIN_PERCENT:g} % asked)"
        yield Verdict("ResNet-18 on the A72", text, max(theirs) >= CAPUCHIN_PERCENT)


def _scale(results: Results) -> Iterator[Verdict]:
    row = results.get("bert24 0.3 both")
    if row is not None and row["found"]:
        first, memory = row["first_schedule_s"], row["max_rss_mb"]
        where = f"bert24, {row['ops']} ops"
        yield Verdict(where, f"first schedule {first:.1f} s <= {SCALE_FIRST_S:g} s", first <= SCALE_FIRST_S)
        yield Verdict(where, f"memory {memory} MB <= {SCALE_MB} MB", memory <= SCALE_MB)
        yield Verdict(where, f"gap {row['gap_percent']:.3f} % is printed", row["gap_percent"] < 100)


def _side_by_side(results: Results) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for key, poets in results.items():
        where = key.removesuffix(" poet")
        if where != key and (ours := results.get(f"{where} both")):
            yield where, ours, poets


def summary(results: Results) -> list[str]:
    """PASS or short, a line for every asked figure."""
    found = verdicts(results)
    lines = [f"{'PASS ' if v.is_met else 'short'}  {v.row:26} {v.what}" for v in found]
    return [*lines, f"{sum(v.is_met for v in found)} of {len(found)} asked figures met; tables in docs/{REPORT.name}"]


def write_report(results: Results) -> None:
    """docs/solver-bench.md."""
    parts = [_HEAD, _main_table(results), _baseline_table(results), _poet_table(results), _a72_table(results)]
    parts += [_scale_text(results), _verdict_text(results)]
    REPORT.write_text("\n\n".join(part for part in parts if part) + "\n")


_HEAD = """# Solver benchmark

Written by `make bench-solver` from `benchmarks/solver.json`; each row is of a run of its own, and stays until it is
run again. Overhead is energy over that of every op once. RAM is a share of the keep-everything peak; the deadline
is twice the compute time, paging included. Bounds and gaps hold for the given order of first computations: *all*
for every schedule in it, *listed* for those that recompute ancestors other than gradients and what is reached
through the op just before, the family of the bounds known before. The gain of another order is counted from a
second run that keeps the given one."""


def _table(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _main_table(results: Results) -> str:
    body: list[list[str]] = []
    for (name, share), asked in ASKED.items():
        row = results.get(f"{name} {share} both")
        if row is None or not row["found"]:
            continue
        listed = listed_bound(row)
        body.append(
            [
                f"{name} {share}",
                asked.best,
                _percent(row["overhead_percent"], 4),
                f"{_percent(row['bound_percent'])} / {_percent(listed['bound_percent'])}",
                f"{_percent(row['gap_percent'])} / {_percent(listed['gap_percent'])}",
                _percent(row["overhead_gap_percent"]),
                _percent(order_gain_percent(row, results.get(f"{name} {share} {IN_ORDER}"))),
                _percent(wide_gain_percent(row, asked)),
                _percent(row["first_schedule_s"], 2),
                _percent(row["seconds"], 1),
                "yes" if row["arena_bytes"] == row["peak_bytes"] else f"{row['arena_bytes'] / row['peak_bytes']:.3f}",
            ]
        )
    head = [
        "row",
        "before %",
        "overhead %",
        "bound %, all / listed",
        "gap of energy %, all / listed",
        "gap of overhead, points",
    ]
    head += ["gain of another order %", "gain over the listed optimum %", "first schedule s", "s", "arena = peak"]
    return "## Rows of the instances\n\n" + _table(head, body) if body else ""


def _baseline_table(results: Results) -> str:
    techniques = ("page", "remat", "dtr", "capuchin", "capuchin-energy")
    body: list[list[str]] = []
    for name, share in ASKED:
        found = [results.get(f"{name} {share} {t}") for t in ("both", *techniques)]
        if any(found[1:]):
            cells = ["" if f is None else _percent(f["overhead_percent"]) if f["found"] else "none" for f in found]
            body.append([f"{name} {share}", *cells])
    head = ["overhead %", "both", "page", "remat", "DTR", "Capuchin, by seconds", "Capuchin, by joules"]
    return "## Baselines\n\n" + _table(head, body) if body else ""


def _poet_table(results: Results) -> str:
    body: list[list[str]] = []
    for where, ours, poets in _side_by_side(results):
        energy = poets.get("energy_j")
        found = seconds_to(ours, energy) if energy is not None else ours["found_s"][0][0]
        proven = ours["proven_s"].get("all")
        listed = min((s for family, s in ours["proven_s"].items() if family != "all"), default=None)
        body.append(
            [
                where,
                f"{poets['solver']}, proven" if poets["proven"] else "no proof",
                _percent(poets.get("overhead_percent"), 4) or "none",
                _percent(poets["seconds"], 2),
                _percent(ours["overhead_percent"], 4),
                _percent(found, 3),
                _percent(listed, 2),
                _percent(proven, 2),
                f"{poets['seconds'] / found:.0f}" if found else "",
                f"{poets['seconds'] / proven:.1f}" if proven and poets["proven"] else "",
            ]
        )
    head = ["row", "POET's program", "its overhead %", "its s", "ours %", "as good after s", "proven, listed, s"]
    head += ["proven, all, s", "times faster, schedule", "times faster, proof"]
    text = (
        "## POET's published program\n\nOn the solvers of our own model, CP-SAT and HiGHS, side by side with a thread "
        "each, scaled; the first proof counts. The proofs are not of the same thing: POET's holds for one ascending "
        "pass a stage, ours for every schedule in the given order."
    )
    return f"{text}\n\n{_table(head, body)}" if body else ""


def _a72_table(results: Results) -> str:
    body: list[list[str]] = []
    for key, row in results.items():
        if "@" not in key or not key.endswith(" both"):
            continue
        where = key.removesuffix(" both")
        cells = [results.get(f"{where} {t}") for t in ("capuchin", "capuchin-energy")]
        paid = ["" if c is None else _percent(c["overhead_percent"]) if c["found"] else "none" for c in cells]
        name, _, share = where.partition(" ")
        body.append([name.replace("@", ", "), share, _percent(row.get("overhead_percent")), *paid])
    head = ["ResNet-18, device", "RAM", "ours %", "Capuchin, by seconds %", "by joules %"]
    text = (
        "## ResNet-18 on POET's Raspberry Pi 4B constants\n\n`a72` has the 2.0e9 FLOP/s of POET's release, `a72slow` "
        "the 1.2e8 of its comment, `a72nocache` its row without cache. Compute draws 50 W in the first, storage "
        "0.15 W: writing and reading every tensor once costs 0.13 % of the energy of `resnet18` and 0.59 % of that of "
        "`resnet18_cifar`, so only recomputation can be dear. Capuchin chooses by seconds, as published; by joules it "
        "pages, and pays little. `resnet18` needs 0.364 of its memory for one op, so that its budgets end there."
    )
    return f"{text}\n\n{_table(head, body)}" if body else ""


def _scale_text(results: Results) -> str:
    row = results.get("bert24 0.3 both")
    if row is None or not row["found"]:
        return ""
    return (
        f"## Scale\n\n24-layer BERT, {row['ops']} ops, RAM 0.3: first schedule after {row['first_schedule_s']:.1f} s, "
        f"overhead {row['overhead_percent']:.3f} % after {row['seconds']:.0f} s, gap {row['gap_percent']:.3f} % over "
        f"{row['bound_family']}, {row['max_rss_mb']} MB."
    )


def _verdict_text(results: Results) -> str:
    found = verdicts(results)
    short = [f"- {v.row}: {v.what}" for v in found if not v.is_met]
    text = f"## Asked and met\n\n{len(found) - len(short)} of {len(found)} asked figures."
    return f"{text} Short:\n\n" + "\n".join(short) if short else text
