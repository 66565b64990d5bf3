"""Runs over files and folders: plan, resume, isolate failures, and record what was done."""

from medidiff.runs.execute import RunResult, run
from medidiff.runs.plan import Plan, PlannedCase, make_plan
from medidiff.runs.record import CaseResult, RunRecord
from medidiff.runs.reporter import Reporter, Silent

__all__ = ["CaseResult", "Plan", "PlannedCase", "Reporter", "RunRecord", "RunResult", "Silent", "make_plan", "run"]
