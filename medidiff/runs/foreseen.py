"""A plan without the cases that are sure to fail: what ``--dry-run`` shows, in the sentences of the run itself."""

from __future__ import annotations

from dataclasses import replace

from medidiff.config import RunConfig
from medidiff.errors import MedidiffError
from medidiff.runs import case as cases
from medidiff.runs import failures
from medidiff.runs.plan import Plan, PlannedCase


def foreseen(plan: Plan, config: RunConfig) -> Plan:
    """The plan, with the cases refused of which headers and names of files tell that they will fail.

    Every header of a series is read, which a run does only when it comes to the case.

    Args:
        plan: as `make_plan` gives it.
        config: the run's settings.
    """
    return replace(plan, cases=tuple(judged(case, config) if case.state == "todo" else case for case in plan.cases))


def judged(case: PlannedCase, config: RunConfig) -> PlannedCase:
    """A case that is to be restored, or refused if it is sure to fail."""
    try:
        cases.foresee(case.ref, config)
    except MedidiffError as error:
        return replace(case, state="refused", reason=failures.sentence(error, case.ref))
    except Exception:  # nibabel and pydicom raise many kinds on damaged headers; the run will tell
        return case
    return case
