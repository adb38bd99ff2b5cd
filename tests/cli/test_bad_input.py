"""What goes wrong says what, where and what to do: one paragraph, an exit code, no traceback, nothing half-written."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

REPOSITORY = Path(__file__).parents[2]
MODEL = REPOSITORY / "examples" / "digits" / "digits.onnx"
PLAN = ["plan", str(MODEL), "--board", "qemu_netduinoplus2"]


def run(folder: Path, *arguments: str, path: str | None = None) -> tuple[int, str]:
    command = [str(Path(sys.executable).parent / "poet"), *arguments]
    env = {**os.environ, "COLUMNS": "400", **({"PATH": path} if path is not None else {})}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600, env=env)
    text = result.stdout + result.stderr
    assert "Traceback" not in text, text
    return result.returncode, text


def fails(folder: Path, *arguments: str, words: list[str], path: str | None = None, code: int = 1) -> str:
    found, text = run(folder, *arguments, path=path)
    assert found == code, text
    assert all(word in text for word in words), text
    return text


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned")
    code, text = run(folder, *PLAN, "--ram", "64K")
    assert code == 0, text
    return folder


def test_a_board_for_planning_only_plans_and_does_not_build(tmp_path: Path) -> None:
    plan = ["plan", str(MODEL), "--board", "poet_mkr1000", "--time-limit", "2"]
    fails(tmp_path, *plan, words=["poet_mkr1000 is there for planning only", "no firmware"], code=0)
    fails(tmp_path, "build", words=["poet_mkr1000", "planning only", "poet boards"])
    assert not (tmp_path / "build" / "project" / "firmware.elf").exists()


def test_a_storage_device_that_the_board_does_not_have(tmp_path: Path) -> None:
    fails(tmp_path, *PLAN, "--ram", "32K", "--storage", "spi_nor", words=["qemu_netduinoplus2 has no", "semihosting"])


def test_unknown_board_gives_nearest_names(tmp_path: Path) -> None:
    fails(
        tmp_path,
        "plan",
        str(MODEL),
        "--board",
        "qemu_netduino2",
        "--ram",
        "32K",
        words=["qemu_netduinoplus2", "boards"],
    )
    assert not (tmp_path / "build").exists()


def test_budget_too_small(tmp_path: Path) -> None:
    fails(tmp_path, *PLAN, "--ram", "10K", words=["10240", "bytes"])
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("ram", ["0", "-1", "lots", "1.3", "nan"])
def test_ram_that_is_no_size(tmp_path: Path, ram: str) -> None:
    fails(tmp_path, *PLAN, f"--ram={ram}", words=["32K"], code=2)


@pytest.mark.parametrize("deadline", ["-1", "nan", "inf"])
def test_deadline_that_is_no_factor(tmp_path: Path, deadline: str) -> None:
    fails(tmp_path, *PLAN, "--ram", "64K", f"--deadline={deadline}", words=["--deadline"], code=2)


def test_impossible_deadline(tmp_path: Path) -> None:
    fails(tmp_path, *PLAN, "--ram", "28K", "--deadline", "0.5", words=["deadline"])


def test_corrupt_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07garbage")
    fails(
        tmp_path,
        "plan",
        "m.onnx",
        "--board",
        "qemu_netduinoplus2",
        "--ram",
        "32K",
        words=["m.onnx", "not a valid ONNX"],
    )


@pytest.mark.parametrize("command", ["build", "flash", "eval", "train", "verify", "stop", "report"])
def test_commands_out_of_order(tmp_path: Path, command: str) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 1, 8, 8), np.float32), y=np.zeros(2, np.int32))
    extra = ["--data", "d.npz"] if command in ("train", "eval") else []
    fails(tmp_path, command, *extra, words=["poet "])


def test_damaged_plan(tmp_path: Path, planned: Path) -> None:
    for name in ("plan.json", "schedule.json"):
        target = tmp_path / name
        subprocess.run(["cp", "-r", str(planned / "build"), str(target)], check=True)
        (target / name).write_text((target / name).read_text()[:-40])
        fails(tmp_path, "build", "--dir", str(target), words=[name])


def test_schedule_that_was_tampered_with(tmp_path: Path, planned: Path) -> None:
    subprocess.run(["cp", "-r", str(planned / "build"), str(tmp_path / "build")], check=True)
    path = tmp_path / "build" / "schedule.json"
    schedule = json.loads(path.read_text())
    computes = [step for step in schedule["steps"] if step["do"] == "compute"]
    # The second convolution would write over the tensor that it reads; a Relu may.
    computes[2]["offset"] = computes[1]["offset"]
    path.write_text(json.dumps(schedule))
    fails(tmp_path, "build", words=["overwrites"])


def test_compiler_missing(planned: Path) -> None:
    fails(planned, "build", words=["gcc-arm-none-eabi"], path="/nonexistent")
    assert not (planned / "build" / "project" / "firmware.elf").exists()


@pytest.mark.emulated
def test_everything_that_needs_a_firmware(planned: Path, tmp_path: Path) -> None:
    code, text = run(planned, "build")
    if code and "gcc-arm-none-eabi" in text:
        assert "CI" not in os.environ, text
        pytest.skip("no Arm compiler")
    assert code == 0, text
    fails(planned, "flash", words=["qemu-system-arm"], path="/usr/nothing")
    good = {"x": np.zeros((20, 1, 8, 8), np.float32), "y": np.zeros(20, np.int32)}
    np.savez(tmp_path / "good.npz", **good)
    np.savez(tmp_path / "label.npz", **{**good, "y": np.array([0] * 19 + [10])})
    np.savez(tmp_path / "shape.npz", **{**good, "x": np.zeros((20, 8, 8, 2), np.float32)})
    np.savez(tmp_path / "names.npz", images=good["x"])
    (tmp_path / "text.npz").write_text("hello")
    fails(planned, "train", "--data", str(tmp_path / "good.npz"), words=["poet flash"])
    assert run(planned, "flash")[0] == 0
    try:
        for name, words in {
            "label.npz": ["19", "10"],
            "shape.npz": ["[8, 8, 2]", "[1, 8, 8]"],
            "names.npz": ["x_train"],
            "text.npz": ["text.npz"],
            "none.npz": ["none.npz"],
        }.items():
            fails(planned, "train", "--data", str(tmp_path / name), words=words)
            assert not (planned / "build" / "run" / "weights.npz").exists()
        # Another model's firmware on the device: the build changed, the running target did not.
        manifest = planned / "build" / "project" / "manifest.json"
        original = manifest.read_text()
        other = json.loads(original)
        other["model_digest"] = "0" * 32
        manifest.write_text(json.dumps(other))
        fails(planned, "train", "--data", str(tmp_path / "good.npz"), words=["poet flash"])
        manifest.write_text(original)
        # A whole run first: what it leaves must not survive a later run that dies.
        train = ["train", "--data", str(tmp_path / "good.npz")]
        assert run(planned, *train, "--epochs", "2")[0] == 0
        results = [
            planned / "build" / "run" / name for name in ("run.json", "trained.onnx", "losses.csv", "weights.npz")
        ]
        assert all(path.exists() for path in results)
        assert run(planned, "eval", "--data", str(tmp_path / "good.npz"))[0] == 0
        fails(planned, *train, "--resume", "--epochs", "2", "--lr", "0.5", words=["learning_rate", "--resume"])
        # Refused before anything is ended or written.
        fails(planned, "flash", "--port", "/dev/ttyUSB9", words=["emulated"], code=2)
        output = killed_in_training(planned, [*train, "--epochs", "5000"])
        assert "Traceback" not in output and "poet flash" in output and "step" in output
        assert not any(path.exists() for path in results)
    finally:
        run(planned, "stop")
    # Weights of another run: measured, but not recorded.
    assert run(planned, "flash")[0] == 0
    try:
        _, text = run(planned, "eval", "--data", str(tmp_path / "good.npz"))
        assert "nothing was recorded" in text and not results[0].exists()
    finally:
        run(planned, "stop")


def killed_in_training(planned: Path, arguments: list[str]) -> str:
    """Output of `poet` when its device is killed after some steps."""
    state = json.loads((planned / "build" / "run" / "target.json").read_text())
    partial = planned / "build" / "run" / "losses.partial.csv"
    trainer = subprocess.Popen(
        [str(Path(sys.executable).parent / "poet"), *arguments],
        cwd=planned,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not (partial.exists() and partial.stat().st_size > 400):
        assert trainer.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(state["pid"], 9)
    output, _ = trainer.communicate(timeout=300)
    assert trainer.returncode == 1
    return " ".join(output.split())


@pytest.fixture(scope="module")
def on_real_board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a built firmware for a board that is not emulated."""
    folder = tmp_path_factory.mktemp("real")
    code, text = run(folder, "plan", str(MODEL), "--board", "disco_f407vg", "--ram", "64K")
    assert code == 0, text
    code, text = run(folder, "build")
    if code and "gcc-arm-none-eabi" in text:
        assert "CI" not in os.environ, text
        pytest.skip("no Arm compiler")
    assert code == 0, text
    return folder


def test_serial_port_that_is_missing_or_busy(on_real_board: Path) -> None:
    fails(on_real_board, "flash", words=["--port"])
    fails(on_real_board, "flash", "--port", "/dev/ttyNOPE", words=["/dev/ttyNOPE"])
    ours, theirs = pty.openpty()
    try:
        port = os.ttyname(theirs)
        fcntl.ioctl(theirs, termios.TIOCEXCL)
        if os.geteuid() != 0:  # root may open a port that somebody has to himself
            fails(on_real_board, "flash", "--port", port, words=[port])
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_number_that_the_device_has_not(tmp_path: Path) -> None:
    fails(tmp_path, *PLAN, "--weight-decay", "1e39", words=["--weight-decay", "float32"])
    fails(tmp_path, *PLAN, "--momentum", "0.999999999", words=["--momentum", "below 1"])


def test_a_model_of_too_many_inputs(tmp_path: Path) -> None:
    shape = [1, 4]
    names = [f"x{i}" for i in range(33)]
    graph = helper.make_graph(
        [helper.make_node("Sum", names, ["s"]), helper.make_node("Gemm", ["s", "w"], ["y"])],
        "many",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.ones((4, 3), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    plan = ["plan", "m.onnx", "--board", "qemu_netduinoplus2", "--ram", "32K"]
    fails(tmp_path, *plan, words=["33 inputs", "32 at most", "fewer"])
    assert not (tmp_path / "build").exists()


def test_a_plan_says_what_an_option_did_not_find(tmp_path: Path) -> None:
    code, text = run(tmp_path, *PLAN, "--ram", "64K", "--batch-norm", "train", "--dropout", "all")
    assert code == 0 and "none, so --batch-norm train" in text and "none, so --dropout all" in text, text
    code, text = run(tmp_path, *PLAN, "--ram", "64K")
    assert code == 0 and "Batch norm" not in text and "Dropout" not in text, text


@pytest.mark.parametrize("technique", ["both", "page"])
def test_a_plan_without_time_names_the_schedules_that_it_compares_with(tmp_path: Path, technique: str) -> None:
    code, text = run(tmp_path, *PLAN, "--ram", "30K", "--technique", technique, "--time-limit", "0")
    assert code == 0 and "% less energy, among schedules " in text, text


def test_budget_beyond_the_board(tmp_path: Path) -> None:
    fails(tmp_path, *PLAN, "--ram", "900K", words=["921600", "131072", "126976"])


def test_a_limit_beyond_the_board(tmp_path: Path) -> None:
    fails(tmp_path, *PLAN, "--board-ram", "129K", words=["132096", "131072", "4096"])
    fails(tmp_path, *PLAN, "--board-ram", "64K", "--ram", "64K", words=["65536", "61440"])
    fails(tmp_path, *PLAN, "--board-ram", "much", words=["32K"], code=2)


@pytest.mark.parametrize("columns", ["50", "80"])
def test_errors_read_well_in_a_narrow_terminal(tmp_path: Path, columns: str) -> None:
    command = [str(Path(sys.executable).parent / "poet"), *PLAN, "--ram", "10K"]
    env = {**os.environ, "COLUMNS": columns}
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600, env=env)
    assert result.returncode == 1
    assert max(map(len, result.stderr.splitlines())) <= int(columns)
    assert "bytes" in result.stderr and "[" not in result.stderr
