"""``medidiff calibrate`` on a small random network."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff import bundles
from medidiff.cli import main
from medidiff.cli.calibrate import references, restore_with
from medidiff.diffusion.uncertainty import Calibration
from medidiff.physics.tasks import STATE_CHANNELS, VIEWS
from medidiff.training.calibration import Image, Reference, calibrate, middle, simulate
from tests.benchmarks.conftest import tiny_bundle  # noqa: F401
from tests.fake_networks import Constant, engine
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
    assert re.search(r"denoise 9: gain [01]\.\d\d, 90 % within", capsys.readouterr().out)
    first = table(bundle)
    assert set(first["denoise"]) == {"3", "9", "15"}
    assert first["denoise"]["9"]["volumes"] == 1
    assert first["denoise"]["9"]["quantile90"] > 0
    assert 0 <= first["denoise"]["9"]["gain"] < 1  # of a random network
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


class Oracle(Constant):
    """Knows the truth, and answers with a factor times what the base lacks."""

    def __init__(self, truth: Image, factor: float) -> None:
        super().__init__()
        self.truth, self.factor = torch.from_numpy(truth), factor

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        views = dict(zip(VIEWS, x[:, STATE_CHANNELS:].unbind(1), strict=True))
        missing = (self.truth - views["base"]) / 10 ** (views["log scale"] - 2)
        return torch.stack([-self.factor * missing, torch.zeros_like(missing)], dim=1)


@pytest.mark.parametrize(("factor", "gain"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.5), (-1.0, 0.0)])
def test_what_is_restored_with_the_gain_is_no_worse_than_the_base(factor: float, gain: float) -> None:
    reference = Reference((0.2 + 0.8 * blobs((48, 48, 48), 0)).astype(np.float32), (1.0, 1.0, 1.0), "", "CT")
    one = engine(Oracle(reference.clean, factor))  # of CT the intensities that a network sees are the truth's own
    found = calibrate([reference], restore_with(one, "CT"), ["denoise"])
    assert found["denoise"]["8"]["gain"] == pytest.approx(gain, abs=0.01)

    trial = simulate("denoise", 8, reference, torch.Generator().manual_seed(7))
    assert trial is not None
    known = replace(one, calibration=Calibration.from_settings({"calibration": found}))
    base, restored, _ = restore_with(known, "CT")(trial)

    def error(image: Image) -> float:
        return float(np.sqrt(np.mean((image - trial.truth)[trial.inside] ** 2)))

    expected = abs(1 - gain * factor) * error(base)
    assert error(restored) == pytest.approx(expected, rel=0.02, abs=0.02 * error(base))


def test_a_manifest_tells_split_and_subject(bundle: Path, scan: Path) -> None:
    manifest = scan.parent / "scans.csv"
    manifest.write_text(  # as Excel writes it
        "\ufefffile,modality,subject_id,split\nhead.nii.gz,T1w,anna,calibration\nabsent.nii.gz,T1w,bob,train\n",
        encoding="utf-8",
    )
    assert main(["calibrate", str(bundle), str(manifest), "--crop", "48"]) == 0
    assert table(bundle)["denoise"]["3"]["subjects"] == ["anna"]


def test_what_cannot_be_done(bundle: Path, scan: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["calibrate", str(bundle), str(scan), "--task", "inpaint"]) == 6
    assert "does not inpaint" in capsys.readouterr().err
    assert main(["calibrate", str(tmp_path), str(scan)]) == 6
    (tmp_path / "bad.csv").write_text("file\nx\n")
    assert main(["calibrate", str(bundle), str(tmp_path / "bad.csv")]) == 2
    assert "'modality'" in capsys.readouterr().err
    (tmp_path / "broken.nii.gz").write_text("text")
    assert main(["calibrate", str(bundle), str(tmp_path / "broken.nii.gz")]) == 3
    assert "left out" in capsys.readouterr().err


def test_a_name_is_no_folder_to_write_into(scan: Path, capsys: Capture) -> None:
    assert main(["calibrate", "mr", str(scan)]) == 2
    words = "mr is the name of a pipeline, and calibrate writes into a folder of your own; make one first: "
    assert f"{words}medidiff export mr -o FOLDER." in capsys.readouterr().err


def test_a_folder_without_scans(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "nothing").mkdir()
    assert main(["calibrate", str(bundle), str(tmp_path / "nothing")]) == 3
    words = f"No scan of MR was found in {tmp_path / 'nothing'}; give clean scans to calibrate on."
    assert words in capsys.readouterr().err


def test_a_small_scan_is_used_whole() -> None:
    assert middle(np.ones((10, 9, 8), np.float32), 48).shape == (10, 9, 8)


def test_what_was_not_measured_is_no_water(bundle: Path, tmp_path: Path) -> None:
    hounsfield = (1024 * blobs((24, 24, 24), 0) - 1000).astype(np.float32)
    hounsfield[:5] = np.nan
    nib.save(nib.Nifti1Image(hounsfield, np.eye(4)), tmp_path / "ct.nii")
    found = bundles.read(bundle)
    of_ct = replace(found, metadata={**found.metadata, "medidiff": {**found.settings, "modalities": ["CT"]}})
    (reference,) = references((tmp_path / "ct.nii",), 48, of_ct)
    np.testing.assert_allclose(reference.clean, (np.nan_to_num(hounsfield, nan=-1000) + 1024) / 2000, atol=1e-4)
