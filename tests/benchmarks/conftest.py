"""A pipeline small enough to benchmark in seconds; its network is random, so that it does something."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medidiff.diffusion.network import build
from medidiff.physics.tasks import STATE_CHANNELS, VIEWS, parameter_names


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    (folder / "configs").mkdir(parents=True)
    settings = {
        "spatial_dims": 3,
        "in_channels": STATE_CHANNELS + len(VIEWS),
        "parameters": len(parameter_names(3)),
        "channels": [8, 8, 8],
        "encoder_blocks": [1, 1, 1],
        "decoder_blocks": [1, 1],
    }
    torch.manual_seed(0)
    network = build(**settings)
    torch.nn.init.normal_(network.head.weight, std=0.02)
    save_file({name: value.half() for name, value in network.state_dict().items()}, folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    medidiff = {
        "tasks": ["denoise"],
        "modalities": ["MR"],
        "licence": "CC0-1.0",
        "network": settings,
        "halo": 16,
        "weights": {"file": "model.safetensors", "sha256": digest},
    }
    metadata = {"version": "0.0.1", "description": "A random network.", "medidiff": medidiff}
    (folder / "configs/metadata.json").write_text(json.dumps(metadata))
    return folder


@pytest.fixture
def tiny_home(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a user who has the small pipeline, named tiny, and no real scans."""
    monkeypatch.setenv("MEDIDIFF_BUNDLES", str(tiny_bundle.parent))
    monkeypatch.delenv("MEDIDIFF_REAL_DATA", raising=False)
    return tiny_bundle
