"""The benchmark of fine-tuning, end to end on a made-up specimen."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks import finetune
from benchmarks.finetune import KINDS, Scan
from tests.training.conftest import blobs

STORY = {"scans": 5, "iterations": 7, "gain_db": {"estimate": 0.5, "standard_error": 0.04}}


def test_a_pipeline_that_does_harm_is_improved(
    tiny_bundle: Path,
    silent_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command is replaced by one that makes the network say nothing."""

    def silence(arguments: list[str]) -> int:
        options = dict(zip(arguments[6::2], arguments[7::2], strict=True))
        assert arguments[0] == "finetune"
        assert len({Path(file).parent for file in arguments[1:6]}) == 1
        assert options["-p"] == str(tiny_bundle)
        assert 7 < float(options["--noise"]) < 10
        folder = Path(shutil.copytree(silent_bundle, options["-o"]))
        tree = json.loads((folder / "configs/metadata.json").read_text())
        tree["medidiff"]["finetuned"] = [STORY]
        (folder / "configs/metadata.json").write_text(json.dumps(tree))
        return 0

    data = tmp_path / "real/data"
    data.mkdir(parents=True)
    for name, shape in (("microct_bone_ciclope", (40, 40, 100)), ("t1w_sag_anon", (70, 70, 70))):
        nib.save(nib.Nifti1Image((100 * blobs(shape, 0)).astype(np.float32), np.eye(4)), data / f"{name}.nii.gz")
    monkeypatch.setenv("MEDIDIFF_REAL_DATA", str(tmp_path / "real"))
    monkeypatch.setattr(finetune, "medidiff", silence)
    arguments = ["--kind", "bone", "--threads", "1", "--pipeline", str(tiny_bundle), "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["finetune", *arguments])
    finetune.main()
    result = json.loads((tmp_path / "finetune.json").read_text())
    (found,) = result["found"]
    assert [row["scan"] for row in found["rows"]] == [f"slab {k}" for k in range(1, 7)]
    for row in found["rows"]:
        assert row["gain"] == pytest.approx(row["after"] - row["before"])
        assert row["after"] > row["before"] > row["noisy"] + 3
    assert found["gain"] == pytest.approx(np.mean([row["gain"] for row in found["rows"][:5]]))
    assert found["gain_unseen"] == found["rows"][5]["gain"]
    assert found["forgotten"]["denoise_9"] > 0  # the random network had done harm there too
    text = (tmp_path / "finetune.md").read_text()
    assert "slab 6 (never seen)" in text
    assert "without the truth +0.50 dB (standard error 0.04); 7 iterations" in text
    assert f"Found: {found['gain']:+.2f} dB, {found['gain_unseen']:+.2f} dB on a sixth scan" in text
    assert "bone: at least 0.3 dB" in capsys.readouterr().out


def test_noise_is_in_percent_of_the_bright_level() -> None:
    clean = np.full((30, 30, 30), 100, np.float32)
    clean[:10] = 20
    scan = Scan("one", clean, np.eye(4))
    added = finetune.add_noise(scan, 5, "gaussian", 1) - clean
    assert float(added.std()) == pytest.approx(5, rel=0.03)
    hounsfield = Scan("two", np.where(clean > 50, np.float32(76), np.float32(-1024)), np.eye(4))
    added = finetune.add_noise(hounsfield, 5, "gaussian", 1) - hounsfield.clean
    assert float(added.std()) == pytest.approx(0.05 * 1100, rel=0.03)
    assert float(finetune.add_noise(scan, 30, "rician", 1).min()) >= 0


def test_a_user_would_give_the_noise_in_percent_of_the_noisy_scan() -> None:
    clean = np.full((30, 30, 30), 100, np.float32)
    clean[:10] = 20
    scan = Scan("one", clean, np.eye(4))
    noisy = finetune.add_noise(scan, 5, "gaussian", 1)
    assert finetune.percent_of(noisy, scan) == pytest.approx(500 / float(np.percentile(noisy[10:], 99.5)), rel=0.02)


def test_figures_of_ct_count_from_air() -> None:
    clean = np.linspace(-1000, 1000, 1000, dtype=np.float32).reshape(10, 10, 10)
    off = finetune.quality(clean + 20, Scan("one", clean, np.eye(4)))
    assert off == pytest.approx(20 * np.log10(2000 / 20), abs=0.01)


@pytest.mark.real
def test_every_kind_has_six_scans(real_data: Path) -> None:
    for kind in KINDS.values():
        scans = kind.scans(real_data / "data")
        assert len(scans) == 6
        assert all(min(scan.clean.shape) >= 10 for scan in scans)
