"""Names in BIDS datasets: what is restored, what is left out, what derivatives are called, what is inherited."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medidiff.scans import bids
from medidiff.scans.discover import find_scans

Write = Callable[..., Path]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "ds"
    root.mkdir()
    (root / bids.DESCRIPTION).write_text("{}")
    return root


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("stem", "word", "name"),
    [
        ("sub-01_T1w", "denoised", "sub-01_desc-denoised_T1w"),
        ("sub-01_ses-a_task-rest_bold", "superres", "sub-01_ses-a_task-rest_desc-superres_bold"),
        ("sub-01_desc-preproc_T1w", "inpainted", "sub-01_desc-preprocInpainted_T1w"),
        ("sub-01_desc-denoised_T1w", "uncertainty", "sub-01_desc-denoisedUncertainty_T1w"),
    ],
)
def test_names_of_derivatives(stem: str, word: str, name: str) -> None:
    assert bids.derived(stem, word) == name


@pytest.mark.parametrize("stem", ["T1", "sub-01", "sub-_T1w", "sub-01_sub-02_T1w", "sub-01_T1-w", "t1_brain", ""])
def test_other_names_are_none_of_bids(stem: str) -> None:
    name = bids.parse(stem)
    assert name is None or "sub" not in name.entities


def test_names_beside_an_image() -> None:
    names = bids.beside(Path("out/sub-01_desc-denoised_T1w.nii.gz"))
    assert names.sidecar == Path("out/sub-01_desc-denoised_T1w.json")
    assert names.uncertainty == Path("out/sub-01_desc-denoisedUncertainty_T1w.nii.gz")
    assert {path.name.count("desc-denoised") for path in names.all} == {1}
    assert len(set(names.all)) == 5


def test_a_dataset_gives_its_images(dataset: Path) -> None:
    images = [
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/dwi/sub-01_dwi.nii",
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_FLAIR.nii.gz",
    ]
    others = {
        "sub-01/anat/sub-01_label-lesion_mask.nii.gz": "mask is no image",
        "sub-01/anat/sub-01_T1map.nii.gz": "T1map is no image",
        "sub-01/anat/sub-01_part-phase_T2starw.nii.gz": "phase part",
        "sub-01/anat/sub-01_desc-denoisedUncertainty_T1w.nii.gz": "beside a restored image",
        "sub-01/anat/t1.nii.gz": "not named as BIDS asks",
        "sub-01/fmap/sub-01_magnitude1.nii.gz": "of datatype fmap",
        "sub-01/pet/sub-01_pet.nii.gz": "of datatype pet",
    }
    folders = ["code", "derivatives", "sourcedata"]
    put(dataset, *images, *others, *(f"{name}/sub-01/anat/sub-01_T1w.nii.gz" for name in folders))
    put(dataset, "README.md", "sub-01/anat/sub-01_T1w.json", ".git/sub-01/anat/sub-01_T1w.nii.gz")
    found = find_scans([dataset])
    assert [case.relative.as_posix() for case in found.cases] == images
    reasons = {each.path.relative_to(dataset).as_posix(): each.reason for each in found.skipped}
    assert sorted(reasons) == sorted([*others, *folders])
    assert all(words in reasons[name] for name, words in others.items())
    assert all("name it as the input" in reasons[name] for name in folders)


def test_what_is_named_itself_is_taken(dataset: Path) -> None:
    put(dataset, "derivatives/x/sub-01_T1w.nii.gz", "sub-01/fmap/sub-01_magnitude1.nii.gz")
    mine = [dataset / "derivatives", dataset / "sub-01" / "fmap"]
    assert [case.stem for case in find_scans(mine).cases] == ["sub-01_magnitude1", "sub-01_T1w"]


def test_datasets_below_a_folder_are_found(dataset: Path) -> None:
    put(dataset, "sub-01/anat/sub-01_T1w.nii.gz", "derivatives/sub-01_T1w.nii.gz")
    put(dataset.parent, "other/derivatives/t1.nii.gz")
    found = find_scans([dataset.parent])
    names = [case.relative.as_posix() for case in found.cases]
    assert names == ["ds/sub-01/anat/sub-01_T1w.nii.gz", "other/derivatives/t1.nii.gz"]


def test_metadata_is_inherited(dataset: Path) -> None:
    image = "sub-01/ses-1/func/sub-01_ses-1_task-rest_bold.nii.gz"
    told = {
        "bold.json": {"a": 1, "b": 1, "c": 1, "d": 1},
        "task-rest_bold.json": {"b": 2, "c": 2},
        "task-motor_bold.json": {"a": 9},
        "T1w.json": {"a": 9},
        "sub-01/sub-01_task-rest_bold.json": {"c": 3},
        "sub-01/ses-1/func/sub-01_ses-1_task-rest_bold.json": {"d": 4},
        "sub-01/ses-1/func/sub-01_ses-1_task-rest_run-2_bold.json": {"a": 9},
    }
    put(dataset, image, *told)
    for name, tree in told.items():
        (dataset / name).write_text(json.dumps(tree))
    assert bids.root_of(dataset / image) == dataset
    assert bids.metadata(dataset / image, dataset) == {"a": 1, "b": 2, "c": 3, "d": 4}
    (dataset / "bold.json").write_text("{")
    assert bids.metadata(dataset / image, dataset) == {"b": 2, "c": 3, "d": 4}


@pytest.mark.parametrize(
    ("name", "belongs"),
    [
        ("sub-01_label-lesion_mask.nii.gz", True),
        ("sub-01_desc-drawn_roi.nii", True),
        ("sub-01_mod-T1w_label-lesion_mask.nii.gz", True),
        ("sub-01_mod-FLAIR_label-lesion_mask.nii.gz", False),
        ("sub-01_space-MNI_label-lesion_mask.nii.gz", False),
        ("sub-02_label-lesion_mask.nii.gz", False),
        ("sub-01_T1w.nii.gz", False),
        ("sub-01_label-lesion_mask.json", False),
    ],
)
def test_masks_named_as_bids_asks(tmp_path: Path, name: str, belongs: bool) -> None:
    put(tmp_path, name)
    assert bids.masks_in(tmp_path, "sub-01_T1w") == ([tmp_path / name] if belongs else [])
    assert bids.masks_in(tmp_path, "sub-01_run-2_T1w") == []
    assert bids.masks_in(tmp_path, "t1") == []


def test_a_link_into_an_annex_lies_in_its_dataset(dataset: Path, tmp_path: Path) -> None:
    put(tmp_path, "annex/key.nii.gz")
    (dataset / "sub-01" / "anat").mkdir(parents=True)
    link = dataset / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    link.symlink_to(tmp_path / "annex" / "key.nii.gz")
    assert bids.root_of(link) == dataset
    assert bids.inside(link, dataset) == Path("sub-01/anat/sub-01_T1w.nii.gz")
