"""The onnx package's light models: all become training problems; two small ones are solved, as by `make import-zoo`."""

from __future__ import annotations

import importlib
import io
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from poet_codegen.board import load_board
from poet_codegen.graph import Kind
from poet_codegen.onnx_import import import_onnx, read_model
from poet_codegen.onnx_prepare import prepare
from poet_codegen.plan import build_graphs
from rich.console import Console

ROOT = Path(__file__).parents[2]


def load_benchmark() -> Any:
    """As a script has it: with its own folder to import from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return importlib.import_module("import_zoo")


ZOO = load_benchmark()
MODELS = ZOO.light_models()

PUBLISHED = {
    "bvlc_alexnet": 60_965_224,
    "densenet121": 7_978_856 + 83_648,
    "inception_v1": 6_998_552,
    "resnet50": 25_557_032,
    "squeezenet": 1_235_496,
    "vgg19": 143_667_240,
}
"""Parameters of the published models. This DenseNet scales twice, in BatchNormalization and in layers of its own."""


@pytest.mark.parametrize("name", MODELS)
def test_every_model_becomes_a_training_graph(name: str) -> None:
    proto = read_model(MODELS[name])
    model = import_onnx(prepare(proto, ZOO.RECIPE.batch_norm))
    assert all(not any(array.strides) for array in model.weights.values() if array.ndim > 3), "a fill takes no memory"
    train, infer = build_graphs(model, ZOO.RECIPE)
    sizes = {t.name: t.elements for t in train.of_kind(Kind.PARAM) if t.name in train.learned()}
    assert sizes.keys() >= {n for node in proto.graph.node if node.op_type == "Conv" for n in node.input[1:]}
    if name in PUBLISHED:
        assert sum(sizes.values()) == PUBLISHED[name]
    ends = [node.op for node in infer.nodes]
    assert ("Softmax" in ends) == any(node.op_type == "Softmax" for node in proto.graph.node)
    assert "Softmax" not in {node.op for node in train.nodes}


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_small_models_are_solved(name: str) -> None:
    row = ZOO.measure(MODELS[name], load_board(ZOO.BOARD), time_limit_s=1.0, threads=1)
    assert row["floor_bytes"] <= row["ram_bytes"] <= row["keep_peak_bytes"] // 2
    assert row["energy_overhead_percent"] > 0 and 0 <= row["gap_percent"] < 100
    assert row["counts"]["page_in"] > 0


def printed(rows: dict[str, Any]) -> str:
    text = io.StringIO()
    Console(width=80, file=text).print(ZOO.table_of(rows))
    return text.getvalue()


def test_the_table_fits_80_columns() -> None:
    """The widest figures there are; a model that was not solved."""
    sizes = {"ops": 12_345, "parameters": 143_667_240, "keep_peak_bytes": 640_251_968, "floor_bytes": 411_174_912}
    solved = {"ram_bytes": 640_251_968, "energy_overhead_percent": 100.0, "gap_percent": 99.99, "status": "feasible"}
    rows = {"inception_v1": sizes | solved, "bvlc_alexnet": sizes | {"ram_bytes": 1, "status": "none found"}}
    text = printed(rows)
    assert all(cell in text for name, row in rows.items() for cell in ZOO.cells(name, row)), text
    assert "…" not in text


def with_table(readme: str, stored: dict[str, Any]) -> str:
    return str(ZOO.readme.with_table("import-zoo", ZOO.section(stored), readme))


def test_the_readme_has_the_measured_table() -> None:
    if not ZOO.RESULTS.exists():
        pytest.skip("make import-zoo has not been run")
    stored = json.loads(ZOO.RESULTS.read_text())
    assert stored["rows"].keys() == MODELS.keys()
    readme = ZOO.readme.README.read_text()
    assert with_table(readme, stored) == readme, "run make import-zoo, which writes README.md's table"


def test_the_table_goes_between_the_readmes_marks() -> None:
    sizes = {
        "ops": 5,
        "parameters": 7,
        "keep_peak_bytes": 40,
        "floor_bytes": 10,
        "ram_bytes": 20,
        "status": "none found",
    }
    stored = {"board": "b", "time_limit_s": 20.0, "rows": {"net": sizes}}
    readme = ZOO.readme.README.read_text()
    once = with_table(readme, stored)
    assert ZOO.markdown(stored["rows"]) in once and ZOO.about(stored) in once
    assert with_table(once, stored) == once
    start, end = "<!-- make import-zoo -->", "<!-- end -->"
    assert once.partition(start)[0] == readme.partition(start)[0]
    assert once.partition(start)[2].partition(end)[2] == readme.partition(start)[2].partition(end)[2]


def test_the_package_still_has_the_models() -> None:
    assert set(PUBLISHED) | {"inception_v2", "shufflenet"} <= MODELS.keys(), onnx.__version__
