"""Training and evaluation on a device, with results that are either whole or marked as partial."""

from __future__ import annotations

import csv
import hashlib
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from poet_hil.dataset import Dataset
from poet_hil.device import DeviceClient
from poet_hil.errors import LinkError, SessionError, TrainingStopped
from poet_hil.manifest import Manifest
from poet_hil.protocol import float_bits
from poet_hil.target import log_tail

LOSSES_NAME = "losses.csv"
PARTIAL_LOSSES_NAME = "losses.partial.csv"
WEIGHTS_NAME = "weights.npz"
_COLUMNS = ("step", "epoch", "learning_rate", "loss", "loss_bits", "ticks")
_ENDS = 10


@dataclass(frozen=True)
class TrainPlan:
    """How long and how fast to train.

    `steps` is the number of training steps in all; None trains `epochs` whole passes over the data. A pass
    leaves out the last samples that do not fill a batch. Samples come in the order of the data set, or
    shuffled anew each pass from `shuffle_seed`.
    """

    learning_rate: float
    steps: int | None = None
    epochs: int = 1
    schedule: Literal["constant", "halve_each_pass"] = "halve_each_pass"
    shuffle_seed: int | None = None

    def total_steps(self, samples: int, batch: int) -> int:
        """Number of training steps over `samples` samples."""
        return self.epochs * (samples // batch) if self.steps is None else self.steps

    def rate(self, epoch: int) -> float:
        """Learning rate of a pass, from 0."""
        return self.learning_rate * (0.5**epoch if self.schedule == "halve_each_pass" else 1.0)

    def check(self) -> None:
        """Raise SessionError on figures that cannot be meant."""
        if not (np.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise SessionError(f"The learning rate is {self.learning_rate}. Give a positive number.")
        if self.steps is not None and self.steps < 1:
            raise SessionError(f"{self.steps} steps were asked for. Give at least 1.")
        if self.epochs < 1:
            raise SessionError(f"{self.epochs} passes were asked for. Give at least 1.")


@dataclass(frozen=True)
class StepReport:
    """One training step that was done; `ticks` are the device's."""

    step: int
    total_steps: int
    epoch: int
    learning_rate: float
    loss: float
    ticks: int


@dataclass(frozen=True)
class TrainingResult:
    """A whole run. `loss_bits`: float32 bits of the first and last ten losses in hex; host's `seconds`."""

    losses: NDArray[np.float32]
    loss_bits: dict[str, list[str]]
    weights: dict[str, NDArray[np.float32]]
    weights_digest: str
    losses_path: Path
    weights_path: Path
    steps_done: int
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Predictions on a test set; `per_class[c]` is (correct, samples) of class c."""

    predictions: NDArray[np.int64]
    correct: int
    total: int
    per_class: tuple[tuple[int, int], ...]

    @property
    def accuracy(self) -> float:
        """Share of correct predictions, 0 to 1."""
        return self.correct / self.total


class TrainingSession:
    """Trains one device; files go to `run_dir`."""

    def __init__(self, device: DeviceClient, run_dir: Path) -> None:
        self.device = device
        self.run_dir = run_dir

    def train(
        self,
        data: Dataset,
        plan: TrainPlan,
        *,
        resume: bool = False,
        on_step: Callable[[StepReport], None] | None = None,
    ) -> TrainingResult:
        """Run all of `plan` and leave losses.csv and weights.npz. See steps()."""
        begun = time.monotonic()
        for report in self.steps(data, plan, resume=resume):
            if on_step is not None:
                on_step(report)
        weights = self.device.read_params()
        weights_path = self.run_dir / WEIGHTS_NAME
        save_weights(weights_path, weights)
        rows = _read_rows(self.run_dir / PARTIAL_LOSSES_NAME)
        losses_path = self.run_dir / LOSSES_NAME
        (self.run_dir / PARTIAL_LOSSES_NAME).replace(losses_path)
        bits = [row[_COLUMNS.index("loss_bits")] for row in rows]
        return TrainingResult(
            losses=np.frombuffer(bytes.fromhex("".join(bits)), dtype=">f4").astype(np.float32),
            loss_bits={"first": bits[:_ENDS], "last": bits[-_ENDS:]},
            weights=weights,
            weights_digest=weights_digest(weights, self.device.manifest),
            losses_path=losses_path,
            weights_path=weights_path,
            steps_done=self.device.status().steps_done,
            seconds=time.monotonic() - begun,
        )

    def steps(self, data: Dataset, plan: TrainPlan, *, resume: bool = False) -> Iterator[StepReport]:
        """Train step by step, yielding each. Losses go to losses.partial.csv; train() renames it at the end.

        `resume` goes on at the device's steps_done (as RESTORE left it) and keeps the losses up to there.
        Results of an earlier run are removed first: they are not of this device's weights any more.
        """
        plan.check()
        manifest = self.device.manifest
        data.check(manifest)
        total = plan.total_steps(len(data), manifest.batch)
        done = self.device.hello().steps_done
        first = done if resume else 0
        kept = self._rows_before(first)
        if first > total:
            raise SessionError(
                f"The device has trained {first} steps already, and the plan has {total}. Ask for more "
                f"steps, or start anew with `poet flash`."
            )
        self.run_dir.mkdir(parents=True, exist_ok=True)
        for name in (LOSSES_NAME, WEIGHTS_NAME):
            (self.run_dir / name).unlink(missing_ok=True)
        with (self.run_dir / PARTIAL_LOSSES_NAME).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(kept)
            for step, epoch, chosen in _batches(len(data), manifest.batch, plan, first, total):
                report = self._one(data, plan, step, total, epoch, chosen, done + step - first)
                writer.writerow(
                    (
                        step,
                        epoch,
                        repr(report.learning_rate),
                        repr(report.loss),
                        float_bits(report.loss),
                        report.ticks,
                    )
                )
                file.flush()
                yield report
            os.fsync(file.fileno())

    def evaluate(self, data: Dataset, *, on_sample: Callable[[int, int], None] | None = None) -> Evaluation:
        """Run every sample forward on the device; `on_sample(done, total)` is told of progress."""
        manifest = self.device.manifest
        data.check(manifest)
        self.device.hello()
        predictions = np.empty(len(data), dtype=np.int64)
        for start in range(0, len(data), manifest.batch):
            # The last batch is filled up with the first samples; what they give is left out.
            chosen = np.arange(start, start + manifest.batch) % len(data)
            self.device.write_input(data.x[chosen])
            logits = self.device.infer().reshape(manifest.batch, -1)
            end = min(start + manifest.batch, len(data))
            predictions[start:end] = logits.argmax(axis=1)[: end - start]
            if on_sample is not None:
                on_sample(end, len(data))
        right = predictions == data.y
        counts = ((right & (data.y == c), data.y == c) for c in range(manifest.label.classes))
        return Evaluation(
            predictions=predictions,
            correct=int(right.sum()),
            total=len(data),
            per_class=tuple((int(correct.sum()), int(there.sum())) for correct, there in counts),
        )

    def _one(
        self,
        data: Dataset,
        plan: TrainPlan,
        step: int,
        total: int,
        epoch: int,
        chosen: NDArray[np.int64],
        done: int,
    ) -> StepReport:
        rate = plan.rate(epoch)
        try:
            self.device.write_sample(data.x[chosen], data.y[chosen])
            trained = self.device.train(rate)
        except LinkError as error:
            raise self._stopped(step, total, str(error)) from error
        if trained.steps_done != done + 1:
            reason = (
                f"The device counts {trained.steps_done} trained steps where {done + 1} are due: it was "
                f"restarted meanwhile and has lost what it had learnt, or somebody else trains it. "
                f"{log_tail(self.device.link.target.log)} Start anew with `poet flash`, or restore its "
                f"checkpoint and resume."
            )
            raise self._stopped(step, total, reason)
        return StepReport(step, total, epoch, rate, trained.loss, trained.ticks)

    def _stopped(self, step: int, total: int, reason: str) -> TrainingStopped:
        return TrainingStopped(
            f"Training stopped at step {step} of {total}; the losses before it are in "
            f"{self.run_dir / PARTIAL_LOSSES_NAME}, no weights were saved. {reason}",
            step,
        )

    def _rows_before(self, step: int) -> list[list[str]]:
        if step == 0:
            return []
        for name in (PARTIAL_LOSSES_NAME, LOSSES_NAME):
            rows = _read_rows(self.run_dir / name)
            if [row[0] for row in rows[:step]] == [str(index) for index in range(step)]:
                return rows[:step]
        raise SessionError(
            f"The device has trained {step} steps, but {self.run_dir} has no losses of all of them, so that "
            f"the run cannot be resumed as one. Start anew with `poet flash` and `poet train`."
        )


def weights_digest(weights: Mapping[str, NDArray[np.float32]], manifest: Manifest) -> str:
    """SHA-256 over all parameters' little-endian float32 bits, in the manifest's order."""
    digest = hashlib.sha256()
    for param in manifest.params:
        digest.update(np.ascontiguousarray(weights[param.name], dtype="<f4").tobytes())
    return digest.hexdigest()


def save_weights(path: Path, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Write an npz file whole or not at all; the same weights give the same bytes.

    Its keys are the parameters' names with all but letters, digits and _.-~ as %XX, since a model may name a
    parameter like a path (or like an argument of numpy.savez) and people unpack such files.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                for name, value in weights.items():
                    entry = zipfile.ZipInfo(quote(name, safe="") + ".npy")
                    with archive.open(entry, "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, value, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read what save_weights() wrote."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {unquote(key): archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise SessionError(
            f"The weights {path} cannot be read ({error}). Run `poet train`, which writes them."
        ) from error


def _batches(
    samples: int, batch: int, plan: TrainPlan, first: int, total: int
) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """Yield (step, epoch, sample indices) for steps [first, total)."""
    per_epoch = samples // batch
    order, order_of = np.arange(samples), -1
    for step in range(first, total):
        epoch, within = divmod(step, per_epoch)
        if plan.shuffle_seed is not None and epoch != order_of:
            order, order_of = np.random.default_rng((plan.shuffle_seed, epoch)).permutation(samples), epoch
        yield step, epoch, order[within * batch : (within + 1) * batch]


def _read_rows(path: Path) -> list[list[str]]:
    """Rows of a losses file that are whole; none when there is no such file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = list(csv.reader(file))
    except FileNotFoundError:
        return []
    return [row for row in table[1:] if len(row) == len(_COLUMNS)]
