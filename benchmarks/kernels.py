"""`make bench-kernels`: instructions and modelled cycles of every kernel, beside naive loops and another generator.

All forms of a kernel are compiled with the firmware's flags and executed in one run on QEMU, on the same random inputs;
every form of ours has the bits of the plain one, and the others are close to it. Cycles are the executed instructions
priced with the core's timing table (flash wait states and caches are not in it); a core without a table is counted in
instructions. Inputs are between -4 and 4. Writes each core's figures to benchmarks/kernels.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from poet_hil.profiler.timing import Profile
from rich.console import Console
from rich.table import Table

from benchmarks import emx
from benchmarks.kernel_rows import Row, rows
from tests.codegen.kernel_program import CORES, Core, Form, own_forms, profiles

RESULTS = Path(__file__).parent / "kernels.json"
NAIVE = Path(__file__).parent / "naive.h"
_CORES = [name for name, core in CORES.items() if core.machine]
_PER_PROGRAM = 40
"""Rows compiled together."""
_TWIN = "emx_twin"


def _forms(row: Row, number: int, twins: Mapping[str, str], core: Core) -> list[Form]:
    # Blocks are assembly of cores with an FPU.
    forms = [form for form in own_forms(row.case, number) if core.has_fpu or form.title == "plain"]
    if row.naive:
        letters = [f"t{i}" for i in range(len(row.case.buffers))]
        head = f"void naive{number}(" + ", ".join(
            f"{'' if b.is_written else 'const '}float *{letter}"
            for b, letter in zip(row.case.buffers, letters, strict=True)
        )
        text = f"{head})\n{{\n    {row.naive.format(*letters)};\n}}\n"
        call = f"naive{number}({', '.join(f'{{{i}}}' for i in range(len(letters)))})"
        forms.append(Form("naive", (text,), call, is_exact=False))
    if row.title in twins:
        source = twins[row.title].replace(_TWIN, f"emx{number}")
        call = f"emx{number}({', '.join(f'{{{i}}}' for i in row.twin_tensors)})"
        forms.append(Form("emx", (source,), call, is_exact=False, is_foreign=True))
    return forms


@dataclass(frozen=True)
class Result:
    """A row on a core: profiles by the form's title."""

    row: Row
    core: str
    forms: dict[str, Profile]

    @property
    def ours(self) -> Profile:
        """The form that the core's firmware has."""
        return self.forms.get("blocked", self.forms["plain"])

    def cost(self, form: str) -> float | None:
        """Modelled cycles of a form, or its instructions where the core has no table."""
        profile = self.forms.get(form)
        return None if profile is None else _cost(profile)

    def ratio(self, form: str) -> float | None:
        """Our cost over that of another form."""
        theirs = self.cost(form)
        return None if theirs is None else _cost(self.ours) / theirs


def _cost(profile: Profile) -> float:
    return float(profile.instructions if profile.cycles is None else profile.cycles)


def measure(chosen: Sequence[Row], core: str, twins: Mapping[str, str]) -> list[Result]:
    """Run the rows on a core; `twins` has the other generator's C by the row's title."""
    results: list[Result] = []
    for first in range(0, len(chosen), _PER_PROGRAM):
        part = chosen[first : first + _PER_PROGRAM]
        forms = [_forms(row, number, twins, CORES[core]) for number, row in enumerate(part)]
        with tempfile.TemporaryDirectory(prefix="poet-kernels-") as folder:
            measured = profiles([row.case for row in part], forms, Path(folder), CORES[core], NAIVE.read_text())
        results += [Result(row, core, made) for row, made in zip(part, measured, strict=True)]
    return results


def _table(core: str, results: Sequence[Result]) -> Table:
    what = "instructions" if results[0].ours.cycles is None else "modelled cycles"
    table = Table(f"kernel, {core}", title=f"{what} per multiply-add (MAC) or element (el)")
    for heading in ("", "ours", "/naive", "/emx", "/plain", "hot code"):
        table.add_column(heading, justify="right")
    for result in results:
        ratios = [result.ratio(form) for form in ("naive", "emx", "plain")]
        unit = "MAC" if result.row.unit == "MAC" else "el"
        table.add_row(
            result.row.title,
            unit,
            f"{_cost(result.ours) / result.row.units:.2f}",
            *("" if r is None else f"{r:.2f}" for r in ratios),
            f"{result.ours.hot_bytes} B",
        )
    return table


def _record(result: Result) -> dict[str, object]:
    row = result.row
    made: dict[str, object] = {
        "kernel": row.title,
        "unit": row.unit,
        "units": row.units,
        "hot_code_bytes": result.ours.hot_bytes,
        "instructions_per_unit": result.ours.instructions / row.units,
    }
    if result.ours.cycles is not None:
        made["cycles_per_unit"] = result.ours.cycles / row.units
    for form in ("naive", "emx", "plain"):
        ratio = result.ratio(form)
        if ratio is not None:
            made[f"ratio_to_{form}"] = ratio
    return made


def main() -> None:
    """Run the rows, print the tables, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cores", nargs="*", metavar="core", help=f"of {', '.join(_CORES)}; all by default")
    parser.add_argument("--only", default="", help="rows whose title has this in it; nothing is written")
    parser.add_argument("--short", action="store_true", help="some rows on the Cortex-M4 alone; nothing is written")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.cores) - set(_CORES))
    if unknown:
        parser.error(f"no core {', '.join(unknown)}; there are {', '.join(_CORES)}")
    cores = arguments.cores or (["cortex-m4"] if arguments.short else _CORES)
    chosen = [row for row in rows() if arguments.only in row.title and (row.short or not arguments.short)]
    if not chosen:
        parser.error(f"no row has {arguments.only!r} in its title")
    console = Console()
    with_emx = emx.is_installed()
    if not with_emx:
        console.print("emx-onnx-cgen is not installed: its column stays empty. `pip install -e '.[bench]'` brings it.")
    twins = {row.title: emx.generated(row.twin, _TWIN) for row in chosen if row.twin is not None and with_emx}
    for core in cores:
        results = measure(chosen, core, twins)
        console.print(_table(core, results))
        if with_emx and not (arguments.only or arguments.short):
            _write(core, results)


def _write(core: str, results: Sequence[Result]) -> None:
    """Put a core's rows in the place of older ones; what `make bench-steps` wrote stays."""
    made = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    cores = made.get("cores", {}) | {core: [_record(result) for result in results]}
    made |= {"cycles": "modelled", "emx": emx.title(), "cores": {name: cores[name] for name in _CORES if name in cores}}
    RESULTS.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
