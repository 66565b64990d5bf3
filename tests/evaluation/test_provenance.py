from __future__ import annotations

from pathlib import Path

import pytest

from medidiff.evaluation import provenance


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("/home/okonkwo/scans/t1w.nii.gz is damaged.", "t1w.nii.gz is damaged."),
        (
            "Pipeline mr: /opt/a/net.bin is damaged (see '/opt/b').",
            "Pipeline mr: net.bin is damaged (see 'b').",
        ),
        (r"C:\data\sub\t1w.nii is damaged.", "t1w.nii is damaged."),
        ("12 x 3/4 of a/b voxels", "12 x 3/4 of a/b voxels"),
    ],
)
def test_sentences_name_files_without_their_folders(text: str, bare: str) -> None:
    assert provenance.discreet(text) == bare


def test_folders_with_blanks_are_known() -> None:
    path = Path("/data/Okonkwo follow-up/t1w.nii")
    assert provenance.discreet(f"{path} is damaged.", [path]) == "t1w.nii is damaged."


def test_software_names_versions_and_no_place() -> None:
    found = provenance.software()
    assert {"python", "torch", "numpy"} <= set(found["packages"])
    assert set(found["platform"]) == {"system", "machine"}
