"""Errors a user can act on. Each says what is wrong, where, and what to do next."""

from __future__ import annotations


class PoetError(Exception):
    """Base of every error that poet-mcu raises on purpose.

    `message` is one paragraph: what, where, and the next action. The command line prints it without a traceback.
    """


class ProblemError(PoetError):
    """A problem or schedule file is malformed; the message names the field."""


class InfeasibleError(PoetError):
    """No schedule exists within the budget.

    The message names the op with the largest working set, the bytes it needs and the bytes there are.
    """

    def __init__(self, message: str, *, op_name: str, needed_bytes: int, budget_bytes: int) -> None:
        super().__init__(message)
        self.op_name = op_name
        self.needed_bytes = needed_bytes
        self.budget_bytes = budget_bytes


class ReplayError(PoetError):
    """A schedule is not legal for its problem; the message names the step and the reason."""

    def __init__(self, message: str, *, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step
