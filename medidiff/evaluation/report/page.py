"""Puts the report together: studies and pictures of the cases, tables, texts, and the template."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from medidiff._version import __version__
from medidiff.evaluation.report import claim, methods, mosaics, panels, plots, regions, tables, texts
from medidiff.evaluation.report import study as studies
from medidiff.evaluation.report.mosaics import Marks, Plane
from medidiff.evaluation.report.panels import Panel, Ranges
from medidiff.evaluation.report.study import Pictures, Study
from medidiff.evaluation.results import EvaluatedCase, Evaluation, Figure
from medidiff.physics import intensity
from medidiff.scans.outputs import atomic_file

MOST_SHOWN = 40  # cases with pictures; the others stand in the tables
OPEN = 3  # cases that are unfolded at first
PLOTTED = 8
LARGE = 64  # voxels of a flagged region at which the pictures open


@dataclass(frozen=True, eq=False)
class Drawn:
    """A case as the template takes it.

    Attributes:
        case: the case.
        planes: its pictures; empty when there are none.
        panels: what they show.
        scales: how bytes stand for values.
        study: what was found in the images.
        histogram: the plot of its differences, or empty.
        hole: whether something was filled.
        missing: what could not be shown.
    """

    case: EvaluatedCase
    planes: tuple[Plane, ...]
    panels: tuple[Panel, ...]
    scales: Ranges | None
    study: Study
    histogram: str
    hole: bool = False
    missing: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was said of the scan when it was restored, beside the guard's sentences."""
        return methods.warnings(self.case)

    @property
    def main_panels(self) -> tuple[Panel, ...]:
        """Those of the main method, without their images."""
        return tuple(panel for panel in self.panels if not panel.method)

    @property
    def other_panels(self) -> tuple[Panel, ...]:
        """Those of further methods."""
        return tuple(panel for panel in self.panels if panel.method)


def complete(evaluation: Evaluation) -> Evaluation:
    """Add the figures that the report finds itself: tissue volumes, Dice, flagged volumes.

    `write` adds them too; call this before the tidy table is written, so that the table holds all that the report
    shows. An evaluation that holds them already is given back as it is.
    """
    if studies.is_complete(evaluation):
        return evaluation
    main = studies.main_method(evaluation)
    figures: list[Figure] = []
    for case in evaluation.cases:
        pictures = studies.read(case, evaluation.methods, main)
        if pictures is not None:
            figures += studies.study(case, pictures, main).figures
    return studies.with_figures(evaluation, tuple(figures))


def write(evaluation: Evaluation, path: Path) -> None:
    """Write the report: one HTML file that needs nothing else; equal evaluations give equal bytes.

    Args:
        evaluation: what was found.
        path: the file.

    Raises:
        CannotWrite: it cannot be written.
    """
    text = render(evaluation)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def render(evaluation: Evaluation) -> str:
    """The report as text."""
    main = studies.main_method(evaluation)
    shown, evaluation = _ordered(evaluation, main)
    budget = min(mosaics.BUDGET // max(min(len(shown), MOST_SHOWN), 1), mosaics.LARGEST)
    drawn: list[Drawn] = []
    figures: list[Figure] = []
    for number, case in enumerate(shown):
        found = _draw(case, evaluation.methods, main, budget if number < MOST_SHOWN else 0)
        drawn.append(found)
        figures += found.study.figures
    if not studies.is_complete(evaluation):
        evaluation = studies.with_figures(evaluation, tuple(figures))
    evaluation = replace(evaluation, missing=(*evaluation.missing, *(text for each in drawn for text in each.missing)))
    return _template().render(_context(evaluation, main, drawn))


def _ordered(evaluation: Evaluation, main: str) -> tuple[list[EvaluatedCase], Evaluation]:
    """The cases, worst first, with paths cut out of their sentences."""
    clean = tuple(
        replace(
            case,
            verdicts=tuple(map(texts.discreet, case.verdicts)),
            failures={name: texts.discreet(reason) for name, reason in case.failures.items()},
        )
        for case in evaluation.cases
    )
    evaluation = replace(evaluation, cases=clean, missing=tuple(map(texts.discreet, evaluation.missing)))
    return tables.worst_first(evaluation, main), evaluation


def _draw(case: EvaluatedCase, names: tuple[str, ...], main: str, budget: int) -> Drawn:
    """Read a case's images, study and draw them; they are let go at the end."""
    pictures = studies.read(case, names, main)
    if pictures is None:
        return Drawn(case, (), (), None, Study((), (), None), "")
    found = studies.study(case, pictures, main)
    if budget == 0:
        return Drawn(case, (), (), None, replace(found, flagged=None), "")
    shown = tuple(panels.panels(case, pictures, main))
    scales = panels.ranges(case, pictures)
    marks = Marks(pictures.hole, found.flagged, _first(pictures, found))
    planes = mosaics.mosaics(case, shown, scales, marks, budget)
    kept = tuple(replace(panel, image=np.empty(0, np.float32)) for panel in shown)
    found, plot, hole = replace(found, flagged=None), _histogram(case, pictures), pictures.hole is not None
    return Drawn(case, planes, kept, scales, found, plot, hole, tuple(map(texts.discreet, pictures.missing)))


def _first(pictures: Pictures, found: Study) -> tuple[int, int, int] | None:
    """Where the pictures open: in the hole, else at the largest unexpected change of some size, else in the middle."""
    if pictures.hole is not None:
        i, j, k = (int(np.argmax(pictures.hole.sum(axis=tuple(o for o in range(3) if o != axis)))) for axis in range(3))
        return i, j, k
    changes = [region for region in found.regions if region.reason == "change" and region.voxels >= LARGE]
    return max(changes, key=lambda region: region.voxels).centre if changes else None


def _histogram(case: EvaluatedCase, pictures: Pictures) -> str:
    base = pictures.reference if pictures.reference is not None else pictures.main
    if base is None:
        return ""
    inside = pictures.hole if pictures.hole is not None else intensity.foreground(base)
    unit = f" ({case.units})" if case.units else ""
    if pictures.reference is not None and pictures.main is not None:
        groups = {"restored − reference": (pictures.main - pictures.reference)[inside]}
        if pictures.before is not None:
            groups["before − reference"] = (pictures.before - pictures.reference)[inside]
        return plots.histogram(groups, f"difference to reference{unit}")
    if pictures.residual is None:
        return ""
    return plots.histogram({"before − restored": pictures.residual[inside]}, f"before − restored{unit}")


def _context(evaluation: Evaluation, main: str, drawn: list[Drawn]) -> dict[str, Any]:
    """All that the template shows."""
    rows = tables.summary(evaluation)
    beside = tables.main_metrics(evaluation, main)
    digest = hashlib.sha256(f"{evaluation.title}\n{tables.figures_csv(evaluation)}".encode()).hexdigest()[:16]
    listed = [(found.case.name, region) for found in drawn for region in found.study.regions]
    script, style = _resource("report.js"), _resource("report.css")
    return {
        "evaluation": evaluation,
        "main": main,
        "kind": {"run": "Run report", "evaluate": "Evaluation", "benchmark": "Benchmark"}[evaluation.kind],
        "version": __version__,
        "cases": drawn,
        "open": OPEN,
        "rows": rows,
        "methods": [name for name in tables.methods_shown(evaluation) if any(name in row.cells for row in rows)],
        "beside": [
            {"metric": evaluation.metrics[key], "region": region, "values": _values(evaluation, main, key, region)}
            for key, region in beside
        ],
        "comparisons": tables.comparison_rows(evaluation),
        "contest": any(row.best for row in rows),
        "strips": plots.strips(evaluation, _plotted(evaluation, main)) if len(drawn) > 1 else "",
        "files": {
            "figures.csv": tables.link(tables.figures_csv(evaluation)),
            "summary.csv": tables.link(tables.summary_csv(rows)),
            "comparisons.csv": tables.link(tables.comparisons_csv(evaluation)) if evaluation.comparisons else "",
            "regions.csv": tables.link(tables.regions_csv(listed)) if listed else "",
        },
        "paragraph": methods.paragraph(evaluation),
        "claim": claim.items(evaluation, len(rows)),
        "to_fill": claim.FOR_THE_AUTHORS,
        "limits": methods.LIMITS,
        "done": [*texts.flat(evaluation.settings), *_told(evaluation.provenance)],
        "provenance": list(texts.flat(evaluation.provenance)),
        "hashes": methods.provenance,
        "colours": {scale: panels.colours(scale) for scale in panels.COLOURS},
        "regions": {"UNEXPECTED": regions.UNEXPECTED, "DOUBTFUL": regions.DOUBTFUL},
        "data": _data(evaluation, drawn, digest),
        "style": style,
        "script": script,
        "script_sha256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "most_shown": MOST_SHOWN,
    }


def _told(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the provenance says of the run itself, for the summary."""
    for name in ("command", "started", "finished", "status"):
        if provenance.get(name):
            yield from texts.flat(provenance[name], name)
    if provenance.get("pipelines"):
        yield from texts.flat(provenance["pipelines"], "pipeline")


def _values(evaluation: Evaluation, main: str, metric: str, region: str) -> Mapping[str, float]:
    return {
        figure.case: figure.value
        for figure in evaluation.figures
        if (figure.method, figure.metric, figure.region) == (main, metric, region)
    }


def _plotted(evaluation: Evaluation, main: str) -> list[tuple[str, str]]:
    """The metrics that are plotted: those beside the cases, then the Dice coefficient and the flagged volumes."""
    chosen = tables.main_metrics(evaluation, main)
    more = [name for name in (studies.TISSUE_DICE, studies.TISSUE_AGREEMENT) if name in evaluation.metrics]
    more += [name for name in (studies.FLAGGED_CHANGE, studies.FLAGGED_UNCERTAIN) if name in evaluation.metrics]
    regions_of = {figure.metric: figure.region for figure in reversed(evaluation.figures)}
    chosen += [(name, regions_of[name]) for name in more if name not in dict(chosen)]
    return chosen[:PLOTTED]


def _data(evaluation: Evaluation, drawn: list[Drawn], digest: str) -> dict[str, Any]:
    """What the script needs."""
    return {
        "title": evaluation.title,
        "digest": digest,
        "colours": {scale: panels.colours(scale) for scale in panels.COLOURS},
        "cases": [_case_data(found) for found in drawn],
    }


def _case_data(found: Drawn) -> dict[str, Any]:
    case, scales = found.case, found.scales
    common = {"name": case.name, "pattern": case.pattern, "units": case.units}
    if scales is None:
        return common
    return common | {
        "values": [float(f"{value:.6g}") for value in scales.values],
        "level": scales.level,
        "window": scales.window,
        "signed": scales.signed,
        "signedShown": scales.signed_shown,
        "heat": scales.heat,
        "heatShown": scales.heat_shown,
        "planes": [
            {"slices": plane.slices, "places": plane.places, "count": plane.count, "first": plane.first}
            for plane in found.planes
        ],
    }


def _resource(name: str) -> str:
    return resources.files("medidiff.evaluation.report").joinpath(name).read_text(encoding="utf-8")


def _template() -> jinja2.Template:
    """The page, with all values escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_resource),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = texts.number
    environment.filters["json"] = _json
    environment.filters["pair"] = lambda figure: (figure.metric, figure.region)
    environment.filters["anchor"] = lambda index: f"case-{index + 1}"
    return environment.get_template("report.html.j2")


def _json(value: Any) -> str:
    """JSON that may stand inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
