"""`make bench-kernels`: instructions and modelled Cortex-M4 cycles of the blocked kernels beside the plain ones.

Both are compiled with the firmware's flags and executed in one run on QEMU; cycles are those instructions priced with
the core's timing table (flash wait states are not in it). Writes benchmarks/kernels.json. The inputs are random, and
every result is compared bit for bit with the plain kernel's.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from poet_codegen.graph import AttrValue
from rich.console import Console
from rich.table import Table

from tests.codegen.m4f_program import Case, case, profiles

RESULTS = Path(__file__).parent / "kernels.json"
_SAME: dict[str, AttrValue] = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "groups": 1}
_HALF = _SAME | {"strides": (2, 2)}
_WIDE = _SAME | {"pads": (2, 2, 2, 2)}
_POINT = _SAME | {"pads": (0, 0, 0, 0)}


def _shapes() -> list[tuple[str, int, Case]]:
    """(title, multiply-adds with those at the edges, case)."""
    rows: list[tuple[str, int, Case]] = []
    for title, channels_in, size, channels_out, kernel, window in (
        ("conv 3x3, 16 -> 32 channels, 16x16", 16, 16, 32, 3, _SAME),
        ("conv 3x3, 3 -> 16 channels, 32x32", 3, 32, 16, 3, _SAME),
        ("conv 3x3 stride 2, 16 -> 32 channels, 32x32", 16, 32, 32, 3, _HALF),
        ("conv 5x5, 8 -> 8 channels, 16x16", 8, 16, 8, 5, _WIDE),
        ("pointwise 1x1, 32 -> 64 channels, 16x16", 32, 16, 64, 1, _POINT),
        ("depthwise 3x3, 32 channels, 16x16", 32, 16, 32, 3, _SAME | {"groups": 32}),
    ):
        groups = int(str(window["groups"]))
        step = 2 if window is _HALF else 1
        out = size // step
        x, dy = (1, channels_in, size, size), (1, channels_out, out, out)
        w = (channels_out, channels_in // groups, kernel, kernel)
        macs = channels_out * out * out * w[1] * kernel * kernel
        rows += [
            (f"{title}: forward", macs, case("Conv", [x, w, (channels_out,)], window)),
            (f"{title}: input gradient", macs, case("ConvInputGrad", [dy, w], window | {"extent": (size, size)})),
            (f"{title}: weight gradient", macs, case("ConvWeightGrad", [x, dy], window | {"kernel": w[2:]})),
        ]
    for batch in (1, 8):
        for transposed in (1, 0):
            w = (128, 256) if transposed else (256, 128)
            layout: dict[str, AttrValue] = {"transposed": transposed}
            title = f"dense 256 -> 128, batch {batch}, weights {'out x in' if transposed else 'in x out'}"
            macs = batch * 256 * 128
            rows += [
                (f"{title}: forward", macs, case("Dense", [(batch, 256), w, (128,)], layout)),
                (f"{title}: input gradient", macs, case("DenseInputGrad", [(batch, 128), w], layout)),
            ]
    square: dict[str, AttrValue] = {"trans_a": 0, "trans_b": 0}
    rows.append(("matmul 64 x 64 x 64", 64**3, case("MatMul", [(64, 64), (64, 64)], square)))
    rows.append(
        (
            "matmul 64 x 64 x 64, right side transposed",
            64**3,
            case("MatMul", [(64, 64), (64, 64)], square | {"trans_b": 1}),
        )
    )
    return rows


def main() -> None:
    """Run all shapes, print the table, write the results."""
    rows = _shapes()
    with tempfile.TemporaryDirectory(prefix="poet-kernels-") as folder:
        measured = profiles([c for _, _, c in rows], Path(folder))
    table = Table("kernel", "cycles/MAC", "plain", "ratio", "hot code", title="Cortex-M4F, modelled cycles")
    results = []
    for (title, macs, _), (plain, blocked) in zip(rows, measured, strict=True):
        assert plain.cycles is not None and blocked.cycles is not None
        ratio = blocked.cycles / plain.cycles
        figures = (f"{blocked.cycles / macs:.2f}", f"{plain.cycles / macs:.2f}", f"{ratio:.2f}")
        table.add_row(title, *figures, f"{blocked.hot_bytes} B")
        results.append(
            {
                "kernel": title,
                "macs": macs,
                "cycles": blocked.cycles,
                "instructions": blocked.instructions,
                "cycles_per_mac": blocked.cycles / macs,
                "plain_cycles_per_mac": plain.cycles / macs,
                "ratio_to_plain": ratio,
                "hot_code_bytes": blocked.hot_bytes,
            }
        )
    Console().print(table)
    RESULTS.write_text(json.dumps({"core": "cortex-m4", "cycles": "modelled", "rows": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
