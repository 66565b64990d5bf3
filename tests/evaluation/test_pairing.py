from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medidiff.errors import NoScanFound, UsageError
from medidiff.evaluation import pairing
from tests.evaluation.conftest import Save


def paired(restored: Path, reference: Path) -> dict[str, str]:
    pairs, _ = pairing.find(restored, reference, None)
    return {pair.restored.relative.as_posix(): pair.reference.relative.as_posix() for pair in pairs if pair.reference}


@pytest.mark.parametrize(
    "name",
    ["t1w_denoised.nii.gz", "t1w_superres.nii", "t1w_inpainted.nii.gz", "t1w_desc-denoised.nii.gz", "T1w.nii"],
)
def test_names_without_what_medidiff_adds(tmp_path: Path, save: Save, image: np.ndarray, name: str) -> None:
    save(tmp_path / "restored" / name, image)
    save(tmp_path / "truth/t1w.nii.gz", image)
    save(tmp_path / "truth/t2w.nii.gz", image)
    assert paired(tmp_path / "restored", tmp_path / "truth") == {name: "t1w.nii.gz"}


def test_the_same_subfolder_goes_first_and_doubt_is_no_partner(tmp_path: Path, save: Save, image: np.ndarray) -> None:
    for place in ("a", "b"):
        save(tmp_path / f"restored/{place}/t1w_denoised.nii.gz", image)
        save(tmp_path / f"truth/{place}/t1w.nii.gz", image)
    assert paired(tmp_path / "restored", tmp_path / "truth") == {
        "a/t1w_denoised.nii.gz": "a/t1w.nii.gz",
        "b/t1w_denoised.nii.gz": "b/t1w.nii.gz",
    }
    save(tmp_path / "restored/t1w_denoised.nii.gz", image)
    _, missing = pairing.find(tmp_path / "restored", tmp_path / "truth", None)
    assert missing == ["t1w_denoised has no reference named t1w."]


def test_one_scan_and_one_named_reference_belong_together(tmp_path: Path, save: Save, image: np.ndarray) -> None:
    restored = save(tmp_path / "out/x.nii.gz", image)
    truth = save(tmp_path / "truth/y.nii.gz", image)
    assert paired(restored, truth) == {"x.nii.gz": "y.nii.gz"}
    assert paired(tmp_path / "out", truth) == {"x.nii.gz": "y.nii.gz"}
    assert paired(restored, tmp_path / "truth") == {}  # in a folder names decide


def test_maps_beside_the_result_are_no_results(tmp_path: Path, save: Save, image: np.ndarray) -> None:
    for name in ("t1w_denoised", "t1w_denoised_uncertainty", "t1w_denoised_supplied", "t1w_denoised_sample"):
        save(tmp_path / f"out/{name}.nii.gz", image)
    save(tmp_path / "t1w.nii.gz", image)
    (pair,) = pairing.find(tmp_path / "out", tmp_path / "t1w.nii.gz", None)[0]
    assert pair.restored.stem == "t1w_denoised"
    assert pair.uncertainty == tmp_path / "out/t1w_denoised_uncertainty.nii.gz"
    assert pair.task == "denoise"


def test_a_run_is_what_its_record_lists(tmp_path: Path, save: Save, image: np.ndarray) -> None:
    save(tmp_path / "out/sub/t1w_denoised.nii.gz", image)
    save(tmp_path / "out/leftover.nii.gz", image)
    cases = [
        {"outputs": {"restored": "sub/t1w_denoised.nii.gz"}},
        {"outputs": {"restored": None}},
        {"outputs": {"restored": "gone.nii.gz"}},
    ]
    (tmp_path / "out/run.json").write_text(json.dumps({"medidiff": "0", "cases": cases}))
    assert [ref.stem for ref in pairing.restored_scans(tmp_path / "out")] == ["t1w_denoised"]


def test_results_of_earlier_runs_in_the_folder_belong_to_it(tmp_path: Path, save: Save, image: np.ndarray) -> None:
    for name in ("a", "b", "c"):
        save(tmp_path / f"out/{name}_denoised.nii.gz", image, sidecar={"task": "denoise", "input": {}})
    save(tmp_path / "out/b_denoised_uncertainty.nii.gz", image)
    save(tmp_path / "out/leftover.nii.gz", image)
    cases = [{"outputs": {"restored": "c_denoised.nii.gz", "sidecar": "c_denoised.json"}}]
    (tmp_path / "out/run.json").write_text(json.dumps({"medidiff": "0", "cases": cases}))
    (tmp_path / "out/a_denoised.nii.gz").unlink()
    assert [ref.stem for ref in pairing.restored_scans(tmp_path / "out")] == ["c_denoised", "b_denoised"]
    save(tmp_path / "truth/c.nii.gz", image)
    pairs, missing = pairing.find(tmp_path / "out", tmp_path / "truth", None)
    assert ([pair.name for pair in pairs], missing) == (["c"], ["b_denoised has no reference named b."])


def test_results_of_a_run_belong_to_the_references_of_their_subfolder(
    tmp_path: Path, save: Save, image: np.ndarray, sample_data: Path
) -> None:
    for place in ("a", "b"):
        save(tmp_path / f"out/{place}/t1w_denoised.nii.gz", image, sidecar={"task": "denoise", "input": {}})
        save(tmp_path / f"truth/{place}/t1w.nii.gz", image)
        shutil.copytree(sample_data / "dicom_mr", tmp_path / f"out/{place}/s/10007_T1w_denoised")
        shutil.copytree(sample_data / "dicom_mr", tmp_path / f"truth/{place}/s")
    other = pydicom.uid.generate_uid()
    for file in (tmp_path / "truth/b/s").iterdir():  # two series, not one over two folders
        ds = pydicom.dcmread(file)
        ds.SeriesInstanceUID = other
        ds.save_as(file)
    save(tmp_path / "truth/t1w.nii.gz", image)
    done = [f"{place}/{name}" for place in ("a", "b") for name in ("t1w_denoised.nii.gz", "s/10007_T1w_denoised")]
    cases = [{"outputs": {"restored": name}} for name in done[:3]]
    (tmp_path / "out/run.json").write_text(json.dumps({"medidiff": "0", "cases": cases}))
    found = paired(tmp_path / "out", tmp_path / "truth")
    assert {Path(one).parent for one in found} == {Path("a"), Path("a/s"), Path("b")}
    assert all(Path(one).parent == Path(other).parent for one, other in found.items())


def test_the_sidecar_tells_name_task_and_input(tmp_path: Path, save: Save, image: np.ndarray) -> None:
    scan = save(tmp_path / "scans/patient.nii.gz", image)
    told = {"path": "../scans/patient.nii.gz", "content_sha256": hashlib.sha256(scan.read_bytes()).hexdigest()}
    save(tmp_path / "out/mine.nii.gz", image, sidecar={"task": "superres", "input": told})
    truth = save(tmp_path / "truth/patient.nii.gz", image)
    save(tmp_path / "truth/mine.nii.gz", image)
    (pair,) = pairing.find(tmp_path / "out", tmp_path / "truth", None)[0]
    assert (pair.name, pair.task) == ("patient", "superres")
    assert pair.reference is not None
    assert pair.reference.path == truth
    assert pair.input is not None
    assert pair.input.path.samefile(scan)
    save(scan, image + 1)  # other bytes under the same name are not what was restored
    (pair,) = pairing.find(tmp_path / "out", tmp_path / "truth", None)[0]
    assert pair.input is None
    (pair,) = pairing.find(tmp_path / "out", tmp_path / "truth", tmp_path / "scans")[0]
    assert pair.input is not None


def test_series_are_paired_without_their_numbers(tmp_path: Path, sample_data: Path) -> None:
    shutil.copytree(sample_data / "dicom_mr", tmp_path / "restored/10007_T1w_denoised")
    shutil.copytree(sample_data / "dicom_mr", tmp_path / "truth/7_T1w")
    (ref,) = pairing.scans_in(tmp_path / "truth", "reference")
    (pair,) = pairing.find(tmp_path / "restored", tmp_path / "truth", None)[0]
    assert pair.reference == ref
    names = pairing.names_of(pair.restored, {})
    assert "10007_T1w" in names
    assert pairing.partner_of(pair.restored, ["10007_T1w"], [ref], alone=False) == ref


def test_no_scans_are_told(tmp_path: Path, save: Save, image: np.ndarray) -> None:
    scan = save(tmp_path / "scan.nii.gz", image)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoScanFound, match="No restored scan"):
        pairing.find(tmp_path / "empty", scan, None)
    with pytest.raises(NoScanFound, match="No reference was found"):
        pairing.find(scan, tmp_path / "empty", None)
    with pytest.raises(UsageError, match="does not exist"):
        pairing.find(scan, tmp_path / "absent", None)


def test_files_of_a_case_in_a_folder(tmp_path: Path, save: Save, image: np.ndarray) -> None:
    file = save(tmp_path / "t1w_labels.nii.gz", image)
    assert pairing.named_file(tmp_path, ["t1w"], ["_labels"]) == file
    assert pairing.named_file(tmp_path, ["t2w"], ["_labels"]) is None
    assert pairing.named_file(file, ["t2w"], ()) == file
    with pytest.raises(UsageError):
        pairing.named_file(tmp_path / "absent", ["t1w"], ())
