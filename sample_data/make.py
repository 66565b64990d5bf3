"""Makes every sample scan in this folder; the same bytes each time (fixed seeds, no dates, no host names).

    python sample_data/make.py [FOLDER]

(a) a brain-like phantom whose true values are known, and the same with Rician noise;
(b) the ICBM152 T1-weighted template at 2 mm, and the same with Rician noise (needs ``nilearn``, which carries it);
(c) a DICOM series: a slab of the phantom with noise of its own.

Rician noise of p percent means sqrt((x + n1)^2 + n2^2) with n1, n2 ~ N(0, (p/100 * max x)^2), as in Coupé et al.,
IEEE TMI 27(4), 2008.
"""

from __future__ import annotations

import gzip
import sys
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray
from phantom import SPACING, head
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

NOISE_PERCENT = 9.0
SLAB = range(41, 61)  # the phantom's axial slices that become the DICOM series: ventricles and deep nuclei
TEMPLATE = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"

Image = NDArray[np.float64]


def main(folder: Path) -> None:
    """Write all sample scans into ``folder``; those made from the template only where nilearn is installed."""
    truth, affine = head()
    truth = np.rint(truth)
    write_nifti(folder / "phantom_t1w_truth.nii.gz", truth, affine, "medidiff phantom, T1w, true values")
    write_nifti(folder / "phantom_t1w.nii.gz", rician(truth, seed=1), affine, "medidiff phantom, T1w, Rician noise 9 %")
    write_dicom(folder / "dicom_mr", rician(truth, seed=2), affine)
    if find_spec("nilearn"):
        truth, affine = icbm152()
        write_nifti(folder / "icbm152_2mm_truth.nii.gz", truth, affine, "ICBM152 2009a symmetric T1w, 2 mm")
        noisy = rician(truth, seed=3)
        write_nifti(folder / "icbm152_2mm_noisy.nii.gz", noisy, affine, "ICBM152 2009a symmetric T1w, 2 mm, Rician 9 %")


def rician(truth: Image, seed: int) -> Image:
    """The truth as a magnitude scanner would show it, rounded to whole numbers."""
    sigma = NOISE_PERCENT / 100 * truth.max()
    real, imaginary = np.random.default_rng(seed).normal(scale=sigma, size=(2, *truth.shape))
    return np.rint(np.hypot(truth + real, imaginary))


def icbm152() -> tuple[Image, Image]:
    """The ICBM152 template, means of 2 x 2 x 2 voxels, cut to the brain; and its affine."""
    import nilearn.datasets

    image = nib.load(Path(nilearn.datasets.__file__).parent / "data" / TEMPLATE)
    fine = np.asanyarray(image.dataobj).astype(np.float64)
    even = fine[tuple(slice(0, n - n % 2) for n in fine.shape)]
    i, j, k = (n // 2 for n in even.shape)
    coarse = even.reshape(i, 2, j, 2, k, 2).mean(axis=(1, 3, 5))
    first, box = bounding_box(coarse > 0, margin=3)
    affine = image.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = nib.affines.apply_affine(image.affine, 2.0 * first + 0.5)
    return np.rint(coarse[box]), affine


def bounding_box(mask: NDArray[np.bool_], margin: int) -> tuple[NDArray[np.int64], tuple[slice, ...]]:
    """First voxel and slices of the smallest box around ``mask`` and ``margin`` voxels more, inside the array."""
    where = np.argwhere(mask)
    first = np.maximum(where.min(axis=0) - margin, 0)
    last = np.minimum(where.max(axis=0) + margin + 1, mask.shape)
    return first, tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))


def write_nifti(path: Path, array: Image, affine: Image, description: str) -> None:
    """Write int16 NIfTI-1; the gzip header holds neither a time nor a name."""
    image = nib.Nifti1Image(array.astype(np.int16), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = description.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=9, mtime=0))


def write_dicom(folder: Path, array: Image, affine: Image) -> None:
    """Write the slab as a classic MR series, axial, head first supine, one file a slice."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, k in enumerate(SLAB, start=1):
        # Rows run to the patient's back and columns to the left, so both array axes are turned round.
        pixels = array[::-1, ::-1, k].T.astype(np.uint16)
        last_i, last_j = array.shape[0] - 1, array.shape[1] - 1
        x, y, z = nib.affines.apply_affine(affine, [last_i, last_j, k])
        dataset = mr_slice(number, pixels, position=(-x, -y, z))
        pydicom.dcmwrite(folder / f"IM{number:04d}.dcm", dataset, enforce_file_format=True)


def mr_slice(number: int, pixels: NDArray[np.uint16], position: tuple[float, float, float]) -> FileDataset:
    """One MR Image Storage instance (PS3.3 A.4) of a patient who does not exist."""
    uid = {name: generate_uid(entropy_srcs=["medidiff sample", name]) for name in ("study", "series", "frame")}
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["medidiff sample", "instance", str(number)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = generate_uid(entropy_srcs=["medidiff sample", "implementation"])
    meta.ImplementationVersionName = "MEDIDIFF_SAMPLE"

    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = uid["study"], uid["series"], uid["frame"]
    ds.PatientName, ds.PatientID = "Phantom^Sample", "PHANTOM"
    for empty in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber"):
        setattr(ds, empty, "")
    for empty in ("ReferringPhysicianName", "PositionReferenceIndicator"):
        setattr(ds, empty, "")
    ds.PatientIdentityRemoved, ds.DeidentificationMethod = "YES", "Simulated data, there is no patient"
    ds.StudyID, ds.StudyDescription = "1", "medidiff sample data"
    ds.SeriesNumber, ds.SeriesDescription, ds.InstanceNumber = 3, "T1w phantom", number
    ds.Modality, ds.BodyPartExamined, ds.PatientPosition = "MR", "HEAD", "HFS"
    ds.Manufacturer, ds.ManufacturerModelName = "medidiff", "analytic phantom"
    ds.SoftwareVersions, ds.DeviceSerialNumber = "1", "0"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "GR", "SP", "", "3D"
    ds.RepetitionTime, ds.EchoTime, ds.FlipAngle, ds.EchoTrainLength = 8.0, 3.0, 12.0, 1
    ds.MagneticFieldStrength = 3.0
    ds.SliceThickness = ds.SpacingBetweenSlices = SPACING
    ds.PixelSpacing = [SPACING, SPACING]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [round(float(value), 4) for value in position]
    ds.SliceLocation = ds.ImagePositionPatient[2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = 130.0, 260.0
    ds.LossyImageCompression = "00"
    ds.PixelData = np.ascontiguousarray(pixels).astype("<u2").tobytes()
    return ds


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
