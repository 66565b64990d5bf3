"""NIfTI in and out: values, headers and untouched voxels survive."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medidiff.errors import CannotWrite, ScanError
from medidiff.scans import nifti, nifti_mapped, read, write, write_map
from medidiff.scans.volume import Scan, ScanRef

OBLIQUE = nib.affines.from_matvec(
    np.array([[0.9, -0.1, 0.3], [0.15, 1.1, -0.2], [-0.25, 0.2, 2.9]]), [-31.0, 12.5, 7.0]
)
SHIFTED = OBLIQUE + np.array([[0, 0, 0, 5.0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def ref_of(path: Path) -> ScanRef:
    return ScanRef("nifti", path, (path,), Path(path.name), nifti.nifti_stem(path.name) or "x")


def save(path: Path, data: np.ndarray, *, scaling: tuple[float, float] | None = None, kind=nib.Nifti1Image) -> Path:
    """Write stored values as they are, with the scaling in the header only."""
    image = kind(data, OBLIQUE, dtype=data.dtype)
    image.set_sform(OBLIQUE, code=2)
    image.set_qform(SHIFTED, code=1)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_slope_inter(1, 0)
    nib.save(image, path)
    if scaling is not None:
        plain = not path.name.endswith(".gz")
        raw = bytearray(path.read_bytes() if plain else gzip.decompress(path.read_bytes()))
        raw[112:120] = np.array(scaling, dtype="<f4").tobytes()
        path.write_bytes(bytes(raw) if plain else gzip.compress(bytes(raw)))
    return path


def stored_values(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj.get_unscaled())


def identity(scan: Scan) -> list[np.ndarray]:
    return [volume.array for volume in scan.volumes]


def test_values_and_affine_are_physical(tmp_path):
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    scan = read(ref_of(save(tmp_path / "a.nii.gz", data, scaling=(0.5, -1024))))
    (volume,) = scan.volumes
    np.testing.assert_array_equal(volume.array, data * 0.5 - 1024)
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    assert volume.array.dtype == np.float32
    assert (volume.label, volume.valid, scan.notes) == ("", None, ())


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("scaling", [None, (0.5, -1024.0), (-2.25, 3.0)])
def test_header_and_change_survive(tmp_path, derivation, dtype, scaling):
    limit = 100 if np.dtype(dtype).itemsize == 1 else 3000
    data = np.random.default_rng(0).integers(10, limit, (5, 7, 3)).astype(dtype)
    path = save(tmp_path / "a.nii.gz", data, scaling=scaling)
    scan = read(ref_of(path))
    slope = scaling[0] if scaling else 1.0
    (out,) = write(scan, [scan.volumes[0].array + np.float32(3 * slope)], tmp_path / "b.nii.gz", derivation)
    np.testing.assert_allclose(stored_values(out), data + np.array(3, dtype), rtol=1e-6, atol=0)
    before, after = nib.load(path), nib.load(out)
    assert after.get_data_dtype() == np.dtype(dtype)
    assert (after.dataobj.slope, after.dataobj.inter) == (before.dataobj.slope, before.dataobj.inter)
    for name in ("sform_code", "qform_code", "xyzt_units", "pixdim", "srow_x", "qoffset_x", "quatern_b", "intent_code"):
        np.testing.assert_array_equal(after.header[name], before.header[name])
    assert bytes(after.header["descrip"].tobytes()).rstrip(b"\0") == b"medidiff 0.1.0 denoise"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=hnp.arrays(
        st.sampled_from(["u1", "<i2", ">i2", "i4", "u8", "f4", "f8"]),
        hnp.array_shapes(min_dims=2, max_dims=5, max_side=5),
    ),
    scaling=st.none() | st.tuples(st.sampled_from([0.1, 1.0, 37.5, -3.0]), st.sampled_from([0.0, -1024.0, 1e6])),
    packed=st.booleans(),
)
def test_identity_rewrites_equal_stored_values(tmp_path, derivation, data, scaling, packed):
    slope, intercept = scaling or (1, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        assume(np.isfinite((data * slope + intercept).astype(np.float32)).any())
    path = save(tmp_path / f"a.nii{'.gz' * packed}", data, scaling=scaling)
    scan = read(ref_of(path))
    (out,) = write(scan, identity(scan), tmp_path / f"b.nii{'.gz' * packed}", derivation)
    assert stored_values(out).tobytes() == stored_values(path).tobytes()
    assert all(np.isfinite(volume.array).all() for volume in scan.volumes)


def test_whole_numbers_are_rounded_and_clipped(tmp_path, derivation):
    path = save(tmp_path / "a.nii", np.array([[[10, 20, 30, 40]]], dtype=np.uint8))
    scan = read(ref_of(path))
    (out,) = write(scan, [np.array([[[10.4, 20.6, -5, 300]]], dtype=np.float32)], tmp_path / "b.nii.gz", derivation)
    np.testing.assert_array_equal(stored_values(out), [[[10, 21, 0, 255]]])


def test_extreme_results_stay_in_range_of_64_bits(tmp_path, derivation):
    path = save(tmp_path / "a.nii", np.array([[[1, 2]]], dtype=np.int64))
    (out,) = write(read(ref_of(path)), [np.array([[[1e30, -1e30]]], dtype=np.float32)], tmp_path / "b.nii", derivation)
    assert stored_values(out)[0, 0, 0] > 9e18
    assert stored_values(out)[0, 0, 1] < -9e18


@pytest.mark.parametrize(
    ("shape", "volumes"),
    [((4, 5), 1), ((4, 5, 1), 1), ((4, 5, 3, 1), 1), ((4, 5, 3, 2), 2), ((4, 5, 1, 3), 3), ((4, 5, 3, 1, 2), 2)],
)
def test_every_dimension_is_split_and_joined(tmp_path, derivation, shape, volumes):
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    path = save(tmp_path / "a.nii.gz", data)
    scan = read(ref_of(path))
    assert len(scan.volumes) == volumes
    assert {volume.array.ndim for volume in scan.volumes} == {3}
    assert [volume.label for volume in scan.volumes] == ([f"t={n}" for n in range(volumes)] if volumes > 1 else [""])
    np.testing.assert_array_equal(
        scan.volumes[-1].array.ravel(), data.reshape(*(*shape, 1)[:3], -1)[..., -1].ravel(), strict=False
    )
    (out,) = write(scan, [volume.array * 2 for volume in scan.volumes], tmp_path / "b.nii.gz", derivation)
    np.testing.assert_array_equal(nib.load(out).get_fdata(), data * 2)


def test_nan_voxels_are_not_valid_and_stay(tmp_path, derivation):
    data = np.ones((3, 3, 3), dtype=np.float32)
    data[0, 0, 0], data[1, 1, 1], data[2, 2, 2] = np.nan, np.inf, -np.inf
    path = save(tmp_path / "a.nii", data)
    scan = read(ref_of(path))
    (volume,) = scan.volumes
    np.testing.assert_array_equal(volume.valid, np.isfinite(data))
    np.testing.assert_array_equal(volume.array, np.where(np.isfinite(data), data, 0))
    assert "3 voxels" in scan.notes[0]
    (out,) = write(scan, [volume.array + 1], tmp_path / "b.nii", derivation)
    np.testing.assert_array_equal(stored_values(out), np.where(np.isfinite(data), 2, data))


@pytest.mark.parametrize(("code", "size", "said"), [(1, 2.0, True), (1, 1.005, False), (0, 2.0, False)])
def test_two_geometries_of_different_voxel_sizes_are_told(tmp_path, code, size, said):
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.int16), np.diag([1, 1, 3, 1]))
    image.set_qform(np.diag([size, 1, 3, 1]), code=code)
    nib.save(image, tmp_path / "scan.nii")
    scan = read(ref_of(tmp_path / "scan.nii"))
    note = "Its header gives voxels of 1 x 1 x 3 mm (sform) and of 2 x 1 x 3 mm (qform); the sform is taken."
    assert scan.notes == ((note,) if said else ())
    np.testing.assert_array_equal(scan.volumes[0].affine, np.diag([1, 1, 3, 1]))


@pytest.mark.parametrize(("unit", "said"), [("micron", "micrometres"), ("meter", "metres"), ("mm", ""), (0, "")])
def test_another_unit_of_length_is_told(tmp_path, unit, said):
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.int16), np.eye(4))
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, tmp_path / "scan.nii")
    note = f"Its header counts in {said}; sizes are taken for millimetres here: in --spacing, records and maps."
    assert read(ref_of(tmp_path / "scan.nii")).notes == ((note,) if said else ())


def test_constant_volume_is_legal(tmp_path, derivation):
    path = save(tmp_path / "a.nii.gz", np.zeros((3, 3, 3), dtype=np.int16))
    scan = read(ref_of(path))
    (out,) = write(scan, identity(scan), tmp_path / "b.nii.gz", derivation)
    assert not stored_values(out).any()


def broken_files(folder: Path) -> dict[str, bytes]:
    good = save(folder / "good.nii.gz", np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16))
    raw = good.read_bytes()
    plain = gzip.decompress(raw)
    huge = bytearray(plain)
    huge[42:48] = np.array([30000, 30000, 30000], dtype="<i2").tobytes()
    empty = bytearray(plain)
    empty[42:48] = np.array([20, 0, 20], dtype="<i2").tobytes()
    label = bytearray(plain)
    label[68:70] = np.array([1002], dtype="<i2").tobytes()
    return {
        "text.nii.gz": gzip.compress(b"just some text" * 100),
        "plaintext.nii": b"just some text" * 100,
        "nothing.nii": b"",
        "cut.nii.gz": raw[: len(raw) // 2],
        "cut.nii": plain[:5000],
        "header.nii": plain[:348],
        "huge.nii": bytes(huge),
        "zero.nii": bytes(empty),
        "labels.nii": bytes(label),
    }


def test_damaged_files_give_one_sentence(tmp_path):
    for name, content in broken_files(tmp_path).items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ScanError) as caught:
            read(ref_of(path))
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.ones((3, 3, 3), dtype=np.complex64), "complex"),
        (np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), "RGB"),
        (np.full((3, 3, 3), np.nan, dtype=np.float32), "no finite value"),
    ],
)
def test_what_is_no_scalar_image_is_refused(tmp_path, data, words):
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(ScanError, match=words):
        read(ref_of(tmp_path / "a.nii.gz"))


def test_missing_file_is_a_scan_error(tmp_path):
    with pytest.raises(ScanError, match="not a file"):
        read(ref_of(tmp_path / "a.nii"))


def test_nifti2_and_big_endian_survive_and_extensions_do_not(tmp_path, derivation):
    image = nib.Nifti2Image(np.arange(24, dtype=">f4").reshape(2, 3, 4), OBLIQUE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"made by hand"))
    nib.save(image, tmp_path / "a.nii")
    big = nib.Nifti1Image(np.arange(24, dtype=">i2").reshape(2, 3, 4), OBLIQUE).as_reoriented([[0, 1], [1, 1], [2, 1]])
    header = big.header.as_byteswapped(">")
    nib.save(nib.Nifti1Image(np.asarray(big.dataobj), OBLIQUE, header), tmp_path / "big.nii.gz")
    for name in ("a.nii", "big.nii.gz"):
        scan = read(ref_of(tmp_path / name))
        (out,) = write(scan, [scan.volumes[0].array + 1], tmp_path / f"out_{name}", derivation)
        before, after = nib.load(tmp_path / name), nib.load(out)
        assert type(after) is type(before)
        assert after.header.endianness == before.header.endianness
        assert not after.header.extensions
        assert b"made by hand" not in out.read_bytes()
        np.testing.assert_array_equal(after.get_fdata(), before.get_fdata() + 1)


def test_same_run_gives_same_bytes(tmp_path, derivation):
    scan = read(ref_of(save(tmp_path / "a.nii.gz", np.arange(60, dtype=np.int16).reshape(3, 4, 5))))
    for folder in ("one", "two"):
        write(scan, [scan.volumes[0].array + 2], tmp_path / folder / f"{folder}.nii.gz", derivation)
    assert (tmp_path / "one" / "one.nii.gz").read_bytes() == (tmp_path / "two" / "two.nii.gz").read_bytes()


def test_input_is_never_the_output(tmp_path, derivation):
    path = save(tmp_path / "a.nii", np.ones((3, 3, 3), dtype=np.float32))
    scan = read(ref_of(path))
    with pytest.raises(CannotWrite, match="input itself"):
        write(scan, identity(scan), path, derivation)
    with pytest.raises(ScanError, match="does not fit"):
        write(scan, [np.zeros((2, 2, 2), dtype=np.float32)], tmp_path / "b.nii", derivation)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.nii"]


def test_map_is_float_on_the_same_grid(tmp_path, derivation):
    data = np.arange(48, dtype=np.int16).reshape(2, 3, 4, 2)
    scan = read(ref_of(save(tmp_path / "a.nii.gz", data, scaling=(0.5, -1024))))
    maps = [volume.array * np.float32(0.01) for volume in scan.volumes]
    (out,) = write_map(scan, maps, tmp_path / "u.nii.gz", derivation)
    image = nib.load(out)
    assert image.get_data_dtype() == np.float32
    np.testing.assert_allclose(image.get_fdata(), (data * 0.5 - 1024) * 0.01, rtol=1e-6)
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "modality"),
    [([-1024, 0, 1500], "CT"), ([-3024, 0, 300], "CT"), ([0, 900], "MR"), ([-4096, 4095], "MR"), ([-1000, 100], "MR")],
)
def test_guessed_modality(values, modality):
    assert nifti.guess_modality(np.array(values, dtype=np.float32)) == modality


@pytest.mark.parametrize(
    ("text", "modality", "units"),
    [
        ('{"Modality": "PT"}', "PT", "a.u."),
        ('{"Modality": "CT"}', "CT", "HU"),
        ('{"Modality": "mr scan"}', "MR", "a.u."),
        ('["CT"]', "MR", "a.u."),
        ("{", "MR", "a.u."),
    ],
)
def test_the_file_beside_states_the_modality(tmp_path, text, modality, units):
    path = tmp_path / "head.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4)), path)
    (tmp_path / "head.json").write_text(text)
    ref = ScanRef("nifti", path, (path,), Path("head.nii.gz"), "head")
    (volume,) = nifti.read(ref).volumes
    assert (volume.modality, volume.units) == (modality, units)
    (mapped,) = nifti_mapped.read(ref, tmp_path).volumes
    assert (mapped.modality, mapped.units) == (modality, units)
    assert nifti.outline(ref).volumes[0].modality == ("OT" if modality == "MR" else modality)
