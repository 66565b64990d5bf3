from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medidiff.errors import NoScanFound, UsageError
from medidiff.evaluation import baselines, exchange, worker
from medidiff.evaluation.benchmark import Settings, benchmark
from medidiff.evaluation.exchange import Job
from medidiff.evaluation.results import Evaluation
from tests.evaluation.conftest import Save, Watch


@pytest.fixture
def settings(silent_bundle: Path) -> Settings:
    return Settings(percent=9, against=("median", "base"), crop=32, pipeline=str(silent_bundle), alone=False)


def figure(found: Evaluation, method: str, metric: str, region: str = "foreground") -> float:
    rows = {(row.method, row.metric, row.region): row.value for row in found.figures}
    return rows[method, metric, region]


def test_denoisers_on_identical_input(body: Path, settings: Settings, watch: Watch, tmp_path: Path) -> None:
    found = benchmark([body], settings, tmp_path, watch)
    assert found.methods == ("medidiff", "input", "median", "base")
    assert found.title == "Denoising of 9 % Rician noise"
    assert figure(found, "input", "psnr") == pytest.approx(-20 * np.log10(0.09 / 1.1), abs=1.2)
    for method in ("medidiff", "median", "base"):
        assert figure(found, method, "psnr") > figure(found, "input", "psnr") + 2
        assert figure(found, method, "seconds", "full") > 0
        assert figure(found, method, "cpu_seconds", "full") > 0
    # the network adds nothing, but medidiff estimates the noise that the base is told
    assert figure(found, "medidiff", "psnr") == pytest.approx(figure(found, "base", "psnr"), abs=0.5)
    assert 0 < figure(found, "medidiff", "coverage_90") < 1
    assert figure(found, "base", "removed") == pytest.approx(1, abs=0.3)
    assert watch.total == 3
    assert [each.against for each in found.comparisons if each.metric == "psnr"] == ["input", "median", "base"]
    (case,) = found.cases
    assert case.sidecar is not None
    assert case.sidecar["pipeline"]["name"] == "silent"
    shown = {(each.role, each.method): each.load().shape for each in case.images}
    assert set(shown.values()) == {(32, 32, 32)}
    assert {("reference", ""), ("input", ""), ("restored", "median"), ("uncertainty", "medidiff")} <= set(shown)
    assert found.provenance["pipelines"]["silent"]["weights_sha256"]
    assert list(found.provenance["inputs_sha256"]) == ["body"]


def test_results_that_stand_are_not_made_again(
    body: Path, settings: Settings, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = benchmark([body], settings, tmp_path, watch)
    made: list[str] = []
    work = worker.run
    monkeypatch.setattr(worker, "run", lambda job: made.append(job.method) or work(job))
    again = benchmark([body], settings, tmp_path, watch)
    assert made == []
    assert again.figures == first.figures
    (tmp_path / "body/median.npz").unlink()
    benchmark([body], settings, tmp_path, watch)
    assert made == ["median"]
    other = benchmark([body], replace(settings, seed=1), tmp_path, watch)
    assert made == ["median", "medidiff", "median", "base"]
    assert other.figures != first.figures


def test_refiners(body: Path, settings: Settings, watch: Watch, tmp_path: Path) -> None:
    asked = replace(settings, task="superres", percent=0, factor=(4,), against=("spline", "zero-fill", "base"))
    found = benchmark([body], asked, tmp_path, watch)
    assert figure(found, "spline", "psnr") > figure(found, "input", "psnr")
    assert figure(found, "medidiff", "psnr") == pytest.approx(figure(found, "base", "psnr"), abs=1e-3)
    (case,) = found.cases
    assert "k-space" in case.failures["zero-fill"]
    assert {each.load().shape for each in case.images} == {(32, 32, 32)}
    along = replace(asked, factor=(2, 2, 2), against=("spline", "zero-fill"))
    found = benchmark([body], along, tmp_path, watch)
    assert found.settings["profile"] == "kspace"
    assert not found.cases[0].failures


def test_fillers(body: Path, settings: Settings, watch: Watch, tmp_path: Path) -> None:
    asked = replace(settings, task="inpaint", percent=0, against=("biharmonic", "rim"), crop=40)
    found = benchmark([body], asked, tmp_path, watch)
    assert found.methods == ("medidiff", "biharmonic", "rim")
    assert figure(found, "biharmonic", "brats_psnr", "hole") > figure(found, "rim", "brats_psnr", "hole")
    hole = next(each for each in found.cases[0].images if each.role == "hole").load()
    given = next(each for each in found.cases[0].images if each.role == "input").load()
    assert (given[hole > 0] == 0).all()


def test_a_peer_that_is_not_installed_is_named(
    body: Path, settings: Settings, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "has", lambda module: module != "bm4d")
    found = benchmark([body], replace(settings, against=("bm4d", "gaussian")), tmp_path, watch)
    assert found.methods == ("medidiff", "input", "gaussian")
    assert found.missing == (
        "bm4d was left out: bm4d is not installed (pip install bm4d, whose licence is non-commercial).",
    )


def test_a_peer_that_fails_ends_nothing(
    body: Path, settings: Settings, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(degraded: object, threads: object) -> None:
        raise ValueError("no such luck")

    monkeypatch.setitem(baselines.PEERS, "median", replace(baselines.PEERS["median"], run=broken))
    found = benchmark([body], settings, tmp_path, watch)
    assert found.cases[0].failures == {"median": "median stopped with ValueError: no such luck."}
    assert {row.method for row in found.figures} == {"input", "medidiff", "base"}
    monkeypatch.undo()
    found = benchmark([body], settings, tmp_path, watch)  # a failure is tried again
    assert found.cases[0].failures == {}


def test_a_scan_that_does_not_fit_ends_nothing(
    body: Path, settings: Settings, watch: Watch, tmp_path: Path, save: Save
) -> None:
    small = save(tmp_path / "scans/small.nii.gz", np.ones((8, 8, 8)))
    found = benchmark([body, small], settings, tmp_path / "work", watch)
    failed = next(case for case in found.cases if case.name == "small")
    assert "too small" in failed.failures["medidiff"]
    assert {row.case for row in found.figures} == {"body"}


def test_a_process_of_its_own_tells_memory_and_survives_a_crash(body: Path, settings: Settings, tmp_path: Path) -> None:
    from medidiff.evaluation import benchmark_case
    from medidiff.scans.discover import find_scans

    (ref,) = find_scans([body]).cases
    posed = benchmark_case.pose(ref, "body", settings, tmp_path)
    outcome = worker.run(Job(posed.folder, "median", "key", threads=1))
    assert outcome.error == ""
    assert outcome.peak_gb is not None
    assert 0.05 < outcome.peak_gb < 8
    assert exchange.load_image(posed.folder / "median.npz").shape == (32, 32, 32)
    (posed.folder / "problem.npz").write_bytes(b"")
    outcome = worker.run(Job(posed.folder, "median", "other key", threads=1))
    assert outcome.error.startswith("median stopped with")
    assert exchange.load_outcome(Job(posed.folder, "median", "other key")) is None


def test_problems_survive_their_file(body: Path, settings: Settings, tmp_path: Path) -> None:
    from medidiff.evaluation import benchmark_case
    from medidiff.scans.discover import find_scans

    (ref,) = find_scans([body]).cases
    posed = benchmark_case.pose(ref, "body", replace(settings, task="superres", percent=0), tmp_path)
    read = exchange.load_problem(posed.folder)
    assert read.acquisition == posed.degraded.acquisition
    assert np.array_equal(read.measured, posed.degraded.measured)
    assert (read.law, read.slices, read.scaling) == (posed.degraded.law, 2, posed.degraded.scaling)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"percent": 0}, "no noise to remove"),
        ({"percent": 120}, "not between 0 and 100"),
        ({"task": "superres", "factor": (1,)}, "whole number from 2"),
        ({"crop": 8}, "too small"),
        ({"against": ("spline",)}, "spline cannot denoise"),
        ({"against": ("magic",)}, "no method 'magic'"),
    ],
)
def test_settings_that_do_not_fit(
    body: Path, settings: Settings, watch: Watch, tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        benchmark([body], replace(settings, **change), tmp_path, watch)  # type: ignore[arg-type]


def test_a_folder_without_scans(tmp_path: Path, settings: Settings, watch: Watch) -> None:
    with pytest.raises(NoScanFound, match="No scan was found"):
        benchmark([tmp_path], settings, tmp_path / "work", watch)


def test_scans_of_one_name_and_only_so_many(settings: Settings, watch: Watch, tmp_path: Path, body: Path) -> None:
    for place in ("a", "b", "c"):
        (tmp_path / place).mkdir()
        nib.save(nib.load(body), tmp_path / place / "t1w.nii.gz")
    asked = replace(settings, volumes=2, against=("gaussian",), crop=24)
    found = benchmark([tmp_path / "a", tmp_path / "b", tmp_path / "c"], asked, tmp_path / "work", watch)
    assert [case.name for case in found.cases] == ["t1w", "t1w-2"]
