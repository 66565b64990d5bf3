"""The command with the pipeline that ships: torch, weights, files and all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medidiff import bundles
from medidiff.cli import main

pytestmark = pytest.mark.skipif(not bundles.every(), reason="no pipeline is installed")


def test_series_from_end_to_end(sample_data: Path, tmp_path: Path) -> None:
    args = ["denoise", str(sample_data / "dicom_mr"), "--device", "cpu", "-q"]
    assert main([*args, "-o", str(tmp_path / "one")]) == 0
    assert main([*args, "-o", str(tmp_path / "two")]) == 0
    one, two = (json.loads(next((tmp_path / name).glob("*_denoised.json")).read_text()) for name in ("one", "two"))
    assert one["pipeline"]["weights_sha256"] == one["volumes"][0]["record"]["weights_sha256"]
    assert one["volumes"][0]["record"]["noise_percent"] == pytest.approx(9, abs=1.5)
    assert one["volumes"][0] | {"record": None} == two["volumes"][0] | {"record": None}


def test_noise_goes_down_and_the_same_bytes_come_twice(sample_data: Path, tmp_path: Path) -> None:
    noisy, truth = (
        nib.load(sample_data / name).slicer[16:80, 26:90, 26:58]
        for name in ("phantom_t1w.nii.gz", "phantom_t1w_truth.nii.gz")
    )
    nib.save(noisy, tmp_path / "noisy.nii.gz")
    for name in ("one", "two"):
        assert main(["denoise", str(tmp_path / "noisy.nii.gz"), "-o", str(tmp_path / name), "-q"]) == 0
    files = [tmp_path / name / "noisy_denoised.nii.gz" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()

    def error(image: nib.Nifti1Image) -> float:
        return float(np.sqrt(np.mean((image.get_fdata() - truth.get_fdata()) ** 2)))

    assert error(nib.load(files[0])) < 0.6 * error(noisy)


def test_device_that_is_not_there(sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["denoise", str(sample_data / "dicom_mr"), "-o", str(tmp_path / "out"), "--device", "cuda:99"])
    assert code == 2
    assert "cuda:99" in capsys.readouterr().err


def test_all_tasks_are_verified_in_another_process(sample_data: Path, tmp_path: Path) -> None:
    crop = nib.load(sample_data / "phantom_t1w.nii.gz").slicer[24:56, 34:66, 44:60]
    nib.save(crop, tmp_path / "scan.nii.gz")
    hole = np.zeros(crop.shape, dtype=np.uint8)
    hole[12:20, 12:20, 6:10] = 1
    nib.save(nib.Nifti1Image(hole, crop.affine), tmp_path / "mask.nii.gz")
    (tmp_path / "series").mkdir()
    for path in sorted((sample_data / "dicom_mr").glob("*.dcm"))[:4]:
        shutil.copy(path, tmp_path / "series")
    scan, mask, out = (str(tmp_path / name) for name in ("scan.nii.gz", "mask.nii.gz", "out"))
    more = ["-o", out, "--samples", "1", "--steps", "2", "--gamma", "1", "-q"]
    assert main(["denoise", scan, str(tmp_path / "series"), *more]) == 0
    assert main(["superres", scan, *more, "--factor", "1,1,2"]) == 0
    assert main(["inpaint", scan, *more, "--mask", mask]) == 0
    sidecars = [path for path in Path(out).glob("*.json") if path.name != "run.json"]
    assert len(sidecars) == 4
    code = "import sys; from medidiff.cli import main; sys.exit(max(main(['verify', name]) for name in sys.argv[1:]))"
    command = [sys.executable, "-c", code, *map(str, sidecars)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same bytes came again") == 4, done.stdout
