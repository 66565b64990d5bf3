from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medidiff.errors import NoScanFound
from medidiff.evaluation import report, tables
from medidiff.evaluation.evaluate import Options, evaluate
from medidiff.evaluation.results import Evaluation, Figure
from medidiff.scans import discover
from tests.evaluation.conftest import Save, Watch


def figure(found: Evaluation, method: str, metric: str, region: str = "foreground", case: str = "t1w") -> float:
    rows = {(row.case, row.method, row.metric, row.region): row.value for row in found.figures}
    return rows[case, method, metric, region]


def is_main(row: Figure) -> bool:
    return (row.method, row.metric, row.region) == ("medidiff", "psnr", "foreground")


@pytest.fixture
def run(tmp_path: Path, save: Save, image: np.ndarray) -> Path:
    """A folder of two restored scans with references; the first has sidecar, input and uncertainty."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("t1w", "t2w")):
        noise = rng.standard_normal(image.shape).astype(np.float32)
        scan = save(tmp_path / f"scans/{name}.nii.gz", image + 8 * noise)
        save(tmp_path / f"truth/{name}.nii.gz", image)
        digest = hashlib.sha256(scan.read_bytes()).hexdigest()
        stated = {"quantile": 2.0, "calibrated": True}
        guard = {"verdicts": ["Under-denoised: so it is."], "figures": {"noise_left": 0.5}}
        told = {"path": f"../scans/{name}.nii.gz", "content_sha256": digest}
        tree = {"task": "denoise", "input": told, "volumes": [{"uncertainty": stated, "guard": guard}]}
        save(tmp_path / f"out/{name}_denoised.nii.gz", image + (1 + number) * noise, sidecar=tree)
    save(tmp_path / "out/t1w_denoised_uncertainty.nii.gz", np.full(image.shape, 1.0))
    return tmp_path


def test_a_scan_that_is_its_own_reference_is_told(run: Path, watch: Watch, image: np.ndarray) -> None:
    assert evaluate(run / "out", run / "truth", None, Options(), watch).notes == ()
    (run / "scans/t1w.nii.gz").replace(run / "truth/t1w.nii.gz")  # the sidecar's hash tells
    again = nib.load(run / "scans/t2w.nii.gz")
    nib.save(nib.Nifti2Image(again.get_fdata(dtype=np.float32), again.affine), run / "truth/t2w.nii.gz")
    found = evaluate(run / "out", run / "truth", None, Options(), watch)
    said = "is the scan that was restored: these figures say how much was changed, not how good it is."
    assert found.notes == (f"The reference of t1w {said}", f"The reference of t2w {said}")
    assert report.render(found).count(said) == 2
    assert tables.as_json(found)["notes"] == list(found.notes)


def test_a_folder_against_its_references(run: Path, watch: Watch) -> None:
    found = evaluate(run / "out", run / "truth", None, Options(), watch)
    assert found.methods == ("medidiff", "input")
    assert figure(found, "medidiff", "psnr") == pytest.approx(20 * np.log10(200 / 1), abs=0.3)
    assert figure(found, "medidiff", "psnr", case="t2w") == pytest.approx(20 * np.log10(200 / 2), abs=0.3)
    assert figure(found, "input", "psnr") == pytest.approx(20 * np.log10(200 / 8), abs=0.3)
    # +- 2.0 of a deviation of 1 that is right holds what a normal distribution has there
    assert figure(found, "medidiff", "coverage_90") == pytest.approx(0.954, abs=0.02)
    assert watch.total == 2
    assert watch.lines[0].startswith("t1w, medidiff: PSNR 45.9")
    (compared,) = [each for each in found.comparisons if each.metric == "psnr"]
    assert (compared.against, compared.count) == ("input", 2)
    assert compared.difference == pytest.approx(20 * np.log10(8) - 3, abs=0.3)
    case = found.cases[0]
    assert (case.name, case.task, case.orientation, case.pattern) == ("t1w", "denoise", "RAS", "t1w.nii.gz")
    assert case.verdicts == ("Under-denoised: so it is.",)
    assert case.checks == {"noise_left": 0.5}
    shown = {each.role: each.load() for each in case.images}
    assert set(shown) == {"reference", "restored", "input", "uncertainty"}
    assert shown["reference"].max() == pytest.approx(200)
    assert found.provenance["inputs_sha256"]["t1w"].keys() == {"restored", "reference", "input"}


def test_without_references_the_scan_itself_tells(run: Path, watch: Watch) -> None:
    found = evaluate(run / "out", None, None, Options(), watch)
    assert found.methods == ("medidiff",)
    assert figure(found, "medidiff", "noise_ratio", "full") < 0.7
    assert not any(row.metric == "psnr" for row in found.figures)
    (run / "scans/t2w.nii.gz").unlink()
    found = evaluate(run / "out", None, None, Options(), watch)
    assert "neither a reference nor its input" in found.cases[1].failures["medidiff"]
    assert tables.failed(found) == (1, 1)


def test_a_scan_that_cannot_be_compared_ends_nothing(run: Path, watch: Watch, save: Save, image: np.ndarray) -> None:
    save(run / "truth/t1w.nii.gz", image[:8])
    save(run / "out/flair_denoised.nii.gz", image)
    found = evaluate(run / "out", run / "truth", None, Options(), watch)
    assert found.missing == ("flair_denoised has no reference named flair.",)
    assert "--resample" in found.cases[0].failures["medidiff"]
    assert {row.case for row in found.figures} == {"t2w"}
    assert any("failed" in line for line in watch.lines)


def test_references_are_resampled_when_asked(run: Path, watch: Watch, save: Save, image: np.ndarray) -> None:
    mirrored = np.diag([-1.0, 1, 1, 1])
    mirrored[0, 3] = image.shape[0] - 1
    save(run / "truth/t1w.nii.gz", image[::-1], mirrored)
    found = evaluate(run / "out", run / "truth", None, Options(resample=True), watch)
    assert figure(found, "medidiff", "psnr") == pytest.approx(20 * np.log10(200), abs=0.3)


def test_labels_and_mask_are_found_by_name(run: Path, watch: Watch, save: Save, image: np.ndarray) -> None:
    labels = np.zeros(image.shape)
    labels[4:9, 4:9, 4:9] = 2
    for name in ("t1w", "t2w"):
        save(run / f"labels/{name}_labels.nii.gz", labels)
        save(run / f"masks/{name}_mask.nii.gz", labels > 0)
    options = Options(labels=run / "labels", mask=run / "masks")
    found = evaluate(run / "out", run / "truth", None, options, watch)
    assert figure(found, "medidiff", "psnr", "label 2") == figure(found, "medidiff", "psnr")
    assert figure(found, "medidiff", "snr", "label 2") > figure(found, "input", "snr", "label 2")
    (run / "labels/t2w_labels.nii.gz").unlink()
    found = evaluate(run / "out", run / "truth", None, options, watch)
    assert "no label map for t2w" in found.cases[1].failures["medidiff"]


def test_labels_lie_in_the_folders_of_the_scans(tmp_path: Path, watch: Watch, save: Save, image: np.ndarray) -> None:
    for number, place in enumerate(("a", "b")):
        save(tmp_path / f"out/{place}/t1w_denoised.nii.gz", image)
        save(tmp_path / f"truth/{place}/t1w.nii.gz", image)
        save(tmp_path / f"labels/{place}/t1w_labels.nii.gz", np.full(image.shape, 1 + number))
    options = Options(labels=tmp_path / "labels")
    found = evaluate(tmp_path / "out", tmp_path / "truth", None, options, watch)
    regions = {(row.case, row.region) for row in found.figures if row.metric == "snr"}
    assert regions == {("a/t1w", "label 1"), ("b/t1w", "label 2")}


def test_a_rejected_case_is_left_out_by_its_folder_too(
    tmp_path: Path, watch: Watch, save: Save, image: np.ndarray
) -> None:
    for place in ("a", "b"):
        told = {"path": f"../../scans/{place}/t1w [1].nii.gz"}
        save(tmp_path / f"out/{place}/t1w [1]_denoised.nii.gz", image, sidecar={"task": "denoise", "input": told})
        save(tmp_path / f"scans/{place}/t1w [1].nii.gz", image)
    first = evaluate(tmp_path / "out", tmp_path / "scans", None, Options(), watch).cases[0]
    left = discover.find_scans([tmp_path / "scans"], exclude=[first.pattern]).cases
    assert [ref.relative.as_posix() for ref in left] == ["b/t1w [1].nii.gz"]


def test_a_filled_hole_is_judged_by_the_challenge(tmp_path: Path, watch: Watch, save: Save, image: np.ndarray) -> None:
    hole = np.zeros(image.shape, bool)
    hole[5:10, 5:10, 5:9] = True
    scan = save(tmp_path / "t1w.nii.gz", np.where(hole, 0, image))
    filled = np.where(hole, image + 4, image)
    told = {"path": "t1w.nii.gz", "content_sha256": hashlib.sha256(scan.read_bytes()).hexdigest()}
    save(tmp_path / "t1w_inpainted.nii.gz", filled, sidecar={"task": "inpaint", "input": told})
    truth = save(tmp_path / "truth/t1w.nii.gz", image)
    found = evaluate(tmp_path / "t1w_inpainted.nii.gz", truth, None, Options(), watch)
    expected = (4 / image[hole].max()) ** 2
    assert figure(found, "medidiff", "brats_mse", "hole") == pytest.approx(expected, rel=1e-4)
    assert {row.region for row in found.figures} == {"hole"}
    shown = {each.role: each.load() for each in found.cases[0].images}
    assert np.array_equal(shown["hole"] > 0, hole)
    half = hole.copy()
    half[:7] = False
    mask = save(tmp_path / "mask.nii.gz", half)
    found = evaluate(tmp_path / "t1w_inpainted.nii.gz", truth, None, Options(mask=mask), watch)
    assert figure(found, "medidiff", "mae", "hole") == pytest.approx(2, rel=1e-4)  # percent of 200


def test_finer_scans_are_compared_with_their_interpolated_input(tmp_path: Path, watch: Watch, save: Save) -> None:
    x = np.linspace(0, 3, 24)
    truth = (np.sin(x)[:, None, None] * np.ones((24, 16, 16)) * 100 + 120).astype(np.float32)
    coarse = truth.reshape(12, 2, 16, 16).mean(axis=1)
    affine = np.diag([2.0, 1, 1, 1])
    affine[0, 3] = 0.5
    save(tmp_path / "scan.nii.gz", coarse, affine)
    save(tmp_path / "scan_superres.nii.gz", truth + 1)
    reference = save(tmp_path / "truth.nii.gz", truth)
    found = evaluate(tmp_path / "scan_superres.nii.gz", reference, tmp_path / "scan.nii.gz", Options(), watch)
    assert found.methods == ("restored", "input")  # nothing says who made it
    assert figure(found, "restored", "bias", case="scan") == pytest.approx(100 / truth.max(), rel=1e-3)
    assert 30 < figure(found, "input", "psnr", case="scan") < 60


def test_volumes_of_a_scan_count_once(tmp_path: Path, watch: Watch, image: np.ndarray) -> None:
    truth = np.stack([image, image], axis=3)
    restored = truth + np.array([1, 3], np.float32)
    for name, array in (("truth", truth), ("x_denoised", restored)):
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
    found = evaluate(tmp_path / "x_denoised.nii.gz", tmp_path / "truth.nii.gz", None, Options(), watch)
    assert figure(found, "restored", "bias", case="x") == pytest.approx(1, rel=1e-3)  # mean of 0.5 and 1.5 percent
    assert len({row.case for row in found.figures}) == 1


def test_nothing_to_compare_is_told(run: Path, watch: Watch) -> None:
    with pytest.raises(NoScanFound, match=r"No reference fits. t1w_denoised has no reference"):
        evaluate(run / "out", run / "out", None, Options(), watch)


def test_cases_of_one_name_are_told_apart(run: Path, watch: Watch, save: Save, image: np.ndarray) -> None:
    for place in ("a", "b"):
        save(run / f"many/{place}/t1w_denoised.nii.gz", image)
        save(run / f"refs/{place}/t1w.nii.gz", image)
    found = evaluate(run / "many", run / "refs", None, Options(), watch)
    assert [case.name for case in found.cases] == ["a/t1w", "b/t1w"]


def test_tables_hold_every_figure(run: Path, watch: Watch, tmp_path: Path) -> None:
    found = evaluate(run / "out", run / "truth", None, Options(), watch)
    tables.write(found, tmp_path / "tables")
    with (tmp_path / "tables/figures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.figures)
    assert float(rows[0]["value"]) == found.figures[0].value
    with (tmp_path / "tables/comparisons.csv").open(newline="") as file:
        compared = list(csv.DictReader(file))
    assert [row["metric"] for row in compared] == [each.metric for each in found.comparisons]
    tree = json.loads((tmp_path / "tables/evaluation.json").read_text())
    assert tree["figures"][0]["value"] == found.figures[0].value
    assert tree["comparisons"][0]["low"] is None  # two scans have no interval
    text = tables.summary(found)
    assert f"| medidiff | {np.mean([row.value for row in found.figures if is_main(row)]):.2f} ±" in text
    assert "- medidiff minus input, PSNR: +15.0" in text
    assert str(tmp_path) not in json.dumps(tree) + text


def test_equal_input_gives_equal_tables(run: Path, watch: Watch, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        tables.write(evaluate(run / "out", run / "truth", None, Options(), watch), tmp_path / folder)
    for name in ("figures.csv", "comparisons.csv", "evaluation.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
