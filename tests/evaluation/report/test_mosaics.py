"""Pictures show the right voxels, the right way round, within their budget."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from medidiff.evaluation.report import mosaics, panels
from medidiff.evaluation.report.mosaics import Marks, Plane, Strip
from medidiff.evaluation.report.study import Pictures, read
from medidiff.evaluation.results import EvaluatedCase, Shown

NOTHING = Marks(None, None, None)


def pixels(strip: Strip) -> np.ndarray:
    """The slices of a strip, shape (slices, rows, columns)."""
    picture = Picture.open(io.BytesIO(base64.b64decode(strip.uri.split(",")[1])))
    rows = np.asarray(picture).reshape(-1, strip.pitch, strip.width)
    return rows[:, : strip.height]


def drawn(case: EvaluatedCase, marks: Marks = NOTHING, budget: int = 10**9) -> dict[str, Plane]:
    pictures = read(case, ("medidiff",), "medidiff")
    assert pictures is not None
    shown = list(panels.panels(case, pictures, "medidiff"))
    planes = mosaics.mosaics(case, shown, panels.ranges(case, pictures), marks, budget)
    return {plane.name: plane for plane in planes}


def marked(orientation: str) -> EvaluatedCase:
    """A grey head with a bright patch towards right, anterior and superior, stored in an orientation."""
    array = np.zeros((32, 40, 24), np.float32)
    array[3:29, 3:37, 3:21] = 100
    array[22:28, 30:36, 16:20] = 200  # RAS: right, anterior, superior
    codes = nib.orientations.axcodes2ornt(tuple(orientation))
    stored = nib.apply_orientation(
        array, nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(tuple("RAS")), codes)
    )
    image = np.ascontiguousarray(stored)
    return EvaluatedCase(
        "x", "denoise", (1, 1, 1), "", (Shown("restored", "medidiff", lambda: image),), orientation=orientation
    )


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PSR", "IAL"])
def test_right_is_left_and_anterior_and_superior_are_up(orientation: str) -> None:
    planes = drawn(marked(orientation))
    assert planes["axial"].letters == ("R", "L", "A", "P")
    assert planes["sagittal"].letters == ("A", "P", "S", "I")
    for plane in planes.values():
        slices = pixels(plane.strips["restored"])
        strongest = slices[np.argmax((slices > 200).sum(axis=(1, 2)))]
        rows, columns = np.nonzero(strongest > 200)
        assert rows.mean() < 0.4 * plane.strips["restored"].height
        assert columns.mean() < 0.4 * plane.strips["restored"].width


def test_slices_are_numbered_along_the_files_own_axis() -> None:
    plane = drawn(marked("RAI"))["axial"]  # stored from superior to inferior
    slices = pixels(plane.strips["restored"])
    bright = {index for index, picture in zip(plane.slices, slices, strict=True) if (picture > 200).any()}
    assert bright
    assert bright <= set(range(24 - 20, 24 - 16))
    assert plane.count == 24


def test_without_directions_nothing_is_called_right_or_left() -> None:
    case = marked("RAS")
    planes = drawn(EvaluatedCase(case.name, case.task, case.spacing, "", case.images))
    assert set(planes) == {"axis-1", "axis-2", "axis-3"}
    assert all(plane.letters == () for plane in planes.values())


def test_bytes_stand_for_the_values_that_the_page_states(make_case: Callable[..., EvaluatedCase]) -> None:
    case = make_case("x", 3)
    pictures = read(case, ("input", "medidiff"), "medidiff")
    assert pictures is not None
    assert pictures.before is not None
    scales = panels.ranges(case, pictures)
    step = np.diff(scales.values).max()
    inside = (pictures.before >= scales.values[0]) & (pictures.before <= scales.values[-1])
    back = scales.values[scales.quantise(pictures.before, "grey")]
    assert np.abs(back - pictures.before)[inside].max() <= step
    residual = pictures.residual
    assert residual is not None
    back = scales.signed * (scales.quantise(residual, "signed") / 127.5 - 1)
    inside = np.abs(residual) < scales.signed
    assert np.abs(back - residual)[inside].max() <= scales.signed / 127
    assert inside.mean() > 0.99


def test_hounsfield_units_keep_their_steps_in_soft_tissue() -> None:
    image = np.full((16, 16, 16), -1000, np.float32)
    image[4:12, 4:12, 4:12] = np.linspace(-150, 250, 512).reshape(8, 8, 8)
    case = EvaluatedCase("ct", "denoise", (1, 1, 1), "HU", ())
    pictures = Pictures(None, None, {"medidiff": image}, None, None, None)
    scales = panels.ranges(case, pictures)
    assert (scales.level, scales.window) == (40, 400)
    back = scales.values[scales.quantise(image, "grey")]
    assert np.abs(back - image)[4:12, 4:12, 4:12].max() <= 2  # of 3000 HU in 256 steps


def test_the_marked_place_is_among_the_slices_and_shown_first(make_case: Callable[..., EvaluatedCase]) -> None:
    planes = drawn(make_case("x", 1, orientation="LPS"), Marks(None, None, (11, 23, 5)))
    firsts = {name: plane.slices[plane.first] for name, plane in planes.items()}
    assert firsts == {"sagittal": 11, "coronal": 23, "axial": 5}


def test_outlines_surround_the_hole_and_the_flagged_voxels() -> None:
    hole, flagged = np.zeros((32, 40, 24), bool), np.zeros((32, 40, 24), bool)
    hole[10:14, 10:14, 8:16] = True
    flagged[20:24, 26:30, 8:16] = True
    plane = drawn(marked("RAS"), Marks(hole, flagged, (12, 12, 12)))["axial"]
    assert plane.outlines is not None
    codes = pixels(plane.outlines)[plane.first]
    rows, columns = np.nonzero(codes == 1)
    assert (np.ptp(rows), np.ptp(columns)) == (5, 5)  # one pixel around 4 x 4
    assert np.count_nonzero(codes == 1) == 16
    rows, columns = np.nonzero(codes == 2)
    assert (np.ptp(rows), np.ptp(columns)) == (7, 7)  # one pixel away from 4 x 4
    shown = pixels(plane.strips["restored"])[plane.first]
    assert codes.shape == shown.shape


def test_a_case_of_a_full_report_stays_within_its_share() -> None:
    rng = np.random.default_rng(0)
    images = {role: rng.normal(100, 20, (150, 180, 150)).astype(np.float32) for role in ("input", "restored")}
    images["uncertainty"] = np.abs(images["input"] - 100)
    shown = tuple(
        Shown(role, "input" if role == "input" else "medidiff", lambda image=image: image)  # type: ignore[arg-type]
        for role, image in images.items()
    )
    budget = mosaics.BUDGET // 20
    planes = drawn(EvaluatedCase("x", "denoise", (1, 1, 1), "", shown, orientation="RAS"), budget=budget)
    strips = [strip for plane in planes.values() for strip in plane.strips.values()]
    assert sum(len(strip.uri) for strip in strips) <= budget
    assert min(len(plane.slices) for plane in planes.values()) >= 3


def test_a_flat_image_is_shown_in_one_plane() -> None:
    image = np.pad(np.full((30, 20, 1), 9, np.float32), ((4, 4), (4, 4), (0, 0)))
    case = EvaluatedCase("x", "denoise", (1, 1, 1), "", (Shown("restored", "medidiff", lambda: image),))
    planes = drawn(case)
    assert list(planes) == ["axis-3"]
    assert planes["axis-3"].slices == (0,)


def test_a_slab_is_not_shown_from_its_edge() -> None:
    image = np.pad(np.full((30, 40, 8), 9, np.float32), ((4, 4), (4, 4), (0, 0)))
    shown = (Shown("restored", "medidiff", lambda: image),)
    thin, thick = (EvaluatedCase("x", "denoise", (1, 1, step), "", shown, orientation="RAS") for step in (0.3, 3))
    assert set(drawn(thin)) == {"axial"}
    assert set(drawn(thick)) == {"axial", "coronal", "sagittal"}
