from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from benchmarks import archive
from benchmarks.cases import ROOT
from medidiff.cli.app import main as medidiff

SERIES = ROOT / "sample_data" / "dicom_mr"


def test_all_images_live_in_an_archive(tiny_home: Path, tmp_path: Path) -> None:
    if why := archive.missing():
        pytest.skip(why)
    assert medidiff(["denoise", str(SERIES), "-o", str(tmp_path / "out"), "-p", "tiny", "--uncertainty", "-q"]) == 0
    command = [sys.executable, "-m", "benchmarks.archive", SERIES, tmp_path / "out", "--results", tmp_path]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    ways = json.loads((tmp_path / "archive.json").read_text())["ways"]
    images = len(list(SERIES.glob("*.dcm"))) + len(list((tmp_path / "out").rglob("*.dcm")))
    for way in ways:
        assert (way["sent"], way["stored"], way["equal"]) == (images,) * 3
        assert way["studies"] == [1, 1]
        assert way["series"] == [4, 4]  # the source, the image, and its two maps
        assert way["ordered"]
        assert way["whole"]


def test_differences_are_seen() -> None:
    path = min(SERIES.glob("*.dcm"))
    one, other = pydicom.dcmread(path), pydicom.dcmread(path)
    assert archive.same(one, other)
    other.PixelData = bytes(len(one.PixelData))
    assert not archive.same(one, other)
    other = copy.deepcopy(one)
    other.PatientName = "Somebody^Else"
    assert not archive.same(one, other)


def test_a_derived_series_must_come_after_its_source() -> None:
    source = pydicom.dcmread(min(SERIES.glob("*.dcm")))
    later, elsewhere = copy.deepcopy(source), copy.deepcopy(source)
    later.SeriesNumber = int(source.SeriesNumber) + 1
    elsewhere.SeriesNumber, elsewhere.StudyInstanceUID = later.SeriesNumber, pydicom.uid.generate_uid()
    assert archive.ordered({"a": source}, {"b": later})
    assert not archive.ordered({"a": source}, {"b": source})
    assert not archive.ordered({"a": source}, {"b": elsewhere})
    assert not archive.ordered({"a": source}, {})
