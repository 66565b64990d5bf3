"""The report of a run, from its folder alone."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medidiff.cli import main
from medidiff.errors import NoScanFound, ScanError, UsageError
from medidiff.evaluation import report as pages
from medidiff.evaluation.results import EvaluatedCase, Evaluation
from medidiff.runs import report
from tests.runs.test_privacy import PARTS, SECRETS

SHAPE = (24, 22, 20)


def head(path: Path, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Path:
    """A noisy block on a dark ground."""
    rng = np.random.default_rng(seed)
    array = np.abs(rng.normal(0, 5, shape))
    array[4:20, 4:18, 4:16] += 100 + 50 * (np.arange(16) > 7)[:, None, None].reshape(-1, 1, 1, *[1] * (len(shape) - 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.float32), np.diag([-1.0, 1.0, 2.0, 1.0])), path)
    return path


def found(folder: Path) -> Evaluation:
    return report.evaluation(report.read(folder), folder)


def image(case: EvaluatedCase, role: str) -> Any:
    return next(shown.load() for shown in case.images if shown.role == role)


@pytest.fixture
def run(tmp_path: Path, go: Callable[..., Any], fake: ModuleType) -> Path:
    """Two scans denoised and one that failed; the guard has a sentence."""

    def fail(volume: Any) -> None:
        if volume.array.max() < 1:
            raise ScanError(f"{tmp_path / 'in' / 'sub 2' / 'empty.nii.gz'} shows nothing; check it.")

    fake.on_restore = fail
    fake.verdicts = ("Structure removed: compare with the scan.",)
    head(tmp_path / "in" / "b.nii.gz", 1)
    head(tmp_path / "in" / "sub 1" / "a.nii.gz", 2)
    empty = tmp_path / "in" / "sub 2" / "empty.nii.gz"
    empty.parent.mkdir()
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.float32), np.eye(4)), empty)
    go(tmp_path / "in", output=tmp_path / "out", uncertainty=True)
    file = tmp_path / "out" / "run.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"command": ["medidiff", "denoise", str(tmp_path / "in"), "-o", "out"]}))
    return tmp_path / "out"


def test_cases_carry_what_record_sidecars_and_files_say(run: Path, tmp_path: Path) -> None:
    evaluation = found(run)
    assert (evaluation.kind, evaluation.methods) == ("run", ("input", "medidiff"))
    by_name = {case.name: case for case in evaluation.cases}
    assert set(by_name) == {"b", "sub 1/a", "empty"}
    case = by_name["sub 1/a"]
    assert (case.task, case.spacing, case.units, case.orientation) == ("denoise", (1, 1, 2), "", "LAS")
    assert case.pattern == "sub 1/a.nii.gz"
    assert case.verdicts == ("Structure removed: compare with the scan.",)
    scan = nib.load(tmp_path / "in" / "sub 1" / "a.nii.gz").get_fdata(dtype=np.float32)
    assert np.array_equal(image(case, "input"), scan)
    assert np.array_equal(image(case, "restored"), (0.5 * scan).astype(np.float32))
    assert np.unique(image(case, "uncertainty")).tolist() == [0.25]
    assert np.unique(image(case, "supplied")).tolist() == [0.125]
    figures = {figure.metric: figure.value for figure in evaluation.figures if figure.case == "sub 1/a"}
    assert figures["noise_percent"] == 9.04
    assert figures["noise_ratio"] == pytest.approx(1, abs=0.1)  # half the noise of half the brightness
    assert figures["sharpness"] == pytest.approx(0.5, abs=0.01)
    assert set(figures) <= set(evaluation.metrics)
    assert by_name["empty"].images == ()


def test_no_reason_command_or_page_names_a_folder_of_the_machine(run: Path, tmp_path: Path) -> None:
    evaluation = found(run)
    failed = next(case for case in evaluation.cases if case.failures)
    assert failed.failures["medidiff"] == "in/sub 2/empty.nii.gz shows nothing; check it."
    assert evaluation.provenance["command"] == "medidiff denoise in -o out"
    text = pages.render(evaluation)
    assert str(tmp_path) not in text
    assert tmp_path.parts[1] + "/" not in text


def test_the_page_holds_every_hash_of_the_sidecars(run: Path) -> None:
    text = report.write(run).read_text()
    for file in run.rglob("*_denoised.json"):
        tree = json.loads(file.read_text())
        wanted = [tree["input"]["content_sha256"], tree["pipeline"]["weights_sha256"]]
        wanted += [entry["sha256"] for entry in (*tree["input"]["files"], *tree["outputs"])]
        assert len(wanted) == 6
        assert all(digest in text for digest in wanted)


def test_the_report_of_a_run_is_that_of_its_folder(tmp_path: Path, go: Callable[..., Any]) -> None:
    head(tmp_path / "in" / "a.nii.gz")
    result = go(tmp_path / "in", output=tmp_path / "out", report=True)
    first = (tmp_path / "out" / "report.html").read_bytes()
    assert result.record.cases[0].report == "report.html"
    written = json.loads((tmp_path / "out" / "run.json").read_text())
    assert written["cases"][0]["outputs"]["report"] == "report.html"
    assert report.write(tmp_path / "out").read_bytes() == first
    assert report.write(tmp_path / "out", tmp_path / "other.html").read_bytes() == first


def test_a_single_named_output_gets_a_report_beside_it(tmp_path: Path, go: Callable[..., Any]) -> None:
    scan = head(tmp_path / "a.nii.gz")
    go(scan, output=tmp_path / "out" / "x.nii.gz", report=True)
    assert "Denoise: 1 scan" in (tmp_path / "out" / "x_report.html").read_text()
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_finer_image_is_compared_with_the_scan_on_its_grid(tmp_path: Path, go: Callable[..., Any]) -> None:
    i = np.arange(12, dtype=np.float32)
    ramp = 100 + 3 * i[:, None, None] + 5 * i[None, :, None] + 7 * i[None, None, :]
    nib.save(nib.Nifti1Image(ramp, np.eye(4)), tmp_path / "ramp.nii.gz")
    go(tmp_path / "ramp.nii.gz", output=tmp_path / "out", task="superres", uncertainty=True)
    case = found(tmp_path / "out").cases[0]
    before = image(case, "input")
    assert before.shape == image(case, "restored").shape == image(case, "uncertainty").shape == (24, 24, 24)
    place = np.arange(24) / 2 - 0.25
    wanted = 100 + 3 * place[:, None, None] + 5 * place[None, :, None] + 7 * place[None, None, :]
    assert np.abs(before - wanted)[8:-8, 8:-8, 8:-8].max() < 0.02
    assert case.spacing == pytest.approx((0.5, 0.5, 0.5))


def test_what_was_filled_is_outlined(tmp_path: Path, go: Callable[..., Any], fake: ModuleType) -> None:
    scan = head(tmp_path / "a.nii.gz")
    hole = np.zeros(SHAPE, np.uint8)
    hole[8:12, 8:12, 8:12] = 1
    nib.save(nib.Nifti1Image(hole, nib.load(scan).affine), tmp_path / "mask.nii.gz")
    restore = fake.Pipeline.restore

    def supplied(self: Any, volume: Any, options: Any, *, hole: Any = None, progress: Any = None) -> Any:
        made = restore(self, volume, options, hole=hole, progress=progress)
        made.supplied = hole.astype(np.float32)
        return made

    fake.Pipeline.restore = supplied
    go(scan, output=tmp_path / "out", task="inpaint", mask=tmp_path / "mask.nii.gz", uncertainty=True)
    evaluation = found(tmp_path / "out")
    assert np.array_equal(image(evaluation.cases[0], "hole"), hole)
    assert "border of the hole" in pages.render(evaluation)


def test_a_scan_that_is_gone_or_changed_is_not_shown(run: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "b.nii.gz").unlink()
    head(tmp_path / "in" / "sub 1" / "a.nii.gz", 9)
    evaluation = found(run)
    assert evaluation.missing == (
        "b: the scan is no longer where it was, so that only the restored image is shown.",
        "sub 1/a: the scan was changed since, so that only the restored image is shown.",
    )
    roles = {shown.role for case in evaluation.cases for shown in case.images}
    assert roles == {"restored", "uncertainty", "supplied"}
    assert "Residual" not in re.findall(r"<h5>(.*?)</h5>", pages.render(evaluation))


def test_a_result_that_is_gone_is_a_failure(run: Path) -> None:
    (run / "b_denoised.nii.gz").unlink()
    case = next(case for case in found(run).cases if case.name == "b")
    assert case.images == ()
    assert case.failures == {"medidiff": "The restored image is no longer where it was."}
    (run / "b_denoised.json").write_text("{}")
    case = next(case for case in found(run).cases if case.name == "b_denoised")
    assert case.failures == {"medidiff": "Its sidecar cannot be read."}


def test_of_many_volumes_those_with_a_sentence_are_shown(tmp_path: Path, go: Callable[..., Any]) -> None:
    head(tmp_path / "a.nii.gz", shape=(*SHAPE, 5))
    go(tmp_path / "a.nii.gz", output=tmp_path / "out", uncertainty=True)
    file = tmp_path / "out" / "a_denoised.json"
    tree = json.loads(file.read_text())
    tree["volumes"][4]["guard"]["verdicts"] = ["Under-denoised."]
    tree["volumes"][4]["record"]["warnings"] = ["Smoothed."]
    tree["notes"] = ["No single affine.", "Smoothed."]
    file.write_text(json.dumps(tree))
    evaluation = found(tmp_path / "out")
    assert [case.name for case in evaluation.cases] == ["a (t=0)", "a (t=1)", "a (t=4)"]
    assert evaluation.missing == ("a: of its 5 volumes 3 are shown, first those with a verdict.",)
    assert [(case.sidecar or {})["notes"] for case in evaluation.cases[1:]] == [tree["notes"][:1], tree["notes"]]
    scan = nib.load(tmp_path / "a.nii.gz").get_fdata(dtype=np.float32)
    assert np.array_equal(image(evaluation.cases[2], "input"), scan[..., 4])
    assert np.allclose(image(evaluation.cases[2], "restored"), 0.5 * scan[..., 4])


def test_a_dicom_series_without_its_secrets(sample_data: Path, tmp_path: Path, go: Callable[..., Any]) -> None:
    (tmp_path / "in").mkdir()
    for path in sorted((sample_data / "dicom_mr").iterdir()):
        dataset = pydicom.dcmread(path)
        for keyword, value in SECRETS.items():
            setattr(dataset, keyword, value)
        dataset.save_as(tmp_path / "in" / path.name)
    go(tmp_path / "in", output=tmp_path / "out", report=True, uncertainty=True)
    case = found(tmp_path / "out").cases[0]
    assert (case.name, case.pattern) == ("3_T1w_phantom", "3_T1w_phantom")
    assert {shown.role for shown in case.images} == {"input", "restored", "uncertainty", "supplied"}
    assert np.allclose(image(case, "restored"), 0.5 * image(case, "input"), atol=1)
    text = (tmp_path / "out" / "report.html").read_text()
    plain = re.sub(r"data:image/[\w+]+;base64,[\w+/=]+", "", text)
    tables = (base64.b64decode(data).decode() for data in re.findall(r"data:text/csv[^,]*,([\w+/=]+)", text))
    assert not [part for each in (plain, *tables) for part in PARTS if part in each]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no run\.json"):
        report.write(tmp_path)
    (tmp_path / "run.json").write_text('{"a": 1}')
    with pytest.raises(UsageError, match="not the record of a medidiff run"):
        report.write(tmp_path)
    (tmp_path / "run.json").write_text('{"medidiff": "1", "cases": []}')
    with pytest.raises(NoScanFound, match="nothing to report"):
        report.write(tmp_path)


def test_a_rejected_case_is_left_out_by_its_pattern(run: Path, tmp_path: Path) -> None:
    patterns = {case.name: case.pattern for case in found(run).cases}
    listing = tmp_path / "exclude.txt"
    listing.write_text(f"# rejected\n\n{patterns['sub 1/a']}\n")
    code = main(["denoise", str(tmp_path / "in"), "-o", str(tmp_path / "again"), "--exclude", f"@{listing}"])
    assert code == 4  # the empty scan fails once more
    inputs = [Path(case["input"]).name for case in json.loads((tmp_path / "again" / "run.json").read_text())["cases"]]
    assert inputs == ["b.nii.gz", "empty.nii.gz"]
