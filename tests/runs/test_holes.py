"""What a run fills: masks by file and by folder, missing slices, and what resuming makes of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medidiff.config import RestoreOptions, RunConfig
from medidiff.errors import ExitCode, UsageError
from medidiff.runs import RunResult, Silent, make_plan

Go = Callable[..., RunResult]
Write = Callable[..., Path]


@pytest.fixture
def mask() -> Callable[..., Path]:
    """Writes a mask on the grid of the small scans: a box of 2 x 2 x 2 voxels from a corner on."""

    def write(path: Path, corner: int = 2) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.zeros((8, 7, 6), np.uint8)
        array[(slice(corner, corner + 2),) * 3] = 1
        nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0])), path)
        return path

    return write


@pytest.fixture
def gapped(sample_data: Path, tmp_path: Path) -> Path:
    """A DICOM series of which one slice in the middle is missing."""
    folder = tmp_path / "gapped"
    shutil.copytree(sample_data / "dicom_mr", folder)
    by_place = sorted(folder.iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])
    by_place[len(by_place) // 2].unlink()
    return folder


def test_the_hole_is_filled_and_nothing_else(go: Go, scan: Write, mask: Write, tmp_path: Path) -> None:
    source, hole = scan(tmp_path / "t1.nii.gz"), mask(tmp_path / "hole.nii.gz")
    out = tmp_path / "out"
    assert go(source, output=out, task="inpaint", mask=hole).exit_code == ExitCode.OK
    before, after = nib.load(source).get_fdata(), nib.load(out / "t1_inpainted.nii.gz").get_fdata()
    inside = nib.load(hole).get_fdata() > 0
    np.testing.assert_array_equal(after[inside], 7)
    np.testing.assert_array_equal(after[~inside], before[~inside])


def test_sidecar_names_the_mask(go: Go, scan: Write, mask: Write, tmp_path: Path) -> None:
    source, hole = scan(tmp_path / "in" / "t1.nii.gz"), mask(tmp_path / "hole.nii.gz")
    go(source, output=tmp_path / "out", task="inpaint", mask=hole)
    tree = json.loads((tmp_path / "out" / "t1_inpainted.json").read_text())
    entry = tree["mask"]
    assert (entry["path"], entry["voxels"], entry["notes"]) == ("../hole.nii.gz", 8, [])
    assert len(entry["sha256"]) == 64
    assert tree["config"]["mask"] == "../hole.nii.gz"
    text = str(nib.load(tmp_path / "out" / "t1_inpainted.nii.gz").header["descrip"])
    assert "medidiff" in text
    assert "inpaint" in text


def test_resume_knows_the_mask(go: Go, scan: Write, mask: Write, tmp_path: Path) -> None:
    source, hole = scan(tmp_path / "t1.nii.gz"), mask(tmp_path / "hole.nii.gz")
    inpaint = {"output": tmp_path / "out", "task": "inpaint", "mask": hole}
    go(source, **inpaint)
    assert go(source, **inpaint).record.cases[0].status == "skipped"
    hole.rename(tmp_path / "renamed.nii.gz")
    assert go(source, **inpaint | {"mask": tmp_path / "renamed.nii.gz"}).record.cases[0].status == "skipped"
    mask(hole, corner=3)
    again = go(source, **inpaint)
    assert again.plan.cases[0].reason == "the mask changed"
    assert again.record.cases[0].status == "done"


def test_folder_of_masks_serves_each_scan_and_one_without_fails_alone(
    go: Go, scan: Write, mask: Write, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        scan(tmp_path / "in" / f"{name}.nii.gz")
    mask(tmp_path / "masks" / "a.nii.gz", corner=1)
    mask(tmp_path / "masks" / "c_mask.nii.gz", corner=3)
    inpaint = {"output": tmp_path / "out", "task": "inpaint", "mask": tmp_path / "masks"}
    result = go(tmp_path / "in", **inpaint)
    assert result.exit_code == ExitCode.SOME_FAILED
    assert [case.status for case in result.record.cases] == ["done", "failed", "done"]
    assert "no mask for b.nii.gz" in result.record.cases[1].reason
    for name, corner in (("a", 1), ("c", 3)):
        filled = nib.load(tmp_path / "out" / f"{name}_inpainted.nii.gz").get_fdata()
        np.testing.assert_array_equal(np.argwhere(filled == 7).min(axis=0), [corner] * 3)
    mask(tmp_path / "masks" / "b.nii.gz")
    again = go(tmp_path / "in", **inpaint)
    assert [case.status for case in again.record.cases] == ["skipped", "done", "skipped"]


@pytest.mark.parametrize(
    "names",
    [("in/t1_mask.nii.gz", "in"), ("in/masks/t1.nii.gz", "in/masks"), ("in/hole.nii.gz", "in/hole.nii.gz")],
    ids=["side by side", "folder inside", "file inside"],
)
def test_masks_among_the_inputs_are_no_scans(
    go: Go, scan: Write, mask: Write, tmp_path: Path, names: tuple[str, str]
) -> None:
    scan(tmp_path / "in" / "t1.nii.gz")
    file = mask(tmp_path / names[0])
    result = go(tmp_path / "in", output=tmp_path / "out", task="inpaint", mask=tmp_path / names[1])
    assert [(Path(case.input).name, case.status) for case in result.record.cases] == [("t1.nii.gz", "done")]
    assert [(each.path, each.reason) for each in result.plan.skipped] == [(file, "it is a mask")]


def test_mask_that_is_not_there_or_not_needed_is_a_usage_error(
    go: Go, scan: Write, mask: Write, tmp_path: Path
) -> None:
    source, out = scan(tmp_path / "t1.nii.gz"), tmp_path / "out"
    with pytest.raises(UsageError, match=r"The mask .*absent\.nii\.gz does not exist"):
        go(source, output=out, task="inpaint", mask=tmp_path / "absent.nii.gz")
    with pytest.raises(UsageError, match="inpaint needs --mask"):
        go(source, output=out, task="inpaint")
    with pytest.raises(UsageError, match="denoise takes no mask"):
        RunConfig(inputs=(source,), output=out, mask=source)
    assert not out.exists()


def test_mask_is_never_overwritten(go: Go, scan: Write, mask: Write, tmp_path: Path) -> None:
    source, hole = scan(tmp_path / "t1.nii.gz"), mask(tmp_path / "hole.nii.gz")
    with pytest.raises(UsageError, match="overwrite an input"):
        go(source, output=hole, task="inpaint", mask=hole, existing="overwrite")


def test_volumes_without_a_hole_stay_as_they_are(go: Go, fake: ModuleType, tmp_path: Path) -> None:
    array = np.arange(6 * 5 * 4 * 3, dtype=np.float32).reshape(6, 5, 4, 3)
    hole = np.zeros(array.shape, np.uint8)
    hole[2, 2, 2, 1] = 1
    for name, values in (("bold", array), ("hole", hole)):
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")
    seen: list[str] = []
    fake.on_restore = lambda volume: seen.append(volume.label)
    options = RestoreOptions(samples=1, gamma=1)
    inpaint = {"task": "inpaint", "mask": tmp_path / "hole.nii.gz", "restore": options}
    case = go(tmp_path / "bold.nii.gz", output=tmp_path / "out", **inpaint).record.cases[0]
    assert (case.status, seen) == ("done", ["t=1"])
    restored = nib.load(tmp_path / "out" / str(case.restored)).get_fdata()
    np.testing.assert_array_equal(restored, np.where(hole > 0, 7, array))
    spread = nib.load(tmp_path / "out" / str(case.uncertainty)).get_fdata()
    np.testing.assert_array_equal(spread.max(axis=(0, 1, 2)), [0, 0.25, 0])


def test_empty_mask_fails_its_case(go: Go, scan: Write, tmp_path: Path) -> None:
    source = scan(tmp_path / "t1.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((8, 7, 6), np.uint8), np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / "empty.nii.gz")
    result = go(source, output=tmp_path / "out", task="inpaint", mask=tmp_path / "empty.nii.gz")
    assert result.exit_code == ExitCode.ALL_FAILED
    assert "empty.nii.gz is empty" in result.record.cases[0].reason
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.json"]


def test_missing_slice_is_filled_and_labelled(go: Go, gapped: Path, sample_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = go(gapped, output=out, task="inpaint")
    case = result.record.cases[0]
    assert (case.status, case.reason) == ("done", "")
    files = list((out / str(case.restored)).glob("*.dcm"))
    assert len(files) == len(list((sample_data / "dicom_mr").iterdir()))
    tree = json.loads((out / str(case.sidecar)).read_text())
    first = pydicom.dcmread(files[0])
    assert tree["mask"]["voxels"] == first.Rows * first.Columns
    assert (tree["mask"]["path"], tree["mask"]["sha256"]) == (None, None)
    assert any("1 slice is missing" in note for note in tree["notes"])
    assert f"{first.Rows * first.Columns} voxels filled, strength 1, measured data kept exactly" in (
        first.DerivationDescription
    )
    assert go(gapped, output=out, task="inpaint").record.cases[0].status == "skipped"


def test_whole_series_without_a_mask_has_nothing_to_fill(go: Go, sample_data: Path, tmp_path: Path) -> None:
    result = go(sample_data / "dicom_mr", output=tmp_path / "out", task="inpaint")
    assert result.exit_code == ExitCode.ALL_FAILED
    assert "lacks no slice" in result.record.cases[0].reason
    assert "--mask" in result.record.cases[0].reason


def test_superres_fills_a_hole_in_the_same_step(go: Go, scan: Write, mask: Write, tmp_path: Path) -> None:
    source, hole = scan(tmp_path / "t1.nii.gz"), mask(tmp_path / "hole.nii.gz")
    options = RestoreOptions(factor=(1, 1, 2))
    go(source, output=tmp_path / "out", task="superres", mask=hole, restore=options)
    finer = nib.load(tmp_path / "out" / "t1_superres.nii.gz")
    assert finer.shape == (8, 7, 12)
    inside = np.repeat(nib.load(hole).get_fdata() > 0, 2, axis=2)
    np.testing.assert_array_equal(finer.get_fdata()[inside], 3.5)


def test_superres_lies_on_the_finer_grid(go: Go, scan: Write, tmp_path: Path) -> None:
    source, out = scan(tmp_path / "t1.nii.gz"), tmp_path / "out"
    options = RestoreOptions(factor=(1, 1, 3), samples=1, gamma=1)
    case = go(source, output=out, task="superres", restore=options).record.cases[0]
    before = nib.load(source)
    for name in (case.restored, case.uncertainty, case.supplied, case.sample):
        after = nib.load(out / str(name))
        assert after.shape == (8, 7, 18)
        np.testing.assert_allclose(after.affine @ [0, 0, -0.5, 1], before.affine @ [0, 0, -0.5, 1], atol=1e-5)
        np.testing.assert_allclose(after.affine @ [7, 6, 17.5, 1], before.affine @ [7, 6, 5.5, 1], atol=1e-5)
    volume = json.loads((out / str(case.sidecar)).read_text())["volumes"][0]
    assert volume["restored"] == {"shape": [8, 7, 18], "spacing_mm": pytest.approx([2, 2, 1])}


def test_series_with_tilted_gantry_is_refused(go: Go, sample_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tilted"
    folder.mkdir()
    for path in (sample_data / "dicom_mr").iterdir():
        image = pydicom.dcmread(path)
        x, y, z = image.ImagePositionPatient
        image.ImagePositionPatient = [x, y + 0.25 * z, z]
        image.save_as(folder / path.name)
    result = go(folder, output=tmp_path / "out", task="superres")
    assert result.exit_code == ExitCode.ALL_FAILED
    why = "(the slice step leans 14.0 degrees from the slice normal (gantry tilt))"
    assert result.record.cases[0].reason == (
        f"{folder} is not a regular volume {why}, so its voxels cannot be made finer; "
        "resample it to a regular grid first."
    )
    result = go(folder, output=tmp_path / "out", task="inpaint")
    assert result.record.cases[0].reason == (
        f"{folder} has no gap that can be filled {why}; name what is to be filled with --mask."
    )


def test_superres_of_a_series_with_a_gap_names_the_cure(go: Go, gapped: Path, tmp_path: Path) -> None:
    reason = go(gapped, output=tmp_path / "out", task="superres").record.cases[0].reason
    assert "is not a regular volume (a slice is missing between" in reason
    assert reason.endswith("fill the gap with medidiff inpaint first.")


def test_series_becomes_finer_as_dicom(go: Go, sample_data: Path, tmp_path: Path) -> None:
    options = RestoreOptions(factor=(1, 1, 2))
    case = go(sample_data / "dicom_mr", output=tmp_path / "out", task="superres", restore=options).record.cases[0]
    assert (case.status, case.reason) == ("done", "")
    files = list((tmp_path / "out" / str(case.restored)).glob("*.dcm"))
    assert len(files) == 2 * len(list((sample_data / "dicom_mr").iterdir()))
    text = pydicom.dcmread(files[0]).DerivationDescription
    assert text.startswith("Super-resolved by medidiff")
    assert "1 x 1 x 2 voxels for one, strength 1, measured data kept exactly" in text


def test_plan_tells_the_pipelines_that_auto_may_choose(fake: ModuleType, scan: Write, tmp_path: Path) -> None:
    fake.make_bundle(fake.home.parent / "images", network={"spatial_dims": 2}, modalities=["XR"])
    fake.make_bundle(fake.home.parent / "others", tasks=("inpaint",))
    source = scan(tmp_path / "t1.nii.gz")
    plan = make_plan(RunConfig(inputs=(source,), output=tmp_path / "out"))
    assert [info.name for info in plan.pipelines] == ["fake", "images"]
    plan = make_plan(RunConfig(inputs=(source,), output=tmp_path / "out", pipeline="images"))
    assert [info.name for info in plan.pipelines] == ["images"]


def test_each_scan_goes_to_the_pipeline_that_suits_it(go: Go, fake: ModuleType, scan: Write, tmp_path: Path) -> None:
    images = fake.make_bundle(fake.home.parent / "images", b"2-D", network={"spatial_dims": 2}, modalities=["XR"])
    scan(tmp_path / "in" / "plane.nii.gz", shape=(8, 7, 1))
    scan(tmp_path / "in" / "volume.nii.gz")
    go(tmp_path / "in", output=tmp_path / "out")
    used = {
        name: json.loads((tmp_path / "out" / f"{name}_denoised.json").read_text())["pipeline"]["name"]
        for name in ("plane", "volume")
    }
    assert used == {"plane": "images", "volume": "fake"}
    assert [case.status for case in go(tmp_path / "in", output=tmp_path / "out").record.cases] == ["skipped"] * 2
    fake.make_bundle(images, b"better", network={"spatial_dims": 2}, modalities=["XR"])
    again = go(tmp_path / "in", output=tmp_path / "out")
    assert [case.status for case in again.record.cases] == ["done", "skipped"]
    assert again.plan.cases[0].reason == "the pipeline changed"


def test_resampled_mask_is_said_so(go: Go, scan: Write, tmp_path: Path) -> None:
    source, coarse = scan(tmp_path / "t1.nii.gz"), np.zeros((4, 4, 3), np.uint8)
    coarse[1, 1, 1] = 1
    affine = np.diag([4.0, 4.0, 6.0, 1.0])
    affine[:3, 3] = [1, 1, 1.5]
    nib.save(nib.Nifti1Image(coarse, affine), tmp_path / "coarse.nii.gz")
    heard: list[str] = []

    class Listener(Silent):
        def warning(self, text: str) -> None:
            heard.append(text)

    inpaint = {"output": tmp_path / "out", "task": "inpaint", "mask": tmp_path / "coarse.nii.gz"}
    go(source, reporter=Listener(), **inpaint)
    (said,) = heard
    assert said.startswith(f"{source}: The mask coarse.nii.gz lies on another grid")
    entry = json.loads((tmp_path / "out" / "t1_inpainted.json").read_text())["mask"]
    assert (entry["voxels"], [f"{source}: {note}" for note in entry["notes"]]) == (8, heard)
    filled = nib.load(tmp_path / "out" / "t1_inpainted.nii.gz").get_fdata() == 7
    np.testing.assert_array_equal(np.argwhere(filled).min(axis=0), [2, 2, 2])
    np.testing.assert_array_equal(np.argwhere(filled).max(axis=0), [3, 3, 3])
