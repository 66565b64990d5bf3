"""Pipelines small enough to benchmark in seconds: a random network, which does something, and one that adds nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import ndimage

from medidiff.diffusion.network import build
from medidiff.physics.tasks import STATE_CHANNELS, VIEWS, parameter_names


def write_bundle(folder: Path, tasks: list[str], weights: float, spatial_dims: int = 3) -> Path:
    """A bundle whose last layer has random weights of this standard deviation."""
    (folder / "configs").mkdir(parents=True)
    settings = {
        "spatial_dims": spatial_dims,
        "in_channels": STATE_CHANNELS + len(VIEWS),
        "parameters": len(parameter_names(spatial_dims)),
        "channels": [8, 8, 8],
        "encoder_blocks": [1, 1, 1],
        "decoder_blocks": [1, 1],
    }
    torch.manual_seed(0)
    network = build(**settings)
    torch.nn.init.normal_(network.head.weight, std=weights)
    save_file({name: value.half() for name, value in network.state_dict().items()}, folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    medidiff = {
        "tasks": tasks,
        "modalities": ["MR"],
        "licence": "CC0-1.0",
        "network": settings,
        "halo": 16,
        "weights": {"file": "model.safetensors", "sha256": digest},
    }
    metadata = {"version": "0.0.1", "description": "A random network.", "medidiff": medidiff}
    (folder / "configs/metadata.json").write_text(json.dumps(metadata))
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny", ["denoise"], 0.02)


@pytest.fixture(scope="session")
def silent_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tasks, and a network that answers 0: what is left is the classical base."""
    return write_bundle(tmp_path_factory.mktemp("silent") / "silent", ["denoise", "superres", "inpaint"], 0.0)


@pytest.fixture(scope="session")
def silent_planar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for 2-D images."""
    return write_bundle(tmp_path_factory.mktemp("planar") / "planar", ["denoise", "superres", "inpaint"], 0.0, 2)


@pytest.fixture(scope="session")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan of an ellipsoid with two tissues and a little texture, 48 x 40 x 40 voxels of 1 mm."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (48, 40, 40)), indexing="ij")
    inside = sum(np.square(axis) for axis in axes) < 0.9
    texture = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(inside.shape), 2)
    image = ndimage.gaussian_filter(np.where(inside, np.where(axes[0] > 0.1, 900.0, 600.0) + 200 * texture, 0.0), 0.7)
    path = tmp_path_factory.mktemp("body") / "body.nii.gz"
    nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), path)
    return path


@pytest.fixture
def tiny_home(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a user who has the small pipeline, named tiny, and no real scans."""
    monkeypatch.setenv("MEDIDIFF_BUNDLES", str(tiny_bundle.parent))
    monkeypatch.delenv("MEDIDIFF_REAL_DATA", raising=False)
    return tiny_bundle
