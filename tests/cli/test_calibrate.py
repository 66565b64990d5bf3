"""``medidiff calibrate`` on a small random network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medidiff.cli import main
from medidiff.training.calibration import middle
from tests.benchmarks.conftest import tiny_bundle  # noqa: F401
from tests.training.conftest import blobs

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:  # noqa: F811
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny"))


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "head.nii.gz"
    nib.save(nib.Nifti1Image((1000 * blobs((50, 48, 48), 0)).astype(np.float32), np.eye(4)), path)
    return path


def table(bundle: Path) -> Any:
    return json.loads((bundle / "configs/metadata.json").read_text())["medidiff"]["calibration"]


def test_a_table_is_written_and_does_not_depend_on_an_older_one(bundle: Path, scan: Path, capsys: Capture) -> None:
    assert main(["calibrate", str(bundle), str(scan), "--crop", "48"]) == 0
    assert "denoise 9: 90 % within" in capsys.readouterr().out
    first = table(bundle)
    assert set(first["denoise"]) == {"3", "9", "15"}
    assert first["denoise"]["9"]["volumes"] == 1
    assert first["denoise"]["9"]["quantile90"] > 0
    assert main(["calibrate", str(bundle), str(scan), "--crop", "48"]) == 0
    assert table(bundle) == first


def test_all_three_tasks(bundle: Path, scan: Path) -> None:
    path = bundle / "configs/metadata.json"
    tree = json.loads(path.read_text())
    tree["medidiff"]["tasks"] = ["denoise", "superres", "inpaint"]
    path.write_text(json.dumps(tree))
    assert main(["calibrate", str(bundle), str(scan), "--crop", "48", "--task", "superres", "--task", "inpaint"]) == 0
    found = table(bundle)
    assert {task: list(rows) for task, rows in found.items()} == {"superres": ["2", "4", "6", "8"], "inpaint": ["1"]}
    assert all(row["scale"] > 0 and row["volumes"] == 1 for rows in found.values() for row in rows.values())


def test_a_manifest_tells_split_and_subject(bundle: Path, scan: Path) -> None:
    manifest = scan.parent / "scans.csv"
    manifest.write_text(
        "file,modality,subject_id,split\nhead.nii.gz,T1w,anna,calibration\nabsent.nii.gz,T1w,bob,train\n"
    )
    assert main(["calibrate", str(bundle), str(manifest), "--crop", "48"]) == 0
    assert table(bundle)["denoise"]["3"]["subjects"] == ["anna"]


def test_what_cannot_be_done(bundle: Path, scan: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["calibrate", str(bundle), str(scan), "--task", "inpaint"]) == 6
    assert "does not inpaint" in capsys.readouterr().err
    assert main(["calibrate", str(tmp_path), str(scan)]) == 6
    (tmp_path / "bad.csv").write_text("file\nx\n")
    assert main(["calibrate", str(bundle), str(tmp_path / "bad.csv")]) == 2
    assert "'split'" in capsys.readouterr().err
    (tmp_path / "broken.nii.gz").write_text("text")
    assert main(["calibrate", str(bundle), str(tmp_path / "broken.nii.gz")]) == 3
    assert "left out" in capsys.readouterr().err


def test_a_small_scan_is_used_whole() -> None:
    assert middle(np.ones((10, 9, 8), np.float32), 48).shape == (10, 9, 8)
