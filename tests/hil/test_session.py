from __future__ import annotations

import csv
import hashlib
import math
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poet_hil.dataset import Dataset
from poet_hil.device import DeviceClient
from poet_hil.errors import DatasetError, SessionError, TargetDied, TargetMissing, TrainingStopped
from poet_hil.link import Link
from poet_hil.manifest import Manifest
from poet_hil.protocol import Command, InferDone
from poet_hil.recovery import TRIES
from poet_hil.results import load_weights, weights_digest
from poet_hil.session import Evaluation, StepReport, TrainingSession, TrainPlan
from poet_hil.standin import StandIn, StandInTarget

from .conftest import Clock

PLAN = TrainPlan(learning_rate=0.5, epochs=3)


def data(samples: int = 4) -> Dataset:
    y = np.arange(samples, dtype=np.int64) % 3
    x = np.repeat(y.astype(np.float32), 16).reshape(samples, 1, 4, 4)
    return Dataset({"image": x}, y, "the data set")


def session(manifest: Manifest, folder: Path) -> tuple[TrainingSession, StandIn]:
    device = StandIn(manifest)
    return TrainingSession(DeviceClient(Link(StandInTarget(device)), manifest), folder / "run"), device


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_losses_and_weights(manifest: Manifest, tmp_path: Path) -> None:
    training, _ = session(manifest, tmp_path)
    reports: list[StepReport] = []
    result = training.train(data(), PLAN, on_step=reports.append)
    assert [report.step for report in reports] == list(range(12))
    assert [report.learning_rate for report in reports] == [0.5] * 4 + [0.25] * 4 + [0.125] * 4
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"losses.csv", "weights.npz"}
    table = rows(result.losses_path)
    assert [float(row["loss"]) for row in table] == result.losses.tolist() == [r.loss for r in reports]
    assert result.loss_bits["first"] == [row["loss_bits"] for row in table[:10]]
    assert result.loss_bits["last"] == [row["loss_bits"] for row in table[-10:]]
    assert result.losses[:1].astype(">f4").tobytes().hex() == result.loss_bits["first"][0]
    with np.load(result.weights_path) as weights:
        assert list(weights) == ["conv.weight", "conv.bias", "scale"]
        raw = b"".join(weights[name].tobytes() for name in weights)
    assert result.weights_digest == hashlib.sha256(raw).hexdigest()
    assert result.steps_done == 12


def test_the_same_run_twice_gives_the_same_bits(manifest: Manifest, tmp_path: Path) -> None:
    plan = TrainPlan(learning_rate=0.1, steps=7, schedule="constant", shuffle_seed=5)
    results = [session(manifest, tmp_path / name)[0].train(data(), plan) for name in ("a", "b")]
    assert results[0].weights_digest == results[1].weights_digest
    assert results[0].losses.tobytes() == results[1].losses.tobytes()


def test_shuffling_visits_every_sample_once_a_pass(manifest: Manifest, tmp_path: Path) -> None:
    training, device = session(manifest, tmp_path)
    numbers = np.arange(160, dtype=np.float32).reshape(10, 1, 4, 4)
    samples = Dataset({"image": numbers}, np.zeros(10, np.int64), "ten")
    seen: list[float] = []
    for _ in training.steps(samples, TrainPlan(0.1, epochs=2, shuffle_seed=1)):
        seen.append(float(np.frombuffer(device._inputs[0], "<f4")[0]))
    assert seen[:10] != seen[10:] != sorted(seen[10:])
    assert sorted(seen[:10]) == sorted(seen[10:]) == [16.0 * n for n in range(10)]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (TrainPlan(learning_rate=0.0), "learning rate is 0.0"),
        (TrainPlan(learning_rate=float("nan")), "learning rate is nan"),
        (TrainPlan(learning_rate=0.1, steps=0), "0 steps"),
        (TrainPlan(learning_rate=0.1, epochs=0), "0 passes"),
    ],
)
def test_a_senseless_plan_is_refused(manifest: Manifest, tmp_path: Path, plan: TrainPlan, message: str) -> None:
    training, device = session(manifest, tmp_path)
    with pytest.raises(SessionError, match=message):
        training.train(data(), plan)
    assert not device.executed


def test_bad_data_are_refused_before_the_device_or_a_file_is_touched(manifest: Manifest, tmp_path: Path) -> None:
    training, device = session(manifest, tmp_path)
    bad = data()
    bad.y[2] = 3
    with pytest.raises(DatasetError, match="Label 2 of the data set is 3, but the model has 3 classes"):
        training.train(bad, PLAN)
    with pytest.raises(DatasetError, match="Label 2"):
        training.evaluate(bad)
    assert not device.executed and not (tmp_path / "run").exists()


@pytest.mark.parametrize("good", [0, 5])
def test_a_loss_that_is_not_finite_ends_the_run_with_what_was_good(
    manifest: Manifest, tmp_path: Path, good: int
) -> None:
    samples = data(8)
    samples.x["image"][good] = np.float32(3e38)  # finite itself; the stand-in's mean over the sample overflows
    training, device = session(manifest, tmp_path)
    result = training.train(samples, PLAN)
    assert result.stopped is not None and result.stopped.step == good
    assert re.search(
        rf"step {good} of 24: .*NaN or infinite.* lower learning rate.* rate was 0\.5", str(result.stopped)
    )
    assert device.steps_done == result.steps_done == len(result.losses) == good
    assert [row["step"] for row in rows(result.losses_path)] == [str(n) for n in range(good)]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"losses.csv", "weights.npz"}
    kept = load_weights(result.weights_path)
    assert weights_digest(kept, manifest) == result.weights_digest
    if good:
        spared, _ = session(manifest, tmp_path / "spared")
        whole = spared.train(data(8), TrainPlan(learning_rate=0.5, steps=good))
        assert whole.weights_digest == result.weights_digest and whole.stopped is None


class Dying(StandInTarget):
    """Dies when the TRAIN of step `at` is asked for."""

    at = 5

    def expect(self, deadline: float) -> bytes | None:
        if self.device.executed[Command.TRAIN] > self.at:
            raise TargetDied("The target the stand-in stopped: exit code 3. Run `poet flash` to start again.")
        return super().expect(deadline)


def test_a_device_that_dies_leaves_partial_losses_and_no_results(manifest: Manifest, tmp_path: Path) -> None:
    run = tmp_path / "run"
    session(manifest, tmp_path)[0].train(data(), PLAN)
    device = StandIn(manifest)
    training = TrainingSession(DeviceClient(Link(Dying(device)), manifest), run, reconnect_s=0.0)
    with pytest.raises(TrainingStopped, match=r"step 5 of 12; .*losses\.partial\.csv.*exit code 3") as caught:
        training.train(data(), PLAN)
    assert caught.value.step == 5
    assert [path.name for path in run.iterdir()] == ["losses.partial.csv"]
    assert [row["step"] for row in rows(run / "losses.partial.csv")] == ["0", "1", "2", "3", "4"]


def test_a_device_that_restarts_meanwhile_begins_anew_with_the_same_bits(manifest: Manifest, tmp_path: Path) -> None:
    whole = session(manifest, tmp_path / "whole")[0].train(data(), PLAN)
    training, device = session(manifest, tmp_path)
    steps: list[int] = []

    def restart(report: StepReport) -> None:
        steps.append(report.step)
        if len(steps) == 3:
            device.reset()

    result = training.train(data(), PLAN, on_step=restart)
    assert steps == [0, 1, 2, *range(12)] and result.recoveries == 1
    assert (result.losses.tobytes(), result.weights_digest) == (whole.losses.tobytes(), whole.weights_digest)
    assert [row["step"] for row in rows(result.losses_path)] == [str(n) for n in range(12)]


def test_a_device_that_restarts_again_and_again_is_given_up(manifest: Manifest, tmp_path: Path) -> None:
    training, device = session(manifest, tmp_path)

    def restart(report: StepReport) -> None:
        if report.step == 2:
            device.reset()

    with pytest.raises(TrainingStopped, match=r"step 3 .* counts 1 trained steps where 4 are due: it was restarted"):
        training.train(data(), PLAN, on_step=restart)
    assert training.recovery.count == TRIES


class Unplugged(StandInTarget):
    """Gone when the answer to the given command of step 4 is waited for, and back at the third opening."""

    command = Command.TRAIN
    is_reset = False
    missing = 0
    left = 1

    def open(self) -> None:
        if self.missing:
            self.missing -= 1
            raise TargetMissing("The port is not there.")

    def expect(self, deadline: float) -> bytes | None:
        if self.left and self.device.steps_done >= 4 and self.device.executed[self.command] == 5:
            self.left, self.missing = 0, 2
            if self.is_reset:
                self.reset()
            raise TargetDied("The connection is gone.")
        return super().expect(deadline)


@pytest.mark.parametrize("is_reset", [False, True], ids=["cable", "reset"])
@pytest.mark.parametrize("command", [Command.TRAIN, Command.WRITE_INPUT, Command.WRITE_LABEL])
def test_a_run_goes_on_when_the_device_comes_back(
    manifest: Manifest, tmp_path: Path, command: Command, is_reset: bool
) -> None:
    whole = session(manifest, tmp_path / "whole")[0].train(data(), PLAN)
    target = Unplugged(StandIn(manifest))
    target.command, target.is_reset = command, is_reset
    training = TrainingSession(DeviceClient(Link(target), manifest), tmp_path / "run")
    steps: list[int] = []
    result = training.train(data(), PLAN, on_step=lambda report: steps.append(report.step))
    assert steps == ([0, 1, 2, 3, *range(12)] if is_reset else list(range(12)))
    assert (result.losses.tobytes(), result.weights_digest) == (whole.losses.tobytes(), whole.weights_digest)
    assert (result.recoveries, target.missing) == (1, 0)


def test_a_device_that_is_reset_goes_on_from_its_checkpoint(manifest: Manifest, tmp_path: Path) -> None:
    whole = session(manifest, tmp_path / "whole")[0].train(data(), PLAN)
    target = Unplugged(StandIn(manifest))
    target.is_reset = True
    training = TrainingSession(DeviceClient(Link(target), manifest), tmp_path / "run")
    steps: list[int] = []
    result = training.train(data(), PLAN, checkpoint_every=3, on_step=lambda report: steps.append(report.step))
    assert steps == [0, 1, 2, 3, *range(3, 12)]
    assert (result.losses.tobytes(), result.weights_digest) == (whole.losses.tobytes(), whole.weights_digest)


def test_a_device_that_goes_away_during_a_checkpoint_goes_on(manifest: Manifest, tmp_path: Path) -> None:
    whole = session(manifest, tmp_path / "whole")[0].train(data(), PLAN)
    target = Unplugged(StandIn(manifest))
    target.command, target.left = Command.CHECKPOINT, 0
    training = TrainingSession(DeviceClient(Link(target), manifest), tmp_path / "run")
    steps: list[int] = []

    def on_step(report: StepReport) -> None:
        steps.append(report.step)
        target.left = int(report.step == 9)

    result = training.train(data(), PLAN, checkpoint_every=2, on_step=on_step)
    assert steps == list(range(12)) and result.recoveries == 1
    assert (result.losses.tobytes(), result.weights_digest) == (whole.losses.tobytes(), whole.weights_digest)


def test_a_device_that_stays_away_ends_the_run_in_time(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    target = Unplugged(StandIn(manifest))
    monkeypatch.setattr(target, "open", _never)
    training = TrainingSession(DeviceClient(Link(target), manifest), tmp_path / "run", reconnect_s=30.0)
    with pytest.raises(TrainingStopped, match=r"step 4 of 12.*The port is not there"):
        training.train(data(), PLAN)
    assert 30.0 < clock.now_s < 31.0


def _never() -> None:
    raise TargetMissing("The port is not there.")


def test_a_restored_device_resumes_with_the_same_bits(manifest: Manifest, tmp_path: Path) -> None:
    plan = TrainPlan(learning_rate=0.5, epochs=3, shuffle_seed=3)
    whole = session(manifest, tmp_path / "whole")[0].train(data(), plan)
    training, device = session(manifest, tmp_path / "resumed")
    for report in training.steps(data(), plan):
        if report.step == 4:
            training.device.checkpoint()
        if report.step == 7:
            break
    device.reset()
    training.device.restore()
    result = training.train(data(), plan, resume=True)
    assert result.losses.tobytes() == whole.losses.tobytes()
    assert result.weights_digest == whole.weights_digest
    assert [row["step"] for row in rows(result.losses_path)] == [str(n) for n in range(12)]


def test_resuming_without_the_losses_so_far_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    training, device = session(manifest, tmp_path)
    device.steps_done = 3
    with pytest.raises(SessionError, match=r"trained 3 steps, but .* has no losses of all of them"):
        training.train(data(), PLAN, resume=True)


def test_resuming_beyond_the_plan_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    training, _ = session(manifest, tmp_path)
    training.train(data(), PLAN)
    with pytest.raises(SessionError, match="trained 12 steps already, and the plan has 4"):
        training.train(data(), TrainPlan(0.5, epochs=1), resume=True)
    assert (tmp_path / "run" / "losses.csv").exists()


def test_evaluation_counts_by_class(manifest: Manifest, tmp_path: Path) -> None:
    training, _ = session(manifest, tmp_path)
    test = data(7)
    test.x["image"][6] = 2.0
    progress: list[tuple[int, int]] = []
    evaluation = training.evaluate(test, on_sample=lambda done, total: progress.append((done, total)))
    assert evaluation.predictions.tolist() == [0, 1, 2, 0, 1, 2, 2]
    assert (evaluation.correct, evaluation.total) == (6, 7)
    assert evaluation.accuracy == 6 / 7
    assert evaluation.per_class == ((2, 3), (2, 2), (2, 2))
    assert progress[-1] == (7, 7)


def of_loss(manifest: Manifest, loss: str, label: tuple[int, ...], output: tuple[int, ...]) -> Manifest:
    def array(name: str, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
        return {"name": name, "shape": shape, "dtype": dtype, "bytes": 4 * math.prod(shape)}

    dtype, classes = ("int32", 3) if loss == "cross-entropy" else ("float32", 0)
    changes = {"label": array("label", label, dtype) | {"classes": classes}, "output": array("y", output, "float32")}
    return Manifest.model_validate({**manifest.model_dump(), "loss": loss, **changes})


def evaluated(manifest: Manifest, folder: Path, y: Any) -> Evaluation:
    """Of samples 0, 1 and 2, for which the stand-in answers -|k - sample| in place k."""
    x = np.repeat(np.arange(3, dtype=np.float32), 16).reshape(3, 1, 4, 4)
    training, _ = session(manifest, folder)
    return training.evaluate(Dataset({"image": x}, y, "three"))


def test_soft_labels_count_by_their_largest(manifest: Manifest, tmp_path: Path) -> None:
    y = np.array([[0.6, 0.2, 0.2], [0.5, 0.4, 0.1], [0.0, 0.0, 1.0]], np.float32)
    result = evaluated(of_loss(manifest, "soft-cross-entropy", (1, 3), (1, 3)), tmp_path, y)
    assert result.predictions.tolist() == [0, 1, 2]
    assert (result.correct, result.total, result.per_class) == (2, 3, ((1, 2), (0, 0), (1, 1)))


def test_every_token_counts(manifest: Manifest, tmp_path: Path) -> None:
    """The answer [-|k - sample|] of six places is two tokens of three classes."""
    result = evaluated(
        of_loss(manifest, "cross-entropy", (1, 2), (1, 2, 3)), tmp_path, np.array([[0, 0], [1, 0], [2, 1]])
    )
    assert result.predictions.tolist() == [[0, 0], [1, 0], [2, 0]]
    assert (result.correct, result.total, result.per_class) == (5, 6, ((3, 3), (1, 2), (1, 1)))


def test_classes_may_stand_before_axes_of_size_1(manifest: Manifest, tmp_path: Path) -> None:
    result = evaluated(of_loss(manifest, "cross-entropy", (1,), (1, 3, 1, 1)), tmp_path, np.array([0, 1, 1]))
    assert (result.predictions.tolist(), result.correct) == ([0, 1, 2], 2)


def test_numbers_are_judged_by_their_squared_error(manifest: Manifest, tmp_path: Path) -> None:
    y = np.array([[0, -1], [-1, 0], [-2, -4]], np.float32)
    result = evaluated(of_loss(manifest, "mse", (1, 2), (1, 2)), tmp_path, y)
    assert result.predictions.tolist() == [[0, -1], [-1, 0], [-2, -1]]
    assert (result.mean_squared_error, result.accuracy, result.per_class) == (9 / 6, None, ())


def test_choices_are_judged_by_their_sign(manifest: Manifest, tmp_path: Path) -> None:
    training, device = session(of_loss(manifest, "bce", (1, 2), (1, 2)), tmp_path)

    def infer(_: bytes) -> bytes:
        device._output[:] = np.array([0.1, -0.1], "<f4").tobytes()
        return InferDone.LAYOUT.pack(1)

    device._handlers[Command.INFER] = (0, 0, infer)
    y = np.array([[1, 0], [0.9, 0.4], [0, 1]], np.float32)
    result = training.evaluate(Dataset({"image": np.zeros((3, 1, 4, 4), np.float32)}, y, "three"))
    assert result.predictions.tolist() == [[1, 0]] * 3
    assert (result.correct, result.total, result.accuracy) == (4, 6, 4 / 6)


def test_batches_leave_out_what_does_not_fill_one_and_evaluate_everything(manifest: Manifest, tmp_path: Path) -> None:
    batched = Manifest.model_validate(
        {
            **manifest.model_dump(),
            "inputs": [{"name": "image", "shape": [2, 1, 4, 4], "dtype": "float32", "bytes": 128}],
            "label": {"name": "label", "shape": [2], "dtype": "int32", "classes": 3, "bytes": 8},
            "output": {"name": "logits", "shape": [2, 3], "dtype": "float32", "bytes": 24},
        }
    )
    training, _ = session(batched, tmp_path)
    assert training.train(data(5), TrainPlan(0.5, epochs=2)).steps_done == 4
    evaluation = training.evaluate(data(5))
    assert evaluation.total == evaluation.correct == 5


def test_names_of_parameters_do_no_harm(manifest: Manifest, tmp_path: Path) -> None:
    dump = manifest.model_dump()
    names = ["../../evil/ü", "file", '*/ "q" \n%2F']
    for param, name in zip(dump["params"], names, strict=True):
        param["name"] = name
    training, _ = session(Manifest.model_validate(dump), tmp_path)
    result = training.train(data(), PLAN)
    assert list(load_weights(result.weights_path)) == names
    with zipfile.ZipFile(result.weights_path) as archive:
        assert all(re.fullmatch(r"[\w.~%-]+", name, flags=re.ASCII) for name in archive.namelist())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["losses.csv", "run", "weights.npz"]


def test_the_digest_follows_the_order_of_the_manifest(manifest: Manifest) -> None:
    weights = {param.name: np.full(param.shape, param.index, np.float32) for param in manifest.params}
    backwards = dict(reversed(weights.items()))
    assert weights_digest(weights, manifest) == weights_digest(backwards, manifest)
    assert re.fullmatch("[0-9a-f]{64}", weights_digest(weights, manifest))


class Interrupted(StandInTarget):
    """Ctrl-C comes when the answer to the given command of step 4 is waited for; the next wait gets it."""

    command = Command.TRAIN
    left = 1

    def expect(self, deadline: float) -> bytes | None:
        if self.left and self.device.steps_done >= 4 and self.device.executed[self.command] == 5:
            self.left -= 1
            raise KeyboardInterrupt
        return super().expect(deadline)


@pytest.mark.parametrize(("command", "steps"), [(Command.TRAIN, 5), (Command.WRITE_INPUT, 4), (Command.WRITE_LABEL, 4)])
def test_a_run_can_be_resumed_after_ctrl_c(manifest: Manifest, tmp_path: Path, command: Command, steps: int) -> None:
    whole = session(manifest, tmp_path / "whole")[0].train(data(), PLAN)
    target = Interrupted(StandIn(manifest))
    target.command = command
    training = TrainingSession(DeviceClient(Link(target), manifest), tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        training.train(data(), PLAN)
    assert target.device.steps_done == steps
    assert len(rows(tmp_path / "run" / "losses.partial.csv")) == steps
    again = TrainingSession(DeviceClient(Link(target), manifest), tmp_path / "run")
    result = again.train(data(), PLAN, resume=True)
    assert result.losses.tobytes() == whole.losses.tobytes()
    assert result.weights_digest == whole.weights_digest


def test_an_interrupt_before_a_step_does_not_repeat_the_one_before(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, device = session(manifest, tmp_path)
    write_sample = training.device.write_sample

    def interrupted(*sample: Any) -> None:
        if device.steps_done == 2:
            raise KeyboardInterrupt
        write_sample(*sample)

    monkeypatch.setattr(training.device, "write_sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train(data(), PLAN)
    assert [row["step"] for row in rows(tmp_path / "run" / "losses.partial.csv")] == ["0", "1"]


def test_results_that_cannot_be_written_are_an_error(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    training, _ = session(manifest, tmp_path)
    with pytest.raises(SessionError, match=r"cannot be written to .*run .*access"):
        training.train(data(), PLAN)


def test_a_full_disk_is_an_error(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training, _ = session(manifest, tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SessionError, match="No space left"):
        training.train(data(), PLAN)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["losses.partial.csv"]


def test_weights_that_are_no_weights_are_an_error(tmp_path: Path) -> None:
    for content in (b"", b"PK\3\4"):
        (tmp_path / "weights.npz").write_bytes(content)
        with pytest.raises(SessionError, match="poet train"):
            load_weights(tmp_path / "weights.npz")
