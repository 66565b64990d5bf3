"""An evaluation of two small cases with everything that a report can show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from medidiff.evaluation.results import Comparison, EvaluatedCase, Evaluation, Figure, Image, Metric, Shown

SHAPE = (40, 36, 28)
METRICS = {
    "psnr": Metric("PSNR", "dB", "higher", "Peak signal to noise <ratio>."),
    "bias": Metric("Bias", "%", "zero", "Mean error."),
    "seconds": Metric("Time", "s", "", "Wall time."),
}
SIDECAR: dict[str, Any] = {
    "medidiff": "9.9.9",
    "task": "denoise",
    "input": {"content_sha256": "a" * 64, "files": [{"path": "scan.nii.gz", "sha256": "b" * 64}]},
    "mask": None,
    "pipeline": {"name": "mr", "version": "0.2.0", "weights_sha256": "c" * 64},
    "outputs": [{"path": "scan_denoised.nii.gz", "sha256": "d" * 64}],
    "packages": {"python": "3.11.7", "torch": "2.13.0"},
    "platform": {"system": "Linux", "machine": "x86_64"},
    "volumes": [
        {
            "record": {
                "noise_percent": 5.5,
                "noise_source": "estimated",
                "noise_law": "rician",
                "network_gain": 0.4,
                "device": "cpu",
            },
            "uncertainty": {"level": 0.9, "quantile": 1.5, "calibrated": True, "meaning": "restored +- 1.5 times it"},
        }
    ],
}


def head(shape: tuple[int, int, int] = SHAPE) -> Image:
    """Shells of three intensities around a centre."""
    index = np.indices(shape)
    distance = np.sqrt(sum(((x - (n - 1) / 2) / (n / 2)) ** 2 for x, n in zip(index, shape, strict=True)))
    return np.select([distance < 0.4, distance < 0.6, distance < 0.85], [300.0, 200.0, 100.0], 0.0).astype(np.float32)


def noisy(seed: int, sigma: float, shape: tuple[int, int, int] = SHAPE) -> Image:
    noise = np.random.default_rng(seed).normal(0, sigma, shape)
    return np.abs(head(shape) + noise).astype(np.float32)


def images(seed: int) -> tuple[Shown, ...]:
    """Everything, without a hole."""
    before, restored = noisy(seed, 40), ndimage.gaussian_filter(noisy(seed, 40), 0.8)
    drawn: list[tuple[Any, str, Image]] = [
        ("input", "input", before),
        ("restored", "medidiff", restored),
        ("restored", "nlm", ndimage.median_filter(before, 3)),
        ("reference", "", head()),
        ("uncertainty", "medidiff", 6 + head() / 50),
        ("supplied", "medidiff", np.full(SHAPE, 0.5, np.float32)),
    ]
    return tuple(Shown(role, method, lambda image=image: image) for role, method, image in drawn)


def case(name: str, seed: int, **changes: Any) -> EvaluatedCase:
    made = EvaluatedCase(name, "denoise", (1.0, 1.0, 2.0), "", images(seed), sidecar=SIDECAR, orientation="LPS")
    return replace(made, **changes)


@pytest.fixture(scope="session")
def evaluation() -> Evaluation:
    verdict = "Structure removed: see /home/somebody/study/one.nii.gz & <b>look</b>."
    cases = (
        case("good", 1, pattern="sub-01/good.nii.gz"),
        case("bad", 2, verdicts=(verdict,)),
        EvaluatedCase("lost", "", (1.0, 1.0, 1.0), "", (), failures={"medidiff": "/data/x/lost.nii.gz is damaged."}),
    )
    values = {"good": (30.123456, 0.25, 1.5), "bad": (25.5, -1.75, 2.5)}
    figures = [
        Figure(name, method, metric, "foreground", value + shift)
        for name, found in values.items()
        for method, shift in (("input", -5.0), ("medidiff", 0.0), ("nlm", -1.0))
        for metric, value in zip(METRICS, found, strict=True)
    ]
    return Evaluation(
        kind="benchmark",
        title="Denoise & <script>alert(1)</script>",
        methods=("input", "medidiff", "nlm"),
        cases=cases,
        metrics=METRICS,
        figures=tuple(figures),
        comparisons=(Comparison("psnr", "foreground", "medidiff", "nlm", 2, 1.0, 0.5, 1.5, 0.5, 1.0, 1.0),),
        settings={"task": "denoise", "noise": "rician:9", "seeds": [0, 1]},
        missing=("bm4d is not installed.", "C:\\Users\\bob\\peers\\ants.exe is missing."),
        provenance={"medidiff": "9.9.9", "inputs": {"good.nii.gz": "e" * 64}},
    )


@pytest.fixture
def make_case() -> Callable[..., EvaluatedCase]:
    return case
