"""A part of ONNX's own node tests; `make onnx-conformance` runs all of them."""

from __future__ import annotations

from .onnx_conformance import Tally, conformance, load, node_cases, run

SOME = ["AveragePool", "Clip", "Concat", "Gather", "Gemm", "LayerNormalization", "MatMul", "Pow", "ReduceMean", "Slice"]


def test_part_of_the_node_tests() -> None:
    tally = conformance(SOME, skip_expanded=True)
    assert not tally.failed
    assert len(tally.passed) >= 80
    assert all(tally.not_applicable.values())


def test_a_wrong_result_fails() -> None:
    case = load(next(case for case in node_cases(["Neg"]) if case.name == "test_neg"))
    case.expected[0] += 1.0
    tally = Tally()
    run([case], tally)
    assert list(tally.failed) == ["test_neg"] and not tally.passed
