"""The sound files that fuzzing damages: small scans, series, masks, settings, records and bundles."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from benchmarks.cases import ROOT

SHAPE = (12, 11, 10)
CLASSES = {"MR": "1.2.840.10008.5.1.4.1.1.4", "CT": "1.2.840.10008.5.1.4.1.1.2", "PT": "1.2.840.10008.5.1.4.1.1.128"}
ROOT_UID = "1.2.826.0.1.3680043.8.498."
LARGEST = 300_000  # bytes of a real file that serves as a seed

Files = dict[str, bytes]  # one input: a file by its path in the input folder


def array(dtype: Any = np.int16, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """A blob with some noise, the same each time."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    noise = np.random.default_rng(0).normal(0, 10, shape)
    return (400 * np.exp(-2 * sum(axis**2 for axis in axes)) + 20 + noise).astype(dtype)


def niftis() -> list[tuple[str, bytes]]:
    """NIfTI-1 and -2, plain and packed, of several types, 2-D to 5-D, with an extension, big endian."""
    affine = np.diag([1.5, 1.5, 2.0, 1.0])
    images = {
        "a.nii": nib.Nifti1Image(array(), affine),
        "b.nii.gz": nib.Nifti1Image(array(np.float32), affine),
        "c.nii.gz": nib.Nifti2Image(array(np.uint8), affine),
        "d.nii": nib.Nifti2Image(array(np.float64), affine),
        "e.nii.gz": nib.Nifti1Image(np.stack([array(), array()], -1), affine),
        "f.nii": nib.Nifti1Image(array(shape=(16, 14)), affine),
        "g.nii": nib.Nifti1Image(array(), affine, nib.Nifti1Header(endianness=">")),
        "h.nii.gz": nib.Nifti1Image(array(), affine),
        "i.nii.gz": nib.Nifti1Image((array(np.float32) - 1000), affine),
    }
    images["h.nii.gz"].header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a remark"))
    images["b.nii.gz"].header.set_slope_inter(0.5, 10)
    found = []
    for name, image in images.items():
        data = image.to_bytes()
        found.append((name, gzip.compress(data, 6, mtime=0) if name.endswith(".gz") else data))
    return found


def slice_of(k: int, modality: str = "MR", syntax: UID = ExplicitVRLittleEndian, **more: Any) -> bytes:
    """One classic image of a series."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UID(CLASSES[modality])
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(f"{ROOT_UID}5.{k}")
    ds.SpecificCharacterSet, ds.ImageType = "ISO_IR 100", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Modality, ds.Manufacturer, ds.SeriesDescription = modality, "Maker", "Ax T1"
    ds.PatientName, ds.PatientID, ds.StudyDate = "Doe^Jane", "12345", "20200102"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT_UID}1", f"{ROOT_UID}2"
    ds.FrameOfReferenceUID, ds.SeriesNumber, ds.InstanceNumber = f"{ROOT_UID}3", 4, k + 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-10.0, -12.0, 2.0 * k], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness, ds.SpacingBetweenSlices = [1.5, 1.5], 2.0, 2.0
    ds.EchoTime, ds.RepetitionTime, ds.FlipAngle = 10.0, 500.0, 30.0
    pixels = np.ascontiguousarray(array(np.uint16)[:, :, k % SHAPE[2]].T)
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    if modality != "MR":
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024 if modality == "CT" else 0
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds.SOPClassUID, f"{ROOT_UID}9"
    ds.ReferencedImageSequence = [item]
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    swapped = pixels.byteswap() if syntax == ExplicitVRBigEndian else pixels
    ds.PixelData = encapsulate([_rle(pixels)]) if syntax == RLELossless else swapped.tobytes()
    ds["PixelData"].VR = "OB" if syntax == RLELossless else "OW"
    file = io.BytesIO()
    pydicom.dcmwrite(file, ds, enforce_file_format=True)
    return file.getvalue()


def _rle(pixels: np.ndarray) -> bytes:
    from pydicom.pixels.encoders import RLELosslessEncoder

    return RLELosslessEncoder.encode(
        pixels, encoding_plugin="pydicom", rows=pixels.shape[0], columns=pixels.shape[1], samples_per_pixel=1,
        number_of_frames=1, bits_allocated=16, bits_stored=12, pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
    )  # fmt: skip


def series(real: Path | None) -> list[Files]:
    """Series of which the first file is damaged; real ones, if there are any, are represented by one file each."""
    syntaxes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
    found = [{f"s{k}.dcm": slice_of(k, "MR", syntax) for k in range(4)} for syntax in syntaxes]
    found += [{f"s{k}.dcm": slice_of(k, modality) for k in range(4)} for modality in ("MR", "CT", "PT")]
    found.append({f"s{k}.dcm": slice_of(k, "MR", RLELossless) for k in range(3)})
    shipped = sorted((ROOT / "sample_data/dicom_mr").glob("*.dcm"))[:3]
    found.append({path.name: path.read_bytes() for path in shipped})
    if real is not None:
        for folder in sorted(path for path in (real / "dicom").iterdir() if path.is_dir()):
            files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size < LARGEST)
            found += [{"real.dcm": path.read_bytes()} for path in files if path.read_bytes()[128:132] == b"DICM"][:1]
    return found


def segmentation() -> bytes:
    """A DICOM segmentation of the first three slices of a series."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    source = [pydicom.dcmread(io.BytesIO(slice_of(k, PatientSex="O", StudyTime="101010", AccessionNumber="",
              StudyID="1", ReferringPhysicianName="", PatientBirthDate=""))) for k in range(3)]  # fmt: skip
    algorithm = hd.AlgorithmIdentificationSequence("none", codes.DCM.ArtificialIntelligence, "1")
    segment = hd.seg.SegmentDescription(
        1, "hole", codes.SCT.Organ, codes.SCT.Organ, hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC, algorithm
    )
    mask = np.zeros((3, *array()[:, :, 0].T.shape), dtype=np.uint8)
    mask[:, 2:5, 2:5] = 1
    made = hd.seg.Segmentation(
        source, mask, "BINARY", [segment], f"{ROOT_UID}6", 9, f"{ROOT_UID}7", 1, "Maker", "Model", "1", "0"
    )
    file = io.BytesIO()
    made.save_as(file)
    return file.getvalue()


def masks() -> list[tuple[str, bytes]]:
    """NIfTI masks on the scan's grid and on another one, and a segmentation."""
    hole = np.zeros(SHAPE, dtype=np.uint8)
    hole[3:6, 3:6, 3:6] = 1
    same, other = np.diag([1.5, 1.5, 2.0, 1.0]), np.diag([3.0, 1.5, 2.0, 1.0])
    images = (nib.Nifti1Image(hole, same), nib.Nifti1Image(hole.astype(np.float32), other))
    packed = [(f"m{n}.nii.gz", gzip.compress(image.to_bytes(), 6, mtime=0)) for n, image in enumerate(images)]
    return [*packed, ("m.nii", images[0].to_bytes()), ("seg.dcm", segmentation())]


def configs() -> list[tuple[str, bytes]]:
    """Settings in TOML, and the recipes of training."""
    text = """task = "denoise"
inputs = ["scan.nii.gz"]
output = "out"
pipeline = "fuzz"
include = ["*"]
uncertainty = true
[restore]
noise = 5
strength = 0.8
samples = 2
seed = 1
[compute]
device = "cpu"
"""
    recipes = sorted((ROOT / "recipes").glob("*.toml"))
    return [("run.toml", text.encode()), *((path.name, path.read_bytes()) for path in recipes)]


def bundle(folder: Path, weights: float = 0.0) -> Path:
    """A bundle with a network that is as small as it can be; with weights of 0 the classical base is left."""
    import torch
    from safetensors.torch import save

    from medidiff.diffusion.network import build
    from medidiff.physics.tasks import STATE_CHANNELS, VIEWS, parameter_names

    (folder / "configs").mkdir(parents=True, exist_ok=True)
    network = {
        "spatial_dims": 3,
        "in_channels": STATE_CHANNELS + len(VIEWS),
        "parameters": len(parameter_names(3)),
        "channels": [8, 8, 8],
        "encoder_blocks": [1, 1, 1],
        "decoder_blocks": [1, 1],
    }
    torch.manual_seed(0)
    built = build(**network)
    torch.nn.init.normal_(built.head.weight, std=weights)
    data = save({name: value.half() for name, value in built.state_dict().items()})
    (folder / "model.safetensors").write_bytes(data)
    settings = {
        "tasks": ["denoise", "superres", "inpaint"],
        "modalities": ["MR", "CT"],
        "licence": "CC0-1.0",
        "network": network,
        "halo": 8,
        "weights": {"file": "model.safetensors", "sha256": hashlib.sha256(data).hexdigest()},
        "trained_on": {"noise_percent": [0.5, 20], "spacing_mm": [0.5, 4], "anisotropy": [1, 4], "factor": [1, 8]},
    }
    tree = {"version": "0.0.1", "name": folder.name, "description": "For fuzzing.", "medidiff": settings}
    (folder / "configs/metadata.json").write_text(json.dumps(tree, indent=1), encoding="utf-8")
    return folder
