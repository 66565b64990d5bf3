"""Items of CLAIM, the checklist for papers on artificial intelligence in medical imaging, that a record can fill."""

from __future__ import annotations

from collections.abc import Iterator

from medidiff.evaluation.report.methods import sidecars, software, tests
from medidiff.evaluation.report.texts import count, discreet, flat
from medidiff.evaluation.results import Evaluation

Item = tuple[str, str, str]

MOST_NAMED = 10
FOR_THE_AUTHORS = (
    "data sources, eligibility and dates",
    "ethics and de-identification",
    "demographics",
    "sample size",
    "rationale for the reference",
    "training, validation and test split of your own data",
    "limitations, registration, protocol and funding",
)


def items(evaluation: Evaluation, measures: int) -> list[Item]:
    """Section, item and text.

    Args:
        evaluation: with all figures.
        measures: rows of the summary table.

    Source:
        Mongan, Moy and Kahn, Radiology: Artificial Intelligence 2 (2020) e200029; updated 2024.
    """
    found = (*_data(evaluation), *_model(evaluation), *_judged(evaluation, measures), *_results(evaluation))
    return [(section, item, discreet(text)) for section, item, text in found]


def _data(evaluation: Evaluation) -> Iterator[Item]:
    settings = "; ".join(f"{name}: {text}" for name, text in flat(evaluation.settings) if text != "–")
    text = "Turned to a common orientation and normalised by medidiff; the grid is kept except in super-resolution."
    yield "Methods: data", "Data preprocessing", f"{text} Settings: {settings}." if settings else text
    failed = sum(bool(case.failures) for case in evaluation.cases)
    left = f"{count(failed, 'scan')} failed; {count(len(evaluation.missing), 'note')} on what was left out."
    missing = left if failed or evaluation.missing else "Nothing was left out."
    yield "Methods: data", "Handling of missing data", missing
    references = any(each.role == "reference" for case in evaluation.cases for each in case.images)
    given = "Images named as references by the user, on the grid of the restored ones."
    none = "None; the figures compare each scan with its restored image."
    yield "Methods: reference standard", "Definition of the reference", given if references else none


def _model(evaluation: Evaluation) -> Iterator[Item]:
    weights = {str((tree.get("pipeline") or {}).get("weights_sha256") or "") for tree in sidecars(evaluation)} - {""}
    text = f"weights SHA-256 {', '.join(sorted(weights)) or 'not recorded'}"
    text = f"Conditional diffusion model with a known forward operator; {text}."
    yield "Methods: model", "Description of the model", text
    libraries = software(evaluation).removeprefix("Software: ") or "See provenance."
    yield "Methods: model", "Software libraries", libraries


def _judged(evaluation: Evaluation, measures: int) -> Iterator[Item]:
    section = "Methods: evaluation"
    yield section, "Metrics of performance", f"{count(measures, 'measure')}, each defined under Measures."
    untested = "Mean and standard deviation over volumes; no test was made."
    yield section, "Statistical measures", tests(evaluation) or untested
    maps = "Maps of the standard deviation and of the share that the prior supplied, where they were written."
    yield section, "Explainability", maps


def _results(evaluation: Evaluation) -> Iterator[Item]:
    shown = [case for case in evaluation.cases if case.images]
    failed = sum(bool(case.failures) for case in evaluation.cases)
    flow = f"{len(evaluation.cases)} in, {len(shown)} with a result, {failed} with a failure."
    yield "Results", "Flow of examinations", f"{flow} What was left out names each."
    yield "Results", "Performance and its uncertainty", "Summary table, comparisons and plots."
    flagged = [case.name for case in shown if case.verdicts]
    named = ", ".join(flagged[:MOST_NAMED]) + (", ..." if len(flagged) > MOST_NAMED else "")
    text = f"The guard has a sentence on {count(len(flagged), 'scan')}{f' ({named})' if named else ''}"
    yield "Results", "Failure analysis", f"{text}; cases are shown worst first."
    text = "medidiff is open source (Apache-2.0); versions and hashes stand under Provenance."
    yield "Other", "Availability of software", text
