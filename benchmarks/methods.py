"""medidiff on a case, and the settings of non-local means that are tried; peers are in medidiff.evaluation."""

from __future__ import annotations

import numpy as np

from benchmarks.cases import Case, Image
from medidiff.config import RestoreOptions
from medidiff.evaluation.baselines import NLM_BEST, NLM_DEFAULT, Nlm
from medidiff.evaluation.ours import percent_for
from medidiff.pipelines import Pipeline
from medidiff.restore import Restoration
from medidiff.scans.volume import Volume

NLM_CANDIDATES = (
    NLM_DEFAULT,
    Nlm("blockwise", 2, 2),
    Nlm("blockwise", 5, 1),
    Nlm("classic", 5, 1),
    Nlm("classic", 5, 2),
    Nlm("classic", 3, 2),
    NLM_BEST,
    Nlm("classic", 2, 1),
)


def medidiff(pipeline: Pipeline, noisy: Image, case: Case, sigma: float | None) -> tuple[Image, Restoration]:
    """One pass of a pipeline; ``sigma`` is the true noise, or ``None`` to let medidiff estimate it."""
    measured = case.scaling.undo(noisy)
    noise = "auto" if sigma is None else percent_for(measured, case.modality, case.scaling, sigma)
    volume = Volume(measured, np.diag([*case.spacing, 1.0]), case.modality)
    restoration = pipeline.restore(volume, RestoreOptions(noise=noise))
    return case.scaling.apply(restoration.mean), restoration
