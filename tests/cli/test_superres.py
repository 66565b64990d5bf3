from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from medidiff.cli import main
from medidiff.errors import CannotWrite, OutOfMemory, PipelineError

Write = Callable[..., Path]
Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("fake")


def superres(*args: object) -> int:
    return main(["superres", *map(str, args)])


def raise_(error: BaseException) -> Callable[..., None]:
    def hook(*_: object, **__: object) -> None:
        raise error

    return hook


def test_nifti_from_end_to_end(scan: Write, tmp_path: Path, capsys: Capture) -> None:
    source, out = scan(tmp_path / "in" / "t1.nii.gz"), tmp_path / "out"
    assert superres(source, "-o", out, "--factor", "1,1,3") == 0
    stdout, stderr = capsys.readouterr()
    assert stdout.splitlines() == [str(out / "t1_superres.nii.gz")]
    assert stderr.splitlines()[-1] == f"1 scan: 1 done; see {out / 'run.json'}"
    finer = nib.load(out / "t1_superres.nii.gz")
    assert finer.shape == (8, 7, 18)
    np.testing.assert_allclose(finer.header.get_zooms(), [2, 2, 1], rtol=1e-6)
    assert superres(source, "-o", out, "--factor", "1,1,3") == 0
    assert "1 skipped" in capsys.readouterr().err
    assert superres(source, "-o", out, "--factor", "1,1,2") == 0
    assert nib.load(out / "t1_superres.nii.gz").shape == (8, 7, 12)


def test_dicom_series_from_end_to_end(sample_data: Path, tmp_path: Path, capsys: Capture) -> None:
    series, out = sample_data / "dicom_mr", tmp_path / "out"
    assert superres(series, "-o", out, "--factor", "1,1,2", "--uncertainty", "--samples", "1", "--gamma", "1") == 0
    (restored,) = [Path(line) for line in capsys.readouterr().out.splitlines()]
    count = len(list(series.iterdir()))
    assert len(list(restored.glob("*.dcm"))) == 2 * count
    assert len(list(restored.with_name(f"{restored.name}_sample").glob("*.dcm"))) == 2 * count
    assert nib.load(restored.with_name(f"{restored.name}_uncertainty.nii.gz")).shape[2] == 2 * count
    outputs = json.loads((out / "run.json").read_text())["cases"][0]["outputs"]
    assert outputs["supplied"] == f"{restored.name}_supplied.nii.gz"


def test_voxels_without_a_value_are_written_where_a_mask_covers_them(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(100, 9, (8, 7, 6)).astype(np.float32)
    masked, gone = np.zeros(values.shape, np.uint8), values.copy()
    masked[2:4, 2:4, 2:4] = 1
    gone[2:4, 2:4, 2:5] = np.nan
    for name, array in (("t1", gone), ("mask", masked)):
        nib.save(nib.Nifti1Image(array, np.diag([2.0, 2, 3, 1])), tmp_path / f"{name}.nii")
    assert (
        superres(tmp_path / "t1.nii", "-o", tmp_path / "o", "--factor", "1,1,2", "--mask", tmp_path / "mask.nii") == 0
    )
    found = np.isfinite(nib.load(tmp_path / "o" / "t1_superres.nii.gz").get_fdata())
    np.testing.assert_array_equal(found, np.isfinite(gone).repeat(2, axis=2) | (masked > 0).repeat(2, axis=2))


def test_flags_reach_the_settings(scan: Write, tmp_path: Path) -> None:
    source, out = scan(tmp_path / "t1.nii.gz"), tmp_path / "out"
    assert superres(source, "-o", out, "--spacing", "1", "--profile", "box", "--noise", "0") == 0
    tree = json.loads((out / "t1_superres.json").read_text())
    options = tree["config"]["restore"]
    assert (options["factor"], options["spacing"], options["profile"]) == (None, [1, 1, 1], "box")
    assert options["noise"] == 0
    assert tree["task"] == "superres"
    assert superres(source, "-o", out, "--factor", "2") == 0
    options = json.loads((out / "t1_superres.json").read_text())["config"]["restore"]
    assert (options["factor"], options["noise"]) == ([2, 2, 2], None)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--factor", "0.5"], "not between 1 and 16"),
        (["--factor", "1,1,17"], "not between 1 and 16"),
        (["--factor", "2,2"], "neither one number nor three"),
        (["--factor", "nan"], "not between 1 and 16"),
        (["--factor", "big"], "neither one number nor three"),
        (["--spacing", "0"], "not above 0"),
        (["--spacing", "1,-1,1"], "not above 0"),
        (["--spacing", "inf"], "finite"),
        (["--factor", "2", "--spacing", "1"], "factor and spacing"),
        (["--gamma", "0.5"], "gamma mixes a posterior sample in; it needs samples of 1 or more"),
        (["--profile", "round"], "profile"),
        (["--mask", "absent.nii.gz"], "The mask absent.nii.gz does not exist"),
        (["--mask", ""], "empty"),
    ],
)
def test_bad_flags_are_usage_errors(scan: Write, tmp_path: Path, capsys: Capture, args: list[str], words: str) -> None:
    source = scan(tmp_path / "t1.nii.gz")
    assert superres(source, "-o", tmp_path / "out", *args) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    (line,) = stderr.splitlines()
    assert words in line
    assert not (tmp_path / "out").exists()


def test_exit_codes(scan: Write, tmp_path: Path, fake: ModuleType, capsys: Capture) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    assert superres(folder, "-o", out) == 3
    (folder / "bad.nii.gz").write_text("no scan")
    assert superres(folder, "-o", out) == 5
    scan(folder / "good.nii.gz")
    assert superres(folder, "-o", out) == 4
    assert superres(folder / "good.nii.gz", "-o", tmp_path / "six", "-p", "absent") == 6
    for code, error in ((6, PipelineError("It is damaged.")), (7, OutOfMemory("It is too large."))):
        fake.on_restore = raise_(error)
        assert superres(folder / "good.nii.gz", "-o", tmp_path / "more") == code
    fake.on_restore = raise_(CannotWrite("It cannot be written."))
    assert superres(folder / "good.nii.gz", "-o", tmp_path / "more") == 8
    fake.on_restore = raise_(KeyboardInterrupt())
    assert superres(folder / "good.nii.gz", "-o", tmp_path / "more") == 130
    assert "Traceback" not in capsys.readouterr().err


def test_pipeline_that_does_not_do_the_task(scan: Write, tmp_path: Path, fake: ModuleType, capsys: Capture) -> None:
    fake.make_bundle(fake.home, tasks=("denoise",))
    assert superres(scan(tmp_path / "t1.nii.gz"), "-o", tmp_path / "out", "-p", "fake") == 6
    assert "Pipeline fake does not superres; it does: denoise." in capsys.readouterr().err
    assert superres(tmp_path / "t1.nii.gz", "-o", tmp_path / "out") == 6
    assert "No installed pipeline can superres" in capsys.readouterr().err
