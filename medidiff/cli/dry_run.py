"""``--dry-run``: print the plan, and what time and memory it takes; headers and hashes are read, nothing is written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import rich_click as click

from medidiff.cli.options import show_json
from medidiff.config import RunConfig
from medidiff.errors import OutOfMemory
from medidiff.runs import Plan, PlannedCase, make_plan
from medidiff.runs.foreseen import foreseen

if TYPE_CHECKING:
    from medidiff.runs.estimate import Estimate

ACTIONS = {"todo": "restore", "done": "skip", "refused": "refuse"}


def show(config: RunConfig, *, as_json: bool) -> None:
    """Print what a run with these settings would do."""
    plan, memory = forecast(foreseen(make_plan(config), config), config)
    estimate = expected(plan, config)
    if as_json:
        show_json(tree(plan, memory) | {"seconds": None if estimate is None else round(estimate.seconds, 1)})
        return
    able = " or ".join(f"{info.name} {info.version}" for info in plan.pipelines)
    click.echo(f"pipeline {able}, output {plan.folder}")
    for case in plan.cases:
        click.echo(line(case))
        if case in memory:
            click.echo(f"{'':9}  {memory[case][0]}")
    for left_out in plan.skipped:
        click.echo(f"leave out  {left_out.path}: {left_out.reason}")
    if estimate is not None:
        click.echo(str(estimate))
    click.echo(f"{plan.count('todo')} to restore, {plan.count('done')} done already, {plan.count('refused')} refused")


def expected(plan: Plan, config: RunConfig) -> Estimate | None:
    """How long it will take; ``None`` when there is nothing to do, and torch is not loaded then."""
    if not plan.count("todo"):
        return None
    from medidiff.runs import estimate

    return estimate.of_plan(plan, config)


def forecast(plan: Plan, config: RunConfig) -> tuple[Plan, dict[PlannedCase, tuple[str, dict[str, object]]]]:
    """The plan without cases that no memory holds, and what the others take: as a clause, and for programs."""
    if not plan.count("todo"):
        return plan, {}
    from medidiff.runs import failures
    from medidiff.runs import forecast as forecasts

    cases, memory = [], {}
    for case in plan.cases:
        if case.state == "todo":
            try:
                found = forecasts.of_case(case.ref, config, plan.pipelines)
                memory[case] = forecasts.told(found), forecasts.as_json(found)
            except OutOfMemory as error:
                case = replace(case, state="refused", reason=failures.sentence(error, case.ref))
        cases.append(case)
    return replace(plan, cases=tuple(cases)), memory


def line(case: PlannedCase) -> str:
    """One line on a case."""
    why = f"  ({case.reason})" if case.reason else ""
    return f"{ACTIONS[case.state]:9}  {case.ref.path} -> {case.names.restored}{why}"


def tree(plan: Plan, memory: dict[PlannedCase, tuple[str, dict[str, object]]]) -> dict[str, Any]:
    """The plan as JSON."""
    return {
        "dry_run": True,
        "pipelines": [{"name": info.name, "version": info.version} for info in plan.pipelines],
        "output": str(plan.folder),
        "cases": [
            {
                "input": str(case.ref.path),
                "kind": case.ref.kind,
                "action": ACTIONS[case.state],
                "reason": case.reason,
                "outputs": {"restored": str(case.names.restored), "sidecar": str(case.names.sidecar)},
                "memory": memory[case][1] if case in memory else None,
            }
            for case in plan.cases
        ],
        "left_out": [{"path": str(each.path), "reason": each.reason} for each in plan.skipped],
    }
