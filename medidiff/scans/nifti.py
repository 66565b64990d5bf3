"""Reads and writes NIfTI-1 and NIfTI-2 files without losing what the header or the untouched voxels say."""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import array_from_file
from numpy.typing import NDArray

from medidiff.errors import CannotWrite, OutOfMemory, ScanError
from medidiff.scans.limits import read_json
from medidiff.scans.nifti_sizes import check_end, check_sizes, opened, quiet
from medidiff.scans.outputs import atomic_file, nifti_stem
from medidiff.scans.regrid import Regrid, regrid
from medidiff.scans.volume import Derivation, Scan, ScanRef, Volume, spacing_of

LABELS = 1002
NOT_SCANS = {LABELS: "a label map", 1005: "a label map", 1006: "a displacement field", 1007: "a vector field"}
OTHER_UNITS = {1: "metres", 3: "micrometres"}  # of length, by the code of xyzt_units
TEXTS = {"aux_file", "data_type", "db_name"}
GZIP_LEVEL = 1  # as nibabel: a third of the time that 6 takes, for files 4 % larger
CT_AIR = (-3100.0, -900.0)  # the range in which the smallest value of a CT in HU lies
CT_TISSUE = 200.0  # HU that bone or contrast in a CT exceeds
CT_BELOW_0 = 0.01  # share of values below 0 in the part of a CT that has no air: fat


@dataclass(frozen=True)
class NiftiSource:
    """Undo record of a NIfTI file.

    Attributes:
        header: the header as it lies in the file, scaling included.
        shape: shape of the data in the file.
        slope: stored value to physical value; 1 when the file has none.
        intercept: likewise; 0 when the file has none.
    """

    header: Any
    shape: tuple[int, ...]
    slope: float
    intercept: float


def read(ref: ScanRef) -> Scan:
    """Decode a NIfTI file; every 3-D volume of a 4-D (or higher) file becomes one `Volume` labelled ``t=N``.

    Args:
        ref: a case of kind ``nifti``.

    Returns:
        Volumes in physical units with the affine of sform, else qform. Voxels that are not finite are not ``valid``
        and hold 0.

    Raises:
        ScanError: the file is damaged or is not a scalar image.
        OutOfMemory: the file does not fit the memory.
    """
    source, stored = _load(ref.path)
    modality = None
    volumes = []
    blind = 0
    for label, part in _parts(stored):
        array = physical(part, source)
        valid: NDArray[np.bool_] | None = None
        finite = np.isfinite(array)
        if not finite.all():
            valid = finite
            blind += int(finite.size - np.count_nonzero(finite))
            array = np.where(finite, array, np.float32(0))
        modality = modality or stated_modality(ref.path) or guess_modality(array)
        units = units_of(modality)
        affine = np.asarray(source.header.get_best_affine(), dtype=np.float64)
        slice_axis = source.header.get_dim_info()[2]
        volumes.append(Volume(array, affine, modality, units, label, valid, slice_axis))
    if blind == sum(volume.array.size for volume in volumes):
        raise ScanError(f"{ref.path} holds no finite value (all voxels are NaN or infinite); check the file.")
    return Scan(ref, tuple(volumes), source, notes_on(blind, source.header))


def outline(ref: ScanRef) -> Scan:
    """A file as `read` gives it, but without voxels: only its header is read, and the array of a volume holds zeros.

    Raises:
        ScanError: the header is damaged or is not that of a scalar image.
    """
    with reading(ref.path):
        source, _ = headed(ref.path, in_memory=False)
    affine = np.asarray(source.header.get_best_affine(), dtype=np.float64)
    array = np.broadcast_to(np.float32(0), (*source.shape, 1)[:3])
    labels = [f"t={n}" for n in range(count)] if (count := math.prod(source.shape[3:])) > 1 else [""]
    modality = stated_modality(ref.path) or "OT"
    return Scan(ref, tuple(Volume(array, affine, modality, label=label) for label in labels), source)


def notes_on(blind: int, header: Any) -> tuple[str, ...]:
    """What the user should know of a file in which ``blind`` voxels hold no finite value."""
    notes = [f"{blind} voxels are NaN or infinite and stay as they are, unless a mask covers them."] if blind else []
    return (*notes, *two_sizes(header), *other_unit(header))


def two_sizes(header: Any) -> tuple[str, ...]:
    """A note where the two geometries of a header, sform and qform, give different voxel sizes; the sform counts."""
    (sform, s_code), (qform, q_code) = (_form(header, name) for name in ("sform", "qform"))
    if sform is None or qform is None or min(s_code, q_code) <= 0:
        return ()
    sizes = [nib.affines.voxel_sizes(form) for form in (sform, qform)]
    if np.allclose(sizes[0], sizes[1], rtol=0.01):
        return ()
    one, other = (" x ".join(f"{size:.3g}" for size in each) for each in sizes)
    return (f"Its header gives voxels of {one} mm (sform) and of {other} mm (qform); the sform is taken.",)


def other_unit(header: Any) -> tuple[str, ...]:
    """A note where a header counts in another unit of length than millimetres; its numbers are taken as they are."""
    unit = OTHER_UNITS.get(int(header["xyzt_units"]) % 8)
    if unit is None:
        return ()
    return (f"Its header counts in {unit}; sizes are taken for millimetres here: in --spacing, records and maps.",)


def write(
    scan: Scan,
    arrays: Sequence[NDArray[np.float32]],
    path: Path,
    derivation: Derivation,
    affines: Sequence[NDArray[np.float64]] | None = None,
    holes: Sequence[NDArray[np.bool_]] | None = None,
) -> tuple[Path, ...]:
    """Write restored volumes with the input's header: data type, scaling and units stay, texts and extensions do not.

    Whole-number types are rounded and clipped. On the input's grid, voxels that are not ``valid``, and voxels that were
    not changed, keep their stored value bit for bit. On another grid, voxels whose nearest input voxel is not ``valid``
    get its stored value. ``.nii`` is written plain, anything else gzipped; equal content gives equal bytes.

    Args:
        scan: as `read` returned it.
        arrays: one array a volume, physical units; of the volume's shape unless ``affines`` are given.
        path: the file to write.
        derivation: its ``short`` text goes to ``descrip``.
        affines: 4 x 4, RAS+, one a volume and all alike: the grid of arrays that are finer than the scan. sform and
            qform both follow, each by the same change of voxel index, and keep their codes.
        holes: voxels that are written although the input holds no finite value there, boolean, one array a volume of
            its shape, with ``affines`` too.

    Raises:
        CannotWrite: the file cannot be written.
        ScanError: the input changed since it was read, or the arrays do not fit it.
    """
    if path.exists() and path.resolve() == scan.ref.path.resolve():
        raise CannotWrite(f"{path} is the input itself; choose another output.")
    _, stored = _load(scan.ref.path)
    source: NiftiSource = scan.source
    if stored.shape != source.shape:
        raise ScanError(f"{scan.ref.path} changed while it was processed; run again.")
    grid = _common_grid(scan, arrays, affines)
    header = source.header.copy()
    if grid is not None:
        stored = _nearest(stored, grid)
        set_grid(header, grid, source.shape)
    result = np.array(stored, order="F", copy=True)
    given = holes if holes is not None else [None] * len(arrays)
    for (_, old), (_, new), array, hole in zip(_parts(stored), _parts(result), arrays, given, strict=True):
        new[...] = restored_values(array, old, source, hole if hole is None or grid is None else grid.spread(hole))
    save(header, _pieces(result), path, derivation)
    return (path,)


def _common_grid(
    scan: Scan, arrays: Sequence[NDArray[np.float32]], affines: Sequence[NDArray[np.float64]] | None
) -> Regrid | None:
    """How the new grid that all arrays share lies on the scan's; None when they lie on the scan's own."""
    shapes = [array.shape for array in arrays]
    if affines is None:
        if shapes != [volume.array.shape for volume in scan.volumes]:
            raise ScanError(f"The result does not fit {scan.ref.path}: its volumes have the shapes {shapes}.")
        return None
    one_grid = len({*shapes}) == 1 and all(np.allclose(affine, affines[0], atol=1e-4) for affine in affines)
    if not one_grid or not len(shapes) == len(affines) == len(scan.volumes):
        raise ScanError(f"The result does not fit {scan.ref.path}: its volumes do not share one grid.")
    return regrid(scan.volumes[0], shapes[0], affines[0])


def _new_shape(shape: tuple[int, ...], grid: Regrid) -> tuple[int, ...]:
    """Shape of the file's data on a new grid; a 2-D image stays one while it has one slice."""
    return grid.shape[:2] if len(shape) == 2 and grid.shape[2] == 1 else (*grid.shape, *shape[3:])


def _nearest(stored: NDArray[Any], grid: Regrid) -> NDArray[Any]:
    """The stored value of the input voxel nearest to each voxel of a new grid."""
    data = grid.spread(stored[:, :, np.newaxis] if stored.ndim == 2 else stored)
    return data.reshape(_new_shape(stored.shape, grid), order="F")


def set_grid(header: Any, grid: Regrid, shape: tuple[int, ...]) -> None:
    """Change a header in place from its own grid to a new one.

    pixdim, sform and qform follow by one change of voxel index, so a header whose two forms differ (they place the
    image in two spaces) keeps both right. The slice times belong to slices that no longer exist, and go.

    Args:
        header: a NIfTI-1 or NIfTI-2 header.
        grid: the new grid on the header's own.
        shape: of the data that the header describes now.
    """
    forms = {name: _form(header, name) for name in ("qform", "sform")}
    best = header.get_best_affine() @ grid.matrix
    pixdim = header["pixdim"].copy()
    pixdim[1:4] *= grid.scale
    try:
        header.set_data_shape(_new_shape(shape, grid))
    except HeaderDataError as error:
        raise ScanError(f"{grid.shape} voxels are more than the format of the file can hold.") from error
    header["pixdim"] = pixdim  # setting the shape has reset some
    for name, (affine, code) in forms.items():
        if affine is not None:
            more = {"strip_shears": True} if name == "qform" else {}
            getattr(header, f"set_{name}")(affine @ grid.matrix, code=code, **more)
    if not np.allclose(header.get_best_affine(), best, atol=1e-3):  # no form, and not the centre of the image
        header.set_sform(best, code="aligned")
    along = header.get_dim_info()[2]
    along = 2 if along is None else along
    if grid.shape[along] != grid.source[along]:
        for field in ("slice_start", "slice_end", "slice_code", "slice_duration"):
            header[field] = 0


def _form(header: Any, name: str) -> tuple[NDArray[np.float64] | None, int]:
    """The qform or sform with its code; None when the header has none or it is damaged."""
    try:
        affine, code = getattr(header, f"get_{name}")(coded=True)
    except (HeaderDataError, ValueError):
        return None, 0
    return affine, int(code)


def write_map(
    scan: Scan,
    arrays: Sequence[NDArray[np.float32]],
    path: Path,
    derivation: Derivation,
    affines: Sequence[NDArray[np.float64]] | None = None,
) -> tuple[Path, ...]:
    """Write float32 maps on the grid of a scan of any format: an uncertainty, a residual.

    Volumes that share a grid go into one file. A DICOM series that had to be split has several grids: its further files
    are called ``NAME_2.nii.gz``, ``NAME_3.nii.gz``, ...

    Args:
        scan: the scan that the maps belong to.
        arrays: one array a volume.
        path: the (first) file to write.
        derivation: its ``short`` text goes to ``descrip``.
        affines: 4 x 4, RAS+, one a volume: the grids of maps that are finer than the scan.

    Returns:
        The files, in the order of the volumes.

    Raises:
        CannotWrite: a file cannot be written.
        ScanError: the maps do not fit the scan.
    """
    if isinstance(scan.source, NiftiSource):
        grid = _common_grid(scan, arrays, affines)
        header = scan.source.header.copy()
        if grid is not None:
            set_grid(header, grid, scan.source.shape)
        _write_one_map(header, arrays, path, derivation)
        return (path,)
    places = affines if affines is not None else [volume.affine for volume in scan.volumes]
    grids: list[tuple[NDArray[np.float64], list[NDArray[np.float32]]]] = []
    for affine, array in zip(places, arrays, strict=True):
        for known, maps in grids:
            if maps[0].shape == array.shape and np.allclose(known, affine, atol=1e-4):
                maps.append(array)
                break
        else:
            grids.append((affine, [array]))
    files = []
    for number, (affine, maps) in enumerate(grids, start=1):
        name = path if number == 1 else path.with_name(f"{nifti_stem(path.name) or path.name}_{number}.nii.gz")
        shape = maps[0].shape if len(maps) == 1 else (*maps[0].shape, len(maps))
        _write_one_map(_new_header(shape, affine), maps, name, derivation)
        files.append(name)
    return tuple(files)


def _write_one_map(header: Any, maps: Sequence[NDArray[np.float32]], path: Path, derivation: Derivation) -> None:
    data = np.stack(maps, axis=-1).reshape(header.get_data_shape(), order="F")
    save(map_header(header), _pieces(data.astype(np.float32, order="F")), path, derivation)


def map_header(header: Any) -> Any:
    """A header changed in place for a float32 map of physical values."""
    header.set_data_dtype(np.dtype(np.float32))
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["cal_min"], header["cal_max"] = 0.0, 0.0
    return header


def save_array(array: NDArray[np.float32], affine: NDArray[np.float64], path: Path, description: str) -> Path:
    """Write a float32 array that belongs to no file as NIfTI; return the path.

    Args:
        array: shape (I, J, K), physical units.
        affine: voxel index to millimetres in RAS+.
        path: the file, ``.nii`` or ``.nii.gz``.
        description: for ``descrip``, ASCII.

    Raises:
        CannotWrite: the file cannot be written, or is not called as a NIfTI file is.
    """
    if nifti_stem(path.name) is None:
        raise CannotWrite(f"{str(path)!r} is not the name of a NIfTI file; let it end with .nii.gz or .nii.")
    header = _new_header(array.shape, affine)
    header.set_data_dtype(np.dtype(np.float32))
    save(header, _pieces(array.astype(np.float32, order="F")), path, Derivation("", description, description, ""))
    return path


def save_stored(
    data: NDArray[Any],
    affine: NDArray[np.float64],
    path: Path,
    derivation: Derivation,
    *,
    scaling: tuple[float, float] = (1.0, 0.0),
    seconds: float = 0.0,
) -> Path:
    """Write stored values that come from another format as NIfTI, in their own data type; return the path.

    Args:
        data: shape (I, J, K) or (I, J, K, T).
        affine: voxel index to millimetres in RAS+, in scanner space.
        path: the file, ``.nii`` or ``.nii.gz``.
        derivation: its ``short`` text goes to ``descrip``.
        scaling: slope and intercept from stored to physical values.
        seconds: from one volume to the next; 0 when not known.

    Raises:
        CannotWrite: the file cannot be written.
    """
    header = _new_header(data.shape, affine)
    header.set_data_dtype(data.dtype)
    header["scl_slope"], header["scl_inter"] = scaling
    if data.ndim == 4:
        header["pixdim"][4] = seconds
    save(header, _pieces(data), path, derivation)
    return path


def _new_header(shape: tuple[int, ...], affine: NDArray[np.float64]) -> Any:
    header_class: Any = nib.Nifti1Header
    header = header_class()
    header.set_data_shape(shape)
    header.set_sform(affine, code=1)
    if affine[:3, :3].any(axis=0).all():
        header.set_qform(affine, code=1, strip_shears=True)
    else:  # no rotation and voxel size make an axis of no length
        header["pixdim"][1:4] = spacing_of(affine)
    header.set_xyzt_units("mm", "sec")
    return header


def stated_modality(path: Path) -> str | None:
    """The DICOM code under ``Modality`` in the JSON file beside a NIfTI file (dcm2niix, BIDS); ``None`` without one."""
    stem = nifti_stem(path.name)
    if stem is None:
        return None
    try:
        fields = read_json(path.with_name(f"{stem}.json"))
    except (OSError, ValueError):
        return None
    code = fields.get("Modality") if isinstance(fields, dict) else None
    return code if isinstance(code, str) and re.fullmatch("[A-Z]{2}", code) else None


def guess_modality(array: NDArray[np.float32]) -> str:
    """``CT`` when the values look like Hounsfield units, else ``MR``; NIfTI does not say.

    A CT holds air, so its smallest value lies between -3100 (padding) and -900, and bone or contrast, above 200.
    """
    lowest, highest = float(array.min()), float(array.max())
    return "CT" if CT_AIR[0] <= lowest <= CT_AIR[1] and highest > CT_TISSUE else "MR"


def with_modality(scan: Scan, modality: str) -> Scan:
    """A scan of another modality."""
    units = units_of(modality)
    return replace(scan, volumes=tuple(replace(volume, modality=modality, units=units) for volume in scan.volumes))


def guessed(scan: Scan, holes: Sequence[NDArray[np.bool_] | None], modalities: Sequence[str]) -> Scan:
    """A scan whose modality, where no file states it, is guessed again by all that is known.

    What its holes hold does not matter. Values below 0, which magnitude images of MR do not have, are Hounsfield units
    to those who named a pipeline for CT alone: a part of a CT need not hold air.

    Args:
        scan: as it was read.
        holes: one a volume.
        modalities: of the pipeline that was named; empty when none was.
    """
    named = set(modalities) == {"CT"} and scan.volumes[0].modality != "CT"
    if stated_modality(scan.ref.path) or not (named or any(hole is not None for hole in holes)):
        return scan
    pairs = zip(scan.volumes, holes, strict=True)
    seen = (volume.array if hole is None else volume.array[~hole] for volume, hole in pairs)
    first = next((values for values in seen if values.size), None)
    if first is None:
        return scan
    return with_modality(scan, "CT" if named and _share_below_0(first) > CT_BELOW_0 else guess_modality(first))


def _share_below_0(values: NDArray[np.float32]) -> float:
    return sum(int(np.count_nonzero(part < 0)) for part in np.array_split(values, 64)) / values.size


def units_of(modality: str) -> str:
    """The unit of a NIfTI file's values."""
    return "HU" if modality == "CT" else "a.u."


def read_values(path: Path) -> tuple[list[NDArray[np.float32]], NDArray[np.float64]]:
    """The 3-D volumes of a NIfTI file that may be a label map, NaN included, and its affine in RAS+.

    Raises:
        ScanError: the file is damaged or is not a scalar image.
        OutOfMemory: it does not fit the memory.
    """
    source, stored = _load(path, labels=True)
    affine = np.asarray(source.header.get_best_affine(), dtype=np.float64)
    return [physical(part, source) for _, part in _parts(stored)], affine


def _load(path: Path, labels: bool = False) -> tuple[NiftiSource, NDArray[Any]]:
    """Header and stored values, unscaled, in the file's own data type; label maps only where they are asked for."""
    with reading(path):
        source, image = headed(path, labels)
        with opened(path) as opening:
            file: Any = opening
            stored = array_from_file(image.shape, image.dataobj.dtype, file, image.dataobj.offset)
            check_end(file)
    return replace(source, shape=stored.shape), stored


def headed(path: Path, labels: bool = False, in_memory: bool = True) -> tuple[NiftiSource, Any]:
    """Header, and nibabel's image, whose voxels were not read yet.

    Args:
        path: the file.
        labels: whether it may be a label map.
        in_memory: whether the memory must hold all voxels.
    """
    if not path.is_file():
        raise ScanError(f"{path} is not a file (any more).")
    check_sizes(path, in_memory)
    with quiet():
        image: Any = nib.load(path)
    if type(image) not in (nib.Nifti1Image, nib.Nifti2Image):
        raise ScanError(f"{path} is {type(image).__name__}, not a NIfTI volume; convert it to NIfTI first.")
    _check_header(path, image, labels)
    with opened(path) as file, quiet():
        header = type(image.header).from_fileobj(file)
    return NiftiSource(header, image.shape, float(image.dataobj.slope), float(image.dataobj.inter)), image


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into a sentence.

    Raises:
        ScanError: the file is damaged or is not a scalar image.
        OutOfMemory: it does not fit the memory.
    """
    try:
        yield
    except (ScanError, OutOfMemory):
        raise
    except MemoryError as error:
        raise OutOfMemory(f"{path} does not fit the memory.") from error
    except Exception as error:  # nibabel, gzip and numpy raise many kinds on damaged files
        raise ScanError(f"{path} is not a readable NIfTI file (truncated or damaged); convert it again.") from error


def _check_header(path: Path, image: Any, labels: bool) -> None:
    shape, dtype = image.shape, image.header.get_data_dtype()
    intent = int(image.header["intent_code"])
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ScanError(f"{path} holds {kind_of(dtype)}, not a scalar image; convert it to real numbers first.")
    if intent in NOT_SCANS and not (labels and intent == LABELS):
        raise ScanError(f"{path} is {NOT_SCANS[intent]} by its intent code, not a scan.")
    if len(shape) < 2 or min(shape) < 1:
        raise ScanError(f"{path} holds no image (its shape is {'x'.join(map(str, shape)) or 'empty'}).")
    if not np.isfinite(image.header.get_best_affine()).all():
        raise ScanError(f"{path} has a damaged orientation (its affine is not finite); repair the header.")


def kind_of(dtype: np.dtype[Any]) -> str:
    """What voxels of a type are, where they are no real numbers."""
    return {"c": "complex values", "V": "RGB colours"}.get(dtype.kind, f"values of type {dtype}")


def _parts(data: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Views of each 3-D volume with its label; a 2-D image gets a third axis of one voxel."""
    if data.ndim == 2:
        data = data[:, :, np.newaxis]
    rest = [np.unravel_index(n, data.shape[3:], order="F") for n in range(int(np.prod(data.shape[3:])))]
    for number, index in enumerate(rest):
        label = f"t={number}" if len(rest) > 1 else ""
        place: Any = (slice(None), slice(None), slice(None), *index)
        yield label, data[place]


def physical(stored: NDArray[Any], source: NiftiSource) -> NDArray[np.float32]:
    """Apply the scaling in double precision, a slice at a time to spare memory."""
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 becomes infinite, hence not valid
        if source.slope == 1 and source.intercept == 0:
            return stored.astype(np.float32)
        array = np.empty(stored.shape, dtype=np.float32, order="F")
        for k in range(stored.shape[2]):
            array[:, :, k] = stored[:, :, k].astype(np.float64) * source.slope + source.intercept
    return array


def restored_values(
    array: NDArray[np.float32], old: NDArray[Any], source: NiftiSource, hole: NDArray[np.bool_] | None = None
) -> NDArray[Any]:
    """Physical values as stored values; where nothing was measured (outside a hole) or changed, the old ones."""
    before = physical(old, source)
    unmeasured = ~np.isfinite(before) if hole is None else ~np.isfinite(before) & ~hole
    keep = unmeasured | ~np.isfinite(array) | (array == before)
    values = (np.where(keep, 0, array).astype(np.float64) - source.intercept) / source.slope
    if old.dtype.kind in "iu":
        limits = np.iinfo(old.dtype)
        # float64 cannot hold the largest 64-bit integers: stay below them
        top = limits.max if limits.bits < 64 else int(np.nextafter(float(limits.max), 0))
        values = np.clip(np.rint(values), limits.min, top)
    else:
        limit = float(np.finfo(old.dtype).max)
        values = np.clip(values, -limit, limit)
    return np.where(keep, old, values.astype(old.dtype))


def save(header: Any, pieces: Iterable[NDArray[Any]], path: Path, derivation: Derivation) -> None:
    """Write header and data, piece by piece along the slowest axis; a gzip stream carries no name and no time.

    Texts and extensions (comments, DICOM headers, histories) may name the patient or the user, and speak of other
    pixels: they are not copied.
    """
    short = derivation.short.encode("ascii", "replace")[:79]
    header["descrip"] = short
    for field in TEXTS & set(header.keys()):  # NIfTI-2 has fewer
        header[field] = b""
    header.extensions.clear()
    header["vox_offset"] = header.single_vox_offset
    with atomic_file(path) as temporary, temporary.open("wb") as raw:
        if path.name.lower().endswith(".nii"):
            _stream(header, pieces, raw)
        else:
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=GZIP_LEVEL, mtime=0) as packed:
                _stream(header, pieces, packed)


def _stream(header: Any, pieces: Iterable[NDArray[Any]], file: IO[bytes] | gzip.GzipFile) -> None:
    header.write_to(file)
    file.write(b"\0" * (int(header["vox_offset"]) - file.tell()))
    for piece in pieces:
        file.write(piece.astype(header.get_data_dtype(), copy=False).tobytes(order="F"))


def _pieces(data: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """An array along its last axis, which is the slowest in Fortran order."""
    return (data[..., index] for index in range(data.shape[-1]))
