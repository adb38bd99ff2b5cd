# Everything is done in .venv and build/; system packages are installed by scripts/system-packages, through apt only.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

.PHONY: boards boards-run setup demo test lint format clean onnx-conformance import-zoo power-cuts \
	bench-kernels bench-steps bench-solver bench-solver-exactness bench-energy bench-large whole-models hil fuzz soak

setup: $(STAMP)-python $(STAMP)-system

demo: setup
	$(BIN)/python examples/digits/demo.py

# The firmware that hil_tests run on QEMU.
HIL_BUILD := build/hil

test: setup lint
	$(BIN)/poet plan examples/digits/digits.onnx --board qemu_netduinoplus2 --ram 24K --dir $(HIL_BUILD)
	$(BIN)/poet build --dir $(HIL_BUILD)
	POET_BUILD_DIR=$(HIL_BUILD) $(BIN)/python -m pytest -n 2 --dist worksteal

# The tests on a device: BOARD=nucleo_f446re PORT=/dev/ttyACM0 (or rfc2217://host:port), or a qemu_ board without a port.
BOARD := qemu_netduinoplus2
hil: setup
	$(BIN)/python -m pytest hil_tests --board $(BOARD) $(if $(PORT),--port $(PORT)) $(ARGS)

# 10,000 disturbed exchanges with the firmware as a program of this machine under sanitizers, and as many in QEMU: an hour,
# most of it spent waiting for answers that were lost.
fuzz: setup
	$(BIN)/poet plan examples/digits/digits.onnx --board qemu_netduinoplus2 --ram 24K --dir build/fuzz
	$(BIN)/python -m benchmarks.sanitized_host build/fuzz
	$(BIN)/python -m pytest hil_tests/test_fuzz.py --build-dir build/fuzz --board host --exchanges 10000
	$(BIN)/python -m pytest hil_tests/test_fuzz.py --board qemu_netduinoplus2 --exchanges 10000

# 20,000 steps in QEMU beside this machine's, bit for bit; minutes.
soak: setup
	$(BIN)/python -m pytest -s hil_tests/test_soak.py --board $(BOARD) $(if $(PORT),--port $(PORT)) --soak-steps 20000

# Two hours in all, resumed where it was cut short; ARGS="main" or "linear 0.5" picks rows, ARGS=--help tells more.
# Writes benchmarks/solver.json and docs/solver-bench.md.
bench-solver: setup
	$(BIN)/python benchmarks/solver.py $(ARGS)

# Ten minutes, resumed likewise; ARGS=--short takes seconds and writes no file.
bench-solver-exactness: setup
	$(BIN)/python benchmarks/solver_exactness.py $(ARGS)

# Every kernel beside naive loops and emx-onnx-cgen: executed instructions, modelled cycles. Writes benchmarks/kernels.json.
# ARGS="--only softmax" picks rows, ARGS=--short takes under a minute; both write no file.
bench-kernels: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks.kernels $(ARGS)

# Cycles per multiply-add of whole training steps of the MLPerf Tiny nets, into the same file. It needs PyTorch, as below.
bench-steps: setup
	$(BIN)/python -m benchmarks.steps $(ARGS)

# What a training step costs by each technique, executed on QEMU: an hour or two, resumed; ARGS="ds_cnn m4 sd 0.5" picks
# rows, ARGS=--short takes a minute and writes no result. It needs PyTorch, as below.
bench-energy: setup
	$(BIN)/python -m benchmarks.energy $(ARGS)

# Nets in less memory than their largest op takes, executed on QEMU: minutes each, into benchmarks/large.json.
# ARGS="poet_resnet18_cifar_64" picks. It needs PyTorch, as below.
bench-large: setup
	$(BIN)/python -m benchmarks.large $(ARGS)

# Half an hour on an idle machine, resumed likewise; ARGS="bert" picks nets, ARGS=--help tells more. It needs PyTorch:
# .venv/bin/pip install torch onnxscript
whole-models: setup
	$(BIN)/python examples/whole_models/run.py $(ARGS)

# Builds the digits project for every board, prints what it takes, and writes the README's table. ARGS="nrf52_dk" picks.
boards: setup
	$(BIN)/python benchmarks/boards.py $(ARGS)

# Trains it for 50 steps on every emulated board, through each storage driver that QEMU has a device for, compares the bits with
# this machine's, and writes the README's table. A few minutes; ARGS="qemu_microbit" picks, ARGS="--steps 5" is quicker.
boards-run: setup
	$(BIN)/python benchmarks/boards_run.py $(ARGS)

# ONNX's own node tests through the generated C; -v in ARGS names every case that is not applicable.
onnx-conformance: setup
	$(BIN)/python -m tests.codegen.onnx_conformance $(ARGS)

# ResNet-50, DenseNet-121 and others of the onnx package, imported and solved; ARGS="squeezenet --time-limit 60".
import-zoo: setup
	$(BIN)/python benchmarks/import_zoo.py $(ARGS)

# An hour: every write and erase of a short run is cut, QEMU's boards with SD card and NOR flash are killed 25 times each;
# ARGS='--every 50 --only "host file"' takes a minute. Writes docs/power-cuts.md.
power-cuts: setup
	$(BIN)/python benchmarks/power_cuts.py $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP)-system: scripts/system-packages | $(VENV)
	scripts/system-packages
	@touch $@

# The editable install records dependencies and entry points, so that it is repeated when they change.
$(STAMP)-python: pyproject.toml | $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo,dev]'
	@touch $@

$(VENV):
	scripts/make-venv $(PYTHON) $(VENV)
