"""Which parameters train: patterns of the command line against a graph."""

from __future__ import annotations

from fnmatch import fnmatchcase

from poet_codegen.errors import ModelError, nearest_names
from poet_codegen.graph import Graph, Kind


def select_trainable(graph: Graph, pattern: str) -> frozenset[str]:
    """Names of the parameters that `pattern` chooses.

    'all'; 'last:N', those of the last N nodes that have parameters; 'bias', those of one axis; or names with * and ?,
    comma separated. Raises ModelError when the pattern is malformed or chooses nothing.
    """
    names = [param.name for param in graph.of_kind(Kind.PARAM)]
    if not names:
        raise ModelError("The model has no float32 parameters, so there is nothing to train. Export it with weights.")
    if pattern == "all":
        return frozenset(names)
    if pattern == "bias":
        return _some({p.name for p in graph.of_kind(Kind.PARAM) if len(p.shape) == 1}, pattern, names)
    if pattern.startswith("last:"):
        count = pattern.removeprefix("last:")
        if not count.isdigit() or int(count) < 1:
            raise ModelError(f"--train {pattern!r}: write last:N with a number of layers, such as last:2.")
        layers = [set(node.inputs) & set(names) for node in graph.nodes if set(node.inputs) & set(names)]
        return _some(set().union(*layers[-int(count) :]), pattern, names)
    chosen: set[str] = set()
    for part in pattern.split(","):
        matches = {name for name in names if name == part.strip() or fnmatchcase(name, part.strip())}
        chosen |= _some(matches, part.strip(), names)
    return frozenset(chosen)


def _some(chosen: set[str], pattern: str, names: list[str]) -> frozenset[str]:
    if not chosen:
        raise ModelError(
            f"--train {pattern!r} chooses no parameter of the model. Did you mean {nearest_names(pattern, names)}?"
        )
    return frozenset(chosen)
