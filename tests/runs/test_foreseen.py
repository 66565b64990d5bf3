"""What ``--dry-run`` says of scans that are sure to fail is what the run says of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from medidiff.config import RestoreOptions, RunConfig
from medidiff.runs import RunResult, make_plan
from medidiff.runs.foreseen import foreseen

Go = Callable[..., RunResult]
Write = Callable[..., Path]


@pytest.fixture
def folder(scan: Write, sample_data: Path, tmp_path: Path) -> Path:
    """A sound file, one in colour, one of complex numbers, a broken link, a whole series and one with a gap."""
    top = tmp_path / "in"
    image = nib.load(scan(top / "good.nii.gz"))
    colour = np.zeros(image.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, image.affine), top / "colour.nii.gz")
    nib.save(nib.Nifti1Image(np.ones(image.shape, dtype=np.complex64), image.affine), top / "complex.nii.gz")
    (top / "gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    files = sorted((sample_data / "dicom_mr").glob("*.dcm"), key=lambda file: pydicom.dcmread(file).InstanceNumber)[:8]
    for name, kept in (("whole", files), ("gap", [*files[:3], *files[4:]])):
        (top / name).mkdir()
        for file in kept:
            data = pydicom.dcmread(file)
            data.SeriesInstanceUID = generate_uid(entropy_srcs=[name])
            data.save_as(top / name / file.name)
    masks = tmp_path / "masks"
    masks.mkdir()
    hole = np.zeros(image.shape, dtype=np.uint8)
    hole[2:4, 2:4, 2:4] = 1
    nib.save(nib.Nifti1Image(hole, image.affine), masks / "good_mask.nii.gz")
    return top


@pytest.mark.parametrize(
    ("task", "settings", "good"),
    [
        ("denoise", {}, {"good.nii.gz", "whole", "gap"}),
        ("denoise", {"format": "both"}, {"good.nii.gz", "whole"}),
        ("denoise", {"format": "nifti"}, {"good.nii.gz", "whole"}),
        ("denoise", {"format": "dicom"}, {"whole", "gap"}),
        ("superres", {"restore": RestoreOptions(factor=(1, 1, 2))}, {"good.nii.gz", "whole"}),
        ("inpaint", {}, {"gap"}),
        ("inpaint", {"mask": "masks"}, {"good.nii.gz"}),
    ],
)
def test_a_dry_run_refuses_what_the_run_refuses(
    go: Go, folder: Path, tmp_path: Path, task: str, settings: dict[str, Any], good: set[str]
) -> None:
    more = {name: tmp_path / value if name == "mask" else value for name, value in settings.items()}
    config = RunConfig(inputs=(folder,), output=tmp_path / "out", task=task, **more)
    plan = foreseen(make_plan(config), config)
    told = {case.ref.path.name: case.reason for case in plan.cases if case.state == "refused"}
    assert {case.ref.path.name for case in plan.cases if case.state == "todo"} == good
    assert not (tmp_path / "out").exists()
    result = go(folder, output=tmp_path / "out", task=task, **more)
    assert {Path(case.input).name: case.reason for case in result.record.cases if case.status == "failed"} == told


@pytest.mark.parametrize(
    ("options", "affine", "says"),
    [
        (RestoreOptions(spacing=0.05), np.diag([1.0, 1, 3, 1]), "A factor of 60 is not between 1 and 16"),
        (RestoreOptions(), np.eye(4), "isotropic already"),
        (RestoreOptions(factor=(2, 2, 1)), np.diag([1.0, 1, 0, 1]), "an affine without an inverse"),
    ],
)
def test_what_cannot_become_finer_is_refused_beforehand(
    tmp_path: Path, options: RestoreOptions, affine: np.ndarray, says: str
) -> None:
    (tmp_path / "in").mkdir()
    image = nib.Nifti1Image(np.ones((6, 6, 6), np.int16), None)
    image.header.set_sform(affine, code=1)
    nib.save(nib.Nifti1Image(image.dataobj, None, image.header), tmp_path / "in" / "a.nii.gz")
    config = RunConfig(inputs=(tmp_path / "in",), output=tmp_path / "out", task="superres", restore=options)
    (case,) = foreseen(make_plan(config), config).cases
    assert case.state == "refused"
    assert says in case.reason


def test_what_only_the_voxels_tell_is_left_to_the_run(scan: Write, fake: object, tmp_path: Path) -> None:
    source = scan(tmp_path / "in" / "t1.nii.gz")
    shutil.copy(source, tmp_path / "in" / "cut.nii.gz")
    with (tmp_path / "in" / "cut.nii.gz").open("r+b") as file:
        file.truncate(source.stat().st_size - 20)  # the header is whole
    config = RunConfig(inputs=(tmp_path / "in",), output=tmp_path / "out")
    assert foreseen(make_plan(config), config).count("todo") == 2


def test_names_too_long_for_a_result_are_refused_beforehand(go: Go, scan: Write, tmp_path: Path) -> None:
    for name in ("x" * 240, "y" * 238, "w" * 227):
        scan(tmp_path / "in" / f"{name}.nii.gz")

    def told(**settings: Any) -> dict[str, str]:
        config = RunConfig(inputs=(tmp_path / "in",), output=tmp_path / "out", **settings)
        plan = foreseen(make_plan(config), config)
        return {case.ref.stem[0]: case.reason for case in plan.cases if case.state == "refused"}

    says = "the name of a result would have {} bytes, and file systems take 255; rename the scan."
    path = tmp_path / "in" / f"{'x' * 240}.nii.gz"
    assert told(uncertainty=False) == {"x": f"{path} cannot be processed: {says.format(256)}"}
    found = told(uncertainty=True)
    assert found.keys() == {"x", "y"}  # w has a map of 255 bytes
    assert found["y"].endswith(says.format(266))
    result = go(tmp_path / "in", output=tmp_path / "out", uncertainty=False)
    failed = {Path(case.input).stem[0]: case.reason for case in result.record.cases if case.status == "failed"}
    assert failed == told(uncertainty=False)
