"""Writes restored volumes as one derived DICOM series of the source's SOP class.

Each output image is a source image with edited labels and new pixels, so everything that medidiff does not know about
stays as the scanner wrote it. On the source's grid it names the one source image at its own place; with a 3-D pipeline
its neighbours gave context, which the derivation text says. On a finer grid it copies the nearest source image, has a
geometry of its own and names every image of its volume. Files are Explicit VR Little Endian, uncompressed. What is
particular to multi-frame objects is in `dicom_multiframe`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from medidiff.errors import CannotWrite, ScanError
from medidiff.scans import dicom_files, dicom_grid, dicom_multiframe, dicom_pixels
from medidiff.scans.dicom import DicomSource
from medidiff.scans.dicom_grid import Image, Place
from medidiff.scans.dicom_headers import quiet
from medidiff.scans.dicom_labels import SeriesLabels, relabel, series_labels
from medidiff.scans.discover import SERIES_NUMBER_STEP
from medidiff.scans.outputs import atomic_folder
from medidiff.scans.regrid import regrid
from medidiff.scans.volume import Derivation, Scan

ALWAYS_SET = ("Rows", "Columns", "ImagePositionPatient", "PixelSpacing")


def write(
    scan: Scan,
    arrays: Sequence[NDArray[np.float32]],
    folder: Path,
    derivation: Derivation,
    affines: Sequence[NDArray[np.float64]] | None = None,
) -> tuple[Path, ...]:
    """Write one file an image, or a multi-frame object, into ``folder``, which appears complete or not at all.

    Args:
        scan: as `dicom.read` returned it.
        arrays: one array a volume, physical units; of the volume's shape unless ``affines`` are given. A slice that the
            series lacks (`Volume.missing`) becomes a new image.
        folder: the folder of the new series; an older one is replaced.
        derivation: how the result came about.
        affines: 4 x 4, RAS+, one a volume: the grids of arrays that are finer than the scan. A slice takes the
            attributes of the nearest source slice.

    Returns:
        The files, in order of InstanceNumber.

    Raises:
        CannotWrite: the folder cannot be written.
        ScanError: a source image is gone, or the arrays do not fit the scan.
    """
    if any(path.resolve().is_relative_to(folder.resolve()) for path in scan.ref.files):
        raise CannotWrite(f"{folder} holds the input itself; choose another output folder.")
    objects = _objects(_images(scan, arrays, affines))
    files = {number: f"{rank:04d}.dcm" for rank, number in enumerate(sorted(objects), start=1)}
    labels = series_labels(derivation, scan.ref.series_uid, series_number(scan))
    dimensions = dicom_multiframe.Renamed(derivation)
    with atomic_folder(folder) as temporary, quiet():
        for number, images in objects.items():
            if images[0].header.frame is None:
                dataset = _derived(images[0], labels)
            else:
                dataset = dicom_multiframe.derived(images, labels, number, dimensions)
            dicom_files.save(dataset, temporary / files[number], images[0].header.path)
    return tuple(folder / files[number] for number in sorted(files))


def _objects(images: Sequence[Image]) -> dict[int, list[Image]]:
    """What goes into one file, by InstanceNumber: an image, or the frames of a multi-frame object, sorted."""
    grouped: dict[tuple[Path, int], list[Image]] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.number):
        alone = image.header.frame is None or image.header.frames == 1
        grouped[image.header.path, image.number if alone else 0].append(image)
    if all(image.header.frame is None for image in images):
        return {group[0].number: group for group in grouped.values()}
    given = {group[0].header.file_instance for group in grouped.values()} - {None}
    if len(given) == len(grouped):
        return {group[0].header.file_instance or 0: group for group in grouped.values()}
    return dict(enumerate(grouped.values(), start=1))


def _images(
    scan: Scan,
    arrays: Sequence[NDArray[np.float32]],
    affines: Sequence[NDArray[np.float64]] | None,
) -> list[Image]:
    source: DicomSource = scan.source
    if affines is not None:
        triples = zip(scan.volumes, arrays, affines, strict=True)
        grids = [regrid(volume, array.shape, affine) for volume, array, affine in triples]
        return dicom_grid.new_grid(source.stacks, arrays, affines, grids)
    expected = [volume.array.shape for volume in scan.volumes]
    given = [array.shape for array in arrays]
    if expected != given:
        raise ScanError(f"{scan.ref.stem}: the restored arrays have shapes {given}, the scan has {expected}.")
    return dicom_grid.own_grid(source.stacks, arrays)


def series_number(scan: Scan) -> int:
    """The SeriesNumber of the restored series."""
    source: DicomSource = scan.source
    return scan.ref.output_series_number or max(source.images[0].series_number or 0, 0) + SERIES_NUMBER_STEP


def _derived(image: Image, labels: SeriesLabels) -> Dataset:
    header, place = image.header, image.place
    dataset = dicom_pixels.load(header.path)
    frames = dicom_pixels.decode(dataset, header.path)
    code = own_code = dicom_pixels.coding(dataset, header)
    if frames.shape != (1, header.shape[1], header.shape[0]):
        raise ScanError(f"{header.path} changed while it was processed; run again.")
    stored = frames[0].astype(np.int64)
    if place is not None:
        stored = stored[np.ix_(place.rows, place.columns)]
        if place.rescale and "RealWorldValueMappingSequence" not in dataset:
            code = dicom_pixels.with_room(image.values, code)
    fresh = dicom_pixels.to_stored(image.values, stored, code)
    try:
        unchanged = str(dataset.get("SOPInstanceUID", "")).strip() == header.sop_uid
        dicom_files.note_lossy(dataset)
        if place is None:
            relabel(dataset, labels, image.number)
        else:
            sources = [(source.sop_class, source.sop_uid) for source in place.sources]
            relabel(dataset, labels, image.number, sources, place.name)
            _move(dataset, place)
        if code.slope != own_code.slope:
            dataset.RescaleSlope = format_number_as_ds(code.slope)
        dicom_files.set_pixels(dataset, fresh, code)
        dataset.file_meta = dicom_files.file_meta(dataset, labels.derivation.version)
    except Exception as error:  # pydicom raises many kinds on damaged values
        raise ScanError(f"{header.path} has header values that cannot be copied ({type(error).__name__}).") from error
    if not unchanged:
        raise ScanError(f"{header.path} changed while it was processed; run again.")
    dataset.preamble = b"\0" * 128
    return dataset


def _move(dataset: Dataset, place: Place) -> None:
    """Give a copied dataset the geometry of its new place; what the source left empty stays empty."""
    for keyword, value in place.attributes.items():
        if keyword in ALWAYS_SET or dataset.get(keyword) not in (None, ""):
            setattr(dataset, keyword, dicom_files.decimal(value))
