"""Slices of a case in three planes as 8-bit pictures inside the page: one strip of slices for each panel and plane."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy import ndimage

from medidiff.evaluation.report.panels import Panel, Ranges
from medidiff.evaluation.results import EvaluatedCase
from medidiff.physics import intensity

BUDGET = 11_000_000  # characters of all pictures of a report
LARGEST = 2_600_000  # of those of one case
# slices a plane, and pixels along the longer edge: the first of which the pictures fit their share is taken
LADDER = ((17, 320), (15, 256), (11, 224), (9, 192), (7, 176), (7, 144), (5, 128), (5, 112), (3, 112), (3, 80))
SMOOTH_EDGE = 128  # pixels are enough for maps that vary slowly
QUALITY = 78
MARGIN = 0.06  # of the object's extent, left around it
THINNEST, SLIMMEST = 6, 0.08  # voxels, share of the longer edge: a plane with a shorter edge is not shown
NAMES = ("sagittal", "coronal", "axial")
_MULTIPLE = 8  # JPEG works on blocks of this edge; slices of a strip begin on one


@dataclass(frozen=True)
class Plane:
    """A direction of view.

    Attributes:
        name: ``axial``, ``coronal``, ``sagittal``, or ``axis-3`` and the like where the directions are not known.
        title: for people.
        letters: what lies at the left, right, top and bottom of the picture; empty when not known.
        slices: which slices there are, as voxel index along the scan's own axis, from 0.
        places: their distance from the first voxel of the scan in millimetres.
        count: slices of the scan along the axis.
        first: which of ``slices`` is shown first.
        width: of a picture in millimetres.
        height: likewise.
        strips: key of the panel -> its picture.
        outlines: the hole's border (1) and the flagged regions' (2) at each slice; ``None`` when there are none.
    """

    name: str
    title: str
    letters: tuple[str, ...]
    slices: tuple[int, ...]
    places: tuple[float, ...]
    count: int
    first: int
    width: float
    height: float
    strips: dict[str, Strip]
    outlines: Strip | None


@dataclass(frozen=True)
class Strip:
    """Slices below each other.

    Attributes:
        uri: the picture.
        width: of a slice in pixels.
        height: likewise, without the rows that fill it up.
        pitch: rows from one slice to the next.
    """

    uri: str
    width: int
    height: int
    pitch: int


@dataclass(frozen=True)
class Marks:
    """What is outlined in the pictures.

    Attributes:
        hole: what was filled, shape (I, J, K); ``None`` when nothing was.
        flagged: flagged voxels, likewise.
        first: voxel at which the pictures open; ``None`` for the middle.
    """

    hole: NDArray[np.bool_] | None
    flagged: NDArray[np.bool_] | None
    first: tuple[int, int, int] | None


def mosaics(
    case: EvaluatedCase, panels: Sequence[Panel], scales: Ranges, marks: Marks, budget: int
) -> tuple[Plane, ...]:
    """Draw a case.

    Args:
        case: the case.
        panels: what is shown; further methods are shown in one plane only.
        scales: how values become bytes.
        marks: what is outlined.
        budget: characters that the pictures may take; the last step of `LADDER` is taken whatever it needs.
    """
    view = _View(case, panels, scales, marks)
    for slices, edge in LADDER:
        planes = tuple(view.plane(axis, slices, edge) for axis in view.axes)
        strips = [strip for plane in planes for strip in (*plane.strips.values(), plane.outlines) if strip is not None]
        if sum(len(strip.uri) for strip in strips) <= budget:
            break
    return planes


class _View:
    """A case turned so that its axes run right, anterior and superior, cut to the object."""

    def __init__(self, case: EvaluatedCase, panels: Sequence[Panel], scales: Ranges, marks: Marks) -> None:
        axes = ["RL".find, "AP".find, "SI".find]
        self.known = sorted(sum(find(letter) >= 0 for letter in case.orientation) for find in axes) == [1, 1, 1]
        self.turn = nib.orientations.axcodes2ornt(tuple(case.orientation if self.known else "RAS"))
        self.order = [int(np.flatnonzero(self.turn[:, 0] == axis)[0]) for axis in range(3)]
        self.flipped = [self.turn[source, 1] < 0 for source in self.order]
        self.spacing = [case.spacing[source] for source in self.order]
        self.panels = panels
        self.bytes = {panel.key: self.turned(scales.quantise(panel.image, panel.scale)) for panel in panels}
        main = next(panel for panel in panels if panel.key == "restored")
        shown = main.image if marks.hole is None else np.where(marks.hole, main.image.max(), main.image)
        self.box = _box(self.turned(intensity.foreground(shown)))
        self.hole = None if marks.hole is None else self.turned(marks.hole)
        self.flagged = None if marks.flagged is None else self.turned(marks.flagged)
        self.shape = next(iter(self.bytes.values())).shape
        self.first = None if marks.first is None else self._index(marks.first)
        several = any(panel.method for panel in panels)
        self.axes = [axis for axis in (2, 1, 0) if self._worth(axis)] or [int(np.argmin(self.shape))]
        self.full = self.axes[0] if several else None

    def turned(self, array: NDArray[Any]) -> NDArray[Any]:
        """From the scan's axes to right, anterior, superior."""
        return np.asarray(nib.apply_orientation(array, self.turn))

    def _index(self, place: tuple[int, int, int]) -> list[int]:
        """A voxel of the scan in the turned array."""
        return [
            self.shape[axis] - 1 - place[source] if self.flipped[axis] else place[source]
            for axis, source in enumerate(self.order)
        ]

    def _worth(self, axis: int) -> bool:
        """Whether the plane is wide enough to see something."""
        edges = [self.box[other].stop - self.box[other].start for other in range(3) if other != axis]
        sizes = [edge * self.spacing[other] for edge, other in zip(edges, _others(axis), strict=True)]
        return bool(min(edges) >= THINNEST and min(sizes) >= SLIMMEST * max(sizes))

    def plane(self, axis: int, slices: int, edge: int) -> Plane:
        """One direction of view, with at most ``slices`` slices of at most ``edge`` pixels."""
        places = self._places(axis, slices)
        across, down = _others(axis)
        width = self.spacing[across] * (self.box[across].stop - self.box[across].start)
        height = self.spacing[down] * (self.box[down].stop - self.box[down].start)
        shown = [panel for panel in self.panels if not panel.method or axis == self.full]
        small = min(edge, SMOOTH_EDGE)
        strips = {
            panel.key: _strip(
                self._cut(self.bytes[panel.key], axis, places), small if panel.scale in ("heat", "share") else edge
            )
            for panel in shown
        }
        own = [self.shape[axis] - 1 - place if self.flipped[axis] else place for place in places]
        start = self.first[axis] if self.first is not None else self.shape[axis] // 2
        return Plane(
            name=NAMES[axis] if self.known else f"axis-{axis + 1}",
            title=NAMES[axis].capitalize() if self.known else f"Across axis {axis + 1}",
            letters=(("A", "P", "S", "I"), ("R", "L", "S", "I"), ("R", "L", "A", "P"))[axis] if self.known else (),
            slices=tuple(own),
            places=tuple(round(index * self.spacing[axis], 2) for index in own),
            count=self.shape[axis],
            first=int(np.argmin([abs(place - start) for place in places])),
            width=width,
            height=height,
            strips=strips,
            outlines=self._outlines(axis, places, edge),
        )

    def _places(self, axis: int, slices: int) -> list[int]:
        """Evenly spaced slices through the object; the one to open at is among them."""
        span = self.box[axis]
        inner = max(span.stop - span.start - 1, 0)
        count = min(slices, inner + 1)
        edge = 0.5 * inner / count
        places = {round(span.start + place) for place in np.linspace(edge, inner - edge, count)}
        if self.first is not None and span.start <= self.first[axis] < span.stop:
            nearest = min(places, key=lambda place: (abs(place - self.first[axis]), place))  # type: ignore[index]
            places = (places - {nearest}) | {self.first[axis]}
        return sorted(places)

    def _cut(self, array: NDArray[Any], axis: int, places: Sequence[int]) -> NDArray[Any]:
        """Slices as seen by a radiologist, shape (slices, rows, columns)."""
        part = array[tuple(slice(None) if other == axis else self.box[other] for other in range(3))]
        return np.stack([part.take(place, axis)[::-1, ::-1].T for place in places])

    def _outlines(self, axis: int, places: Sequence[int], edge: int) -> Strip | None:
        marks = [(code, mask) for code, mask in ((1, self.hole), (2, self.flagged)) if mask is not None and mask.any()]
        if not marks:
            return None
        drawn: NDArray[np.uint8] | None = None
        for code, mask in marks:
            slices = [_resized(each.astype(np.uint8) * 255, edge) > 127 for each in self._cut(mask, axis, places)]
            border = np.stack([_border(each, gap=code - 1) for each in slices])
            drawn = np.zeros(border.shape, dtype=np.uint8) if drawn is None else drawn
            drawn[border] = code
        if drawn is None or not drawn.any():
            return None
        image = Picture.fromarray(drawn.reshape(-1, drawn.shape[2]), "L")
        return Strip(_uri(image, "PNG"), drawn.shape[2], drawn.shape[1], drawn.shape[1])


def _others(axis: int) -> tuple[int, int]:
    first, second = (other for other in range(3) if other != axis)
    return first, second


def _box(inside: NDArray[Any]) -> tuple[slice, slice, slice]:
    """The object's box with a margin: where more than half a percent of a slice is foreground."""
    spans = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        share = np.asarray(inside, dtype=np.float32).mean(axis=others)
        there = np.flatnonzero(share > 0.005)
        if there.size == 0:
            spans.append(slice(0, inside.shape[axis]))
            continue
        margin = round(MARGIN * (there[-1] - there[0] + 1)) + 1
        spans.append(slice(max(int(there[0]) - margin, 0), min(int(there[-1]) + 1 + margin, inside.shape[axis])))
    return spans[0], spans[1], spans[2]


def _border(mask: NDArray[np.bool_], gap: int) -> NDArray[np.bool_]:
    """The pixels around a mask, ``gap`` pixels away from it."""
    inner = ndimage.binary_dilation(mask, iterations=gap) if gap else mask
    return np.asarray(ndimage.binary_dilation(inner) & ~inner, dtype=np.bool_)


def _resized(image: NDArray[Any], edge: int) -> NDArray[np.uint8]:
    """At most ``edge`` pixels along the longer side; pixels become means of those they cover."""
    rows, columns = image.shape
    larger = max(rows, columns)
    if larger <= edge:
        return np.asarray(image, dtype=np.uint8)
    size = (max(round(columns * edge / larger), 1), max(round(rows * edge / larger), 1))
    return np.asarray(Picture.fromarray(np.ascontiguousarray(image), "L").resize(size, Picture.Resampling.BOX))


def _strip(slices: NDArray[Any], edge: int) -> Strip:
    drawn = np.stack([_resized(each, edge) for each in slices])
    height, width = drawn.shape[1:]
    missing = -height % _MULTIPLE
    padded = np.pad(drawn, ((0, 0), (0, missing), (0, 0)), mode="edge")
    image = Picture.fromarray(padded.reshape(-1, width), "L")
    return Strip(_uri(image, "JPEG", quality=QUALITY, optimize=True), width, height, height + missing)


def _uri(image: Picture.Image, kind: str, **options: int | bool) -> str:
    """The picture as it stands in the page; no metadata, so that equal pictures give equal bytes."""
    stream = io.BytesIO()
    image.save(stream, kind, **({"optimize": True} | options))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
