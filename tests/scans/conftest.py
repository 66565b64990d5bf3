"""A maker of small DICOM series, so that the tests need no files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from medidiff.scans.volume import Derivation

SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

MakeImage = Callable[..., Dataset]
SaveSeries = Callable[..., list[Dataset]]


def image(
    position: Sequence[float],
    pixels: np.ndarray,
    *,
    series: str = "1.2.826.0.1.3680043.8.498.1",
    study: str = "1.2.826.0.1.3680043.8.498.2",
    instance: int | None = 1,
    orientation: Sequence[float] = AXIAL,
    modality: str = "CT",
    bits: int | None = None,
    **more: Any,
) -> Dataset:
    """One classic image; ``more`` sets attributes by keyword (None removes one)."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = SOP_CLASSES[modality]
    ds.SOPInstanceUID = generate_uid()
    ds.StudyDate, ds.StudyTime = "20200102", "030405"
    ds.AcquisitionDate, ds.AcquisitionTime = "20200102", "030405"
    ds.InstanceCreationDate, ds.InstanceCreationTime = "20200102", "030405"
    ds.Modality = modality
    ds.Manufacturer = "Scanner Works"
    ds.SeriesDescription = "Thin slices"
    ds.PatientName, ds.PatientID = "Doe^Jane", "12345"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
    ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = 3, instance, 1
    ds.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.3"
    ds.ImagePositionPatient = [float(value) for value in position]
    ds.ImageOrientationPatient = list(orientation)
    ds.PixelSpacing, ds.SliceThickness = [0.5, 0.75], 2.0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    allocated = pixels.dtype.itemsize * 8
    ds.BitsAllocated, ds.BitsStored = allocated, bits or allocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    if modality == "CT":
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    for keyword, value in more.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta.MediaStorageSOPClassUID = UID(ds.SOPClassUID)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


@pytest.fixture
def make_image() -> MakeImage:
    """The maker of one image."""
    return image


@pytest.fixture
def save_series(tmp_path: Path) -> SaveSeries:
    """Make and save a stack: file names run against the slice order, instance numbers too."""

    def save(
        folder: str | Path = "series", count: int = 5, *, step: Sequence[float] = (0, 0, 2), **more: Any
    ) -> list[Dataset]:
        target = tmp_path / folder
        target.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(count)
        made = []
        for k in range(count):
            pixels = rng.integers(100, 3000, (6, 4)).astype(np.int16)
            given = {key: value(k) if callable(value) else value for key, value in more.items()}
            pixels = given.pop("pixels", pixels)
            given.setdefault("instance", count - k)
            position = given.pop("position", tuple(np.array([-10.0, 20.0, 5.0]) + k * np.array(step)))
            made.append(image(position, pixels, **given))
            made[-1].save_as(target / f"image{count - k:03d}", enforce_file_format=True)
        return made

    return save


@pytest.fixture
def derivation() -> Derivation:
    """Labels of a result."""
    return Derivation("denoise", "Denoised by medidiff 0.1.0, noise 3 percent.", "medidiff 0.1.0 denoise", "0.1.0")
