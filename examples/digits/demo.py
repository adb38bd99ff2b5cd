"""The demo: train digits.onnx on the emulated board at three memory budgets, and check every claim that is made.

    python examples/digits/demo.py [--steps N] [--out build/demo]

A thin wrapper over the `poet` command line; each command is printed before it runs, so that you can run it yourself.
Leaves run.json (what was reached), report.html and the trained model in the build folder.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from make_data import write_data

HERE = Path(__file__).parent
POET = Path(sys.executable).parent / "poet"
BOARD = "qemu_netduinoplus2"
BUDGET = "24K"
OTHER_BUDGETS = ("28K", "20K")
DEADLINE = "3.0"
EPOCHS = 3
LEARNING_RATE = 0.02


def poet(*arguments: str, log: Path | None = None) -> None:
    """Run one command, shown to the user, or silently into a log file; ends the demo when it fails."""
    if log is None:
        print(f"\n$ poet {shlex.join(arguments)}", flush=True)
        code = subprocess.run([POET, *arguments], check=False).returncode
        output = ""
    else:
        result = subprocess.run([POET, *arguments], check=False, capture_output=True, text=True)
        code, output = result.returncode, result.stdout + result.stderr
        with log.open("a") as file:
            file.write(f"$ poet {shlex.join(arguments)}\n{output}")
    if code != 0:
        raise SystemExit(f"The demo stopped: `poet {shlex.join(arguments)}` failed.\n{output}")


def train_at(budget: str, folder: Path, data: Path, length: list[str], log: Path | None = None) -> dict[str, Any]:
    """Plan, build, flash, train, evaluate and verify at one budget; returns run.json."""
    where = ["--dir", str(folder)]
    model = HERE / "digits.onnx"
    poet("plan", str(model), "--board", BOARD, "--ram", budget, "--deadline", DEADLINE, *where, log=log)
    poet("build", *where, log=log)
    poet("flash", *where, log=log)
    try:
        poet("train", "--data", str(data), *length, "--lr", str(LEARNING_RATE), *where, log=log)
        poet("eval", "--data", str(data), *where, log=log)
    finally:
        poet("stop", *where, log=log)
    poet("verify", *where, log=log)
    record: dict[str, Any] = json.loads((folder / "run" / "run.json").read_text())
    return record


def same_in_onnxruntime(folder: Path, data: Path) -> bool:
    """The model that was written back predicts, image by image, what the device predicted."""
    session = onnxruntime.InferenceSession(folder / "run" / "trained.onnx", providers=["CPUExecutionProvider"])
    with np.load(data) as arrays:
        logits = [session.run(None, {"image": image[None]})[0] for image in arrays["x_test"]]
    there = np.load(folder / "run" / "predictions.npy")
    return bool(np.array_equal(np.concatenate(logits).argmax(axis=1), there))


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help=f"training steps; default: {EPOCHS} passes over the images")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="build folder (default: build/demo)")
    options = parser.parse_args()
    begun = time.monotonic()
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").unlink(missing_ok=True)
    data = folder / "digits.npz"
    write_data(data)
    length = ["--steps", str(options.steps)] if options.steps else ["--epochs", str(EPOCHS)]

    def others() -> dict[str, dict[str, Any]]:
        runs = {}
        for budget in OTHER_BUDGETS:
            log = folder / f"{budget}.log"
            log.unlink(missing_ok=True)
            runs[budget] = train_at(budget, folder / f"at_{budget}", data, length, log)
        return runs

    with ThreadPoolExecutor(1) as pool:
        beside: Future[dict[str, dict[str, Any]]] = pool.submit(others)
        record = train_at(BUDGET, folder, data, length)
        print(f"\nThe same at {' and '.join(OTHER_BUDGETS)} (logs in {folder}) ...", flush=True)
        runs = {BUDGET: record, **beside.result()}

    keys = (
        "budget_bytes",
        "peak_bytes",
        "arena_bytes",
        "arena_high_water_bytes",
        "recompute_calls",
        "page_outs",
        "page_ins",
    )
    record["budgets"] = {
        budget: {key: run[key] for key in (*keys, "weights_digest", "bit_identical")} for budget, run in runs.items()
    }
    digests = {run["weights_digest"] for run in runs.values()}
    record["bit_identical"] = len(digests) == 1 and all(run["bit_identical"] for run in runs.values())
    record["same_predictions_in_onnxruntime"] = same_in_onnxruntime(folder, data)
    record["seconds"] = round(time.monotonic() - begun, 1)
    (folder / "run.json").write_text(json.dumps(record, indent=1) + "\n")

    for budget, run in record["budgets"].items():
        print(
            f"{budget:>4}: arena {run['arena_bytes']} bytes, touched {run['arena_high_water_bytes']}; a step has "
            f"{run['recompute_calls']} recomputations, {run['page_outs']} page-outs, {run['page_ins']} page-ins; "
            f"bits equal to the host's: {'yes' if run['bit_identical'] else 'NO'}"
        )
    print(f"Test accuracy on the device: {record['test_accuracy']:.2%} after {record['steps']} steps")
    print(f"Same predictions in onnxruntime: {'yes' if record['same_predictions_in_onnxruntime'] else 'NO'}")
    print(
        f"Weights and losses bit-identical at all budgets, host and board: {'yes' if record['bit_identical'] else 'NO'}"
    )
    print(f"Took {record['seconds']} s. Look at {folder / 'report.html'}; figures are in {folder / 'run.json'}.")
    if not (record["bit_identical"] and record["same_predictions_in_onnxruntime"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
