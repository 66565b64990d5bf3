from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from medidiff import bundles
from medidiff._version import __version__
from medidiff.config import ComputeOptions, RestoreOptions
from medidiff.errors import CannotWrite, ExitCode, NoScanFound, OutOfMemory, PipelineError, ScanError, UsageError
from medidiff.runs import RunResult, Silent

Go = Callable[..., RunResult]
Write = Callable[..., Path]
FAKE = Path(__file__).parents[1] / "fake_pipelines.py"
ROOT = Path(__file__).parents[2]


def record(out: Path) -> dict:
    return json.loads((out / "run.json").read_text())


def raise_(error: BaseException) -> Callable[..., None]:
    def hook(*_: object) -> None:
        raise error

    return hook


def test_a_folder_is_restored_with_its_tree(go: Go, scan: Write, tmp_path: Path) -> None:
    first = scan(tmp_path / "in" / "t1.nii.gz")
    scan(tmp_path / "in" / "deep er" / "Größe 1.nii", value=7)
    out = tmp_path / "out"
    result = go(tmp_path / "in", output=out)
    assert result.exit_code == ExitCode.OK
    restored = nib.load(out / "t1_denoised.nii.gz")
    np.testing.assert_allclose(restored.get_fdata(), 0.5 * nib.load(first).get_fdata(), rtol=1e-5)
    np.testing.assert_array_equal(restored.affine, nib.load(first).affine)
    assert (out / "deep er" / "Größe 1_denoised.nii.gz").is_file()
    assert (out / "deep er" / "Größe 1_denoised.json").is_file()
    assert not list(out.rglob(".medidiff*"))


def test_run_json_has_the_contracts_schema(go: Go, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "in" / "sub" / "t1.nii.gz")
    (tmp_path / "in" / "zzz.nii.gz").write_text("no scan")
    out = tmp_path / "out"
    result = go(tmp_path / "in", output=out)
    tree = record(out)
    assert result.record.as_json() == tree
    assert list(tree) == ["medidiff", "command", "config", "started", "finished", "status", "cases"]
    assert tree["medidiff"] == __version__
    assert tree["command"] == ["medidiff", "denoise"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", tree["started"])
    assert tree["finished"] >= tree["started"]
    assert tree["status"] == "failed"
    good, bad = tree["cases"]
    assert list(good) == ["input", "kind", "status", "reason", "seconds", "outputs"]
    assert good["input"] == "../in/sub/t1.nii.gz"
    assert (good["kind"], good["status"], good["reason"]) == ("nifti", "done", "")
    assert good["outputs"] == {
        "restored": "sub/t1_denoised.nii.gz",
        "uncertainty": None,
        "sidecar": "sub/t1_denoised.json",
        "report": None,
    }
    assert (bad["status"], bad["outputs"]["restored"]) == ("failed", None)
    assert "zzz.nii.gz" in bad["reason"]
    assert "\n" not in bad["reason"]


def test_sidecar_tells_how_the_result_came_about(go: Go, fake: ModuleType, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "in" / "t1.nii.gz")
    go(tmp_path / "in", output=tmp_path / "out", restore=RestoreOptions(strength=0.5, seed=3))
    text = (tmp_path / "out" / "t1_denoised.json").read_text()
    assert str(tmp_path) not in text
    tree = json.loads(text)
    assert tree["medidiff"] == __version__
    assert tree["task"] == "denoise"
    assert tree["input"]["path"] == "../in/t1.nii.gz"
    assert tree["input"]["files"][0]["path"] == "t1.nii.gz"
    assert len(tree["input"]["files"][0]["sha256"]) == 64
    assert tree["pipeline"] == {
        "name": "fake",
        "version": "1.2.3",
        "weights_sha256": hashlib.sha256(b"weights").hexdigest(),
        "settings_sha256": bundles.read(fake.home).settings_sha256,
    }
    assert tree["config"]["restore"] == RestoreOptions(strength=0.5, seed=3).model_dump()
    assert tree["config"]["uncertainty"] is False
    assert tree["mask"] is None
    assert tree["config"]["inputs"] == ["../in/t1.nii.gz"]
    assert tree["config"]["output"] == "t1_denoised.nii.gz"
    assert tree["seed"] == 3
    volume = tree["volumes"][0]
    assert volume["shape"] == [8, 7, 6]
    assert volume["spacing_mm"] == [2.0, 2.0, 3.0]
    assert volume["restored"] == {"shape": [8, 7, 6], "spacing_mm": [2.0, 2.0, 3.0]}
    assert volume["guard"] == {"verdicts": [], "figures": {"residual_mean": 0.5, "guard": True, "odd": None}}
    assert "uncertainty" not in volume
    assert volume["record"]["tile"] == [64, 64, 64]
    assert tree["outputs"][0]["path"] == "t1_denoised.nii.gz"
    assert tree["outputs"][0]["bytes"] == (tmp_path / "out" / "t1_denoised.nii.gz").stat().st_size
    assert {"python", "torch", "monai", "numpy"} <= set(tree["packages"])
    assert set(tree["timings"]) == {"read", "restore", "write"}


def test_header_says_that_the_image_was_processed(go: Go, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "t1.nii.gz")
    go(tmp_path / "t1.nii.gz", output=tmp_path / "out")
    described = str(nib.load(tmp_path / "out" / "t1_denoised.nii.gz").header["descrip"])
    assert "medidiff" in described
    assert "fake 1.2.3" in described


def test_resume_skips_what_stands_and_does_not_load_the_pipeline(
    go: Go, fake: ModuleType, scan: Write, tmp_path: Path
) -> None:
    scan(tmp_path / "in" / "t1.nii.gz")
    out = tmp_path / "out"
    go(tmp_path / "in", output=out)
    before = (out / "t1_denoised.nii.gz").stat().st_mtime_ns
    result = go(tmp_path / "in", output=out)
    assert result.exit_code == ExitCode.OK
    assert len(fake.loads) == 1
    assert (out / "t1_denoised.nii.gz").stat().st_mtime_ns == before
    case = record(out)["cases"][0]
    assert case["status"] == "skipped"
    assert "--overwrite" in case["reason"]
    assert case["outputs"]["restored"] == "t1_denoised.nii.gz"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("input", "the input changed"),
        ("options", "the options changed"),
        ("weights", "the pipeline changed"),
        ("missing", "the output is missing"),
        ("damaged", "the output was changed"),
        ("sidecar", ""),
    ],
)
def test_resume_makes_again_what_no_longer_stands(
    go: Go, fake: ModuleType, scan: Write, tmp_path: Path, change: str, reason: str
) -> None:
    source, out = scan(tmp_path / "in" / "t1.nii.gz"), tmp_path / "out"
    restored = out / "t1_denoised.nii.gz"
    go(tmp_path / "in", output=out)
    options = RestoreOptions()
    match change:
        case "input":
            scan(source, value=500)
        case "options":
            options = RestoreOptions(strength=0.3)
        case "weights":
            fake.make_bundle(fake.home, weights=b"others")
        case "missing":
            restored.unlink()
        case "damaged":
            data = bytearray(restored.read_bytes())
            data[-1] ^= 1
            restored.write_bytes(data)
        case "sidecar":
            (out / "t1_denoised.json").unlink()
    result = go(tmp_path / "in", output=out, restore=options)
    assert [case.status for case in result.record.cases] == ["done"]
    assert result.plan.cases[0].reason == reason
    assert go(tmp_path / "in", output=out, restore=options).record.cases[0].status == "skipped"


def test_moving_input_and_output_together_keeps_the_result(go: Go, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "a" / "in" / "t1.nii.gz")
    go(tmp_path / "a" / "in", output=tmp_path / "a" / "out")
    (tmp_path / "a").rename(tmp_path / "b")
    assert go(tmp_path / "b" / "in", output=tmp_path / "b" / "out").record.cases[0].status == "skipped"


def test_overwrite_makes_all_again(go: Go, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "in" / "t1.nii.gz")
    go(tmp_path / "in", output=tmp_path / "out")
    result = go(tmp_path / "in", output=tmp_path / "out", existing="overwrite")
    assert result.record.cases[0].status == "done"


def test_result_of_another_scan_of_that_name_is_not_replaced(go: Go, scan: Write, tmp_path: Path) -> None:
    one, two = scan(tmp_path / "a" / "t1.nii.gz"), scan(tmp_path / "b" / "t1.nii.gz", value=3)
    out = tmp_path / "out"
    go(one, output=out)
    before = (out / "t1_denoised.nii.gz").read_bytes()
    result = go(two, output=out)
    assert result.exit_code == ExitCode.CANNOT_WRITE
    assert "belongs to another scan, ../a/t1.nii.gz" in result.record.cases[0].reason
    assert (out / "t1_denoised.nii.gz").read_bytes() == before
    assert go(two, output=out, existing="overwrite").exit_code == ExitCode.OK


def test_sidecar_does_not_spell_out_a_path_in_another_tree(
    go: Go, scan: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.path.commonpath", lambda paths: "/")  # as for /home/somebody/study and /data/out
    one, two = scan(tmp_path / "doe_jane" / "t1.nii.gz"), scan(tmp_path / "b" / "t1.nii.gz", value=3)
    out = tmp_path / "out"
    go(one, output=out)
    text = (out / "t1_denoised.json").read_text()
    assert json.loads(text)["input"]["path"] == "t1.nii.gz"
    assert "doe_jane" not in text
    assert go(one, output=out).record.cases[0].status == "skipped"
    assert "belongs to another scan" in go(two, output=out).record.cases[0].reason
    scan(one, value=9)
    assert go(one, output=out).record.cases[0].status == "done"


def test_two_inputs_of_one_name_get_two_outputs(go: Go, scan: Write, tmp_path: Path) -> None:
    one, two = scan(tmp_path / "a" / "t1.nii.gz"), scan(tmp_path / "b" / "t1.nii.gz", value=1000)
    result = go(one, two, output=tmp_path / "out")
    names = [case.restored for case in result.record.cases]
    assert len(set(names)) == 2
    means = sorted(float(nib.load(tmp_path / "out" / str(name)).get_fdata().mean()) for name in names)
    assert means == pytest.approx([0.5 * (100 + 167.5), 0.5 * (1000 + 167.5)], rel=1e-5)
    again = go(one, two, output=tmp_path / "out")
    assert [case.status for case in again.record.cases] == ["skipped", "skipped"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ScanError("t1.nii.gz is too small; give a larger one."), "t1.nii.gz is too small; give a larger one."),
        (ValueError("boom\nbang"), "ValueError: boom bang"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "does not fit the memory"),
        (MemoryError(), "does not fit the memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    ],
)
def test_a_bad_case_does_not_end_the_others(
    go: Go, fake: ModuleType, scan: Write, tmp_path: Path, error: Exception, words: str
) -> None:
    for index, name in enumerate(("a", "b", "c")):
        scan(tmp_path / "in" / f"{name}.nii.gz", value=100 * index)

    def fail_on_b(volume: object) -> None:
        if volume.array.min() == 100:  # type: ignore[attr-defined]
            raise error

    fake.on_restore = fail_on_b
    result = go(tmp_path / "in", output=tmp_path / "out")
    assert result.exit_code == ExitCode.SOME_FAILED
    assert [case.status for case in result.record.cases] == ["done", "failed", "done"]
    assert words in result.record.cases[1].reason
    assert "\n" not in result.record.cases[1].reason
    assert not (tmp_path / "out" / "b_denoised.nii.gz").exists()
    assert not (tmp_path / "out" / "b_denoised.json").exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ScanError("x is bad."), ExitCode.ALL_FAILED),
        (KeyError("x"), ExitCode.ALL_FAILED),
        (OutOfMemory("x does not fit."), ExitCode.MEMORY),
        (MemoryError(), ExitCode.MEMORY),
        (CannotWrite("x cannot be written."), ExitCode.CANNOT_WRITE),
        (PipelineError("x does not fit the pipeline."), ExitCode.PIPELINE),
    ],
)
def test_exit_code_when_nothing_succeeds(
    go: Go, fake: ModuleType, scan: Write, tmp_path: Path, error: Exception, code: ExitCode
) -> None:
    scan(tmp_path / "in" / "a.nii.gz")
    scan(tmp_path / "in" / "b.nii.gz")
    fake.on_restore = raise_(error)
    result = go(tmp_path / "in", output=tmp_path / "out")
    assert result.exit_code == code
    assert record(tmp_path / "out")["status"] == "failed"


def test_fail_fast_stops_at_the_first_failure(go: Go, fake: ModuleType, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "in" / "a.nii.gz")
    scan(tmp_path / "in" / "b.nii.gz")
    fake.on_restore = raise_(ScanError("a is bad."))
    result = go(tmp_path / "in", output=tmp_path / "out", fail_fast=True)
    assert result.exit_code == ExitCode.ALL_FAILED
    assert len(result.record.cases) == 1


def test_result_that_is_not_finite_is_not_written(go: Go, fake: ModuleType, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "t1.nii.gz")

    def spoil(volume: object) -> None:
        volume.array[0, 0, 0] = np.nan  # type: ignore[attr-defined]

    fake.on_restore = spoil
    result = go(tmp_path / "t1.nii.gz", output=tmp_path / "out")
    assert result.exit_code == ExitCode.ALL_FAILED
    assert not (tmp_path / "out" / "t1_denoised.nii.gz").exists()


def test_damaged_inputs_fail_alone(go: Go, scan: Write, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    scan(folder / "a_good.nii.gz")
    whole = scan(folder / "b_short.nii.gz", shape=(20, 20, 20)).read_bytes()
    (folder / "b_short.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "c_text.nii.gz").write_text("this is text")
    (folder / "d_empty.nii").write_bytes(b"")
    nib.save(nib.Nifti1Image(np.full((8, 8, 8), np.nan, np.float32), np.eye(4)), folder / "e_nan.nii.gz")
    result = go(folder, output=tmp_path / "out")
    assert result.exit_code == ExitCode.SOME_FAILED
    by_name = {Path(case.input).name: case for case in result.record.cases}
    assert by_name["a_good.nii.gz"].status == "done"
    for name in ("b_short.nii.gz", "c_text.nii.gz", "d_empty.nii", "e_nan.nii.gz"):
        assert by_name[name].status == "failed", name
        assert name in by_name[name].reason
        assert "Traceback" not in by_name[name].reason


def test_interruption_is_recorded_and_the_rest_resumes(go: Go, fake: ModuleType, scan: Write, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        scan(tmp_path / "in" / f"{name}.nii.gz")
    seen: list[object] = []

    def stop_at_second(volume: object) -> None:
        seen.append(volume)
        if len(seen) == 2:
            raise KeyboardInterrupt

    fake.on_restore = stop_at_second
    out = tmp_path / "out"
    result = go(tmp_path / "in", output=out)
    assert result.exit_code == ExitCode.INTERRUPTED
    assert record(out)["status"] == "interrupted"
    assert [case["status"] for case in record(out)["cases"]] == ["done"]
    assert sorted(path.name for path in out.iterdir()) == ["a_denoised.json", "a_denoised.nii.gz", "run.json"]
    fake.on_restore = lambda volume: None
    again = go(tmp_path / "in", output=out)
    assert [case.status for case in again.record.cases] == ["skipped", "done", "done"]
    assert record(out)["status"] == "done"


def test_samples_give_an_uncertainty_map_and_no_samples_take_it_away(go: Go, scan: Write, tmp_path: Path) -> None:
    source, out = scan(tmp_path / "t1.nii.gz"), tmp_path / "out"
    name, share = "t1_denoised_uncertainty.nii.gz", "t1_denoised_supplied.nii.gz"
    case = go(source, output=out, restore=RestoreOptions(samples=4)).record.cases[0]
    assert (case.uncertainty, case.supplied) == (name, share)
    assert case.as_json()["outputs"]["supplied"] == share
    np.testing.assert_array_equal(nib.load(out / name).get_fdata(), 0.25)
    np.testing.assert_array_equal(nib.load(out / share).get_fdata(), 0.125)
    assert outputs_of(out / "t1_denoised.json") == {"t1_denoised.nii.gz", name, share}
    assert go(source, output=out, restore=RestoreOptions(samples=4)).record.cases[0].uncertainty == name
    assert go(source, output=out).record.cases[0].uncertainty is None
    assert not (out / name).exists()
    assert not (out / share).exists()


def test_result_of_a_version_that_knew_fewer_options_still_stands(go: Go, scan: Write, tmp_path: Path) -> None:
    source, out = scan(tmp_path / "t1.nii.gz"), tmp_path / "out"
    go(source, output=out)
    sidecar = out / "t1_denoised.json"
    tree = json.loads(sidecar.read_text())
    for name in ("preset", "flips"):
        del tree["config"]["restore"][name]
    sidecar.write_text(json.dumps(tree))
    assert go(source, output=out).record.cases[0].status == "skipped"
    assert go(source, output=out, restore=RestoreOptions(preset="best")).record.cases[0].status == "done"


def outputs_of(sidecar: Path) -> set[str]:
    return {entry["path"] for entry in json.loads(sidecar.read_text())["outputs"]}


def test_maps_come_and_go_as_asked(go: Go, scan: Write, tmp_path: Path) -> None:
    source, out = scan(tmp_path / "t1.nii.gz"), tmp_path / "out"
    assert go(source, output=out).record.cases[0].uncertainty is None
    wanted = go(source, output=out, uncertainty=True)
    assert wanted.plan.cases[0].reason == "the options changed"
    assert wanted.record.cases[0].uncertainty == "t1_denoised_uncertainty.nii.gz"
    assert go(source, output=out, uncertainty=True).record.cases[0].status == "skipped"
    unwanted = go(source, output=out, restore=RestoreOptions(samples=2), uncertainty=False)
    assert unwanted.record.cases[0].uncertainty is None
    assert outputs_of(out / "t1_denoised.json") == {"t1_denoised.nii.gz"}


@pytest.mark.parametrize(
    ("found", "meaning"),
    [
        (
            {"level": 0.9, "quantile": 1.7, "calibrated": True, "volumes": 9},
            r"restored \+- 1.7 times the map contains the true value in 90 percent of voxels, on .* of calibration",
        ),
        (
            {"level": 0.9, "quantile": 1.7, "calibrated": True, "volumes": 2},
            r"restored \+- 1.7 times the map .* of calibration, which were only 2: a rough figure",
        ),
        ({"level": 0.9, "quantile": None, "calibrated": False, "volumes": 0}, ".* not compared with true errors .*"),
    ],
)
def test_sidecar_says_what_the_uncertainty_map_means(
    go: Go, fake: ModuleType, scan: Write, tmp_path: Path, found: dict, meaning: str
) -> None:
    fake.interval = found
    go(scan(tmp_path / "t1.nii.gz"), output=tmp_path / "out", uncertainty=True)
    volume = json.loads((tmp_path / "out" / "t1_denoised.json").read_text())["volumes"][0]
    assert volume["uncertainty"] == {**found, "meaning": volume["uncertainty"]["meaning"]}
    assert re.fullmatch(meaning, volume["uncertainty"]["meaning"])


def test_generated_sample_lies_beside_the_mean_and_says_what_it_is(
    go: Go, scan: Write, sample_data: Path, tmp_path: Path
) -> None:
    source, out = scan(tmp_path / "in" / "t1.nii.gz"), tmp_path / "out"
    options = RestoreOptions(samples=2, gamma=0.5)
    nifti, series = go(source, sample_data / "dicom_mr", output=out, restore=options).record.cases[::-1]
    assert nifti.sample == nifti.as_json()["outputs"]["sample"] == "t1_denoised_sample.nii.gz"
    mean, sample = nib.load(out / str(nifti.restored)), nib.load(out / str(nifti.sample))
    np.testing.assert_allclose(sample.get_fdata() - mean.get_fdata(), 0.5, atol=1e-4)
    assert b"generated sample" in sample.header["descrip"].tobytes()
    assert b"generated sample" not in mean.header["descrip"].tobytes()
    drawn = pydicom.dcmread(next((out / str(series.sample)).glob("*.dcm")), stop_before_pixels=True)
    assert drawn.DerivationDescription.count("generated sample, 0.5 of the way from the posterior mean") == 1
    assert drawn.SyntheticData == "YES"
    again = go(source, sample_data / "dicom_mr", output=out, restore=RestoreOptions(samples=2)).record.cases
    assert [case.sample for case in again] == [None, None]
    assert not list(out.rglob("*_sample*"))


def test_verdicts_of_the_guard_are_told_for_each_scan(go: Go, fake: ModuleType, scan: Write, tmp_path: Path) -> None:
    fake.verdicts = ("Structure was removed.",)
    heard: list[str] = []

    class Listener(Silent):
        def warning(self, text: str) -> None:
            heard.append(text)

    for name in ("a", "b"):
        scan(tmp_path / "in" / f"{name}.nii.gz")
    result = go(tmp_path / "in", output=tmp_path / "out", reporter=Listener())
    assert result.exit_code == ExitCode.OK
    assert heard == [f"{tmp_path / 'in' / f'{name}.nii.gz'}: Structure was removed." for name in ("a", "b")]
    tree = json.loads((tmp_path / "out" / "a_denoised.json").read_text())
    assert tree["volumes"][0]["guard"]["verdicts"] == ["Structure was removed."]


@pytest.mark.parametrize(
    ("before", "used", "now", "status"),
    [
        ("fp32", "fp32", "bf16", "done"),
        ("fp32", "fp32", "fp32", "skipped"),
        ("bf16", "bf16", "auto", "done"),  # which is fp32 on a CPU
        ("fp32", "fp32", "auto", "skipped"),
        ("auto", "fp32", "fp32", "skipped"),
        ("auto", "bf16", "auto", "skipped"),  # made on a GPU
        ("auto", "bf16", "fp32", "done"),
    ],
)
def test_another_number_format_makes_a_result_again(
    go: Go, scan: Write, tmp_path: Path, before: str, used: str, now: str, status: str
) -> None:
    source, out = scan(tmp_path / "t1.nii.gz"), tmp_path / "out"
    go(source, output=out, compute=ComputeOptions(precision=before))
    file = out / "t1_denoised.json"
    tree = json.loads(file.read_text())
    tree["volumes"][0]["record"]["precision"] = used
    file.write_text(json.dumps(tree))
    result = go(source, output=out, compute=ComputeOptions(device="cpu", precision=now))
    assert result.record.cases[0].status == status
    if status == "done":
        assert result.plan.cases[0].reason == "the number format changed"


def test_failed_series_of_one_folder_are_told_apart(
    go: Go, fake: ModuleType, sample_data: Path, scan: Write, tmp_path: Path
) -> None:
    folder = tmp_path / "in" / "both"
    folder.mkdir(parents=True)
    for number in (7, 8):
        for file in (sample_data / "dicom_mr").glob("*.dcm"):
            data = pydicom.dcmread(file)
            data.SeriesNumber, data.SeriesInstanceUID = number, generate_uid(entropy_srcs=[str(number)])
            data.save_as(folder / f"{number}_{file.name}")
    scan(tmp_path / "in" / "sub" / "t1.nii.gz")
    fake.on_restore = raise_(ScanError("It cannot be restored."))
    out = tmp_path / "out"
    result = go(tmp_path / "in", output=out, report=True)
    planned = [str(case.names.restored.relative_to(out)).removesuffix(".nii.gz") for case in result.plan.cases]
    cases = json.loads((out / "run.json").read_text())["cases"]
    assert [case["input"] for case in cases] == ["../in/both", "../in/both", "../in/sub/t1.nii.gz"]
    assert [f"{case['name']}_denoised" for case in cases[:2]] == planned[:2]
    assert "name" not in cases[2], "its input tells it apart"
    page = (out / "report.html").read_text()
    assert all(case["name"] in page for case in cases[:2])


def test_failed_writing_keeps_the_older_result(
    go: Go, scan: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = scan(tmp_path / "t1.nii.gz"), tmp_path / "out"
    go(source, output=out)
    with monkeypatch.context() as patch:
        patch.setattr("medidiff.scans.write", raise_(CannotWrite("the image cannot be written.")))
        assert go(source, output=out, existing="overwrite").exit_code == ExitCode.CANNOT_WRITE
    assert go(source, output=out).record.cases[0].status == "skipped"


def test_interruption_while_the_sidecar_is_made_leaves_no_image(
    go: Go, scan: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(tmp_path / "t1.nii.gz")
    monkeypatch.setattr("medidiff.runs.sidecar.build", lambda **_: raise_(KeyboardInterrupt())())
    result = go(tmp_path / "t1.nii.gz", output=tmp_path / "out")
    assert result.exit_code == ExitCode.INTERRUPTED
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.json"]


def test_pipeline_that_does_not_load_is_recorded(go: Go, fake: ModuleType, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "t1.nii.gz")
    fake.on_load = raise_(PipelineError("weights are damaged."))
    with pytest.raises(PipelineError):
        go(tmp_path / "t1.nii.gz", output=tmp_path / "out")
    assert record(tmp_path / "out")["status"] == "failed"


def test_pipeline_of_another_task_is_refused(go: Go, fake: ModuleType, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "t1.nii.gz")
    fake.make_bundle(fake.home, tasks=("inpaint",))
    for name in ("auto", "fake", str(fake.home)):
        with pytest.raises(PipelineError, match="can"):
            go(tmp_path / "t1.nii.gz", output=tmp_path / "out", pipeline=name)


def test_pipeline_by_its_folder(go: Go, fake: ModuleType, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "t1.nii.gz")
    mine = fake.make_bundle(tmp_path / "mine")
    go(tmp_path / "t1.nii.gz", output=tmp_path / "out", pipeline=str(mine))
    assert fake.loads == [mine]
    text = (tmp_path / "out" / "t1_denoised.json").read_text()
    assert json.loads(text)["config"]["pipeline"] == "../mine"
    assert str(tmp_path) not in text


def test_unknown_pipeline_touches_nothing(go: Go, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "t1.nii.gz")
    with pytest.raises(PipelineError):
        go(tmp_path / "t1.nii.gz", output=tmp_path / "out", pipeline="nonsense")
    assert not (tmp_path / "out").exists()


def test_nothing_found_touches_nothing(go: Go, fake: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(NoScanFound, match="in"):
        go(tmp_path / "in", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert fake.loads == []


@pytest.mark.parametrize("place", ["below a file", "/proc/medidiff/out"])
def test_unwritable_output_stops_before_any_work(
    go: Go, fake: ModuleType, scan: Write, tmp_path: Path, place: str
) -> None:
    scan(tmp_path / "in" / "t1.nii.gz")
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out" if place == "below a file" else Path(place)
    with pytest.raises(CannotWrite):
        go(tmp_path / "in", output=out)
    assert fake.loads == []


def test_disk_that_fills_up_ends_the_run(go: Go, scan: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        scan(tmp_path / "in" / f"{name}.nii.gz")
    monkeypatch.setattr("medidiff.scans.write", raise_(CannotWrite("the disk is full.")))
    from medidiff.scans import outputs

    check = outputs.check_writable
    calls: list[Path] = []

    def full_on_second_call(folder: Path) -> None:
        calls.append(folder)
        if len(calls) > 1:
            raise CannotWrite("the disk is full.")
        check(folder)

    monkeypatch.setattr(outputs, "check_writable", full_on_second_call)
    with pytest.raises(CannotWrite):
        go(tmp_path / "in", output=tmp_path / "out")
    assert [case["status"] for case in record(tmp_path / "out")["cases"]] == ["failed"]
    assert record(tmp_path / "out")["status"] == "failed"


def test_somebody_elses_run_json_is_kept(go: Go, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "t1.nii.gz")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text('{"theirs": 1}')
    with pytest.raises(CannotWrite, match=r"run\.json"):
        go(tmp_path / "t1.nii.gz", output=tmp_path / "out")
    assert (tmp_path / "out" / "run.json").read_text() == '{"theirs": 1}'


def test_kill_leaves_whole_files_and_resumes(scan: Write, tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        scan(tmp_path / "in" / f"{name}.nii.gz")
    out = tmp_path / "out"
    command = [sys.executable, str(FAKE), "denoise", str(tmp_path / "in"), "-o", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FAKE_SECONDS": "0.5"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: (out / "b_denoised.json").exists())
    process.send_signal(signal.SIGKILL)
    process.wait()
    tree = record(out)
    assert tree["status"] == "running"
    assert tree["finished"] is None
    assert "a_denoised.nii.gz" in {case["outputs"]["restored"] for case in tree["cases"]}
    for image in out.glob("[!.]*.nii.gz"):
        nib.load(image).get_fdata()
    done = {path.name for path in out.glob("[!.]*.json")} - {"run.json"}
    finished = subprocess.run(command, env={**environment, "FAKE_SECONDS": "0"}, capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr
    statuses = [case["status"] for case in record(out)["cases"]]
    assert statuses == ["skipped"] * len(done) + ["done"] * (4 - len(done))
    assert not list(out.glob(".medidiff*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_run_in_good_order(scan: Write, tmp_path: Path, number: signal.Signals) -> None:
    for name in ("a", "b", "c", "d"):
        scan(tmp_path / "in" / f"{name}.nii.gz")
    out = tmp_path / "out"
    command = [sys.executable, str(FAKE), "denoise", str(tmp_path / "in"), "-o", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FAKE_SECONDS": "1"}
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a job in the background inherits that SIGINT is ignored, and keeps ignoring it, as it should
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    wait_for(lambda: (out / "a_denoised.json").exists())
    time.sleep(0.2)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert record(out)["status"] == "interrupted"
    assert not list(out.glob(".medidiff*"))


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_missing_input_is_a_usage_error(go: Go, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absent"):
        go(tmp_path / "absent.nii.gz", output=tmp_path / "out")


def test_broken_links_and_odd_names(go: Go, scan: Write, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    scan(folder / "good.nii.gz")
    (folder / "annexed.nii.gz").symlink_to(tmp_path / "absent")
    scan(folder / f"{'x' * 240}.nii.gz")
    scan(folder / os.fsdecode(b"t1 \xff.nii.gz"))
    result = go(folder, output=out)
    by_name = {Path(case.input).name: case for case in result.record.cases}
    assert by_name["good.nii.gz"].status == "done"
    assert by_name["t1 ?.nii.gz"].status == "done"
    assert by_name["annexed.nii.gz"].status == "failed"
    assert "broken link" in by_name["annexed.nii.gz"].reason
    assert by_name[f"{'x' * 240}.nii.gz"].status == "failed"
    assert result.exit_code == ExitCode.SOME_FAILED
    assert record(out)["cases"] == [case.as_json() for case in result.record.cases]
    again = go(folder, output=out)
    statuses = {Path(case.input).name: case.status for case in again.record.cases}
    assert statuses["good.nii.gz"] == "skipped"
    assert statuses["t1 ?.nii.gz"] == "done"  # JSON cannot hold such a name, so its result is made again
