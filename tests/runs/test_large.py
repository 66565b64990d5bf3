"""A scan that the memory is not enough for goes through files, and comes out as it does in memory."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medidiff import footprint, pipelines, scans
from medidiff.cli import main
from medidiff.config import ComputeOptions
from medidiff.errors import PipelineError
from medidiff.scans import mapped
from tests.fake_networks import ball, magnitude

EDGE = 40
AFFINE = np.array([[0, -1.2, 0, 5], [1, 0, 0, 3], [0, 0, 1.0, 1], [0, 0, 0, 1]])


@pytest.fixture(autouse=True)
def installed() -> None:
    try:
        pipelines.load("mr", compute=ComputeOptions(device="cpu"))
    except PipelineError as error:
        pytest.skip(f"needs an installed pipeline: {error}")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    values = magnitude(800 * ball((EDGE, EDGE, EDGE)), 60)
    nib.save(nib.Nifti1Image(np.rint(values).astype(np.int16), AFFINE), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def denoise(scan: Path, out: Path, *flags: str) -> int:
    command = ["denoise", str(scan), "-o", str(out), "-p", "mr", "--device", "cpu", "--uncertainty", "-q", *flags]
    return main(command)


def blocks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no scan fitted the memory."""
    ways = footprint.ways
    monkeypatch.setattr(footprint, "ways", lambda asked: [one for one in ways(asked) if one.way == "blocks"])


def test_a_scan_in_blocks_is_the_scan_in_memory(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert denoise(scan, tmp_path / "whole") == 0
    blocks_only(monkeypatch)
    assert denoise(scan, tmp_path / "blocks") == 0
    whole, blocks = (sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("whole", "blocks"))
    assert whole == blocks  # and no folder of work is left
    for name in ("scan_denoised", "scan_denoised_uncertainty", "scan_denoised_supplied"):
        one, other = (nib.load(tmp_path / folder / f"{name}.nii.gz") for folder in ("whole", "blocks"))
        assert one.header == other.header
        np.testing.assert_allclose(other.get_fdata(), one.get_fdata(), atol=1 if name == "scan_denoised" else 0.01)
    tree = json.loads((tmp_path / "blocks" / "scan_denoised.json").read_text())
    assert tree["volumes"][0]["record"]["blocks"] == 192
    assert tree["volumes"][0]["shape"] == [EDGE] * 3


def test_volumes_of_a_series_in_one_file_each_keep_their_result(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = np.asanyarray(nib.load(scan).dataobj)
    both = np.stack([first, first[::-1]], axis=-1)
    nib.save(nib.Nifti1Image(both, np.eye(4)), scan)
    assert denoise(scan, tmp_path / "whole") == 0
    blocks_only(monkeypatch)
    assert denoise(scan, tmp_path / "blocks") == 0
    one, other = (nib.load(tmp_path / name / "scan_denoised.nii.gz").get_fdata() for name in ("whole", "blocks"))
    assert other.shape == both.shape
    np.testing.assert_allclose(other, one, atol=1)
    tree = json.loads((tmp_path / "blocks" / "scan_denoised.json").read_text())
    assert [volume["record"]["blocks"] for volume in tree["volumes"]] == [192, 192]


def test_without_memory_it_ends_before_it_begins(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scans, "read", lambda *given, **more: pytest.fail("the scan was read"))
    assert denoise(scan, tmp_path / "out", "--memory", "0.01") == 7
    assert "scan.nii.gz: A scan of 40 x 40 x 40 voxels needs" in capsys.readouterr().err


def test_without_disk_it_ends_before_it_begins(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks_only(monkeypatch)
    usage: Any = shutil._ntuple_diskusage(1000, 999, 1)  # type: ignore[attr-defined]
    monkeypatch.setattr(mapped.shutil, "disk_usage", lambda path: usage)
    assert denoise(scan, tmp_path / "out") == 8
    assert "GB of room in" in capsys.readouterr().err


def test_an_array_in_memory_can_go_through_files_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = pipelines.load("mr", compute=ComputeOptions(device="cpu"))
    array = magnitude(800 * ball((EDGE, EDGE, EDGE)), 60)
    expected = pipeline((array, np.eye(4)))
    blocks_only(monkeypatch)
    found = pipeline((array, np.eye(4)))
    folder = mapped.file_of(found.mean)
    assert folder is not None
    assert folder.exists()
    np.testing.assert_allclose(found.mean, expected.mean, atol=0.01)
    del found
    assert not folder.exists()


@pytest.mark.slow
def test_memory_stays_within_what_is_given(tmp_path: Path) -> None:
    """288^3 voxels, which take 3.5 GB in memory."""
    edge, limit = 288, 1.5
    path = tmp_path / "scan.nii.gz"
    values = np.rint(magnitude(800 * ball((edge,) * 3), 60)).astype(np.int16)
    image = nib.Nifti1Image(values, np.eye(4))
    path.write_bytes(gzip.compress(image.to_bytes(), 1))
    command = [sys.executable, "-m", "medidiff", "denoise", str(path), "-o", str(tmp_path / "out"), "--device", "cpu"]
    script = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == 'darwin' else 1024));"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command, "-p", "mr", "--memory", str(limit), "-q"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout.splitlines()[-1]) < limit * 1e9
    tree = json.loads((tmp_path / "out" / "scan_denoised.json").read_text())
    assert tree["volumes"][0]["record"]["blocks"] in (footprint.LARGE, *footprint.TILES)
