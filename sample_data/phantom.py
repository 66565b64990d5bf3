"""A T1-weighted head made of formulas: every voxel's true value is known.

Tissues are drawn on a grid twice as fine and averaged down, so borders hold partial volumes as in a scanner. Gyri are
the labyrinth that the zero level of a band-limited random field draws (a random field with one wavelength folds
evenly, as a cortex does), stretched along the radius so that sulci run inwards.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

SPACING = 1.75  # mm
SHAPE = (96, 116, 92)
FINE = 2  # sub-voxels a voxel along each axis
BRAIN_RADII = np.array([66.0, 82.0, 58.0])  # mm: right-left, front-back, up-down

# Grey values; white matter is the brightest tissue.
AIR, BONE, CSF, MARROW, MUSCLE, GREY, SCALP, WHITE = 0.0, 22.0, 50.0, 95.0, 105.0, 155.0, 205.0, 228.0
CAUDATE, THALAMUS, LESION = 172.0, 186.0, 138.0

# Centre (mm; x to the right, y to the front, z up) and radius of each lesion, all in white matter.
LESIONS = (
    ((24.0, 22.0, 26.0), 4.5),
    ((-27.0, 8.0, 28.0), 3.0),
    ((22.0, -38.0, 18.0), 3.5),
    ((-25.0, -42.0, 16.0), 2.2),
    ((-23.0, 36.0, 14.0), 2.6),
)

Field = NDArray[np.float32]


def head() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """True values, shape ``SHAPE``, and the affine to RAS+ millimetres."""
    x, y, z = coordinates()
    radius = np.sqrt(sum((c / r) ** 2 for c, r in zip((x, y, z), BRAIN_RADII, strict=True)))
    depth = (1.0 - radius) * BRAIN_RADII.mean()  # mm below the brain's outer border, about
    image = scalp_and_skull(depth)
    cerebrum(image, (x, y, z), radius, depth)
    deep_structures(image, x, y, z)
    cerebellum(image, x, y, z)
    for (cx, cy, cz), size in LESIONS:
        image[(x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < size**2] = LESION
    return average_down(image * shading(x, y, z)), affine()


def affine() -> NDArray[np.float64]:
    """Voxel index to millimetres; the origin of the millimetres is the centre of the brain."""
    matrix = np.diag([SPACING, SPACING, SPACING, 1.0])
    matrix[:3, 3] = [-(n - 1) / 2 * SPACING + shift for n, shift in zip(SHAPE, (0.0, 0.0, -4.0), strict=True)]
    return matrix


def coordinates() -> tuple[Field, Field, Field]:
    """Millimetres of every sub-voxel along each axis, ready to broadcast."""
    first, step = affine()[:3, 3] - SPACING / 2, SPACING / FINE
    axes = [first[a] + step * (np.arange(SHAPE[a] * FINE) + 0.5) for a in range(3)]
    return tuple(np.meshgrid(*(a.astype(np.float32) for a in axes), indexing="ij", sparse=True))


def average_down(fine: Field) -> NDArray[np.float64]:
    """Means of FINE^3 sub-voxels."""
    i, j, k = SHAPE
    return fine.astype(np.float64).reshape(i, FINE, j, FINE, k, FINE).mean(axis=(1, 3, 5))


def random_field(seed: int, wavelength: float) -> Field:
    """Gaussian random field on the fine grid, unit variance, with power in a narrow band around one wavelength (mm)."""
    shape = tuple(n * FINE for n in SHAPE)
    noise = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    step = SPACING / FINE
    frequencies = [scipy.fft.fftfreq(n, step) for n in shape[:2]] + [scipy.fft.rfftfreq(shape[2], step)]
    grid = np.meshgrid(*frequencies, indexing="ij", sparse=True)
    magnitude = np.sqrt(sum(f**2 for f in grid))
    band = np.exp(-0.5 * ((magnitude * wavelength - 1.0) / 0.18) ** 2).astype(np.float32)
    field = scipy.fft.irfftn(scipy.fft.rfftn(noise) * band, s=shape)
    return (field / field.std()).astype(np.float32)


def scalp_and_skull(depth: Field) -> Field:
    """Everything outside the brain: scalp, two tables of bone with marrow between them, and fluid."""
    image = np.full(depth.shape, AIR, np.float32)
    image[depth > -15.0] = SCALP
    image[depth > -10.5] = BONE
    image[(depth > -8.2) & (depth < -5.4)] = MARROW
    image[depth > -3.0] = CSF
    return image


def cerebrum(image: Field, where: tuple[Field, Field, Field], radius: Field, depth: Field) -> None:
    """Folded cortex around white matter, two hemispheres, on a curved base."""
    x, y, z = where
    folds = along_radius(random_field(seed=11, wavelength=20.0), where, radius)
    slope = np.sqrt(sum(g**2 for g in np.gradient(folds, SPACING / FINE)))
    from_sulcus = np.abs(folds) / np.maximum(slope, 0.08)  # mm to the middle of the nearest sulcus, to first order
    reach = 19.0 + 6.0 * along_radius(random_field(seed=12, wavelength=45.0), where, radius)  # mm: how deep sulci run
    floor = -33.0 + 10.0 * np.exp(-((x / 24.0) ** 2)) + 0.004 * np.minimum(y, 0.0) ** 2
    base = 0.8 * (z - floor)  # mm above the base of the skull and the tentorium
    from_fluid = np.minimum(np.minimum(depth, base), np.hypot(from_sulcus, np.maximum(depth - reach, 0.0)) - 0.6)

    fissure = np.abs(x) - 1.1
    above_callosum = ((y / 38.0) ** 2 + ((z - 6.0) / 20.0) ** 2 > 1.0) & (z > -14.0)
    from_fluid = np.where(above_callosum, np.minimum(from_fluid, fissure), from_fluid)

    image[(base < -3.0) & (depth > -3.0)] = MUSCLE
    inside = (depth > 0.0) & (base > 0.0)
    image[inside] = WHITE
    image[inside & (from_fluid < 2.9)] = GREY
    image[inside & (from_fluid < 0.0)] = CSF


def along_radius(field: Field, where: tuple[Field, Field, Field], radius: Field) -> Field:
    """The field drawn out along the radius: what stands at the surface also stands below it."""
    stretch = np.maximum(radius, 0.3) ** -0.75
    first, step = affine()[:3, 3] - SPACING / 2, SPACING / FINE
    at = [(c * stretch - first[a]) / step - 0.5 for a, c in enumerate(where)]
    return ndimage.map_coordinates(field, at, order=1, mode="grid-wrap")


def deep_structures(image: Field, x: Field, y: Field, z: Field) -> None:
    """White core, nuclei and ventricles; left and right alike."""

    def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> NDArray[np.bool_]:
        cx, cy, cz = centre
        rx, ry, rz = radii
        return ((np.abs(x) - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 < 1.0

    image[ellipsoid((0.0, -2.0, 6.0), (31.0, 36.0, 19.0))] = WHITE
    image[ellipsoid((26.0, 4.0, 2.0), (5.5, 17.0, 11.0))] = CAUDATE  # putamen
    image[ellipsoid((19.0, 3.0, 0.0), (3.0, 9.0, 6.0))] = 0.5 * (CAUDATE + WHITE)  # pallidum
    image[ellipsoid((13.5, 19.0, 9.0), (5.0, 11.0, 9.0))] = CAUDATE
    image[ellipsoid((9.5, -13.0, 4.0), (8.0, 13.0, 8.5))] = THALAMUS
    bend = 0.012 * (y + 4.0) ** 2
    horn = ((np.abs(x) - 7.0 - 0.006 * (y + 4.0) ** 2) / 5.0) ** 2 + ((z - 16.0 + bend) / 6.0) ** 2
    image[(horn < 1.0 - ((y + 4.0) / 38.0) ** 2) & (np.abs(x) > 0.9)] = CSF  # lateral ventricles, septum between
    image[ellipsoid((0.0, -8.0, 0.0), (1.8, 14.0, 9.0))] = CSF  # third ventricle
    image[ellipsoid((0.0, -14.0, -34.0), (11.0, 11.0, 26.0)) & (z < -8.0)] = 0.5 * (WHITE + THALAMUS)  # brain stem


def cerebellum(image: Field, x: Field, y: Field, z: Field) -> None:
    """Two lobes of fine parallel folia around white matter."""
    u, v, w = (np.abs(x) - 18.0) / 30.0, (y + 45.0) / 28.0, (z + 36.0) / 19.0
    radius = np.sqrt(u**2 + v**2 + w**2)
    skull = (x / 66.0) ** 2 + (y / 82.0) ** 2 + (z / 58.0) ** 2
    inside = (radius < 1.0) & (skull < 1.0)
    image[(radius < 1.1) & (skull < 1.0)] = CSF
    image[inside] = GREY
    folia = np.cos(2 * np.pi * (6.5 * np.arctan2(w, v + 0.6) + 0.9 * u))
    image[inside & (radius < 0.93) & (folia > 0.45)] = WHITE
    image[inside & (radius < 0.45)] = WHITE
    image[inside & (radius > 0.72) & (folia < -0.86)] = CSF


def shading(x: Field, y: Field, z: Field) -> Field:
    """The coil's smooth sensitivity, and slow variation inside tissues; between 0.88 and 1.06 or so."""
    coil = 1.0 - 0.07 * (z / 80.0) - 0.05 * (y / 100.0) ** 2 - 0.03 * (x / 80.0)
    return (coil * (1.0 + 0.012 * random_field(seed=13, wavelength=30.0))).astype(np.float32)
