"""What ops and pages cost on a board: by a profile where it has them, else by the core's cycle table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from poet_solver.problem import PageCost

from poet_codegen.board import Board
from poet_codegen.costs import Costs, KernelCost, Transfer
from poet_codegen.cycles import CycleTable, cycle_table
from poet_codegen.emit.kernel_source import kernel_digest, kernels_digest, takes_blocked
from poet_codegen.forms import Form, form_cycles, in_form
from poet_codegen.graph import Graph
from poet_codegen.numerics import Numerics
from poet_codegen.ops import registry
from poet_codegen.ops.registry import Kernel, Work

_NAMES_MOST = 3


@dataclass(frozen=True)
class CostModel:
    """Prices of one board. `costs` is a profile, which may be of another board or of older kernels."""

    board: Board
    costs: Costs | None = None
    numerics: Numerics = Numerics.SEPARATE
    forms: Mapping[str, Form] = field(default_factory=dict)
    """Kernel name -> form, of those that are not in their fastest one."""

    @cached_property
    def _kernels_count(self) -> bool:
        """Whether the profile's kernels say anything of this board: its cycles are those of a core, at any clock."""
        return self.costs is not None and self.costs.core == self.board.cpu.core

    @cached_property
    def _pages_count(self) -> bool:
        """Whether the profile's pages do: the device is part of a measured one, not of a modelled one."""
        if self.costs is None or not self._kernels_count:
            return False
        is_modelled = all(page.source == "modelled" for page in self.costs.pages)
        return is_modelled or self.costs.storage == self.board.storage.models

    @property
    def source(self) -> str:
        """Where figures come from, in words."""
        power = "x the board file's power"
        if self.costs is None or not self._kernels_count:
            return f"modelled: kernel cycle table {power}, storage model of the board file"
        return f"{self.costs.source}, {power}; ops and pages that were not profiled by the kernel cycle table"

    def kernel_cycles(self, kernel: Kernel, work: Work) -> float:
        """Cycles of one call of a kernel that does some work."""
        entry = self._profiled(kernel)
        if entry is not None:
            return entry.cycles
        return form_cycles(self._table, work, self.forms.get(kernel.name, Form.FAST), self.numerics)

    def program_cycles(self, name: str, kernels: Sequence[Kernel], transfer_s: float) -> tuple[float, bool] | None:
        """Cycles of the processor's work in a tiled op that a profile has under that name, with these kernels' code;
        and whether they were measured.

        `transfer_s` is how much longer its transfers make it: a board's clock saw them, too.
        """
        entry = self.costs.by_kernel.get(name) if self.costs is not None and self._kernels_count else None
        formed = [self._in_form(kernel) for kernel in kernels]
        if entry is None or entry.digest != kernels_digest(formed, self.board, self.numerics):
            return None
        is_measured = entry.source == "measured"
        seen = transfer_s * self.board.cpu.clock_hz if is_measured else 0.0
        return max(0.0, entry.cycles - seen), is_measured

    def table_cycles(self, work: Work) -> float:
        """Cycles by the core's cycle table alone."""
        return form_cycles(self._table, work, Form.FAST, self.numerics)

    @property
    def _table(self) -> CycleTable:
        return cycle_table(self.board.cpu.cycle_table)

    def form(self, kernel: Kernel) -> Form:
        """How a kernel is written on this board."""
        if not takes_blocked(kernel, self.board, self.numerics):
            return Form.PLAIN
        return self.forms.get(kernel.name, Form.FAST)

    @property
    def floor_per_mac(self) -> float | None:
        """The fewest cycles that a multiply-add can take on this core, loads hidden; None: not known."""
        return self._table.floor.get(self.numerics)

    def page_in(self, size_bytes: int, header_bytes: int) -> PageCost:
        """Cost of reading a tensor of `size_bytes`: the device's transfer, and the processor's checksum over it."""
        return self.with_checksum("page_in", size_bytes, self.board.page_in_cost(size_bytes + header_bytes))

    def page_out(self, size_bytes: int, header_bytes: int) -> PageCost:
        """Cost of writing a tensor of `size_bytes`, likewise."""
        return self.with_checksum("page_out", size_bytes, self.board.page_out_cost(size_bytes + header_bytes))

    def with_checksum(self, do: Transfer, size_bytes: int, transfer: PageCost) -> PageCost:
        """Cost of a transfer of the device, and of the processor's checksum over `size_bytes`."""
        profiled = self.costs.page(do, size_bytes) if self.costs is not None and self._pages_count else None
        if profiled is not None and profiled[1] == "measured":
            time_s = profiled[0] * self.board.seconds_per_cycle
            # The clock does not tell power: the device's is the board file's.
            return PageCost(time_s, transfer.energy_j * (time_s / transfer.time_s), transfer.wear_bytes)
        cycles = profiled[0] if profiled is not None else self.table_cycles(Work("page", elements=size_bytes))
        return PageCost(
            transfer.time_s + cycles * self.board.seconds_per_cycle,
            transfer.energy_j + cycles * self.board.energy_per_cycle_j,
            transfer.wear_bytes,
        )

    def notes(self, graph: Graph) -> tuple[str, ...]:
        """What of a profile does not fit this board, or this graph's ops: to be said wherever its figures are shown."""
        if self.costs is None:
            return ()
        costs, board = self.costs, self.board
        if not self._kernels_count:
            return (
                f"The costs are of the core {costs.core}, {board.name} has {board.cpu.core}: none is used, all ops and "
                "pages have those of the cycle table. Run `poet profile` on this board.",
            )
        found = []
        if costs.board != board.name:
            found.append(f"The costs are of the board {costs.board}, not of {board.name}, which has the same core.")
        if costs.clock_hz != board.cpu.clock_hz:
            found.append(
                f"The costs were taken at {costs.clock_hz / 1e6:g} MHz, {board.name} runs at "
                f"{board.cpu.clock_hz / 1e6:g} MHz: their cycles are used, waits for memory may differ."
            )
        if not self._pages_count:
            found.append(
                f"The costs' pages are of {costs.storage!r}, {board.name} has {board.storage.models!r}: pages cost "
                "what the board's storage model says."
            )
        return (*found, *self._stale(graph))

    def _stale(self, graph: Graph) -> list[str]:
        assert self.costs is not None
        changed: list[str] = []
        missing: list[str] = []
        for node in graph.nodes:
            rule = registry.get(node.op)
            if rule.is_view or self._profiled(kernel := rule.kernel(graph, node)) is not None:
                continue
            (changed if kernel.name in self.costs.by_kernel else missing).append(f"{node.label} ({node.op})")
        reasons = ((changed, "have other code than when the costs were taken"), (missing, "are not among the costs"))
        return [
            f"{len(ops)} ops {why}, such as {', '.join(ops[:_NAMES_MOST])}: they have the cycle table's costs. "
            "Run `poet profile` again."
            for ops, why in reasons
            if ops
        ]

    def _profiled(self, kernel: Kernel) -> KernelCost | None:
        if self.costs is None or not self._kernels_count:
            return None
        kernel = self._in_form(kernel)
        entry = self.costs.by_kernel.get(kernel.name)
        return entry if entry is not None and entry.digest == kernel_digest(kernel, self.board, self.numerics) else None

    def _in_form(self, kernel: Kernel) -> Kernel:
        return in_form(kernel, self.forms.get(kernel.name, Form.FAST))
