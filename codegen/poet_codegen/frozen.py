"""Frozen parameters that flash has no room for: read-only pages of storage."""

from __future__ import annotations

from poet_codegen.board import Board
from poet_codegen.code_budget import weights_fit
from poet_codegen.graph import Graph, Kind
from poet_codegen.ops.gather import picks_rows


def frozen_on_storage(board: Board, graph: Graph, learned: frozenset[str], learned_in_flash: bool) -> frozenset[str]:
    """The largest frozen parameters, until flash has room for all that is left.

    `learned_in_flash`: the initial values of parameters that learn cannot come with storage.
    """
    params = graph.of_kind(Kind.PARAM)
    if weights_fit(board, sum(p.size_bytes for p in params)):
        return frozenset()
    frozen = sorted((p for p in params if p.name not in learned), key=lambda p: (p.size_bytes, p.name))
    left = sum(p.size_bytes for p in frozen)
    left += sum(p.size_bytes for p in params if p.name in learned) if learned_in_flash else 0
    found = set()
    while frozen and not weights_fit(board, left):
        largest = frozen.pop()
        found.add(largest.name)
        left -= largest.size_bytes
    return frozenset(found)


def row_tables(graph: Graph, frozen: frozenset[str]) -> frozenset[str]:
    """Those of which ops pick rows: each row on storage has a checksum of its own."""
    return frozenset(node.inputs[0] for node in graph.nodes if picks_rows(node)) & frozen
