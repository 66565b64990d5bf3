"""A result is what its sidecar says, or the culprit is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medidiff.config import RestoreOptions
from medidiff.errors import NoScanFound, OutOfMemory, UsageError
from medidiff.runs import RunResult, environment, seal
from medidiff.runs.locate import Hints
from medidiff.runs.verify import Verification, sidecars, verify

Go = Callable[..., RunResult]
Write = Callable[..., Path]


@pytest.fixture(params=["denoise", "superres", "inpaint"])
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def series(sample_data: Path, folder: Path, count: int = 6) -> Path:
    folder.mkdir(parents=True)
    for path in sorted((sample_data / "dicom_mr").glob("*.dcm"))[:count]:
        shutil.copy(path, folder)
    return folder


def mask_of(scan: Path, path: Path) -> Path:
    image = nib.load(scan)
    hole = np.zeros(image.shape, dtype=np.uint8)
    hole[2:5, 2:5, 2:4] = 1
    nib.save(nib.Nifti1Image(hole, image.affine), path)
    return path


@pytest.fixture
def made(go: Go, scan: Write, tmp_path: Path) -> Callable[..., Path]:
    """Runs a task on a scan of known values and gives the sidecar; all that a run can write is written."""

    def run(task: str = "denoise", **settings: Any) -> Path:
        source = scan(tmp_path / "in" / "t1.nii.gz")
        if task != "denoise":
            settings.setdefault("mask", mask_of(source, tmp_path / "mask.nii.gz"))
        options = {"samples": 1, "gamma": 0.5, "seed": 3}
        options |= ({"factor": 2} if task == "superres" else {}) | settings.pop("options", {})
        go(source, output=tmp_path / "out", task=task, restore=RestoreOptions(**options), **settings)
        return next(path for path in (tmp_path / "out").glob("*.json") if path.name != "run.json")

    return run


def flip(path: Path, at: int = -1) -> None:
    """Alter one byte of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def edit(sidecar: Path, change: Callable[[dict[str, Any]], None]) -> None:
    tree = json.loads(sidecar.read_text())
    change(tree)
    sidecar.write_text(json.dumps(tree, indent=2))


def states(found: Verification) -> dict[str, str]:
    return {finding.subject: finding.state for finding in found.findings}


def text_of(found: Verification, subject: str) -> str:
    return next(finding.text for finding in found.findings if finding.subject == subject)


def test_fresh_result_comes_again_byte_for_byte(made: Callable[..., Path], task: str) -> None:
    found = verify(made(task))
    assert found.verified
    assert found.culprits == ()
    assert set(states(found).values()) == {"same"}
    assert ("mask" in states(found)) == (task != "denoise")
    assert text_of(found, "re-run") == "the same bytes came again, 4 files"
    assert found.largest is None


def test_modality_that_a_file_stated_is_kept_without_it(made: Callable[..., Path], tmp_path: Path) -> None:
    stated = tmp_path / "in" / "t1.json"
    stated.parent.mkdir()
    stated.write_text('{"Modality": "PT"}')
    sidecar = made()
    assert [volume["modality"] for volume in json.loads(sidecar.read_text())["volumes"]] == ["PT"]
    stated.unlink()
    assert verify(sidecar).verified


def test_preset_is_verified_with_its_settings(made: Callable[..., Path], fake: ModuleType) -> None:
    sidecar = made(options={"preset": "best"})
    seen: list[RestoreOptions] = []
    restore = fake.Pipeline.restore

    def spy(self: Any, volume: Any, options: RestoreOptions, **more: Any) -> Any:
        seen.append(options)
        return restore(self, volume, options, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake.Pipeline, "restore", spy)
        assert verify(sidecar).verified
    assert [(one.preset, one.steps, one.flips) for one in seen] == [("best", 16, True)]


def test_fresh_dicom_result_comes_again_byte_for_byte(go: Go, sample_data: Path, tmp_path: Path, task: str) -> None:
    source = series(sample_data, tmp_path / "in")
    if task == "inpaint":  # a slice is missing
        sorted(source.iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])[2].unlink()
    go(source, output=tmp_path / "out", task=task, restore=RestoreOptions(samples=1, gamma=1))
    (file,) = sidecars(tmp_path / "out")
    found = verify(file)
    assert found.verified, found
    assert set(states(found).values()) == {"same"}
    tree = json.loads(file.read_text())
    names = [entry["path"] for entry in tree["outputs"]]
    assert sum(name.endswith(".dcm") and "_uncertainty" in name for name in names) == 1  # a Parametric Map
    assert text_of(found, "re-run") == f"the same bytes came again, {len(names)} files"


def test_two_runs_have_different_uids_and_both_are_verified(go: Go, sample_data: Path, tmp_path: Path) -> None:
    source = series(sample_data, tmp_path / "in")
    uids = set()
    for name in ("one", "two"):
        go(source, output=tmp_path / name)
        (file,) = sidecars(tmp_path / name)
        assert verify(file).verified
        (folder,) = (path for path in (tmp_path / name).iterdir() if path.is_dir())
        uids |= {str(pydicom.dcmread(path).SOPInstanceUID) for path in folder.iterdir()}
    assert len(uids) == 12


def test_series_that_shares_its_study_keeps_its_number(go: Go, sample_data: Path, tmp_path: Path) -> None:
    series(sample_data, tmp_path / "in" / "first")
    other = series(sample_data, tmp_path / "in" / "second")
    for path in other.iterdir():  # takes the number that the result of the first would have
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = dataset.SeriesInstanceUID[:-2] + "99"
        dataset.SOPInstanceUID = dataset.SOPInstanceUID[:-2] + f"{dataset.InstanceNumber + 30}"
        dataset.SeriesNumber = int(dataset.SeriesNumber) + 10_000
        dataset.save_as(path)
    go(tmp_path / "in", output=tmp_path / "out")
    files = sidecars(tmp_path / "out")
    numbers = {json.loads(file.read_text())["dicom"]["series_number"] for file in files}
    assert numbers == {10_004, 20_003}
    assert all(verify(file).verified for file in files)


@pytest.mark.parametrize(
    ("what", "culprit", "text"),
    [
        ("input", "input", "t1.nii.gz is changed"),
        ("mask", "mask", "mask.nii.gz holds other bytes"),
        ("weights", "weights", "model is damaged (its SHA-256 differs)"),
        ("other weights", "weights", "pipeline fake 1.2.3 was used, and fake 1.2.3 has other weights"),
        ("halo", "pipeline", "the settings of fake (halo, ranges, calibration) were changed"),
        ("config", "config", "config in the sidecar was edited"),
        ("seed", "config", "seed in the sidecar was edited"),
        ("hash", "record", "outputs in the sidecar was edited"),
        ("output", "output", "t1_inpainted.nii.gz is altered"),
        ("no output", "output", "t1_inpainted_supplied.nii.gz is gone"),
        ("no input", "input", "../in/t1.nii.gz was not found; say where it lies with --input PATH"),
        ("no mask", "mask", "it was not found; say where it lies with --mask PATH"),
        ("no pipeline", "weights", "pipeline fake 1.2.3 is not installed"),
    ],
)
def test_culprit_is_named(
    made: Callable[..., Path], fake: ModuleType, tmp_path: Path, what: str, culprit: str, text: str
) -> None:
    sidecar = made("inpaint")
    out = tmp_path / "out"
    match what:
        case "input":
            flip(tmp_path / "in" / "t1.nii.gz")
        case "mask":
            flip(tmp_path / "mask.nii.gz", 4)  # the time in the header of gzip: the voxels stay
        case "weights":
            flip(fake.home / "model")
        case "other weights":
            fake.make_bundle(fake.home, weights=b"others")
        case "halo":
            fake.make_bundle(fake.home, halo=1)
        case "config":
            edit(sidecar, lambda tree: tree["config"]["restore"].update(strength=0.9))
        case "seed":
            edit(sidecar, lambda tree: tree.update(seed=4))
        case "hash":
            edit(sidecar, lambda tree: tree["outputs"][0].update(bytes=1))
        case "output":
            flip(out / "t1_inpainted.nii.gz", 400)
        case "no output":
            (out / "t1_inpainted_supplied.nii.gz").unlink()
        case "no input":
            (tmp_path / "in" / "t1.nii.gz").unlink()
        case "no mask":
            (tmp_path / "mask.nii.gz").unlink()
        case "no pipeline":
            shutil.rmtree(fake.home)
    for again in (True, False):
        found = verify(sidecar, again=again)
        assert not found.verified
        assert found.culprits == (culprit,)
        assert text in text_of(found, culprit)
    expected = "same" if culprit == "output" else "skipped"  # what it was made from is there still
    assert states(verify(sidecar))["re-run"] == expected


def test_one_file_of_a_series_is_named(go: Go, sample_data: Path, tmp_path: Path) -> None:
    source = series(sample_data, tmp_path / "in")
    go(source, output=tmp_path / "out")
    (file,) = sidecars(tmp_path / "out")
    flip(source / "IM0003.dcm")
    assert text_of(verify(file, again=False), "input") == "IM0003.dcm is changed"
    flip(source / "IM0003.dcm")
    (source / "IM0002.dcm").unlink()
    shutil.copy(sorted((sample_data / "dicom_mr").iterdir())[10], source / "IM0011.dcm")
    assert text_of(verify(file, again=False), "input") == "IM0002.dcm is gone; IM0011.dcm is new"


def test_file_names_of_a_series_do_not_matter(go: Go, sample_data: Path, tmp_path: Path) -> None:
    source = series(sample_data, tmp_path / "in")
    go(source, output=tmp_path / "out")
    for path in source.iterdir():
        path.rename(path.with_name(f"x{path.stem}"))
    (file,) = sidecars(tmp_path / "out")
    assert verify(file).verified


def test_sidecar_may_be_laid_out_anew(made: Callable[..., Path]) -> None:
    sidecar = made()
    tree = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(dict(reversed(tree.items())), sort_keys=True))
    assert verify(sidecar).verified


def test_sidecar_without_seal_says_so(made: Callable[..., Path]) -> None:
    sidecar = made()
    edit(sidecar, lambda tree: tree.pop("seal"))
    found = verify(sidecar)
    assert found.culprits == ("record",)
    assert text_of(found, "record") == "the sidecar has no seal, so that nothing tells whether it was edited"


def test_altered_output_says_how_far_it_lies_from_the_truth(made: Callable[..., Path], tmp_path: Path) -> None:
    sidecar = made()
    restored = tmp_path / "out" / "t1_denoised.nii.gz"
    image = nib.load(restored)
    values = image.get_fdata(dtype=np.float32)
    wide = float(np.ptp(values))
    values[1, 2, 3] += 0.25 * wide
    nib.save(nib.Nifti1Image(values, image.affine, image.header), restored)
    text = text_of(verify(sidecar), "output")
    assert text.startswith("t1_denoised.nii.gz is altered: the largest difference of a voxel is ")
    assert text.endswith(" a.u. (0.25 of the range) in t1_denoised.nii.gz")


@pytest.mark.parametrize(("apart", "state"), [(1e-5, "same"), (1e-2, "changed")])
def test_other_platform_has_a_tolerance(
    made: Callable[..., Path], fake: ModuleType, monkeypatch: pytest.MonkeyPatch, apart: float, state: str
) -> None:
    sidecar = made()
    wide = float(np.ptp(0.5 * np.arange(8 * 7 * 6, dtype=np.float32)))
    honest = fake.denoise

    def rounded_otherwise(*args: Any) -> Any:
        mean, affine = honest(*args)
        mean[3, 3, 3] += apart * wide
        return mean, affine

    fake.denoise = rounded_otherwise
    here = verify(sidecar)
    assert here.culprits == ("re-run",)  # one machine, one result
    assert "although software and platform are the same" in text_of(here, "re-run")
    machine = environment.machine() | {"processor": "Abacus"}
    monkeypatch.setattr(environment, "machine", lambda: machine)
    there = verify(sidecar)
    assert states(there)["platform"] == "changed"
    assert "became Abacus" in text_of(there, "platform")
    assert states(there)["re-run"] == state
    assert there.verified == (state == "same")
    assert there.culprits == (() if state == "same" else ("platform", "re-run"))
    assert there.largest is not None
    assert there.largest.relative == pytest.approx(apart, rel=1e-2)
    assert there.largest.largest == pytest.approx(apart * wide, rel=1e-2)
    assert verify(sidecar, tolerance=0.1).verified


@pytest.mark.parametrize("formats", [("fp32", "bf16"), ("bf16", "bf16"), ("fp32", "fp32")])
def test_reduced_precision_has_a_wider_tolerance(
    made: Callable[..., Path], fake: ModuleType, formats: tuple[str, str]
) -> None:
    """As when a result of a GPU is made again on another one, or on the CPU."""
    wide = float(np.ptp(0.5 * np.arange(8 * 7 * 6, dtype=np.float32)))
    computes = []
    fake.on_load = computes.append

    def computed_in(precision: str, apart: float) -> Callable[..., Any]:
        def restore(self: Any, volume: Any, options: Any, **more: Any) -> Any:
            restoration = honest(self, volume, options, **more)
            restoration.record |= {"device": "cuda", "precision": precision}
            restoration.mean[3, 3, 3] += apart * wide
            return restoration

        return restore

    honest = fake.Pipeline.restore
    fake.Pipeline.restore = computed_in(formats[0], 0)
    sidecar = made()
    fake.Pipeline.restore = computed_in(formats[1], 5e-3)
    found = verify(sidecar)
    assert found.verified == ("bf16" in formats)
    assert f"tolerance of {0.01 if 'bf16' in formats else 0.001} of the range" in text_of(found, "re-run")
    assert computes[-1].precision == ("fp32" if formats[0] == "fp32" else "auto")
    assert verify(sidecar, tolerance=1e-4).culprits[-1] == "re-run"
    fake.Pipeline.restore = computed_in(formats[1], 5e-2)
    assert not verify(sidecar).verified


def test_other_software_is_named(made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sidecar = made()
    before = environment.packages()["numpy"]
    monkeypatch.setattr(environment, "packages", lambda: {"numpy": "9.9"})
    found = verify(sidecar)
    assert found.verified  # the image is the same
    assert f"numpy {before} became 9.9" in text_of(found, "code")
    monkeypatch.undo()
    monkeypatch.setattr(environment, "code_sha256", lambda: "0" * 64)
    assert text_of(verify(sidecar, again=False), "code").endswith("has other source files")


def test_things_that_were_moved_are_named_by_hand(made: Callable[..., Path], fake: ModuleType, tmp_path: Path) -> None:
    sidecar = made("inpaint")
    away = tmp_path / "away"
    away.mkdir()
    (tmp_path / "in").rename(away / "scans")
    (tmp_path / "mask.nii.gz").rename(away / "hole.nii.gz")
    fake.home.rename(away / "fake")
    assert verify(sidecar).culprits == ("input", "mask", "weights")
    hints = Hints(away / "scans", away / "hole.nii.gz", str(away / "fake"))
    assert verify(sidecar, hints).verified


def test_place_without_what_is_sought_is_named(made: Callable[..., Path], scan: Write, tmp_path: Path) -> None:
    sidecar, other = made("inpaint"), mask_of(scan(tmp_path / "t1.nii.gz"), tmp_path / "other.nii.gz")
    found = verify(sidecar, Hints(other, tmp_path / "nothing"), again=False)
    assert text_of(found, "input") == f"{other} holds no scan of the same bytes or the same name"
    assert text_of(found, "mask") == f"{tmp_path / 'nothing'} is no mask, and holds none for this scan"


def test_lost_and_altered_files_are_both_named(made: Callable[..., Path], tmp_path: Path) -> None:
    sidecar = made()
    (tmp_path / "out" / "t1_denoised.nii.gz").unlink()
    flip(tmp_path / "out" / "t1_denoised_uncertainty.nii.gz", 20)
    text = text_of(verify(sidecar, again=False), "output")
    assert text == "t1_denoised.nii.gz is gone; t1_denoised_uncertainty.nii.gz is altered"


def test_result_alone_finds_its_scan_through_the_record(
    go: Go, scan: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.path.commonpath", lambda paths: "/")  # as for /home/somebody/study and /data/out
    go(scan(tmp_path / "in" / "t1.nii.gz"), output=tmp_path / "out")
    (file,) = sidecars(tmp_path / "out")
    assert json.loads(file.read_text())["input"]["path"] == "t1.nii.gz"
    assert verify(file).verified
    (tmp_path / "out" / "run.json").unlink()
    found = verify(file)
    assert found.culprits == ("input",)
    assert text_of(found, "input") == (
        "t1.nii.gz, of which the sidecar holds the name alone, was not found; say where it lies with --input PATH"
    )
    assert verify(file, Hints(tmp_path / "in")).verified


def test_named_output_file_is_verified(go: Go, scan: Write, tmp_path: Path) -> None:
    go(scan(tmp_path / "t1.nii.gz"), output=tmp_path / "mine.nii")
    assert verify(tmp_path / "mine.json").verified


def test_temporary_folder_is_removed_and_nothing_is_touched(
    made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = made("superres")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert verify(sidecar).verified
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not list(scratch.iterdir())


def test_failure_on_the_way_is_a_finding(made: Callable[..., Path], fake: ModuleType) -> None:
    sidecar = made()

    def fail(volume: object) -> None:
        raise ValueError("boom")

    fake.on_restore = fail
    found = verify(sidecar)
    assert found.culprits == ("re-run",)
    assert "ValueError: boom" in text_of(found, "re-run")


def test_too_little_memory_is_no_verdict(made: Callable[..., Path], fake: ModuleType) -> None:
    sidecar = made()

    def fail(volume: object) -> None:
        raise MemoryError

    fake.on_restore = fail
    with pytest.raises(OutOfMemory):
        verify(sidecar)


def test_what_is_no_result_is_refused(go: Go, scan: Write, fake: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        sidecars(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"holds no run\.json"):
        sidecars(tmp_path)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UsageError, match="not a sidecar"):
        verify(tmp_path / "other.json")

    def fail(volume: object) -> None:
        raise ValueError("boom")

    fake.on_restore = fail
    go(scan(tmp_path / "in" / "t1.nii.gz"), output=tmp_path / "out")
    with pytest.raises(NoScanFound, match="no result"):
        sidecars(tmp_path / "out")


def test_lost_sidecar_of_a_run_is_a_finding(made: Callable[..., Path], tmp_path: Path) -> None:
    made().unlink()
    (file,) = sidecars(tmp_path / "out")
    assert verify(file).culprits == ("record",)


def test_what_earlier_runs_left_is_verified_too(go: Go, scan: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(scan(tmp_path / "in" / "t1.nii.gz"), output=out)
    go(scan(tmp_path / "in" / "t2.nii.gz"), output=out / "sub")
    go(scan(tmp_path / "in" / "a.nii.gz"), output=out)
    shutil.copy(out / "run.json", out / "other.json")  # no sidecar
    files = sidecars(out)
    assert files == (out / "a_denoised.json", out / "sub" / "t2_denoised.json", out / "t1_denoised.json")
    assert all(verify(file).verified for file in files)
    with (out / "t1_denoised.nii.gz").open("ab") as image:
        image.write(b"x")
    assert [verify(file, again=False).culprits for file in files] == [(), (), ("output",)]
    tree = json.loads((out / "t1_denoised.json").read_text())
    (out / "t1_denoised.json").write_text(json.dumps({**tree, "outputs": 3}))
    assert sidecars(out)[-1] == out / "t1_denoised.json"
    with pytest.raises(UsageError, match=r"t1_denoised\.json is damaged"):
        verify(out / "t1_denoised.json")
    (tmp_path / "in" / "t2.nii.gz").unlink()
    assert verify(files[1], again=False).culprits == ("input",)


def test_seal_names_each_section() -> None:
    tree = seal.sealed({"a": 1.5, "b": {"x": [1, 2], "y": "ü"}, "c": None})
    assert seal.broken(tree) == []
    assert seal.broken(json.loads(json.dumps(tree, sort_keys=True, indent=3))) == []
    assert seal.broken({**tree, "b": {"x": [2, 1], "y": "ü"}}) == ["b"]
    assert seal.broken({key: value for key, value in tree.items() if key != "c"}) == ["c"]
    assert seal.broken({**tree, "d": 0}) == ["d"]
    assert seal.broken({"a": 1}) == ["a"]
