"""Training and evaluation on a device, with results that are either whole or marked as partial."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from poet_hil.dataset import Dataset
from poet_hil.device import DeviceClient
from poet_hil.errors import DeviceError, LinkError, LossNotFinite, SessionError, TrainingStopped
from poet_hil.protocol import Status, TrainStep, float_bits
from poet_hil.recovery import RECONNECT_S, Recovery, went_away
from poet_hil.results import WEIGHTS_NAME, LossLog, save_weights, weights_digest
from poet_hil.target import log_tail

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
    """A whole run, or one up to a loss that is not finite: `stopped` says so, and all else is of the steps before it.

    `loss_bits`: float32 bits of the first and last ten losses in hex; host's `seconds`.
    """

    losses: NDArray[np.float32]
    loss_bits: dict[str, list[str]]
    weights: dict[str, NDArray[np.float32]]
    weights_digest: str
    losses_path: Path
    weights_path: Path
    steps_done: int
    seconds: float
    stopped: LossNotFinite | None = None
    recoveries: int = 0
    """How often the device went away or was reset, and the run went on."""


@dataclass(frozen=True)
class Evaluation:
    """What the device made of a test set.

    With softmax cross entropy `predictions` are int64 classes, those of the largest outputs, and soft labels count by
    their largest too; `per_class[c]` is (correct, labels) of class c. With binary cross entropy they are int64 0 or
    1, whether the output is above 0, and a target above 0.5 counts as 1. With mean squared error they are the outputs.
    """

    predictions: NDArray[Any]
    total: int
    """How many predictions were compared."""
    correct: int | None = None
    per_class: tuple[tuple[int, int], ...] = ()
    mean_squared_error: float | None = None

    @property
    def accuracy(self) -> float | None:
        """Share of correct predictions, 0 to 1; None where a prediction is a number, not a choice."""
        return None if self.correct is None else self.correct / self.total


@dataclass(frozen=True)
class _Step:
    """A step that is due: which samples it takes, and the device's steps_done after it."""

    index: int
    total: int
    epoch: int
    rate: float
    samples: NDArray[np.int64]
    steps_done: int

    def report(self, trained: TrainStep) -> StepReport:
        return StepReport(self.index, self.total, self.epoch, self.rate, trained.loss, trained.ticks)


class TrainingSession:
    """Trains one device; files go to `run_dir`. One that goes away is waited for, `reconnect_s` seconds each time."""

    def __init__(self, device: DeviceClient, run_dir: Path, reconnect_s: float = RECONNECT_S) -> None:
        self.device = device
        self.run_dir = run_dir
        self.losses = LossLog(run_dir)
        self.recovery = Recovery(device, reconnect_s)

    def train(
        self,
        data: Dataset,
        plan: TrainPlan,
        *,
        resume: bool = False,
        checkpoint_every: int | None = None,
        on_step: Callable[[StepReport], None] | None = None,
        on_read: Callable[[int, int], None] | None = None,
    ) -> TrainingResult:
        """Run all of `plan`, or up to a loss that is not finite, and leave losses.csv and weights.npz. See steps().

        `on_read(done, total)` is told of progress as weights are read, in bytes.
        """
        begun = time.monotonic()
        stopped = None
        try:
            for report in self.steps(data, plan, resume=resume, checkpoint_every=checkpoint_every):
                if on_step is not None:
                    on_step(report)
        except LossNotFinite as error:
            stopped = error
        weights = self.device.read_params(on_read)
        weights_path = self.run_dir / WEIGHTS_NAME
        save_weights(weights_path, weights)
        bits = self.losses.complete()
        return TrainingResult(
            losses=np.frombuffer(bytes.fromhex("".join(bits)), dtype=">f4").astype(np.float32),
            loss_bits={"first": bits[:_ENDS], "last": bits[-_ENDS:]},
            weights=weights,
            weights_digest=weights_digest(weights, self.device.manifest),
            losses_path=self.losses.path,
            weights_path=weights_path,
            steps_done=self.device.status().steps_done,
            seconds=time.monotonic() - begun,
            stopped=stopped,
            recoveries=self.recovery.count,
        )

    def steps(
        self, data: Dataset, plan: TrainPlan, *, resume: bool = False, checkpoint_every: int | None = None
    ) -> Iterator[StepReport]:
        """Train step by step, yielding each. Losses go to losses.partial.csv; train() renames it at the end.

        Raises LossNotFinite at a loss that is NaN or infinite, TrainingStopped at whatever else ends the run.

        `resume` goes on at the device's steps_done (as its boot or RESTORE left it) and keeps the losses up to there.
        `checkpoint_every` lets the device commit a checkpoint after every so many steps.
        """
        plan.check()
        manifest = self.device.manifest
        data.check(manifest)
        total = plan.total_steps(len(data), manifest.batch)
        done = self.device.hello().steps_done
        first = done if resume else 0
        kept = self.losses.rows_before(first)
        if first > total:
            raise SessionError(
                f"The device has trained {first} steps already, and the plan has {total}. Ask for more "
                f"steps, or start anew with `poet flash`."
            )
        with self.losses.writing(kept):
            due = _Steps(plan, len(data), manifest.batch, total, done - first)
            index = first
            while index < total:
                step = due.at(index)
                try:
                    report = self._one(data, step)
                except KeyboardInterrupt:
                    self._finish(step)
                    raise
                except LossNotFinite:
                    raise
                except TrainingStopped as error:
                    answer, steps_done = self._recover(step, error, done - first)
                    if answer is None:
                        index = steps_done - (done - first)
                        self.losses.rewind(index)
                        continue
                    report = step.report(answer)
                self.losses.append(_row(report))
                index += 1
                yield report
                if checkpoint_every is not None and index % checkpoint_every == 0:
                    try:
                        self._checkpoint(step)
                    except TrainingStopped as error:
                        _, steps_done = self._recover(due.at(index), error, done - first)
                        index = steps_done - (done - first)
                        self.losses.rewind(index)

    def evaluate(self, data: Dataset, *, on_sample: Callable[[int, int], None] | None = None) -> Evaluation:
        """Run every sample forward on the device; `on_sample(done, total)` is told of progress."""
        manifest = self.device.manifest
        data.check(manifest)
        self.device.hello()
        outputs = np.empty((len(data), *manifest.output.shape[1:]), dtype=np.float32)
        for start in range(0, len(data), manifest.batch):
            # The last batch is filled up with the first samples; what they give is left out.
            chosen = np.arange(start, start + manifest.batch) % len(data)
            self.device.write_input(data.samples(chosen))
            end = min(start + manifest.batch, len(data))
            outputs[start:end] = self.device.infer()[: end - start]
            if on_sample is not None:
                on_sample(end, len(data))
        return _judge(outputs, data.y, manifest.loss)

    def _one(self, data: Dataset, step: _Step) -> StepReport:
        try:
            self.device.write_sample(data.samples(step.samples), data.y[step.samples])
            trained = self.device.train(step.rate)
        except LinkError as error:
            if isinstance(error, DeviceError) and error.status == Status.NOT_FINITE:
                raise LossNotFinite(
                    f"Training stopped at step {step.index} of {step.total}: {error} Its learning rate was "
                    f"{step.rate:g}; the device keeps the weights of the step before.",
                    step.index,
                ) from error
            raise self._stopped(step, str(error)) from error
        if trained.steps_done != step.steps_done:
            reason = (
                f"The device counts {trained.steps_done} trained steps where {step.steps_done} are due: it "
                f"was restarted meanwhile and has lost what it had learnt, or somebody else trains it. "
                f"{log_tail(self.device.link.target.log)} Start anew with `poet flash`, or restore its "
                f"checkpoint and resume."
            )
            raise self._stopped(step, reason)
        return step.report(trained)

    def _checkpoint(self, step: _Step) -> None:
        try:
            self.device.checkpoint()
        except LinkError as error:
            raise self._stopped(step, f"No checkpoint could be committed after it: {error}") from error

    def _recover(self, step: _Step, error: TrainingStopped, done_before: int) -> tuple[TrainStep | None, int]:
        """After a step that failed: (its answer after all, or None, and how many steps the device has trained).

        A device that was reset has gone back to its newest checkpoint, or to where it began.
        """
        lost = went_away(error.__cause__)
        restarted = error.__cause__ is None
        if not (lost or restarted) or not self.recovery.may_try(step.index):
            raise error
        try:
            answer, steps_done = self.recovery.reconnect() if lost else (None, self.recovery.restart())
        except LinkError as again:
            raise self._stopped(step, str(again)) from again
        if answer is not None and answer.steps_done == step.steps_done:
            return answer, steps_done
        if answer is not None or steps_done >= step.steps_done:
            # It trained on something that is not known here.
            steps_done = self.recovery.restart()
        if not done_before <= steps_done < step.steps_done:
            raise error
        return None, steps_done

    def _finish(self, step: _Step) -> None:
        """Note the loss of a step that Ctrl-C came into: without it, the run could not be resumed."""
        trained = self.device.finish_train()
        if trained is not None and trained.steps_done == step.steps_done:
            self.losses.append(_row(step.report(trained)))

    def _stopped(self, step: _Step, reason: str) -> TrainingStopped:
        return TrainingStopped(
            f"Training stopped at step {step.index} of {step.total}; the losses before it are in "
            f"{self.losses.partial_path}, no weights were saved. {reason}",
            step.index,
        )


def _judge(outputs: NDArray[np.float32], labels: NDArray[Any], loss: str) -> Evaluation:
    if loss == "mse":
        errors = outputs.astype(np.float64) - labels
        return Evaluation(outputs, outputs.size, mean_squared_error=float(np.mean(errors**2)))
    if loss == "bce":
        chosen, wanted = outputs > 0.0, labels > 0.5
        return Evaluation(chosen.astype(np.int64), chosen.size, int((chosen == wanted).sum()))
    wanted = labels if loss == "cross-entropy" else labels.argmax(axis=-1)
    predictions = outputs.reshape(*wanted.shape, -1).argmax(axis=-1)
    right = predictions == wanted
    counts = ((right & (wanted == c), wanted == c) for c in range(outputs.size // wanted.size))
    per_class = tuple((int(correct.sum()), int(there.sum())) for correct, there in counts)
    return Evaluation(predictions, predictions.size, int(right.sum()), per_class)


def _row(report: StepReport) -> tuple[str, ...]:
    return (
        str(report.step),
        str(report.epoch),
        repr(report.learning_rate),
        repr(report.loss),
        float_bits(report.loss),
        str(report.ticks),
    )


class _Steps:
    """Steps of a plan, up to `total`; the device had trained `done_before` steps before the plan's first."""

    def __init__(self, plan: TrainPlan, samples: int, batch: int, total: int, done_before: int) -> None:
        self._plan, self._samples, self._batch, self._total, self._before = plan, samples, batch, total, done_before
        self._order, self._order_of = np.arange(samples), -1

    def at(self, index: int) -> _Step:
        epoch, within = divmod(index, self._samples // self._batch)
        if self._plan.shuffle_seed is not None and epoch != self._order_of:
            rng = np.random.default_rng((self._plan.shuffle_seed, epoch))
            self._order, self._order_of = rng.permutation(self._samples), epoch
        chosen = self._order[within * self._batch : (within + 1) * self._batch]
        return _Step(index, self._total, epoch, self._plan.rate(epoch), chosen, self._before + index + 1)
