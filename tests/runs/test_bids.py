"""--bids: a dataset in, a derivatives dataset out that the BIDS validator accepts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medidiff._version import __version__
from medidiff.cli import main
from medidiff.config import RestoreOptions
from medidiff.errors import CannotWrite, ExitCode, UsageError
from medidiff.evaluation import pairing
from medidiff.runs import RunResult
from medidiff.runs.verify import sidecars, verify

Go = Callable[..., RunResult]
ALL = RestoreOptions(samples=1, gamma=0.5)
IMAGES = {
    "sub-01/anat/sub-01_T1w": (),
    "sub-01/dwi/sub-01_dwi": (3,),
    "sub-01/func/sub-01_task-rest_bold": (2,),
    "sub-02/ses-1/anat/sub-02_ses-1_T1w": (),
}


def write_image(path: Path, more: tuple[int, ...] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(path.name)).integers(90, 200, (7, 6, 5, *more)).astype(np.int16)
    image = nib.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    if more:
        image.header["pixdim"][4] = 2.0
    nib.save(image, path)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "ds"
    for name, more in IMAGES.items():
        write_image(root / f"{name}.nii.gz", more)
    texts: dict[str, Any] = {
        "dataset_description.json": {"Name": "Made", "BIDSVersion": "1.10.1", "DatasetType": "raw"},
        "README.md": "A dataset of random numbers, made for a test of names and of metadata.\n" * 3,
        "T1w.json": {"RepetitionTime": 2.3, "InstitutionName": "Sankt Olavs", "AcquisitionTime": "03:04:05"},
        "sub-01/anat/sub-01_T1w.json": {"EchoTime": 0.004},
        "sub-01/func/sub-01_task-rest_bold.json": {
            "RepetitionTime": 2.0,
            "TaskName": "rest",
            "SliceTiming": [0, 0.4, 0.8, 1.2, 1.6],
        },
        "sub-01/dwi/sub-01_dwi.json": {"PhaseEncodingDirection": "j"},
        "dwi.bval": "0 1000 1000\n",
        "dwi.bvec": "0 1 0\n0 0 1\n0 0 0\n",
    }
    for name, text in texts.items():
        (root / name).write_text(text if isinstance(text, str) else json.dumps(text))
    return root


def tree(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def errors(folder: Path) -> list[str]:
    """What the validator finds wrong; skips the test where it is not installed or does not run offline."""
    program = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent)) or shutil.which(
        "bids-validator-deno"
    )
    if program is None:
        pytest.skip("bids-validator-deno is not installed")
    done = subprocess.run([program, "--format", "json", folder], capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["issues"]["issues"]
    except (ValueError, KeyError):
        pytest.skip(f"bids-validator-deno does not run here: {done.stderr[-200:]}")
    return [
        f"{each['code']} {each.get('subCode', '')} {each.get('location')}"
        for each in found
        if each["severity"] == "error"
    ]


def test_derivatives_are_valid(go: Go, dataset: Path, tmp_path: Path) -> None:
    assert errors(dataset) == []
    out = tmp_path / "out"
    for task in ("denoise", "superres"):
        assert go(dataset, output=out, task=task, bids=True, restore=ALL).exit_code == ExitCode.OK
    (out / "report.html").write_text("as --report writes it")
    assert errors(out) == []


def test_names_and_files(go: Go, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = go(dataset, output=out, bids=True, restore=ALL)
    words = ("denoised", "denoisedSample", "denoisedSupplied", "denoisedUncertainty")
    stems = [name.rpartition("_") for name in IMAGES]
    images = {f"{a}_desc-{word}_{b}{end}" for a, _, b in stems for word in words for end in (".nii.gz", ".json")}
    top = {".bidsignore", "README.md", "dataset_description.json", "descriptions.tsv", "run.json"}
    assert files(out) == images | top | {"sub-01/dwi/sub-01_dwi.bval", "sub-01/dwi/sub-01_dwi.bvec"}
    assert (out / "sub-01/dwi/sub-01_dwi.bval").read_text() == "0 1000 1000\n"
    restored = [case.restored for case in result.record.cases]
    assert restored[0] == "sub-01/anat/sub-01_desc-denoised_T1w.nii.gz"
    half = nib.load(dataset / "sub-01/anat/sub-01_T1w.nii.gz").get_fdata() / 2
    np.testing.assert_allclose(nib.load(out / restored[0]).get_fdata(), half, atol=0.51)
    ignored = (out / ".bidsignore").read_text().split()
    assert "run.json" in ignored


def test_what_the_dataset_says_of_itself(go: Go, dataset: Path, tmp_path: Path) -> None:
    out = dataset / "derivatives" / "medidiff"
    go(dataset, output=out, bids=True, uncertainty=True)
    told = tree(out / "dataset_description.json")
    assert told["DatasetType"] == "derivative"
    assert told["Name"] == "Made: restored with medidiff"
    assert {"Name": "medidiff", "Version": __version__}.items() <= told["GeneratedBy"][0].items()
    assert told["SourceDatasets"] == [{"URL": "bids:source:"}]
    assert told["DatasetLinks"] == {"source": "../.."}
    rows = (out / "descriptions.tsv").read_text().splitlines()
    assert rows[0] == "desc_id\tdescription"
    assert rows[1].startswith("desc-denoised\tDenoised by medidiff")
    go(dataset, output=out, task="superres", bids=True)
    assert {row.split("\t")[0] for row in (out / "descriptions.tsv").read_text().splitlines()} >= {
        "desc-denoised",
        "desc-superres",
        "desc-superresUncertainty",
    }


def test_sidecars_speak_bids(go: Go, dataset: Path, tmp_path: Path) -> None:
    go(dataset, output=tmp_path / "out", bids=True, uncertainty=True)
    told = tree(tmp_path / "out/sub-01/anat/sub-01_desc-denoised_T1w.json")
    assert told["Sources"] == ["bids:source:sub-01/anat/sub-01_T1w.nii.gz"]
    assert told["SkullStripped"] is False
    assert (told["RepetitionTime"], told["EchoTime"]) == (2.3, 0.004)
    assert "InstitutionName" not in told
    assert "AcquisitionTime" not in told
    assert told["pipeline"]["name"] == "fake"  # and all that a sidecar of medidiff holds
    beside = tree(tmp_path / "out/sub-01/anat/sub-01_desc-denoisedUncertainty_T1w.json")
    assert beside["Sources"] == told["Sources"]
    assert "standard deviation" in beside["Description"]
    assert "pipeline" not in beside
    bold = tree(tmp_path / "out/sub-01/func/sub-01_task-rest_desc-denoised_bold.json")
    assert bold["SliceTiming"] == [0, 0.4, 0.8, 1.2, 1.6]
    go(dataset, output=tmp_path / "finer", task="superres", bids=True)
    finer = tree(tmp_path / "finer/sub-01/func/sub-01_task-rest_desc-superres_bold.json")
    assert "SliceTiming" not in finer  # of slices that are no more
    assert finer["RepetitionTime"] == 2.0


def test_verified_resumed_repeated(go: Go, fake: Any, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(dataset, output=out, bids=True, restore=ALL)
    for file in sidecars(out)[:2]:
        assert {finding.state for finding in verify(file).findings} == {"same"}
    loads = len(fake.loads)
    again = go(dataset, output=out, bids=True, restore=ALL)
    assert {case.status for case in again.record.cases} == {"skipped"}
    assert len(fake.loads) == loads
    assert main(["denoise", "--config", str(out / "run.json"), "-o", str(tmp_path / "a"), "-q"]) == 0
    assert files(tmp_path / "a") == files(out)
    image = out / "sub-01" / "anat" / "sub-01_desc-denoised_T1w.nii.gz"
    before = image.read_bytes()
    image.unlink()
    assert main(["denoise", "--config", str(image.with_name("sub-01_desc-denoised_T1w.json")), "-q"]) == 0
    assert image.read_bytes() == before


def test_evaluated_by_the_names_of_the_dataset(go: Go, dataset: Path, tmp_path: Path) -> None:
    go(dataset, output=tmp_path / "out", bids=True, uncertainty=True)
    pairs, missing = pairing.find(tmp_path / "out", dataset, None)
    assert missing == []
    assert [pair.name for pair in pairs] == [name.rpartition("/")[2] for name in IMAGES]
    for pair in pairs:
        assert pair.reference is not None
        assert pair.reference.path.name == f"{pair.name}.nii.gz"
        assert pair.uncertainty is not None
        assert "desc-denoisedUncertainty" in pair.uncertainty.name


def test_derivatives_of_derivatives(go: Go, dataset: Path, tmp_path: Path) -> None:
    out, second = tmp_path / "out", tmp_path / "second"
    go(dataset, output=out, bids=True, uncertainty=True)
    go(out, output=second, task="superres", bids=True)
    names = {name for name in files(second) if name.endswith(".nii.gz")}
    assert "sub-01/anat/sub-01_desc-denoisedSuperres_T1w.nii.gz" in names
    assert len(names) == len(IMAGES)  # the maps are no images
    assert errors(second) == []


def test_a_mask_of_the_dataset_is_a_source(go: Go, dataset: Path, tmp_path: Path) -> None:
    place = "derivatives/lesions/sub-01/anat/sub-01_label-lesion_mask.nii.gz"
    mask = dataset / place
    mask.parent.mkdir(parents=True)
    hole = np.zeros((7, 6, 5), np.uint8)
    hole[2:4, 2:4, 2] = 1
    nib.save(nib.Nifti1Image(hole, np.diag([2.0, 2.0, 3.0, 1.0])), mask)
    lesions = dataset / "derivatives" / "lesions"
    result = go(dataset, output=tmp_path / "out", task="inpaint", mask=lesions, bids=True, include=("sub-01_T1w*",))
    assert result.exit_code == ExitCode.OK
    told = tree(tmp_path / "out/sub-01/anat/sub-01_desc-inpainted_T1w.json")
    assert told["Sources"][1] == f"bids:source:{place}"


def test_without_bids_a_dataset_keeps_the_usual_names(go: Go, dataset: Path, tmp_path: Path) -> None:
    go(dataset, output=tmp_path / "out")
    assert (tmp_path / "out/sub-01/anat/sub-01_T1w_denoised.nii.gz").is_file()
    assert not (tmp_path / "out" / "dataset_description.json").exists()


def test_what_is_no_dataset_is_refused(go: Go, dataset: Path, sample_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_image(tmp_path / "scans" / "t1.nii.gz")
    write_image(tmp_path / "other" / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    (tmp_path / "other" / "dataset_description.json").write_text("{}")
    for given, words in (
        ([tmp_path / "scans"], "lies in no BIDS dataset"),
        ([sample_data / "dicom_mr"], "lies in no BIDS dataset"),
        ([dataset, tmp_path / "other"], "several BIDS datasets"),
    ):
        with pytest.raises(UsageError, match=words):
            go(*given, output=out, bids=True)
    with pytest.raises(UsageError, match="--bids writes a dataset"):
        go(dataset / "sub-01" / "anat", output=tmp_path / "x.nii.gz", bids=True)
    assert not out.exists()


def test_what_lies_in_the_output_stays(go: Go, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("Mine.")
    (out / ".bidsignore").write_text("notes/")
    go(dataset / "sub-01" / "anat", output=out, bids=True)
    assert (out / "README.md").read_text() == "Mine."
    assert (out / ".bidsignore").read_text().splitlines()[:2] == ["notes/", "run.json"]


def test_a_dataset_of_somebody_else_is_not_overwritten(go: Go, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for text in ('{"Name": "fMRIPrep", "GeneratedBy": [{"Name": "fMRIPrep"}]}', "damaged"):
        (out / "dataset_description.json").write_text(text)
        with pytest.raises(CannotWrite, match="did not write"):
            go(dataset, output=out, bids=True)
        assert (out / "dataset_description.json").read_text() == text
    assert files(out) == {"dataset_description.json"}
