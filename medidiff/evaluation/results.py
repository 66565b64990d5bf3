"""What an evaluation found: a tidy table of figures, comparisons of methods, and the cases with their images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Role = Literal["input", "reference", "restored", "uncertainty", "supplied", "hole"]
Kind = Literal["evaluate", "benchmark", "run"]


@dataclass(frozen=True)
class Metric:
    """How a figure is to be read.

    Attributes:
        title: its name in tables.
        unit: ``dB``, ``HU``, ``s``, or empty.
        better: ``higher``, ``lower``, ``zero`` or ``one`` (the nearer the better); empty when it is no judgement.
        meaning: one sentence: what it measures, over what, with which data range, and its source.
    """

    title: str
    unit: str
    better: Literal["higher", "lower", "zero", "one", ""]
    meaning: str


@dataclass(frozen=True)
class Figure:
    """One number: a row of the tidy table.

    Attributes:
        case: name of the case.
        method: who made the image: ``medidiff``, ``input``, ``nlm`` ...
        metric: key into ``Evaluation.metrics``.
        region: ``foreground``, ``full``, ``hole`` or the name of a label.
        value: the figure; NaN where the image is too small for the metric.
    """

    case: str
    method: str
    metric: str
    region: str
    value: float


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same cases.

    Attributes:
        metric: as in ``Figure``.
        region: as in ``Figure``.
        method: the first.
        against: the second.
        count: cases with both figures; n of the test.
        difference: mean of first minus second.
        low: lower end of its 95 % BCa bootstrap interval.
        high: upper end.
        p: of the two-sided paired Wilcoxon signed-rank test.
        p_holm: the same, corrected for all comparisons of the evaluation.
        effect: matched-pairs rank-biserial correlation, -1 to 1.
    """

    metric: str
    region: str
    method: str
    against: str
    count: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    effect: float


@dataclass(frozen=True)
class Shown:
    """An image of a case that is read when it is drawn.

    Attributes:
        role: what it is.
        method: who made it; empty for what no method made.
        load: gives it, shape (I, J, K), in the scan's units, on the grid of the case's ``reference`` or ``restored``.
    """

    role: Role
    method: str
    load: Callable[[], Image]


@dataclass(frozen=True)
class EvaluatedCase:
    """One scan.

    Attributes:
        name: file name without folder and ending, or a series' folder name; no patient data.
        task: ``denoise``, ``superres``, ``inpaint``, or empty when no sidecar tells.
        spacing: voxel size in millimetres of the images.
        units: of the intensities: ``HU``, or empty.
        images: what can be shown.
        verdicts: the guard's sentences; empty when all is well or unknown.
        checks: the guard's figures.
        sidecar: the parsed sidecar, if there is one.
        failures: method -> why there is no result of it, in one sentence.
        orientation: where each array axis leads, as in ``RAS`` or ``LPS``; empty when not known.
        pattern: what ``--exclude`` takes to leave the scan out; empty when it is the name.
    """

    name: str
    task: str
    spacing: tuple[float, float, float]
    units: str
    images: tuple[Shown, ...]
    verdicts: tuple[str, ...] = ()
    checks: Mapping[str, Any] = field(default_factory=dict)
    sidecar: Mapping[str, Any] | None = None
    failures: Mapping[str, str] = field(default_factory=dict)
    orientation: str = ""
    pattern: str = ""


@dataclass(frozen=True)
class Evaluation:
    """All that a report shows.

    Attributes:
        kind: what was done.
        title: one line.
        methods: names in the order in which tables show them.
        cases: the scans.
        metrics: the metrics that ``figures`` use, in the order in which tables show them.
        figures: the tidy table.
        comparisons: of methods, where there is more than one.
        settings: how it was done: task, noise, factor, seeds, data range, regions; plain JSON values.
        missing: one sentence each on what was left out: peers that are not installed, scans without a partner.
        provenance: versions, platform, and SHA-256 of inputs, outputs and weights; plain JSON values.
        notes: one sentence each on what figures do not mean.
    """

    kind: Kind
    title: str
    methods: tuple[str, ...]
    cases: tuple[EvaluatedCase, ...]
    metrics: Mapping[str, Metric]
    figures: tuple[Figure, ...]
    comparisons: tuple[Comparison, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
