"""Many steps: the device's losses and weights stay those of this machine, bit for bit.

--soak-steps N sets how many (`make soak`: 20,000).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from poet_hil.device import DeviceClient
from poet_hil.errors import TargetMissing
from poet_hil.link import Link
from poet_hil.manifest import Build
from poet_hil.results import weights_digest
from poet_hil.samples import random_batches
from poet_hil.targets.host import HostTarget

RATE = 0.001
BATCHES = 64
CHECK_EVERY = 1000


def test_no_drift(device: DeviceClient, build: Build, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    steps = int(pytestconfig.getoption("--soak-steps"))
    batches = random_batches(build.manifest, BATCHES, seed=11)
    # A greeting that met the device in the middle of its reset was dropped with right.
    dropped = device.status().frames_dropped
    try:
        reference = HostTarget(build, tmp_path)
    except TargetMissing as error:
        pytest.skip(str(error))
    with reference:
        host = DeviceClient(Link(reference), build.manifest)
        host.hello()
        for step in range(steps):
            batch = batches[step % BATCHES]
            trained = []
            for client in (device, host):
                client.write_sample(*batch)
                trained.append(client.train(RATE))
            ours, theirs = trained
            assert (ours.loss_bits, ours.steps_done) == (theirs.loss_bits, theirs.steps_done), f"step {step}"
            if step % CHECK_EVERY == CHECK_EVERY - 1:
                print(f"{step + 1} steps, equal bits", flush=True)
        assert weights_digest(device.read_params(), build.manifest) == weights_digest(
            host.read_params(), build.manifest
        )
    status = device.status()
    assert (status.steps_done, status.storage_errors, status.frames_dropped) == (steps, 0, dropped)
