"""Damaged files end in a result or in one of medidiff's own errors; `benchmarks.fuzz` tries many more of them."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz, fuzz_mutate, fuzz_seeds, fuzz_targets
from benchmarks.fuzz_targets import Kind, Place, Wrong
from medidiff import bundles
from medidiff.cli import main
from medidiff.errors import MedidiffError, PipelineError, ScanError
from medidiff.scans import open_scan, read_mask
from medidiff.scans.discover import find_scans

INPUTS = {"NIfTI": 30, "DICOM": 15, "mask": 25, "settings": 50, "record": 15, "bundle": 60}  # of each kind
few = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("fuzz")
    with fuzz_targets.stand_in(folder):
        yield folder


@pytest.fixture(scope="module")
def kinds(home: Path) -> dict[str, Kind]:
    made = fuzz_targets.kinds(home, None)
    gc.freeze()  # also what loading the pipelines has made
    return made


def attempt(kind: Kind, files: dict[str, bytes], home: Path, seed: int = 0) -> None:
    fuzz_targets.attempt(kind, files, Place(fuzz_targets.cleared(home / "work"), Random(seed)))


@pytest.mark.parametrize("name", fuzz_targets.SHARES)
def test_damaged_files(kinds: dict[str, Kind], home: Path, name: str) -> None:
    for index in range(INPUTS[name]):
        found = fuzz.one(kinds[name], name, index, 7, home, limited=False)
        assert found["outcome"] == "result", f"python -m benchmarks.fuzz --seed 7 --only {name}:{index}: {found}"


@pytest.mark.parametrize("name", fuzz_targets.SHARES)
def test_seeds_are_sound(kinds: dict[str, Kind], home: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were they not, every damaged file would be refused for the same reason."""
    errors: list[MedidiffError] = []

    def told(action: Callable[[], object]) -> None:
        try:
            action()
        except MedidiffError as error:
            errors.append(error)

    monkeypatch.setattr(fuzz_targets, "allowed", told)
    for files, damaged in kinds[name].seeds:
        errors.clear()
        attempt(kinds[name], files, home)
        recipe_or_pair = damaged == "p.hdr" or (name == "settings" and damaged != "run.toml")
        assert bool(errors) == recipe_or_pair, (damaged, errors)


def test_damage_is_the_same_each_time_and_is_some(kinds: dict[str, Kind]) -> None:
    for name, kind in kinds.items():
        made = [kind.make(Random(f"0/{name}/{index}")) for index in range(20)]
        assert made == [kind.make(Random(f"0/{name}/{index}")) for index in range(20)]
        sound = [files for files, _ in kind.seeds]
        assert sum(files not in sound for files in made) >= 15, name


def test_elements_are_found_where_they_lie() -> None:
    data = fuzz_seeds.slice_of(0)
    found = {data[each.start : each.start + 4]: each for each in fuzz_mutate.elements(data)}
    rows = found[b"\x28\x00\x10\x00"]
    assert (rows.vr, rows.length) == (b"US", 2)
    assert int.from_bytes(data[rows.value_at : rows.value_at + 2], "little") == fuzz_seeds.SHAPE[1]
    assert found[b"\xe0\x7f\x10\x00"].vr == b"OW"


# The harness notices what it is there to notice


def test_an_exception_of_another_kind_is_a_finding(home: Path) -> None:
    def target(place: Place) -> None:
        raise KeyError("x")

    found = fuzz.one(Kind([({"a": b"x"}, "a")], target), "x", 0, 0, home)
    assert found["outcome"] == "KeyError"


def test_a_hang_is_a_finding(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def target(place: Place) -> None:
        while True:
            try:
                sum(range(1000))
            except Exception:  # as careless code would
                continue

    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    assert fuzz.one(Kind([({"a": b"x"}, "a")], target), "x", 0, 0, home)["outcome"] == "Hang"


@pytest.mark.parametrize("where", ["elsewhere", "given/a", "out/.medidiff-tmp-x", "out/a.json"])
def test_what_is_written_wrongly_is_a_finding(home: Path, where: str) -> None:
    def target(place: Place) -> None:
        path = place.root / where
        path.parent.mkdir(exist_ok=True)
        entry = {"path": "../given/a", "bytes": 1, "sha256": "0"}
        path.write_text(json.dumps({"medidiff": "1", "input": {}, "outputs": [{**entry, "path": "a.json"}]}))

    with pytest.raises((Wrong, FileNotFoundError)):
        attempt(Kind([], target), {"a": b"x"}, home)


# What hypothesis finds is small

FIELDS = {
    "dim": st.lists(st.integers(-32768, 32767) | st.integers(0, 9), min_size=8, max_size=8),
    "pixdim": st.lists(st.floats(width=32), min_size=8, max_size=8),
    "datatype": st.sampled_from([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 2304]),
    "vox_offset": st.floats(width=32) | st.sampled_from([0.0, 352.0, 368.0]),
    "qform_code": st.integers(-32768, 32767),
    "sform_code": st.integers(-32768, 32767),
    "srow_x": st.lists(st.floats(width=32), min_size=4, max_size=4),
    "scl_slope": st.floats(width=32),
    "scl_inter": st.floats(width=32),
    "intent_code": st.integers(-1, 2100),
    "dim_info": st.integers(0, 255),
    "xyzt_units": st.integers(0, 255),
}


@few
@given(st.fixed_dictionaries({}, optional=FIELDS))
def test_any_nifti_header(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]) -> None:
    data = nib.Nifti1Image(fuzz_seeds.array(), np.eye(4)).to_bytes()
    header = nib.Nifti1Header(data[:348], check=False)
    for name, value in changes.items():
        header[name] = value
    path = tmp_path_factory.getbasetemp() / "any.nii"
    path.write_bytes(header.binaryblock + data[348:])
    try:
        volume = open_scan(path).volumes[0]
    except MedidiffError:
        return
    assert np.isfinite(volume.array).all()


KEYWORDS = (
    "ImageType", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
    "RescaleIntercept", "InstanceNumber", "SeriesNumber", "NumberOfFrames", "EchoTime", "SeriesInstanceUID",
    "SOPInstanceUID", "PhotometricInterpretation", "SpecificCharacterSet", "DiffusionBValue", "AcquisitionNumber",
)  # fmt: skip
ODD = st.sampled_from(fuzz_mutate.TEXTS) | st.text(max_size=20) | st.integers().map(str) | st.floats().map(str)


@few
@given(st.dictionaries(st.sampled_from(KEYWORDS), st.lists(ODD, min_size=1, max_size=7), min_size=1, max_size=4))
def test_any_dicom_values(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, list[str]]) -> None:
    folder = tmp_path_factory.getbasetemp() / "any_dicom"
    folder.mkdir(exist_ok=True)
    for k in range(3):
        (folder / f"{k}.dcm").write_bytes(fuzz_seeds.slice_of(k))
    data = fuzz_seeds.slice_of(1)
    for keyword, values in changes.items():
        tag = pydicom.tag.Tag(keyword)
        start = tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")
        raw = "\\".join(values).encode("utf-8", "replace")[:1000]
        raw += b" " * (len(raw) % 2)
        for each in [each for each in fuzz_mutate.elements(data) if data[each.start : each.start + 4] == start][:1]:
            data = data[: each.length_at] + len(raw).to_bytes(2, "little") + raw + data[each.value_at + each.length :]
    (folder / "1.dcm").write_bytes(data)
    for case in find_scans([folder]).cases:
        try:
            open_scan(case.path)
        except MedidiffError:
            continue


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(fuzz_mutate.TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@few
@given(st.integers(0, 10_000), TREES, st.sampled_from(["run.json", "t1_denoised.json", "4_Ax_T1_denoised.json"]))
def test_any_value_in_a_record(kinds: dict[str, Kind], home: Path, place: int, value: Any, name: str) -> None:
    files = kinds["record"].seeds[0][0]
    tree = json.loads(files[name])
    holder, key = (every := list(fuzz_mutate.nodes(tree)))[place % len(every)]
    holder[key] = value
    changed = fuzz_targets.sealed(json.dumps(tree).encode()) if name != "run.json" else json.dumps(tree).encode()
    attempt(kinds["record"], {**files, name: changed}, home, seed=place)


# What was found


def test_values_closer_than_float32_has_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.full((8, 8, 8), 1e30, dtype=np.float32)
    values[2:5] = np.nextafter(np.float32(1e30), np.float32(2e30))
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    assert main(["info", str(tmp_path / "a.nii")]) == 0
    assert "8 x 8 x 8" in capsys.readouterr().out


def test_a_segmentation_with_a_length_beyond_its_end(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for k in range(4):
        (tmp_path / "s" / f"{k}.dcm").write_bytes(fuzz_seeds.slice_of(k))
    data = fuzz_seeds.segmentation()
    at = data.index(b"\xe0\x7f\x10\x00O")
    (tmp_path / "seg.dcm").write_bytes(data[: at + 8] + b"\xf0\xff\xff\x7f" + data[at + 12 :])
    scan = open_scan(tmp_path / "s")
    assert read_mask(tmp_path / "seg.dcm", scan).holes[0].sum() == 27


def test_a_recipe_without_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.toml").write_text("a = " + "[" * 100_000)
    assert main(["train", str(tmp_path / "r.toml"), "-o", str(tmp_path / "out")]) == 2
    assert "nested too deeply" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000, "a\0b", "\ud800"])
def test_names_that_no_file_can_have(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    for number, key in enumerate(("inputs", "output", "mask", "pipeline")):
        tree: dict[str, Any] = {"inputs": ["a.nii"], "output": "out", key: [name] if key == "inputs" else name}
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps({"medidiff": "1", "config": tree}))
        task = "inpaint" if key == "mask" else "denoise"
        assert main([task, "--config", str(file)]) in (2, 6)
        assert "Traceback" not in (said := capsys.readouterr().err)
        assert "unexpected" not in said
        assert len(said) < 500
    if "\0" not in name and name.isascii():
        assert main(["denoise", name, "-o", str(tmp_path / "out")]) == 2
        assert main(["denoise", str(tmp_path), "-o", str(tmp_path / "out"), "-p", name]) == 2


class PanicException(BaseException):
    """As code in Rust raises it through PyO3: no `Exception`."""


def test_a_decoder_that_panics_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(3):
        (tmp_path / f"{k}.dcm").write_bytes(fuzz_seeds.slice_of(k, syntax=fuzz_seeds.RLELossless))

    def panic(*arguments: Any) -> None:
        raise PanicException("index out of bounds: the len is 4 but the index is 4")

    monkeypatch.setattr(pydicom.dataset.Dataset, "pixel_array", property(panic))
    with pytest.raises(ScanError, match=r"0\.dcm has pixel data that cannot be decoded \(RLE Lossless\)"):
        open_scan(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree["medidiff"]["network"].update(channels=[8, 8]),
        lambda tree: tree["medidiff"]["network"].update(backbone="other"),
        lambda tree: tree["medidiff"]["network"].pop("parameters"),
        lambda tree: tree["medidiff"].update(tasks=[["denoise"]]),
        lambda tree: tree["medidiff"].update(trained_on={"anisotropy": [1]}),
        lambda tree: tree["medidiff"].update(trained_on={"anisotropy": {"1": 2}}),
    ],
)
def test_a_bundle_whose_parts_do_not_fit(tmp_path: Path, change: Callable[[Any], object]) -> None:
    folder = fuzz_seeds.bundle(tmp_path / "b")
    tree = json.loads((folder / bundles.METADATA).read_text())
    change(tree)
    (folder / bundles.METADATA).write_text(json.dumps(tree))
    with pytest.raises(PipelineError):
        bundles.read(folder).network()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("run.json", lambda tree: tree["cases"].append("x")),
        ("run.json", lambda tree: tree["cases"][0].update(outputs=True)),
        ("run.json", lambda tree: tree["cases"][0]["outputs"].update(restored=1.5)),
        ("t1_denoised.json", lambda tree: tree.update(config="x")),
        ("t1_denoised.json", lambda tree: tree.update(outputs=[1])),
        ("t1_denoised.json", lambda tree: tree["input"].update(files="x")),
    ],
)
def test_a_record_of_other_types(
    kinds: dict[str, Kind], home: Path, name: str, change: Callable[[Any], object]
) -> None:
    files = kinds["record"].seeds[0][0]
    tree = json.loads(files[name])
    change(tree)
    for seed in range(2):
        attempt(kinds["record"], {**files, name: json.dumps(tree).encode()}, home, seed)
