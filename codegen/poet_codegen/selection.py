"""Which parameters train: patterns of the command line against a graph."""

from __future__ import annotations

from fnmatch import fnmatchcase

from poet_codegen.errors import ModelError, nearest_names
from poet_codegen.graph import Graph, Kind
from poet_codegen.onnx_lora import adapters_of, is_adapter
from poet_codegen.ops.registry import Part
from poet_codegen.parts import layers_of, parameters_of


def select_trainable(graph: Graph, pattern: str, option: str = "--train") -> frozenset[str]:
    """Names of the parameters that `pattern` chooses: what its comma-separated parts choose together.

    A part is 'all'; 'last:N', those of the last N nodes that have parameters; 'bias', what layers and normalizations
    add; 'norm', scale and bias of normalizations; 'lora:RANK' or 'lora:RANK:WEIGHTS', the low-rank adapters that the
    model was prepared with (onnx_lora.py), of all weights or of those by that name; or a name with * and ?. Running
    statistics are never among them: they follow the data. Raises ModelError, which names `option`, when a part is
    malformed or chooses nothing.
    """
    statistics = parameters_of(graph, Part.STATISTIC)
    names = [param.name for param in graph.of_kind(Kind.PARAM) if param.name not in statistics]
    if not names:
        raise ModelError("The model has no float32 parameters, so there is nothing to train. Export it with weights.")
    return frozenset().union(*(_chosen(graph, part, names, option) for part in parts_of(pattern)))


def parts_of(pattern: str) -> list[str]:
    """The parts of a pattern."""
    return [part.strip() for part in pattern.split(",")]


def _chosen(graph: Graph, part: str, names: list[str], option: str) -> frozenset[str]:
    asked = f"{option} {part!r}"
    if part == "all":
        return frozenset(names)
    if part == "bias":
        return _some(parameters_of(graph, Part.BIAS, Part.SHIFT), asked, part, names)
    if part == "norm":
        return _some(parameters_of(graph, Part.SCALE, Part.SHIFT), asked, part, names)
    adapters = adapters_of(part, option)
    if adapters is not None:
        return _some(frozenset(n for n in names if is_adapter(n, adapters.pattern)), asked, part, names)
    if part.startswith("last:"):
        count = part.removeprefix("last:")
        if not count.isdigit() or int(count) < 1:
            raise ModelError(f"{asked}: write last:N with a number of layers, such as last:2.")
        layers = [chosen for layer in layers_of(graph) if (chosen := layer.intersection(names))]
        return _some(frozenset().union(*layers[-int(count) :]), asked, part, names)
    return _some(frozenset(name for name in names if name == part or fnmatchcase(name, part)), asked, part, names)


def _some(chosen: frozenset[str], asked: str, part: str, names: list[str]) -> frozenset[str]:
    if not chosen:
        raise ModelError(f"{asked} chooses no parameter of the model. Did you mean {nearest_names(part, names)}?")
    return chosen
