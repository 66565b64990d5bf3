"""The shipped bundles: intact, small, complete, and run by MONAI's own command."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medidiff
from medidiff import bundles
from medidiff.errors import PipelineError
from medidiff.scans.volume import Volume

ROOT = Path(__file__).parents[1]
MANDATORY = (  # of MONAI's bundle specification
    "version",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
)


@pytest.fixture(params=sorted(path.parent.parent.name for path in (ROOT / "pipelines").glob("*/configs/metadata.json")))
def bundle(request: pytest.FixtureRequest) -> bundles.Bundle:
    return bundles.read(ROOT / "pipelines" / request.param)


def test_bundle_is_complete_and_intact(bundle: bundles.Bundle) -> None:
    bundle.verify()
    assert all(key in bundle.metadata for key in MANDATORY)
    assert (bundle.path / "LICENSE").is_file()
    assert (bundle.path / "docs/README.md").read_text(encoding="utf-8").startswith(f"# {bundle.name} {bundle.version}")
    assert (bundle.path / "docs/training_log.csv").is_file()
    for file in bundle.path.rglob("*"):
        assert file.is_dir() or file.stat().st_size <= 16 * 2**20
        assert file.suffix not in {".pt", ".pth", ".pkl", ".ckpt"}  # nothing that has to be unpickled


def test_weights_are_half_precision(bundle: bundles.Bundle) -> None:
    from safetensors import safe_open

    with safe_open(bundle.weights, "np") as file:
        assert {str(file.get_slice(key).get_dtype()) for key in file.keys()} == {"F16"}  # noqa: SIM118


def test_monai_runs_the_bundle_with_the_same_result(bundle: bundles.Bundle, tmp_path: Path) -> None:
    pytest.importorskip("fire")
    from monai.bundle import run

    truth = nib.load(ROOT / "sample_data/phantom_t1w.nii.gz")
    crop = truth.slicer[20:60, 30:73, 40:64]
    nib.save(crop, tmp_path / "scan.nii.gz")
    run(
        config_file=str(bundle.path / "configs/inference.json"),
        bundle_root=str(bundle.path),
        image=str(tmp_path / "scan.nii.gz"),
        output_dir=str(tmp_path / "out"),
    )
    theirs = nib.load(tmp_path / "out/scan_denoised.nii.gz")
    # MONAI takes an image for what the bundle is for; medidiff would guess from the file that this is MR
    scan = Volume(crop.get_fdata(dtype=np.float32), crop.affine, bundle.settings["modalities"][0])
    ours = medidiff.load(bundle.path)(scan).mean
    np.testing.assert_allclose(theirs.get_fdata(), ours, atol=1e-3 * ours.max())
    np.testing.assert_allclose(theirs.affine, crop.affine, atol=1e-5)


def test_damaged_weights_of_the_package_are_installed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = next(each for each in bundles.every() if each.name == "mr")
    copy = shutil.copytree(shipped.path, tmp_path / "_bundles" / "mr", ignore=shutil.ignore_patterns("*.safetensors"))
    damaged = bundles.read(copy)
    with pytest.raises(PipelineError, match=r"cannot be read; copy the bundle again from where it comes"):
        damaged.verify()
    monkeypatch.setattr(bundles, "_HERE", tmp_path)
    with pytest.raises(PipelineError, match=r"cannot be read; install medidiff again\."):
        damaged.verify()
