"""From file to file with a network of random weights: what is stored outside a hole stays, bit for bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from medidiff.config import ComputeOptions, RestoreOptions, RunConfig
from medidiff.diffusion.network import MedUNet
from medidiff.errors import ExitCode
from medidiff.physics.operators import Acquisition, Axis
from medidiff.physics.tasks import STATE_CHANNELS, VIEWS, parameter_names
from medidiff.runs import Silent, run
from tests.fake_networks import ball

AFFINE = np.array([[-1.0, 0, 0.1, 30], [0, 1.2, 0, -20], [0.1, 0, 3.0, 5], [0, 0, 0, 1]])
SHAPE = (22, 19, 9)


@pytest.fixture(scope="module", params=[3, 2], ids=["3-D", "2-D"])
def bundle(request, tmp_path_factory) -> Path:
    """Weights that say something, at random."""
    torch.manual_seed(1)
    dims = request.param
    settings = {
        "spatial_dims": dims,
        "in_channels": STATE_CHANNELS + len(VIEWS),
        "parameters": len(parameter_names(dims)),
        "channels": [4],
        "encoder_blocks": [1],
        "decoder_blocks": [],
        "embedding": 8,
    }
    network = MedUNet(**settings)
    for name, parameter in network.named_parameters():
        if "head" in name:
            parameter.data = 0.5 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("bundles") / "random"
    (folder / "configs").mkdir(parents=True)
    save_file({key: value.half() for key, value in network.state_dict().items()}, folder / "weights")
    about = {
        "tasks": ["denoise", "superres", "inpaint"],
        "modalities": [],
        "licence": "CC0-1.0",
        "network": settings,
        "halo": 16,
        "weights": {"file": "weights", "sha256": hashlib.sha256((folder / "weights").read_bytes()).hexdigest()},
    }
    metadata = {"version": "0.0.1", "description": "Random.", "medidiff": about}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def restore(bundle: Path, source: Path, output: Path, **settings: Any) -> None:
    options = RestoreOptions(force=True, **settings.pop("restore", {}))
    config = RunConfig(
        inputs=(source,),
        output=output,
        pipeline=str(bundle),
        restore=options,
        compute=ComputeOptions(device="cpu"),
        **settings,
    )
    result = run(config, reporter=Silent(), command=["medidiff"])
    assert result.exit_code == ExitCode.OK, result.record.cases


def save(path: Path, data: NDArray[Any], slope: float = 1.0, intercept: float = 0.0) -> Path:
    image = nib.Nifti1Image(data, AFFINE, dtype=data.dtype)
    image.header.set_slope_inter(slope, intercept)
    nib.save(image, path)
    raw = bytearray(path.read_bytes())  # nibabel writes a slope of its own
    raw[112:120] = np.array([slope, intercept], dtype="<f4").tobytes()
    path.write_bytes(bytes(raw))
    return path


def stored(path: Path) -> NDArray[Any]:
    return np.asanyarray(nib.load(path).dataobj.get_unscaled())


def hole() -> NDArray[np.bool_]:
    inside = np.zeros(SHAPE, dtype=bool)
    inside[5:14, 6:15, 2:7] = True
    inside[0, 0, 0] = True
    return inside


def content(dtype: str) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    values = 200 * ball(SHAPE) + 10 * rng.uniform(0, 1, SHAPE) + 3
    return (values if np.dtype(dtype).kind == "f" else np.rint(values)).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept"),
    [
        ("int16", 1.0, 0.0),
        ("uint8", 1.0, 0.0),
        ("float32", 1.0, 0.0),
        ("int16", 0.0371, -1.5),
        ("uint16", 7.3, 0.0),
        ("float32", 2.5, 11.0),
    ],
)
def test_inpainting_keeps_every_stored_value(bundle, tmp_path, dtype, slope, intercept):
    before, inside = content(dtype), hole()
    source = save(tmp_path / "scan.nii", before, slope, intercept)
    mask = tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image(inside.astype(np.uint8), AFFINE), mask)
    more = {"samples": 2, "steps": 3, "gamma": 0.5}
    restore(bundle, source, tmp_path / "out", task="inpaint", mask=mask, restore=more)
    for name in ("scan_inpainted.nii.gz", "scan_inpainted_sample.nii.gz"):
        path = tmp_path / "out" / name
        after = stored(path)
        assert after.dtype == before.dtype
        assert after[~inside].tobytes() == before[~inside].tobytes()
        assert (after[inside] != before[inside]).mean() > 0.5
        assert nib.load(path).header.get_slope_inter() == nib.load(source).header.get_slope_inter()
        np.testing.assert_array_equal(nib.load(path).affine, nib.load(source).affine)
    supplied = nib.load(tmp_path / "out" / "scan_inpainted_supplied.nii.gz").get_fdata()
    np.testing.assert_array_equal(supplied > 0, inside)
    spread = nib.load(tmp_path / "out" / "scan_inpainted_uncertainty.nii.gz").get_fdata()
    np.testing.assert_array_equal(spread > 0, inside)
    tree = json.loads((tmp_path / "out" / "scan_inpainted.json").read_text())
    assert tree["mask"]["voxels"] == inside.sum()
    assert tree["volumes"][0]["guard"]["figures"]["changed_outside"] == 0


def test_nan_is_filled_in_the_hole_and_nowhere_else(bundle, tmp_path):
    before, inside = content("float32"), hole()
    before[6:9, 7:9, 3] = np.nan
    before[18, 2:5, 8] = np.nan
    mask = tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image(inside.astype(np.uint8), AFFINE), mask)
    restore(bundle, save(tmp_path / "scan.nii", before), tmp_path / "out", task="inpaint", mask=mask)
    after = stored(tmp_path / "out" / "scan_inpainted.nii.gz")
    assert after[~inside].tobytes() == before[~inside].tobytes()
    assert np.isfinite(after[inside]).all()


@pytest.mark.parametrize(("dtype", "slope"), [("float32", 1.0), ("int16", 0.05)])
def test_super_resolved_file_measured_again_is_the_scan(bundle, tmp_path, dtype, slope):
    planar = json.loads((bundle / "configs" / "metadata.json").read_text())["medidiff"]["network"]["spatial_dims"] == 2
    factor = (2, 2, 1) if planar else (1, 1, 3)
    before = content("float32")
    if dtype == "int16":
        before = np.rint(before / slope).astype(dtype)
    source = save(tmp_path / "scan.nii", before, slope)
    restore(bundle, source, tmp_path / "out", task="superres", restore={"factor": factor, "profile": "gaussian"})
    image = nib.load(tmp_path / "out" / "scan_superres.nii.gz")
    wanted = tuple(f * n for f, n in zip(factor, SHAPE, strict=True))
    assert image.shape == wanted
    axes = tuple(Axis(n, m) for n, m in zip(SHAPE, wanted, strict=True))
    again = Acquisition(axes).forward(torch.from_numpy(image.get_fdata())[None])[0].numpy()
    values = nib.load(source).get_fdata()
    rounding = 0 if dtype == "float32" else 0.5 * slope * np.sqrt(2)
    assert np.abs(again - values).max() <= 1e-5 * np.ptp(values) + rounding
    for corner in np.ndindex(2, 2, 2):
        ends = (np.where(corner, np.array(shape) - 0.5, -0.5) for shape in (SHAPE, wanted))
        old, new = (m @ [*end, 1] for m, end in zip((AFFINE, image.affine), ends, strict=True))
        np.testing.assert_allclose(new, old, atol=1e-4)
    assert image.get_data_dtype() == np.dtype(dtype)


def test_where_no_noise_is_taken_away_the_map_of_zeros_says_so(bundle, tmp_path):
    source = save(tmp_path / "scan.nii", content("int16"))
    restore(bundle, source, tmp_path / "out", uncertainty=True, restore={"noise": 0.0})
    (volume,) = json.loads((tmp_path / "out" / "scan_denoised.json").read_text())["volumes"]
    assert volume["uncertainty"]["meaning"].startswith("zero: no noise was taken away")
    assert volume["uncertainty"]["quantile"] is None
    assert stored(tmp_path / "out" / "scan_denoised.nii.gz").tobytes() == content("int16").tobytes()
    assert not nib.load(tmp_path / "out" / "scan_denoised_uncertainty.nii.gz").get_fdata().any()
