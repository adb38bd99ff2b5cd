"""`make bench-steps`: modelled Cortex-M4 cycles per multiply-add of whole training steps, all ops included.

Each MLPerf Tiny net (examples/whole_models) is planned with all parameters training and everything kept, so that there
are neither pages nor recomputations; its firmware trains one step on QEMU's MPS2 under the profiler. Cycles are all
that the step executed, priced with the core's timing table (flash wait states are not in it). Multiply-adds are those
of convolutions and layers, forward and both gradients, those at the edges included; an update's own are not counted.
Writes the `steps` of benchmarks/kernels.json. It needs PyTorch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from poet_codegen.build import build
from poet_codegen.cli.profile_command import profiled
from poet_codegen.folder import BuildFolder
from poet_codegen.lower import Home
from poet_codegen.plan import make_plan, make_request, save_plan
from poet_codegen.recipe import Recipe
from poet_hil.manifest import load_build
from poet_hil.profiler.steps import profile_steps
from poet_hil.samples import random_batches
from rich.console import Console
from rich.table import Table

from benchmarks.kernels import RESULTS

WHOLE_MODELS = Path(__file__).parents[1] / "examples" / "whole_models"
NETS = ("resnet8", "ds_cnn", "mobilenet_v1", "autoencoder")
BOARD = "qemu_mps2_an386"
_RAM_BYTES = 3 << 20
_RATE = 1e-3


@dataclass(frozen=True)
class Step:
    """A training step: cycles and multiply-adds by op."""

    title: str
    batch: int
    flash_bytes: int
    cycles: Counter[str]
    macs: Counter[str]

    @property
    def cycles_per_mac(self) -> float:
        """Of the whole step."""
        return self.cycles.total() / self.macs.total()

    def record(self) -> dict[str, Any]:
        """The row of the file of results; an op's cycles are per multiply-add of the whole step."""
        macs = self.macs.total()
        ops = {op: cycles / macs for op, cycles in self.cycles.most_common()}
        row = {"net": self.title, "batch": self.batch, "macs": macs, "cycles_per_mac": self.cycles_per_mac}
        return {**row, "flash_bytes": self.flash_bytes, "cycles_by_op_per_mac": ops}


def measure(net: str, folder: Path) -> Step:
    """Plan, build, and run one step of a net."""
    sys.path.insert(0, str(WHOLE_MODELS))
    import cases
    import nets

    torch.manual_seed(cases.SEED)
    case = cases.CASES[net]
    model, made = folder / f"{net}.onnx", BuildFolder(folder / net)
    nets.export(case.make(), torch.zeros(case.batch, *case.sample), nets.EXPORTERS[0], model)
    recipe = Recipe(loss=case.target, batch_norm=case.batch_norm)
    request = make_request(model, BOARD, _RAM_BYTES, None, Home.RAM, recipe, "keep", seed=0)
    plan = make_plan(request, model, threads=1, time_limit_s=60.0)
    save_plan(plan, model, made)
    sizes = build(plan, made)
    firmware = load_build(made.path)
    (batch,) = random_batches(firmware.manifest, 1, seed=0)
    steps = firmware.manifest.steps
    with profiled(firmware) as (clock, device):

        def train(_: int) -> None:
            device.write_sample(*batch)
            device.train(_RATE)

        (taken,) = profile_steps(clock, device, steps, train, 1)
    cycles: Counter[str] = Counter()
    macs: Counter[str] = Counter()
    for step, count in zip(steps, taken, strict=True):
        cycles[step.op] += int(count)
        macs[step.op] += step.macs
    return Step(case.title, case.batch, sizes.flash_bytes, cycles, macs)


def _table(step: Step) -> Table:
    title = f"{step.title}, batch {step.batch}: {step.cycles_per_mac:.2f} modelled cycles per multiply-add"
    table = Table("op", "share of cycles", "cycles per own MAC", title=title)
    for op, cycles in step.cycles.most_common():
        own = f"{cycles / step.macs[op]:.2f}" if step.macs[op] else ""
        table.add_row(op, f"{cycles / step.cycles.total():.1%}", own)
    return table


def main() -> None:
    """Run the nets, print the tables, write the results of a whole run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", metavar="net", help=f"of {', '.join(NETS)}; all by default")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.nets) - set(NETS))
    if unknown:
        parser.error(f"there is no net {unknown[0]!r}; there are {', '.join(NETS)}")
    records = []
    with tempfile.TemporaryDirectory(prefix="poet-steps-") as folder:
        for net in arguments.nets or NETS:
            step = measure(net, Path(folder))
            Console().print(_table(step))
            records.append(step.record())
    if not arguments.nets:
        known = json.loads(RESULTS.read_text())
        RESULTS.write_text(json.dumps({**known, "steps": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
