from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks import guard
from tests.training.conftest import blobs


def test_a_run_plants_failures_and_counts_alarms(tiny_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "head.nii.gz"
    nib.save(nib.Nifti1Image((1000 * blobs((44, 40, 40), 0)).astype(np.float32), np.eye(4)), path)
    options = ["--pipeline", "tiny", "--files", str(path), "--noise", "0", "9", "--crop", "48", "--threads", "1"]
    guard.main([*options, "--results", str(tmp_path)])
    result = json.loads((tmp_path / "guard.json").read_text())
    said = {row["tried"]: row["said"] for row in result["rows"]}
    assert said["superres, sound: exact"] == []
    assert said["superres, sound: soft"] == []
    assert said["inpaint, sound: artefact"] == []
    for failure, begin in {
        "superres, brightness 1 % off": "Data not kept",
        "inpaint, mask shifted by 2 voxels": "The mask may be shifted",
        "inpaint, image changed outside of the hole": "",
        "range, 5 mm slices for an isotropic pipeline": "The scan is unlike",
        "denoise, noise given 3 x too high: 9 %": "Wrong noise level",
    }.items():
        assert said[failure], failure
        assert said[failure][0].startswith(begin) or begin == ""
    text = (tmp_path / "guard.md").read_text()
    assert "denoise: at least 90 % of the planted failures noticed" in text
    assert "| inpaint, mask shifted by 1 voxel | 2 |" in text
