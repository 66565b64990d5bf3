"""Measures how fast DICOM files are found and sorted into series: ``python -m benchmarks.discovery``.

Makes small files in a temporary folder, 100 a series, in a random order of names and without an ending, with headers
as long as those of a scanner (a private block each), then looks for scans, ``--repeats`` times. The files have just
been written, so the disk is not measured: what counts is processor time.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from benchmarks import report
from medidiff.footprint import peak_gb
from medidiff.scans.discover import find_scans

FILES, A_SERIES, A_FOLDER = 10_000, 100, 500
MOST_SECONDS = 10.0
EDGE = 64  # pixels
PRIVATE = 20_000  # bytes
ROOT_UID = "2.25.7777"
SERIES, IMAGE, PLACE = "888888", "999999", "7777.5"  # to be replaced in the bytes by texts as long


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    options = parser.parse_args(arguments)
    threads = report.use_threads(None)
    with tempfile.TemporaryDirectory() as name:
        size = make(Path(name), options.files)
        runs = [measure(Path(name), options.files) for _ in range(options.repeats)]
    cpu, wall = (statistics.median(run[n] for run in runs) for n in (0, 1))
    goal = f"{FILES} files in less than {MOST_SECONDS:g} s of processor time"
    seconds = cpu * FILES / options.files
    verdict = report.Verdict(goal, f"{report.figure(seconds, 1)} s", seconds < MOST_SECONDS)
    result = {
        "environment": report.environment(None, threads),
        "files": options.files,
        "series": -(-options.files // A_SERIES),
        "bytes_a_file": size,
        "cpu_seconds": cpu,
        "seconds": wall,
        "runs": [{"cpu_seconds": run[0], "seconds": run[1]} for run in runs],
        "peak_gb": peak_gb(),
        "verdicts": [vars(verdict)],
    }
    text = document(result, verdict)
    print(text)
    report.write("discovery", result, text, options.results)


def make(folder: Path, count: int) -> int:
    """Write files that differ in UIDs, numbers and positions; give the size of one in bytes."""
    template, size = image(), 0
    names = list(range(count))
    random.Random(0).shuffle(names)
    for n, name in enumerate(names):
        series, k = divmod(n, A_SERIES)
        place = folder / f"{name // A_FOLDER:03d}"
        place.mkdir(exist_ok=True)
        data = template
        for old, new in ((SERIES, f"{series + 100_000}"), (IMAGE, f"{n + 100_000}"), (PLACE, f"{k:06d}")):
            data = data.replace(old.encode(), new.encode())
        (place / f"I{name:06d}").write_bytes(data)
        size = len(data)
    return size


def image() -> bytes:
    """One MR image whose UIDs and numbers are to be filled in."""
    ds = Dataset()
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    ds.SOPClassUID = MRImageStorage
    ds.SpecificCharacterSet, ds.Modality, ds.Manufacturer = "ISO_IR 100", "MR", "Scanner Works"
    ds.PatientName, ds.PatientID = "Nobody", "0"
    ds.SeriesDescription, ds.ProtocolName = "t1_mprage_sag_p2_iso", "t1_mprage_sag_p2_iso"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT_UID}.1", f"{ROOT_UID}.2.{SERIES}"
    ds.SOPInstanceUID, ds.FrameOfReferenceUID = f"{ROOT_UID}.3.{IMAGE}", f"{ROOT_UID}.4.{SERIES}"
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(ds, keyword, "20200102")
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(ds, keyword, "030405.678900")
    ds.ScanningSequence, ds.SequenceVariant, ds.MRAcquisitionType = "GR", ["SP", "MP"], "3D"
    ds.RepetitionTime, ds.EchoTime, ds.InversionTime, ds.FlipAngle = 2300, 2.98, 900, 9
    ds.MagneticFieldStrength, ds.PixelBandwidth, ds.AcquisitionMatrix = 3, 240, [0, EDGE, EDGE, 0]
    ds.SliceThickness, ds.PixelSpacing = 1, [1, 1]
    ds.ImagePositionPatient, ds.ImageOrientationPatient = ["0", "0", PLACE], [1, 0, 0, 0, 1, 0]
    ds.Rows = ds.Columns = EDGE
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"\1" * PRIVATE)
    ds.PixelData = np.zeros((EDGE, EDGE), np.uint16).tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def measure(folder: Path, count: int) -> tuple[float, float]:
    """Processor and wall time of one discovery, in seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = find_scans([folder])
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    whole = sum(len(case.files) for case in found.cases)
    if whole != count or found.skipped or len(found.cases) != -(-count // A_SERIES):
        raise SystemExit(f"{whole} of {count} files found in {len(found.cases)} series")
    return cpu, wall


def document(result: dict[str, object], verdict: report.Verdict) -> str:
    """Everything that was found, in Markdown."""
    files, cpu, wall = (float(str(result[key])) for key in ("files", "cpu_seconds", "seconds"))
    row = [
        f"{files:.0f}",
        result["series"],
        report.figure(cpu, 1),
        report.figure(wall, 1),
        f"{files / cpu:.0f}",
        report.figure(1e3 * cpu / files),
        report.figure(float(str(result["peak_gb"]))),
    ]
    head = ["files", "series", "CPU s", "s", "files a CPU second", "CPU ms a file", "peak GB"]
    environment = result["environment"]
    where = environment["processor"] if isinstance(environment, dict) else ""
    return "\n\n".join(
        [
            "# Discovery",
            f"DICOM files of {result['bytes_a_file']} bytes in folders of {A_FOLDER}, just written; {where}.",
            report.table(head, [row]),
            "Only the first 64 KB of a file are read, of pixels nothing is kept. Median of the runs.",
            str(verdict),
        ]
    )


if __name__ == "__main__":
    main()
