from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from medidiff.errors import CannotWrite, ExitCode, NoScanFound, UsageError
from medidiff.runs import RunResult

Go = Callable[..., RunResult]
Write = Callable[..., Path]


def inputs_of(result: RunResult) -> list[str]:
    return [Path(case.input).name for case in result.record.cases]


def test_output_inside_the_input_is_not_read_again(go: Go, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "in" / "t1.nii.gz")
    out = tmp_path / "in" / "restored"
    assert inputs_of(go(tmp_path / "in", output=out)) == ["t1.nii.gz"]
    again = go(tmp_path / "in", output=out)
    assert inputs_of(again) == ["t1.nii.gz"]
    assert again.plan.skipped == ()


def test_results_of_an_earlier_run_are_left_out(go: Go, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "in" / "t1.nii.gz")
    go(tmp_path / "in", output=tmp_path / "in" / "first")
    result = go(tmp_path / "in", output=tmp_path / "in" / "second")
    assert inputs_of(result) == ["t1.nii.gz"]
    assert [(each.path.name, "results of medidiff" in each.reason) for each in result.plan.skipped] == [("first", True)]


def test_results_are_restored_when_named_themselves(go: Go, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "in" / "t1.nii.gz")
    go(tmp_path / "in", output=tmp_path / "first")
    assert inputs_of(go(tmp_path / "first", output=tmp_path / "second")) == ["t1_denoised.nii.gz"]


def test_output_must_not_be_the_input_folder(go: Go, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "in" / "t1.nii.gz")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for out in (tmp_path / "in", tmp_path / "in" / ".", tmp_path / "link"):
        with pytest.raises(UsageError, match="also the input"):
            go(tmp_path / "in", output=out)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["t1.nii.gz"]


def test_output_beside_a_single_file_is_allowed(go: Go, scan: Write, tmp_path: Path) -> None:
    source = scan(tmp_path / "t1.nii.gz")
    before = source.read_bytes()
    assert go(source, output=tmp_path).exit_code == ExitCode.OK
    assert source.read_bytes() == before
    assert (tmp_path / "t1_denoised.nii.gz").exists()


def test_an_output_never_replaces_an_input(go: Go, scan: Write, tmp_path: Path) -> None:
    one, two = scan(tmp_path / "t1.nii.gz"), scan(tmp_path / "t1_denoised.nii.gz", value=5)
    before = two.read_bytes()
    with pytest.raises(UsageError, match="overwrite an input"):
        go(one, two, output=tmp_path, existing="overwrite")
    with pytest.raises(UsageError):
        go(one, output=one, existing="overwrite")
    (tmp_path / "link.nii.gz").symlink_to(one)
    with pytest.raises(UsageError):
        go(one, output=tmp_path / "link.nii.gz", existing="overwrite")
    assert two.read_bytes() == before


def test_single_file_name_as_output(go: Go, scan: Write, tmp_path: Path) -> None:
    source, out = scan(tmp_path / "in" / "t1.nii.gz"), tmp_path / "new" / "clean.nii.gz"
    assert go(source, output=out).exit_code == ExitCode.OK
    assert sorted(path.name for path in out.parent.iterdir()) == ["clean.json", "clean.nii.gz"]
    assert go(source, output=out).record.cases[0].status == "skipped"


def test_single_file_name_does_not_replace_a_users_file(go: Go, scan: Write, tmp_path: Path) -> None:
    source, out = scan(tmp_path / "in" / "t1.nii.gz"), scan(tmp_path / "precious.nii.gz", value=9)
    before = out.read_bytes()
    result = go(source, output=out)
    assert result.exit_code == ExitCode.CANNOT_WRITE
    assert "not written by medidiff" in result.record.cases[0].reason
    assert out.read_bytes() == before
    assert go(source, output=out, existing="overwrite").exit_code == ExitCode.OK


def test_a_users_json_is_not_taken_for_a_sidecar(go: Go, scan: Write, tmp_path: Path) -> None:
    source = scan(tmp_path / "in" / "t1.nii.gz")
    (tmp_path / "T1w.json").write_text('{"EchoTime": 0.004}')
    assert go(source, output=tmp_path / "T1w.nii.gz").exit_code == ExitCode.CANNOT_WRITE
    assert "EchoTime" in (tmp_path / "T1w.json").read_text()


def test_file_name_for_several_scans_is_refused(go: Go, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "in" / "a.nii.gz")
    scan(tmp_path / "in" / "b.nii.gz")
    with pytest.raises(UsageError, match="2 scans"):
        go(tmp_path / "in", output=tmp_path / "out.nii.gz")


def test_include_exclude_and_depth(go: Go, scan: Write, tmp_path: Path) -> None:
    for name in ("a_T1w.nii.gz", "a_T2w.nii.gz", "sub/b_T1w.nii.gz"):
        scan(tmp_path / "in" / name)
    where = tmp_path / "in"
    assert inputs_of(go(where, output=tmp_path / "1", include=("*T1w*",))) == ["a_T1w.nii.gz", "b_T1w.nii.gz"]
    assert inputs_of(go(where, output=tmp_path / "2", exclude=("*T1w*",))) == ["a_T2w.nii.gz"]
    assert inputs_of(go(where, output=tmp_path / "3", recursive=False)) == ["a_T1w.nii.gz", "a_T2w.nii.gz"]


def test_filters_that_leave_out_everything_are_named(go: Go, scan: Write, tmp_path: Path) -> None:
    where = tmp_path / "in"
    scan(where / "sub" / "a_T1w.nii.gz")
    for filters, words in (
        ({"include": ("*T2w*",)}, "--include '*T2w*' left out its only scan"),
        ({"exclude": ("*T1w*", "x", "y", "z")}, "--exclude '*T1w*', --exclude 'x', --exclude 'y' and 1 more left out"),
        ({"recursive": False}, "--no-recursive left out its only scan"),
    ):
        with pytest.raises(NoScanFound) as caught:
            go(where, output=tmp_path / "out", **filters)
        assert str(caught.value).startswith(f"No scan was found in {where}: {words}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoScanFound, match="give NIfTI files"):
        go(tmp_path / "empty", output=tmp_path / "out", include=("*T2w*",))


def test_no_scan_names_the_one_reason(go: Go, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(NoScanFound, match=r"notes\.txt"):
        go(tmp_path / "notes.txt", output=tmp_path / "out")


def test_four_dimensions_are_restored_volume_by_volume(go: Go, fake: ModuleType, tmp_path: Path) -> None:
    array = np.arange(6 * 5 * 4 * 3, dtype=np.float32).reshape(6, 5, 4, 3)
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "in" / "bold.nii.gz")
    fractions: list[float] = []

    from medidiff.runs.reporter import Silent

    class Listener(Silent):
        def progress(self, case: object, fraction: float) -> None:
            fractions.append(fraction)

    go(tmp_path / "in", output=tmp_path / "out", reporter=Listener())
    np.testing.assert_allclose(nib.load(tmp_path / "out" / "bold_denoised.nii.gz").get_fdata(), array / 2, rtol=1e-5)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_dicom_series_goes_to_a_folder(go: Go, sample_data: Path, tmp_path: Path) -> None:
    shutil.copytree(sample_data / "dicom_mr", tmp_path / "in" / "série 1")
    result = go(tmp_path / "in", output=tmp_path / "out")
    case = result.record.cases[0]
    assert (case.kind, case.status, case.reason) == ("dicom", "done", "")
    folder = tmp_path / "out" / str(case.restored)
    assert folder.name.endswith("_denoised")
    assert len(list(folder.glob("*.dcm"))) == len(list((sample_data / "dicom_mr").iterdir()))
    assert (tmp_path / "out" / str(case.sidecar)).is_file()
    assert go(tmp_path / "in", output=tmp_path / "out").record.cases[0].status == "skipped"
    next(folder.iterdir()).unlink()
    assert go(tmp_path / "in", output=tmp_path / "out").record.cases[0].status == "done"
    with pytest.raises((UsageError, CannotWrite)):
        go(tmp_path / "in", output=tmp_path / "out.nii.gz")
