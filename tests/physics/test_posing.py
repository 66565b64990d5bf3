"""From a scan to a posed problem and back: planes, boxes, and what the prior supplied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medidiff.config import RestoreOptions
from medidiff.errors import ScanError
from medidiff.physics import noise, posing, tasks
from medidiff.physics.posing import CONTEXT, Posed, Voxels
from medidiff.physics.sigma_map import SigmaMap

SHAPE = (20, 17, 14)
SPACING = (1.0, 2.0, 3.0)


def unit(shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0.2, 1, shape).astype(np.float32)


def hole_in(shape: tuple[int, ...], *spans: tuple[int, int]) -> NDArray[np.bool_]:
    hole = np.zeros(shape, dtype=bool)
    hole[tuple(slice(*span) for span in spans)] = True
    return hole


def pose(
    task: Any, values: NDArray[np.float32], dims: int = 3, *, hole: Any = None, sigma: Any = 0.0, **more: Any
) -> Posed:
    options = {key: more.pop(key) for key in ("factor", "spacing", "profile") if key in more}
    field = SigmaMap(sigma, tuple(np.eye(n) for n in sigma.shape)) if np.ndim(sigma) else None
    level = noise.NoiseEstimate(float(np.median(sigma)), field, "gaussian", 0.0, "given")
    voxels = Voxels(**{"spacing": SPACING, **more})
    return posing.pose(task, values, voxels, level, hole, RestoreOptions(**options), dims)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_of_a_stack_are_images_of_a_batch(axis):
    values = unit()
    posed = pose("denoise", values, 2, sigma=0.1, slice_axis=axis)
    assert posed.planes == axis
    np.testing.assert_array_equal(posed.problem.measured, np.moveaxis(values, axis, 0))
    in_plane = [s for a, s in enumerate(SPACING) if a != axis]
    names = tasks.parameter_names(2)[1:]
    for row in posed.problem.parameters:
        told = dict(zip(names, row.tolist(), strict=True))
        assert [told["log2 spacing 1"], told["log2 spacing 2"]] == pytest.approx(
            [np.log2(s / min(in_plane)) for s in in_plane], abs=1e-6
        )
    back = posed.image(torch.zeros_like(posed.problem.base), 1.0)
    np.testing.assert_array_equal(np.moveaxis(back, axis, 0), posed.problem.base)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_axis_of_one_voxel_is_across_the_plane(axis):
    shape = tuple(1 if a == axis else n for a, n in enumerate(SHAPE))
    for slice_axis in (None, 0, 1, 2):
        posed = pose("denoise", unit(shape), 2, sigma=0.1, slice_axis=slice_axis)
        assert posed.planes == axis
        assert posed.problem.base.shape == (1, *(n for a, n in enumerate(SHAPE) if a != axis))


def test_without_a_slice_axis_planes_are_as_stored():
    assert [pose("denoise", unit(), 2, sigma=0.1, stack=k).planes for k in (0, 1, 2)] == [0, 1, 2]
    assert pose("denoise", unit(), 3, sigma=0.1).planes is None


def test_noise_may_vary():
    sigma = np.linspace(0.01, 0.1, unit().size, dtype=np.float32).reshape(SHAPE)
    np.testing.assert_array_equal(pose("denoise", unit(), sigma=sigma).problem.sigma[0], sigma)
    planes = pose("denoise", unit(), 2, sigma=sigma, slice_axis=1).problem.sigma
    np.testing.assert_array_equal(planes, np.moveaxis(sigma, 1, 0))
    fine = pose("superres", unit(), sigma=sigma, factor=(2, 1, 1)).problem
    np.testing.assert_array_equal(fine.sigma[0], sigma.repeat(2, axis=0))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("place", [0, 45, 88])
def test_box_of_a_hole_is_the_hole_and_its_surroundings(place, dims):
    shape = (90, 12, 10)
    values, hole = unit(shape), hole_in((90, 12, 10), (place, place + 2), (3, 6), (0, 4))
    posed = pose("inpaint", values, dims, hole=hole)
    assert posed.box == (slice(max(0, place - CONTEXT), min(90, place + 2 + CONTEXT)), slice(0, 12), slice(0, 10))
    np.testing.assert_array_equal(posed.array(posed.problem.support), hole[posed.box])
    image = posed.image(torch.ones_like(posed.problem.base), 1.0)
    np.testing.assert_array_equal(image[~hole], values[~hole])
    expected = (posed.problem.base + posed.problem.scale)[posed.problem.support]
    np.testing.assert_allclose(np.sort(image[hole]), np.sort(expected.numpy()), rtol=1e-6)
    deviation = posed.deviation(torch.zeros_like(posed.problem.base))
    np.testing.assert_array_equal(deviation > 0, hole)
    np.testing.assert_array_equal(posed.supplied(1.0), hole)
    assert posed.kappa == 2.0


def test_noise_is_that_of_the_place_in_the_scan():
    """Drawn for all of the scan, so that it does not depend on where a box ends or which way planes lie."""
    shape = (90, 12, 10)
    field = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    hole = hole_in(shape, (60, 64), (3, 6), (0, 4))
    for dims in (2, 3):
        posed = pose("inpaint", unit(shape), dims, hole=hole)
        np.testing.assert_array_equal(posed.array(posed.images(field[posed.box])), field[posed.box])
    fine = pose("superres", unit(), 2, factor=(2, 3, 1), slice_axis=2)
    field = torch.randn(fine.shape, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(fine.array(fine.images(field)), field)


@pytest.mark.parametrize("dims", [2, 3])
def test_finer_array_measured_again_is_the_scan(dims):
    values = unit()
    posed = pose("superres", values, dims, factor=(2, 3, 1), slice_axis=2)
    assert posed.shape == (40, 51, 14)
    residual = torch.randn(posed.problem.base.shape, generator=torch.Generator().manual_seed(0))
    for strength in (0.0, 0.3, 1.0):
        image = posed.image(residual, strength)
        assert image.shape == posed.shape
        np.testing.assert_allclose(posed.measured_again(image), values, atol=2e-6)
    np.testing.assert_array_equal(posed.data(), values)
    assert [axis.factor for axis in posed.acquisition.axes] == [2, 3, 1]
    # the network is told of the voxels that it makes, 0.5 x 0.67 x 3 mm
    told = dict(zip(tasks.parameter_names(dims)[1:], posed.problem.parameters[0].tolist(), strict=True))
    assert told["log2 spacing 2"] == pytest.approx(np.log2(4 / 3), abs=1e-5)
    assert told["log2 factor 2"] == pytest.approx(np.log2(3), abs=1e-5)


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(["denoise", "superres", "inpaint"]),
    st.sampled_from([2, 3]),
    st.integers(0, 2),
    st.floats(0.0, 1.0),
    st.floats(0.001, 0.5),
)
def test_supplied_is_a_share(task, dims, axis, strength, sigma):
    hole = hole_in(SHAPE, (3, 9), (4, 9), (2, 8))
    factor = tuple(1.0 if a == axis else 2.5 for a in range(3))
    more = {"sigma": sigma} if task != "inpaint" else {}
    more |= {"factor": factor} if task == "superres" else {}
    posed = pose(task, unit(), dims, hole=None if task == "denoise" else hole, slice_axis=axis, **more)
    share = posed.supplied(strength)
    assert share.shape == posed.shape
    assert float(share.min()) >= 0
    assert float(share.max()) <= 1
    if task == "superres":
        assert (share == 1).mean() >= 0.8 * hole.mean()  # a hole is supplied wholly


def test_denoising_supplies_what_the_shrinkage_took():
    """Shares v of the noise are kept: s^2 = sigma^2 v (2 - v)."""
    posed = pose("denoise", unit(), sigma=0.3)
    ratio = (posed.problem.scale / posed.problem.sigma)[0].numpy()
    kept = 1 - posed.supplied(1.0)
    np.testing.assert_allclose(kept * (2 - kept), ratio**2, atol=1e-4)
    np.testing.assert_allclose(posed.supplied(0.25), 0.25 * posed.supplied(1.0), rtol=1e-6)
    assert float(kept.mean()) < 0.5


def test_planes_cannot_fill_whole_slices_nor_refine_across():
    whole = hole_in(SHAPE, (0, 20), (0, 17), (4, 5))
    with pytest.raises(ScanError, match="whole slices"):
        pose("inpaint", unit(), 2, hole=whole, slice_axis=2)
    pose("inpaint", unit(), 2, hole=whole, slice_axis=1)
    pose("inpaint", unit(), 3, hole=whole)
    with pytest.raises(ScanError, match="in their plane"):
        pose("superres", unit(), 2, factor=(1, 1, 2), slice_axis=2)
    assert pose("superres", unit(), 2, factor=(1, 1, 2), slice_axis=1).shape == (20, 17, 28)
