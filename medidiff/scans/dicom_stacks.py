"""Sorts the images of a DICOM series into volumes by geometry, and says so when they are not a volume.

DICOM positions are LPS+ (PS3.3 C.7.6.2.1.1); affines leave here in RAS+.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.scans.dicom_headers import Header

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ORIENTATION_TOLERANCE = 2e-3  # of a direction cosine
SAME_POSITION = 5e-3  # millimetres along the normal
TILT_TOLERANCE = 0.5  # degrees
LINE_TOLERANCE = 0.05  # millimetres
PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Stack:
    """Images that form one volume, in the order of its last axis.

    Attributes:
        images: the headers, sorted along the slice normal.
        affine: voxel index (column, row, slice) to millimetres in RAS+.
        label: tells the stacks of one series apart.
        places: index of each image along the last axis where slices are missing in between; empty: 0, 1, 2, ...
        irregular: why the image has no known neighbours, see `Volume.irregular`.
    """

    images: tuple[Header, ...]
    affine: NDArray[np.float64]
    label: str = ""
    places: tuple[int, ...] = ()
    irregular: str = ""

    @property
    def indices(self) -> tuple[int, ...]:
        """Index of each image along the last axis."""
        return self.places or tuple(range(len(self.images)))

    @property
    def depth(self) -> int:
        """Slices along the last axis, missing ones included."""
        return self.indices[-1] + 1

    def nearest(self, index: float) -> int:
        """Which image lies nearest to an index along the last axis; the lower one of two."""
        return int(np.argmin(np.abs(np.array(self.indices) - index) - 1e-9 * (np.array(self.indices) < index)))


def stacks(headers: Sequence[Header], fill_gaps: bool = False) -> tuple[tuple[Stack, ...], tuple[str, ...]]:
    """Sort the images of one series into volumes.

    Args:
        headers: the images, without duplicates.
        fill_gaps: let a stack with missing slices be one volume with gaps.

    Returns:
        The stacks, and one sentence for each thing that the user should know.
    """
    notes: list[str] = []
    placed = [header for header in headers if header.has_geometry]
    lost = sorted((header for header in headers if not header.has_geometry), key=_by_instance)
    result: list[Stack] = []
    bundles = _bundles(placed)
    if len(bundles) > 1:
        notes.append(f"The series holds {len(bundles)} multi-frame objects, each treated by itself.")
    for number, bundle in enumerate(bundles, start=1):
        of_bundle = f"object={number}" if len(bundles) > 1 else ""
        groups = _groups(bundle)
        if len(groups) > 1:
            notes.append(_groups_note(of_bundle, groups))
        for label, group in groups:
            full_label = ", ".join(part for part in (of_bundle, label) if part)
            for volume_label, images in _repetitions(full_label, group, notes):
                result += _one_volume(images, volume_label, notes, fill_gaps)
    if lost:
        notes.append(f"{_images(len(lost))} without a position in space: each is treated as a 2-D image.")
        reason = "the images do not say where they lie in space" if len(lost) > 1 else ""
        result += _singles(lost, "no position", reason)
    return tuple(_with_distinct_labels(result)), tuple(notes)


def why_not_a_volume(images: Sequence[Header]) -> str | None:
    """Why images sorted along their normal do not form a regular grid; None when they do.

    Args:
        images: two or more headers with geometry, of one orientation.
    """
    positions = np.array([header.position for header in images])
    normal = slice_normal(images[0])
    along = positions @ normal
    steps = np.diff(along)
    travel = positions[-1] - positions[0]
    if steps.min() < SAME_POSITION:
        repeated = along[int(np.argmin(steps))]
        count = int(np.sum(np.abs(along - repeated) < SAME_POSITION))
        return f"{count} images lie at the same position ({repeated:.2f} mm)"
    angle = np.degrees(np.arccos(np.clip(abs(travel @ normal) / np.linalg.norm(travel), 0, 1)))
    if angle > TILT_TOLERANCE:
        return f"the slice step leans {angle:.1f} degrees from the slice normal (gantry tilt)"
    if steps.max() - steps.min() > 0.02 * steps.mean() + 2e-3:
        gap = int(np.argmax(steps))
        usual = float(np.median(steps)) if len(steps) > 2 else float(steps.min())
        missing = steps[gap] > 1.5 * usual or places_with_gaps(images) is not None
        what = "a slice is missing" if missing else "the slice spacing is uneven"
        return (
            f"{what} between {along[gap]:.2f} and {along[gap + 1]:.2f} mm "
            f"(step {steps[gap]:.4g} mm, elsewhere {steps.min():.4g} mm)"
        )
    line = positions[0] + np.outer(np.linspace(0, 1, len(images)), travel)
    if np.abs(line - positions).max() > LINE_TOLERANCE:
        return "the slice positions are not on a line"
    return None


def slice_normal(header: Header) -> NDArray[np.float64]:
    """Unit normal of the image plane in LPS, from row and column direction."""
    orientation = np.array(header.orientation, dtype=np.float64)
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)


def places_with_gaps(images: Sequence[Header]) -> tuple[int, ...] | None:
    """Index of each image on the regular grid that a stack with missing slices had; None when there is none.

    Args:
        images: sorted along their normal.
    """
    positions = np.array([header.position for header in images])
    along = positions @ slice_normal(images[0])
    steps = np.diff(along)
    usual = float(np.median(steps[steps < 1.1 * steps.min()]))
    if usual < SAME_POSITION:
        return None
    places = np.rint((along - along[0]) / usual).astype(int)
    if np.diff(places).min() < 1 or not len(images) <= places[-1] < 2 * len(images):
        return None  # nothing missing, or more than half
    grid = positions[0] + np.outer(places / places[-1], positions[-1] - positions[0])
    step = (along[-1] - along[0]) / places[-1]
    off = (positions - grid) @ slice_normal(images[0])
    tilt = why_not_a_volume([images[0], images[-1]])
    if tilt or np.abs(off).max() > 0.02 * step + 2e-3 or np.abs(grid - positions).max() > 0.02 * step + LINE_TOLERANCE:
        return None
    return tuple(int(place) for place in places)


def stack_affine(images: Sequence[Header], steps: int | None = None) -> NDArray[np.float64]:
    """Affine of sorted images: voxel index (column, row, slice) to RAS+ millimetres (PS3.3 C.7.6.2.1.1).

    Args:
        images: sorted along their normal.
        steps: slices from the first image to the last; as many as there are images, less one, when not given.
    """
    first = images[0]
    affine = np.eye(4)
    if first.orientation is None or first.position is None or first.spacing is None:
        row, column = first.spacing or (1.0, 1.0)
        return np.asarray(LPS_TO_RAS @ np.diag([column, row, first.thickness, 1.0]), dtype=np.float64)
    affine[:3, 0] = np.array(first.orientation[:3]) * first.spacing[1]
    affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing[0]
    affine[:3, 3] = first.position
    if len(images) == 1:
        affine[:3, 2] = slice_normal(first) * first.thickness
    else:
        affine[:3, 2] = (np.array(images[-1].position) - np.array(first.position)) / (steps or len(images) - 1)
    return np.asarray(LPS_TO_RAS @ affine, dtype=np.float64)


def _bundles(headers: Sequence[Header]) -> list[list[Header]]:
    """Split by multi-frame object, in the order given; single-frame images are one bundle."""
    bundles: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        bundles[header.bundle].append(header)
    return list(bundles.values())


def _groups_note(bundle: str, groups: Sequence[tuple[str, list[Header]]]) -> str:
    sizes: Counter[str] = Counter()
    for label, group in groups:
        sizes[label] += len(group)
    names = "; ".join(f"{label} ({_images(size)})" for label, size in sizes.items())
    holder = f"Stack {bundle}" if bundle else "The series"
    return f"{holder} holds {len(groups)} stacks, each treated by itself: {names}."


def _groups(headers: Sequence[Header]) -> list[tuple[str, list[Header]]]:
    """Split by what never varies inside a volume: orientation, grid, image flavour, echo number, b-value and stack."""
    kinds: list[NDArray[np.float64]] = []
    grouped: dict[tuple[Any, ...], list[Header]] = defaultdict(list)
    for header in sorted(headers, key=_by_instance):
        orientation = np.array(header.orientation)
        match = [n for n, kind in enumerate(kinds) if np.abs(kind - orientation).max() < ORIENTATION_TOLERANCE]
        if not match:
            kinds.append(orientation)
        spacing = tuple(round(float(value), 4) for value in header.spacing or ())
        key = (
            ("", match[0] if match else len(kinds) - 1),
            ("grid", (*header.shape, *spacing)),
            ("type", "/".join(part for part in header.image_type[2:] if part)),
            ("echo", header.facts["echo"]),
            ("b", header.facts["b"]),
            ("stack", header.facts.get("stack", ())),
        )
        grouped[key].append(header)
    differing = [n for n in range(6) if len({key[n] for key in grouped}) > 1]
    result = []
    for key, group in grouped.items():
        parts = [_plane(group[0]) if n == 0 else f"{key[n][0]}={_show(key[n][1])}" for n in differing]
        result.append((", ".join(parts), group))
    return result


def _repetitions(label: str, group: list[Header], notes: list[str]) -> Iterable[tuple[str, list[Header]]]:
    """Split images that share positions into volumes, by the fact that tells them apart."""
    group = sorted(group, key=_by_instance)
    level = _levels(group)
    repeats = max(Counter(level.values()).values())
    if repeats == 1:
        return [(label, group)]
    names = list(group[0].facts)
    for size in (1, 2):
        for chosen in combinations(names, size):
            split = _split(group, chosen)
            if len(split) == repeats and all(_unique(images, level) for images in split.values()):
                notes.append(_repetition_note(group, label, repeats, " and ".join(chosen)))
                order = sorted(split.items(), key=lambda item: _by_instance(item[1][0]))
                return [(_join(label, _fact_label(chosen, n, key)), images) for n, (key, images) in enumerate(order)]
    by_position: dict[int, list[Header]] = defaultdict(list)
    for header in group:
        by_position[level[header.key]].append(header)
    numbered = len({header.instance for header in group} - {None}) == len(group)
    if numbered and all(len(images) == repeats for images in by_position.values()):
        notes.append(_repetition_note(group, label, repeats, "the order of their InstanceNumber alone"))
        return [(_join(label, f"t={n}"), [images[n] for images in by_position.values()]) for n in range(repeats)]
    return [(label, group)]


def _repetition_note(group: Sequence[Header], label: str, repeats: int, how: str) -> str:
    if repeats == len(group):
        position = float(np.dot(group[0].position or (0, 0, 0), slice_normal(group[0])))
        return f"{_where(label)}{repeats} images lie at one position ({position:.2f} mm): each is treated as 2-D."
    return f"{_where(label)}{repeats} images a position, told apart by {how}: each set is a volume of its own."


def _one_volume(images: Sequence[Header], label: str, notes: list[str], fill_gaps: bool) -> list[Stack]:
    if len(images) == 1:
        return [Stack(tuple(images), stack_affine(images), label)]
    normal = slice_normal(images[0])
    along = {header.key: float(np.dot(header.position or (0, 0, 0), normal)) for header in images}
    ordered = sorted(images, key=lambda header: (along[header.key], _by_instance(header)))
    reason = why_not_a_volume(ordered)
    if reason is None:
        return [Stack(tuple(ordered), stack_affine(ordered), label)]
    places = places_with_gaps(ordered) if fill_gaps else None
    if places is not None:
        count = places[-1] + 1 - len(ordered)
        notes.append(f"{_where(label)}{count} slice{' is' if count == 1 else 's are'} missing and will be filled in.")
        return [Stack(tuple(ordered), stack_affine(ordered, places[-1]), label, places)]
    notes.append(f"{_where(label)}not a regular volume, {reason}: each of {_images(len(ordered))} is treated as 2-D.")
    return _singles(ordered, label, reason)


def _singles(images: Sequence[Header], label: str, irregular: str) -> list[Stack]:
    return [
        Stack((header,), stack_affine([header]), _join(label, f"image={n}"), irregular=irregular)
        for n, header in enumerate(images)
    ]


def _with_distinct_labels(result: Sequence[Stack]) -> list[Stack]:
    if len(result) == 1:
        return [replace(result[0], label="")]
    counts = Counter(stack.label for stack in result)
    seen: Counter[str] = Counter()
    distinct = []
    for stack in result:
        seen[stack.label] += 1
        label = f"{stack.label} #{seen[stack.label]}" if counts[stack.label] > 1 else stack.label
        distinct.append(replace(stack, label=label.strip()))
    return distinct


def _split(group: Sequence[Header], chosen: Sequence[str]) -> dict[tuple[Any, ...], list[Header]]:
    result: dict[tuple[Any, ...], list[Header]] = defaultdict(list)
    for header in group:
        result[tuple(header.facts[name] for name in chosen)].append(header)
    return result


def _unique(images: Sequence[Header], level: dict[tuple[Path, int], int]) -> bool:
    return len({level[header.key] for header in images}) == len(images)


def _levels(group: Sequence[Header]) -> dict[tuple[Path, int], int]:
    """Number the distinct positions along the normal; images of one position get one number."""
    along = np.array([header.position for header in group]) @ slice_normal(group[0])
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order]) >= SAME_POSITION
    numbers = np.concatenate([[0], np.cumsum(steps)])
    return {group[int(index)].key: int(number) for index, number in zip(order, numbers, strict=True)}


def _by_instance(header: Header) -> tuple[int, str, int]:
    return (header.instance if header.instance is not None else 2**31, header.path.as_posix(), header.frame or 0)


def _plane(header: Header) -> str:
    return PLANES[int(np.argmax(np.abs(slice_normal(header))))]


def _fact_label(chosen: Sequence[str], number: int, key: Sequence[tuple[Any, ...]]) -> str:
    numeric = len(chosen) == 1 and len(key[0]) == 1 and isinstance(key[0][0], float)
    return f"{chosen[0]}={_show(key[0])}" if numeric else f"t={number}"


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(_show(part) for part in value) or "none"
    return f"{value:g}" if isinstance(value, float | int) else str(value) or "none"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _join(label: str, more: str) -> str:
    return f"{label}, {more}" if label else more


def _where(label: str) -> str:
    return f"Stack {label}: " if label else ""
