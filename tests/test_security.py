"""Files from strangers: they run no code, reach nothing outside, take no memory that they do not fill, hide nothing."""

from __future__ import annotations

import ast
import gzip
import json
import os
import pickle
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian

from benchmarks import fuzz_seeds
from medidiff import bundles
from medidiff.cli import main
from medidiff.errors import MedidiffError, OutOfMemory, PipelineError, ScanError, UsageError
from medidiff.runs import locate, seal, verify
from medidiff.scans import limits, open_scan, outputs, read
from medidiff.scans.discover import find_scans
from medidiff.training import pack

Write = Callable[..., Path]
Go = Callable[..., Any]
PACKAGE = Path(__file__).parents[1] / "medidiff"
HOSTILE = (
    "../../../escape",
    "/escape",
    "..",
    "CON",
    "com¹",
    "nul.txt",
    "a\0b",
    "C:\\escape",
    "‮gpj.exe",
    "．．／escape",
    "x" * 300,
    "<script>alert(1)</script>",
    "$(reboot)`id`",
    "-rf",
    " . ",
)


class Armed:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# Nothing that is read runs code


def test_weights_that_are_a_pickle_are_refused(fake: ModuleType, tmp_path: Path) -> None:
    bundle = fake.make_bundle(tmp_path / "b", pickle.dumps(Armed(tmp_path / "mark")))
    with pytest.raises(PipelineError, match="does not fit"):
        bundles.read(bundle).network()
    assert not (tmp_path / "mark").exists()


def test_packs_with_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", table=np.array([Armed(tmp_path / "mark")], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        pack.load(tmp_path / "p.npz")
    assert not (tmp_path / "mark").exists()


def test_the_package_names_nothing_that_unpickles_or_evaluates() -> None:
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
    calls = {"eval", "exec", "compile", "__import__"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found = modules & {name.partition(".")[0] for name in names}
            assert not found or path.name == "worker.py", path  # which copies its own errors
            if isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else ""
                assert called not in calls, f"{path.name} calls {called}"
            if isinstance(node, ast.Attribute) and node.attr == "load":
                assert ast.unparse(node) != "torch.load", path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", path


# Text in headers names no file


@given(st.text() | st.sampled_from(HOSTILE))
@settings(max_examples=100, deadline=None)
def test_a_safe_name_is_safe(text: str) -> None:
    name = outputs.safe_name(text)
    assert not set(name) & set('/\\:*?"<>|\0\n')
    assert len(name.encode()) <= 81
    assert name in ("", Path(name).name)
    assert not name.startswith((".", "-", " "))
    assert not name.endswith((".", " "))


@pytest.mark.parametrize("name", ["com¹", "LPT³.txt", "con", "ＮＵＬ"])
def test_devices_of_windows_are_no_names(name: str) -> None:
    assert outputs.safe_name(name) == f"_{name}"


def test_descriptions_stay_inside_the_output(go: Go, tmp_path: Path) -> None:
    for n, text in enumerate(HOSTILE):
        folder = tmp_path / "in" / str(n)
        folder.mkdir(parents=True)
        for k in range(2):
            uid = f"{fuzz_seeds.ROOT_UID}{n + 20}"
            data = fuzz_seeds.slice_of(k, SeriesInstanceUID=uid, SOPInstanceUID=f"{uid}.{k}", SeriesDescription="X")
            (folder / f"{k}.dcm").write_bytes(with_description(data, text))
    go(tmp_path / "in", output=tmp_path / "deep" / "er" / "out")
    assert below(tmp_path) - below(tmp_path / "in") >= {"in", "deep", "deep/er", "deep/er/out"}
    assert {path.name for path in tmp_path.iterdir()} == {"in", "deep"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["er"]
    assert [path.name for path in (tmp_path / "deep/er").iterdir()] == ["out"]
    record = json.loads((tmp_path / "deep/er/out/run.json").read_text())
    assert [case["status"] for case in record["cases"]] == ["done"] * len(HOSTILE)
    assert not any(set(name) & set('\\:*?"<>|$`') for name in below(tmp_path / "deep/er/out"))


def with_description(data: bytes, text: str) -> bytes:
    """The series description written as raw bytes, for pydicom would refuse some."""
    raw = text.encode("utf-8")
    raw += b" " * (len(raw) % 2)
    before = b"\x08\x00\x3e\x10LO\x02\x00X "
    assert data.count(before) == 1
    return data.replace(before, before[:6] + len(raw).to_bytes(2, "little") + raw).replace(b"ISO_IR 100", b"ISO_IR 192")


# What claims more than it holds takes no memory


def nifti(path: Path, packed: bool = False, order: str = "<", **fields: Any) -> Path:
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(np.int16)
    header["dim"][:4] = (3, 4, 4, 4)
    header["magic"], header["vox_offset"] = b"n+1", 352
    for name, value in fields.items():
        if name != "behind":
            header[name] = value
    data = header.binaryblock + fields.get("behind", b"\0" * 4) + bytes(128)
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "promises"),
        ({"dim": [7, 32767, 32767, 32767, 32767, 32767, 32767, 32767]}, "promises"),
        ({"dim": [3, -4, 4, 4, 1, 1, 1, 1]}, "holds no image"),
        ({"dim": [3, 0, 4, 4, 1, 1, 1, 1]}, "holds no image"),
        ({"dim": [-3, 4, 4, 4, 1, 1, 1, 1]}, "readable"),
        ({"vox_offset": 2e9}, "begin at byte"),
        ({"vox_offset": -352}, "begin at byte"),
        ({"vox_offset": np.nan}, "begin at byte"),
        ({"vox_offset": 1e6}, "promises"),
        ({"vox_offset": 400, "behind": b"\1\0\0\0\xf0\xff\xff\x7f"}, "extension"),
        ({"vox_offset": 400, "behind": b"\1\0\0\0\xf0\xff\xff\xff"}, "extension"),
        ({"vox_offset": 0, "behind": b"\1\0\0\0\xf0\xff\xff\x7f"}, "extension"),
        ({"vox_offset": 400, "behind": b"\1\0\0\0\x7f\xff\xff\xf0", "order": ">"}, "extension"),
    ],
)
def test_absurd_nifti_headers(tmp_path: Path, packed: bool, fields: dict[str, Any], words: str) -> None:
    path = nifti(tmp_path / ("a.nii.gz" if packed else "a.nii"), packed, **fields)
    said = frugally(lambda: open_scan(path))
    assert words in said
    assert "a.nii" in said


@contextmanager
def little_memory() -> Iterator[None]:
    """What happens inside takes less than 20 MB at any moment."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def frugally(action: Callable[[], object]) -> str:
    """The sentence of the error that something raises while it takes little memory."""
    with little_memory(), pytest.raises(MedidiffError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_stream_is_read_no_further_than_its_header_says(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii.gz", packed=True)
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(40_000_000), 1))
    with little_memory():
        scan = open_scan(path)
    assert scan.volumes[0].array.shape == (4, 4, 4)


def test_more_than_the_memory_is_refused_with_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "available_memory", lambda: 100)
    with pytest.raises(OutOfMemory, match=r"a\.nii needs .* GB"):
        open_scan(nifti(tmp_path / "a.nii"))


@pytest.mark.parametrize(
    ("keyword", "value"), [("Rows", 65535), ("NumberOfFrames", 2**31 - 1), ("NumberOfFrames", -1), ("BitsAllocated", 0)]
)
def test_absurd_dicom_sizes(tmp_path: Path, keyword: str, value: int) -> None:
    more = {"Rows": 65535, "Columns": 65535} if keyword == "Rows" else {keyword: value}
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(fuzz_seeds.slice_of(0, syntax=fuzz_seeds.RLELossless)))
    for name, each in more.items():
        setattr(dataset, name, each)
    dataset.save_as(tmp_path / "a.dcm")
    said = frugally(lambda: open_scan(tmp_path / "a.dcm"))
    assert any(word in said for word in ("damaged", "frames", "truncated", "decoded")), said


def test_a_length_beyond_the_file_takes_no_memory(tmp_path: Path) -> None:
    data = fuzz_seeds.slice_of(0)
    at = data.index(b"\xe0\x7f\x10\x00OW")
    (tmp_path / "a.dcm").write_bytes(data[: at + 8] + b"\xf0\xff\xff\x7f" + data[at + 12 :])
    (tmp_path / "b.dcm").write_bytes(data[:at] + b"\x09\x00\x11\x00UN\0\0\xf0\xff\xff\x7f" + data[at:])
    for name in ("a.dcm", "b.dcm"):
        with little_memory():
            for case in find_scans([tmp_path / name]).cases:
                with suppress(ScanError):  # the pixels themselves may be whole
                    read(case)


def test_deflated_bombs_are_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INFLATED_FREELY", 1 << 20)
    data = fuzz_seeds.slice_of(0, syntax=DeflatedExplicitVRLittleEndian)
    assert find_scans([write(tmp_path / "sound.dcm", data)]).cases
    start = 132 + 12 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(9, wbits=-15)
    inner = zlib.decompress(data[start:], wbits=-15) + b"\x09\x00\x11\x00UN\0\0" + (60_000_000).to_bytes(4, "little")
    bomb = packer.compress(inner + bytes(60_000_000)) + packer.flush()
    path = write(tmp_path / "bomb.dcm", data[:start] + bomb)
    with little_memory():
        (left,) = find_scans([path]).skipped
    assert left.reason == "refused: it is deflated and becomes more than 1 MB"


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# Links


def test_links_out_of_the_input_are_left_out(scan: Write, tmp_path: Path) -> None:
    outside = scan(tmp_path / "private" / "p.nii.gz")
    inside = scan(tmp_path / "in" / "a" / "t1.nii.gz")
    (tmp_path / "in" / "b").mkdir()
    (tmp_path / "in" / "b" / "same.nii.gz").symlink_to(inside)
    (tmp_path / "in" / "b" / "out.nii.gz").symlink_to(outside)
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "private")
    (tmp_path / "in" / "up").symlink_to("../..")
    found = find_scans([tmp_path / "in"])
    assert [case.relative.as_posix() for case in found.cases] == ["a/t1.nii.gz"]
    assert {each.path.name for each in found.skipped} == {"out.nii.gz", "folder", "up"}
    assert all("leads out of the input" in each.reason for each in found.skipped)
    both = find_scans([tmp_path / "in", tmp_path / "private"])
    assert len(both.cases) == 2
    assert {each.path.name for each in both.skipped} == {"up"}


def test_what_the_user_names_may_be_a_link(scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "data" / "t1.nii.gz")
    (tmp_path / "file.nii.gz").symlink_to(tmp_path / "data" / "t1.nii.gz")
    (tmp_path / "folder").symlink_to(tmp_path / "data")
    for name in ("file.nii.gz", "folder"):
        found = find_scans([tmp_path / name])
        assert (len(found.cases), found.skipped) == (1, ()), name


def test_trees_of_git_annex_are_read(scan: Write, tmp_path: Path) -> None:
    keep = scan(tmp_path / "ds" / ".git" / "annex" / "objects" / "x" / "KEY" / "KEY.nii.gz")
    other = scan(tmp_path / "super" / ".git/modules/sub/annex/objects/KEY/KEY.nii.gz", value=5)
    link = tmp_path / "ds" / "sub-01" / "t1.nii.gz"
    link.parent.mkdir()
    link.symlink_to(os.path.relpath(keep, link.parent))
    sub = tmp_path / "super" / "sub"
    sub.mkdir()
    (sub / ".git").symlink_to("../.git/modules/sub")
    (sub / "t1.nii.gz").symlink_to(os.path.relpath(other, sub))
    for folder in (tmp_path / "ds", tmp_path / "ds" / "sub-01", tmp_path / "super", sub):
        found = find_scans([folder])
        assert (len(found.cases), found.skipped) == (1, ()), folder


def test_a_false_annex_leads_nowhere(scan: Write, tmp_path: Path) -> None:
    private = scan(tmp_path / "private" / "annex" / "objects" / "p.nii.gz")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / ".git").symlink_to(tmp_path / "private")
    (tmp_path / "in" / "t1.nii.gz").symlink_to(private)
    found = find_scans([tmp_path / "in"])
    assert (found.cases, len(found.skipped)) == ((), 1)


def test_a_folder_of_masks_reaches_no_further(go: Go, scan: Write, tmp_path: Path) -> None:
    source = scan(tmp_path / "t1.nii.gz")
    hole = np.zeros((8, 7, 6), np.uint8)
    hole[2:4, 2:4, 2:4] = 1
    nib.save(nib.Nifti1Image(hole, np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / "private.nii.gz")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "t1_mask.nii.gz").symlink_to(tmp_path / "private.nii.gz")
    (case,) = go(source, output=tmp_path / "out", task="inpaint", mask=tmp_path / "masks").record.cases
    assert "holds no mask" in case.reason
    assert go(source, output=tmp_path / "out", task="inpaint", mask=tmp_path / "private.nii.gz").exit_code == 0


# Records and settings from strangers


@pytest.fixture
def result(go: Go, scan: Write, tmp_path: Path) -> Path:
    """The sidecar of a result in a folder of its own."""
    go(scan(tmp_path / "home" / "in" / "t1.nii.gz"), output=tmp_path / "home" / "out")
    assert (tmp_path / "home" / "out" / "t1_denoised.json").is_file(), (tmp_path / "home/out/run.json").read_text()
    return tmp_path / "home" / "out" / "t1_denoised.json"


def edit(file: Path, change: Callable[[Any], object]) -> None:
    tree = json.loads(file.read_text())
    change(tree)
    tree.pop(seal.SEAL, None)
    file.write_text(json.dumps(seal.sealed(tree) if "input" in tree else tree))


CHANGES: dict[str, Callable[[Any], object]] = {
    "outputs above": lambda tree: tree["outputs"][0].update(path="../../../secret"),
    "outputs absolute": lambda tree: tree["outputs"][0].update(path="/etc/passwd"),
    "outputs of Windows": lambda tree: tree["outputs"][0].update(path="..\\secret"),
    "input absolute": lambda tree: tree["input"].update(path="/"),
    "input with NUL": lambda tree: tree["input"].update(path="a\0b"),
    "files above": lambda tree: tree["input"]["files"][0].update(path="../../x"),
    "output above": lambda tree: tree["config"].update(output=".."),
    "mask absolute": lambda tree: tree.update(mask={"path": "/etc/passwd", "sha256": ""}),
    "pipeline absolute": lambda tree: tree["config"].update(pipeline="/tmp/b"),
    "types": lambda tree: tree.update(outputs=["x"]),
    "no pipeline": lambda tree: tree.pop("pipeline"),
    "null": lambda tree: tree.update(dicom=None),
    "no files": lambda tree: tree["input"].pop("files"),
    "volumes": lambda tree: tree.update(volumes=[{"record": 1}]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_sidecars_that_lead_elsewhere_are_damaged(
    result: Path, tmp_path: Path, change: Callable[[Any], object]
) -> None:
    edit(result, change)
    before = below(tmp_path)
    with pytest.raises(UsageError, match=r"t1_denoised\.json is damaged"):
        verify.verify(result)
    assert below(tmp_path) == before


def test_verifying_searches_no_tree_because_a_sidecar_says_so(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    real = locate.discover.find_scans

    def watched(inputs: Any, **options: Any) -> Any:
        opened.extend(inputs)
        assert options.get("recursive") is False or all(path.is_file() for path in inputs)
        return real(inputs, **options)

    monkeypatch.setattr(locate.discover, "find_scans", watched)
    (result.parent / "run.json").unlink()
    for place, kind in (("../../../..", "dicom"), ("../in", "dicom"), ("../in/other.nii.gz", "nifti")):
        edit(result, lambda tree, place=place, kind=kind: tree["input"].update(path=place, kind=kind))
        opened.clear()
        assert "input" in verify.verify(result).culprits
        assert [path.resolve() for path in opened] in ([], [(result.parent / place).resolve()])


@pytest.mark.parametrize("key", ["restored", "sidecar", "uncertainty"])
def test_run_records_that_lead_elsewhere_are_damaged(
    result: Path, tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = result.parent / "run.json"
    edit(run, lambda tree: tree["cases"][0]["outputs"].update({key: "../../secret.nii.gz"}))
    for command in ("verify", "report"):
        assert main([command, str(run.parent)]) == 2
        assert "run.json is damaged (cases.0.outputs" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run.json", "t1_denoised.json"])
@pytest.mark.parametrize(
    ("key", "value"), [("output", "../elsewhere"), ("output", "/escape"), ("inputs", ["/etc"]), ("mask", "/etc/passwd")]
)
def test_records_as_settings_write_nowhere_else(
    result: Path, name: str, key: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(result.parent / name, lambda tree: tree["config"].update({key: value}))
    assert main(["denoise", "--config", str(result.parent / name)]) == 2
    assert "as no record of medidiff does" in capsys.readouterr().err
    assert not (result.parents[1] / "elsewhere").exists()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "\xff", '{"medidiff": "1", "cases": 1e999}'])
def test_json_that_is_none_is_one_sentence(result: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (result, result.parent / "run.json"):
        file.write_bytes(text.encode("latin-1"))
    for command in (["verify", str(result)], ["verify", str(result.parent)], ["report", str(result.parent)]):
        assert main(command) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["denoise", "--config", str(result)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_dataset_with_json_without_end_is_restored(go: Go, scan: Write, tmp_path: Path) -> None:
    root = tmp_path / "ds"
    source = scan(root / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.1"}')
    source.with_name("sub-01_T1w.json").write_text("[" * 100_000)
    made = go(root, output=tmp_path / "out", bids=True)
    assert [case.status for case in made.record.cases] == ["done"]


def test_toml_without_end_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text("a = " + "[" * 100_000)
    assert main(["denoise", "--config", str(tmp_path / "run.toml")]) == 2
    assert "nested too deeply" in capsys.readouterr().err


BUNDLES: dict[str, Callable[[Any], object]] = {
    "weights above": lambda tree: tree["medidiff"]["weights"].update(file="../model"),
    "weights absolute": lambda tree: tree["medidiff"]["weights"].update(file="/etc/passwd"),
    "tasks": lambda tree: tree["medidiff"].update(tasks=["denoise", 1]),
    "halo": lambda tree: tree["medidiff"].update(halo="x"),
    "width": lambda tree: tree["medidiff"]["network"].update(channels=[10**9]),
    "dims": lambda tree: tree["medidiff"]["network"].update(spatial_dims=10**6),
    "range": lambda tree: tree["medidiff"].update(trained_on={"anisotropy": "12"}),
    "calibration": lambda tree: tree["medidiff"].update(calibration={"denoise": {"x": {}}}),
    "name": lambda tree: tree.update(name=["x"]),
}


@pytest.mark.parametrize("change", BUNDLES.values(), ids=BUNDLES)
def test_bundles_that_are_none_are_refused(fake: ModuleType, change: Callable[[Any], object]) -> None:
    file = fake.home / bundles.METADATA
    tree = json.loads(file.read_text())
    change(tree)
    file.write_text(json.dumps(tree))
    with pytest.raises(PipelineError, match="is not the metadata of a medidiff bundle"):
        bundles.read(fake.home)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_no_file_of_weights(fake: ModuleType) -> None:
    (fake.home / "model").unlink()
    os.mkfifo(fake.home / "model")
    with pytest.raises(PipelineError, match="cannot be read"):
        bundles.read(fake.home).verify()


def test_a_network_beyond_its_weights_takes_no_memory(tmp_path: Path) -> None:
    folder = fuzz_seeds.bundle(tmp_path / "b")
    tree = json.loads((folder / bundles.METADATA).read_text())
    tree["medidiff"]["network"]["channels"] = [4096] * 3  # 20 GB
    (folder / bundles.METADATA).write_text(json.dumps(tree))
    with pytest.raises(PipelineError, match="does not fit the network"):
        bundles.read(folder).network()


# What people see


def test_names_do_not_control_the_terminal(go: Go, scan: Write, tmp_path: Path, capfd: Any) -> None:
    scan(tmp_path / "in" / "a\x1b]0;owned\x07\x9b31m‮.nii.gz")
    main(["denoise", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--log", str(tmp_path / "log")])
    main(["info", str(tmp_path / "in")])
    main(["denoise", str(tmp_path / "in\x1b[2J"), "-o", str(tmp_path / "out")])
    said = capfd.readouterr()
    seen = said.err + said.out.partition("\n")[2] + (tmp_path / "log").read_text()
    assert "owned" in said.err
    assert not set(seen) & set("\x1b\x07\x9b‮")


def test_the_report_escapes_names_and_headers(go: Go, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "in" / "<img src=x onerror=alert(1)>.nii.gz", shape=(16, 16, 16))
    go(tmp_path / "in", output=tmp_path / "out")
    edit(
        tmp_path / "out" / "<img src=x onerror=alert(1)>_denoised.json",
        lambda tree: tree["volumes"][0].update(
            units="</script><script>alert(2)</script>", guard={"verdicts": ["<b onclick=alert(3)>"]}
        ),
    )
    assert main(["report", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;img src=x" in page
    for each in ("<img src=x", "<script>alert", "<b onclick"):
        assert each not in page
