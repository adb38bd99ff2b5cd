"""Weights go back into every form in which a model can hold a parameter, and a plan finds out whether they do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from poet_codegen import plan as plan_module
from poet_codegen.errors import ModelError
from poet_codegen.export import with_weights
from poet_codegen.graph import Kind
from poet_codegen.lower import Home
from poet_codegen.onnx_import import import_onnx
from poet_codegen.plan import make_plan, make_request
from poet_codegen.recipe import Recipe

Maker = Callable[..., onnx.ModelProto]
node = helper.make_node
W = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
ONES = numpy_helper.from_array(np.ones(3, np.float32))
HALF = numpy_helper.from_array(np.full(1, 0.5, np.float32))
FORMS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray[Any, Any]]]] = {
    "initializer": ([], {"b": np.ones(3, np.float32)}),
    "Constant, value": ([node("Constant", [], ["b"], value=ONES)], {}),
    "Constant, value_floats": ([node("Constant", [], ["b"], value_floats=[1.0, 2.0, 3.0])], {}),
    "fill": ([node("ConstantOfShape", ["b_s"], ["b"], value=HALF)], {"b_s": np.array([3])}),
    "fill of zeros": ([node("ConstantOfShape", ["b_s"], ["b"])], {"b_s": np.array([3])}),
}


def model_of(make_model: Maker, form: str) -> onnx.ModelProto:
    """A layer, its bias in some form, a number as an attribute and one added by Sum."""
    made, arrays = FORMS[form]
    nodes = [
        node("Constant", [], ["half"], value_float=0.5),
        *made,
        node("Gemm", ["x", "w", "b"], ["z"]),
        node("Mul", ["z", "half"], ["h"]),
        node("Sum", ["h", "half"], ["y"]),
    ]
    return make_model(nodes, [1, 4], {"w": W} | arrays)


@pytest.mark.parametrize("ir_version", [3, 9])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_parameter_goes_back(make_model: Maker, form: str, ir_version: int) -> None:
    proto = model_of(make_model, form)
    if ir_version < 4:
        proto.ir_version = ir_version
        for i in proto.graph.initializer:
            proto.graph.input.append(helper.make_tensor_value_info(i.name, i.data_type, i.dims))
    model = import_onnx(proto)
    assert {t.name for t in model.graph.of_kind(Kind.PARAM)} == {"w", "b"}
    trained = {name: array + 1 for name, array in model.weights.items()}
    back = with_weights(proto, trained)
    onnx.checker.check_model(back)
    again = import_onnx(back).weights
    assert all(np.array_equal(again[name], trained[name]) for name in ("w", "b"))
    x = np.arange(4, dtype=np.float32)[None]
    expected = (x @ trained["w"] + trained["b"]) * 0.5 + 0.5
    np.testing.assert_allclose(ReferenceEvaluator(back).run(None, {"x": x})[0], expected, rtol=1e-6)
    with pytest.raises(ModelError, match="another model"):
        with_weights(proto, {"b": W})


def request_of(path: Path) -> Any:
    return make_request(path, "qemu_netduinoplus2", 20_000, None, Home.RAM, Recipe(), "keep", 0)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_planned(make_model: Maker, tmp_path: Path, form: str) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model_of(make_model, form), path)
    plan = make_plan(request_of(path), path, threads=1, time_limit_s=5)
    assert plan.train.graph.learned() == {"w", "b"}


def test_a_plan_finds_what_cannot_be_written_back(
    make_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model_of(make_model, "initializer"), path)
    imported = import_onnx(onnx.load(path))
    lost = plan_module.Model(imported.graph, imported.weights | {"lost": W})
    monkeypatch.setattr(plan_module, "import_onnx", lambda proto: lost)
    monkeypatch.setattr(plan_module, "solve", lambda *_, **__: pytest.fail("it was solved first"))
    with pytest.raises(ModelError, match="lost"):
        make_plan(request_of(path), path, threads=1, time_limit_s=5)


def test_a_number_in_a_sum_never_trains(make_model: Maker) -> None:
    """Of two terms it is in the kernel, of more it is a constant."""
    number = np.array(0.5, np.float32)
    for terms, constants in ((["h", "n"], 0), (["n", "h"], 0), (["h", "n", "h"], 1)):
        nodes = [node("Gemm", ["x", "w"], ["h"]), node("Sum", terms, ["y"])]
        model = import_onnx(make_model(nodes, [1, 4], {"w": W, "n": number}))
        assert [t.name for t in model.graph.of_kind(Kind.PARAM)] == ["w"]
        assert len(model.graph.of_kind(Kind.CONSTANT)) == constants
