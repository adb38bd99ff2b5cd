"""Energy of training steps by kind, with confidence intervals, from whatever meter watches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from poet_hil.device import DeviceClient
from poet_hil.manifest import Manifest
from poet_hil.meters.meter import Meter, StepEnergy, kinds
from poet_hil.samples import Batch

KINDS = ("compute", "recompute", "page_in", "page_out", "idle")

# Student's t for a two-sided 95 %, of 1 to 30 degrees of freedom.
_T = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip
_Z = 1.959964

_Quantity = Annotated[float, Field(ge=0.0)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Mean(_Strict):
    """A mean over steps; the true one lies within `mean` ± `ci95` with 95 % confidence, if steps differ by chance."""

    mean: float
    ci95: _Quantity


class ScheduleStep(_Strict):
    """One schedule step: what was planned and what it took, in joules and seconds."""

    kind: Literal["compute", "recompute", "page_in", "page_out"]
    name: str
    op: str
    planned_j: float
    planned_s: float
    energy_j: Mean
    time_s: Mean


class EnergyRecord(_Strict):
    """run/energy.json: training steps under a meter. Joules and seconds of one training step."""

    format: Literal[1] = 1
    kind: Literal["measured", "modelled"]
    source: str
    meter: str
    board: str
    schedule_digest: str
    steps: Annotated[int, Field(gt=0)]
    """Training steps that were watched."""
    energy_j: Mean
    time_s: Mean
    planned_j: float
    planned_s: float
    by_kind_j: dict[str, Mean]
    by_kind_s: dict[str, Mean]
    planned_by_kind_j: dict[str, float]
    schedule: tuple[ScheduleStep, ...]


def student_t(degrees_of_freedom: int) -> float:
    """Two-sided 95 % quantile of Student's distribution."""
    if degrees_of_freedom <= len(_T):
        return _T[degrees_of_freedom - 1]
    # The first terms of its expansion in 1 / degrees of freedom (Abramowitz and Stegun, 26.7.5).
    first = (_Z**3 + _Z) / 4.0
    second = (5.0 * _Z**5 + 16.0 * _Z**3 + 3.0 * _Z) / 96.0
    return _Z + first / degrees_of_freedom + second / degrees_of_freedom**2


def mean_of(values: NDArray[np.float64]) -> Mean:
    """Mean of steps [n] and its confidence interval; that of a single step is unknown, and given as 0."""
    count = len(values)
    if count == 1:
        return Mean(mean=float(values[0]), ci95=0.0)
    deviation = float(values.std(ddof=1))
    return Mean(mean=float(values.mean()), ci95=student_t(count - 1) * deviation / math.sqrt(count))


def measure_steps(
    device: DeviceClient,
    meter: Meter,
    batches: Sequence[Batch],
    learning_rate: float,
    progress: Callable[[int], None] = lambda done: None,
) -> EnergyRecord:
    """Train a step on each of the batches under the meter."""
    taken: list[StepEnergy] = []
    for number, batch in enumerate(batches):
        device.write_sample(*batch)
        taken.append(meter.watch(device, lambda: device.train(learning_rate).ticks))
        progress(number + 1)
    return record(device.manifest, meter, taken)


def record(manifest: Manifest, meter: Meter, taken: Sequence[StepEnergy]) -> EnergyRecord:
    """What some watched steps say together."""
    step_kinds = kinds(manifest)
    energy = np.array([step.energy_j for step in taken])
    time_s = np.array([step.time_s for step in taken])
    idle_j, idle_s = (np.array([getattr(step, name) for step in taken]) for name in ("idle_j", "idle_s"))

    def by_kind(of_steps: NDArray[np.float64], idle: NDArray[np.float64]) -> dict[str, Mean]:
        rows = {kind: of_steps[:, [k == kind for k in step_kinds]].sum(axis=1) for kind in KINDS[:-1]}
        return {kind: mean_of(values) for kind, values in (rows | {KINDS[-1]: idle}).items()}

    planned = manifest.energy_j
    return EnergyRecord(
        kind=meter.kind,
        source=meter.source,
        meter=meter.name,
        board=manifest.board.id,
        schedule_digest=manifest.schedule_digest,
        steps=len(taken),
        energy_j=mean_of(energy.sum(axis=1) + idle_j),
        time_s=mean_of(time_s.sum(axis=1) + idle_s),
        planned_j=sum(getattr(planned, kind) for kind in KINDS),
        planned_s=sum(step.time_s for step in manifest.steps),
        by_kind_j=by_kind(energy, idle_j),
        by_kind_s=by_kind(time_s, idle_s),
        planned_by_kind_j={kind: getattr(planned, kind) for kind in KINDS},
        schedule=tuple(
            ScheduleStep(
                kind=kind,
                name=step.name,
                op=step.op,
                planned_j=step.energy_j,
                planned_s=step.time_s,
                energy_j=mean_of(energy[:, step.index]),
                time_s=mean_of(time_s[:, step.index]),
            )
            for kind, step in zip(step_kinds, manifest.steps, strict=True)
        ),
    )
