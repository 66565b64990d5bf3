"""What a run tells the outside while it works; the command line draws it, scripts may ignore it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from medidiff.runs.plan import Plan, PlannedCase
    from medidiff.runs.record import CaseResult


class Reporter(Protocol):  # the bare returns are bodies: without one a method counts as abstract
    """Receives the events of a run, in this order: planned, then started, progress and finished for each case."""

    def status(self, text: str) -> None:
        """What the run is at that is not yet the work on a case, or waits; comes often, also before `planned`."""
        return

    def planned(self, plan: Plan) -> None:
        """The cases are known; no work has been done yet."""
        return

    def started(self, case: PlannedCase) -> None:
        """The work on a case begins."""
        return

    def progress(self, case: PlannedCase, fraction: float) -> None:
        """The part of the case in hand that is done, from 0 to 1."""
        return

    def finished(self, case: PlannedCase, result: CaseResult, error: BaseException | None) -> None:
        """A case is done, skipped or failed; ``error`` is the exception behind a failure."""
        return

    def note(self, text: str) -> None:
        """One sentence on a case that the user may want to know."""
        return

    def warning(self, text: str) -> None:
        """One sentence that the user must know; may come again for each case."""
        return


class Silent(Reporter):
    """A reporter that says nothing."""
