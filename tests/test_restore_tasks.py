"""Super-resolution and inpainting along the straight line: what was measured is kept, whatever the network says."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medidiff.config import RestoreOptions
from medidiff.errors import ScanError, UsageError
from medidiff.physics import holes, intensity, resolution
from medidiff.physics.operators import Acquisition, Axis
from medidiff.restore import Restoration, restore
from medidiff.scans.volume import Volume
from tests.fake_networks import Constant, Local, Wild, ball, engine, gained, magnitude, run

THICK = np.diag([1.0, 1.2, 4.0, 1.0])


def scan(shape: tuple[int, ...] = (21, 18, 11), affine: NDArray[np.float64] = THICK, modality: str = "MR") -> Volume:
    clean = 800 * ball(shape) + 40 * np.cos(np.indices(shape).sum(0))
    values = np.abs(clean) if modality == "MR" else clean - 900
    return Volume(values.astype(np.float32), affine, modality, "HU" if modality == "CT" else "a.u.")


def box(shape: tuple[int, ...], *spans: tuple[int, int]) -> NDArray[np.bool_]:
    hole = np.zeros(shape, dtype=bool)
    hole[tuple(slice(*span) for span in spans)] = True
    return hole


HOLE = box((21, 18, 11), (6, 13), (5, 12), (3, 8))


def measured_again(result: Restoration, image: NDArray[np.float32], profile: str, widths: Any = (1, 1, 1)) -> Any:
    """What the scanner would have seen of a restored image, computed apart from the code that restored it."""
    sizes = zip(result.volume.array.shape, image.shape, widths, strict=True)
    axes = tuple(Axis(coarse, fine, profile, width) for coarse, fine, width in sizes)
    return Acquisition(axes).forward(torch.from_numpy(image)[None].double())[0].numpy()


def off(result: Restoration, image: NDArray[np.float32], profile: str, widths: Any = (1, 1, 1)) -> float:
    """Largest residual over the scan's range."""
    array = result.volume.array.astype(np.float64)
    return float(np.abs(measured_again(result, image, profile, widths) - array).max() / np.ptp(array))


@pytest.mark.parametrize("profile", ["gaussian", "box", "kspace"])
@pytest.mark.parametrize(
    ("factor", "network"),
    [(2, Wild), (3, Wild), (4, Local), (4, Constant), (5.5, Wild), (6, Wild), (7, Local), (8, Wild)],
)
def test_thick_slices_measured_again_are_the_scan(factor, profile, network):
    volume = scan((13, 10, 9))
    result = run(
        volume, network(), task="superres", factor=(1, 1, factor), profile=profile, samples=2, steps=3, gamma=0.7
    )
    assert result.mean.shape == (13, 10, round(9 * factor))
    for image in (result.mean, result.sample, *result.samples):
        assert off(result, image, profile) <= 1e-5
    assert result.checks["data_residual"] <= 1e-5
    assert result.verdicts == ()


@pytest.mark.parametrize("modality", ["MR", "CT"])
@pytest.mark.parametrize("factor", [(2, 2, 2), (1.5, 2, 3), (3, 1, 1), (1, 2.2, 1)])
@pytest.mark.parametrize("profile", ["gaussian", "box", "kspace"])
def test_all_axes_at_once(factor, profile, modality):
    result = run(scan(modality=modality), Wild(), task="superres", factor=factor, profile=profile, samples=1, steps=3)
    for image in (result.mean, *result.samples):
        assert off(result, image, profile) <= 1e-5
    assert result.verdicts == ()


@pytest.mark.parametrize("noise", [0.0, 5.0])
def test_a_share_of_the_networks_correction_explains_the_scan_too(noise):
    volume, options = scan(modality="CT"), RestoreOptions(noise=noise, factor=(1, 1, 4), profile="box")
    base, whole = (restore(volume, engine(network), options, "superres") for network in (Constant(), Local()))
    found = restore(volume, gained(Local(), 0.25), options, "superres")
    np.testing.assert_allclose(found.mean, base.mean + 0.25 * (whole.mean - base.mean), atol=2e-3)
    assert float(np.abs(whole.mean - base.mean).max()) > 0.5
    assert found.verdicts == base.verdicts
    if noise == 0:
        assert off(found, found.mean, "box") <= 1e-5


def test_a_share_of_a_filling_changes_nothing_outside():
    volume = scan()
    base, whole = (run(volume, network, task="inpaint", hole=HOLE) for network in (Constant(), Local()))
    found = restore(volume, gained(Local(), 0.25), RestoreOptions(samples=1, steps=3), "inpaint", hole=HOLE)
    np.testing.assert_allclose(found.mean, base.mean + 0.25 * (whole.mean - base.mean), atol=1e-2)
    assert float(np.abs(whole.mean - base.mean).max()) > 1
    for image in (found.mean, *found.samples):
        np.testing.assert_array_equal(image[~HOLE], volume.array[~HOLE])


def oblique(angles: tuple[float, float, float], spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = (-40, 12, 3)
    return affine


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 4.0), (1.0, 2.0, 5.0), (3.0, 1.0, 1.0)])
@pytest.mark.parametrize("angles", [(0, 0, 0), (10, -20, 15), (80, 100, -160)])
def test_oblique_and_anisotropic_scans_become_isotropic(angles, spacing):
    volume = replace(scan(affine=oblique(angles, spacing)), slice_axis=2, thickness=0.8 * spacing[2])
    result = run(volume, Local(), task="superres", samples=1, steps=2)
    wanted = [round(n * size / min(spacing)) for n, size in zip((21, 18, 11), spacing, strict=True)]
    assert list(result.mean.shape) == wanted
    np.testing.assert_allclose(np.linalg.norm(result.affine[:3, :3], axis=0), min(spacing), rtol=1e-6)
    for corner in np.ndindex(2, 2, 2):  # the outer faces of the field of view stay
        ends = (np.where(corner, np.array(shape) - 0.5, -0.5) for shape in (volume.array.shape, wanted))
        before, after = (m @ [*end, 1] for m, end in zip((volume.affine, result.affine), ends, strict=True))
        np.testing.assert_allclose(after, before, atol=1e-6)
    assert result.record["factor"] == pytest.approx([n / m for n, m in zip(wanted, (21, 18, 11), strict=True)])
    stacked = ["kspace", "kspace", "gaussian"]
    trivial = [n == m for n, m in zip(wanted, (21, 18, 11), strict=True)]
    assert result.record["profile"] == [None if t else p for t, p in zip(trivial, stacked, strict=True)]
    assert result.record["profile_width"] == [None if t else w for t, w in zip(trivial, (1, 1, 0.8), strict=True)]
    axes = [Axis(m, n, p, w) for m, n, p, w in zip(volume.array.shape, wanted, stacked, (1, 1, 0.8), strict=True)]
    for image in (result.mean, *result.samples):
        again = Acquisition(tuple(axes)).forward(torch.from_numpy(image)[None].double())[0].numpy()
        assert np.abs(again - volume.array).max() <= 1e-5 * np.ptp(volume.array)


ORIENTATIONS = [
    np.stack(pair, axis=1).astype(float)
    for pair in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
]


@pytest.mark.parametrize("task", ["superres", "inpaint"])
@pytest.mark.parametrize("orientation", ORIENTATIONS[::5])
def test_result_does_not_depend_on_how_the_scan_is_stored(orientation, task):
    upright = replace(scan((13, 11, 9)), slice_axis=2, thickness=3.0)
    hole = box((13, 11, 9), (3, 8), (4, 9), (0, 5))
    turned = nib.orientations.inv_ornt_aff(orientation, upright.array.shape)
    stored = replace(
        upright,
        array=np.ascontiguousarray(nib.apply_orientation(upright.array, orientation)),
        affine=upright.affine @ turned,
        slice_axis=int(orientation[2, 0]),
    )
    factors = {"factor": (1.0, 2.0, 3.0)} if task == "superres" else {}
    elsewhere = {"factor": tuple((1.0, 2.0, 3.0)[axis] for axis in np.argsort(orientation[:, 0]))} if factors else {}
    more = {"samples": 2, "steps": 3, "task": task}
    expected = run(upright, Local(), hole=hole, **factors, **more)
    found = run(stored, Local(), hole=nib.apply_orientation(hole, orientation), **elsewhere, **more)
    images = [(r.mean, r.std, r.supplied, *r.samples) for r in (expected, found)]
    for a, b in zip(*images, strict=True):
        np.testing.assert_array_equal(b, nib.apply_orientation(a, orientation))
    assert found.checks == expected.checks
    again = nib.orientations.inv_ornt_aff(orientation, expected.mean.shape)
    np.testing.assert_allclose(found.affine, expected.affine @ again, atol=1e-9)


@pytest.mark.parametrize(("modality", "network"), [("MR", Wild), ("CT", Wild), ("PT", Local)])
@pytest.mark.parametrize(
    "spans",
    [((6, 13), (5, 12), (3, 8)), ((0, 5), (0, 18), (0, 4)), ((18, 21), (0, 3), (9, 11)), ((0, 21), (0, 18), (4, 6))],
    ids=["inside", "edge", "corner", "slices"],
)
def test_nothing_outside_a_hole_changes(spans, modality, network):
    volume, hole = scan(modality=modality), box((21, 18, 11), *spans)
    broken = replace(volume, array=np.where(hole, np.float32(12345), volume.array))
    result = run(broken, network(), task="inpaint", hole=hole, samples=2, steps=3, gamma=0.5, force=True)
    for image in (result.mean, result.sample, *result.samples):
        np.testing.assert_array_equal(image[~hole], volume.array[~hole])
        assert np.isfinite(image).all()
        assert (image[hole] != 12345).all()
    assert result.checks["changed_outside"] == 0
    assert result.checks["hole_share"] == pytest.approx(hole.mean(), abs=1e-5)
    np.testing.assert_array_equal(result.supplied, hole)
    assert not result.std[~hole].any()
    assert (result.std[hole] > 0).all()
    assert result.record["filled_voxels"] == hole.sum()
    np.testing.assert_array_equal(result.affine, volume.affine)


@pytest.mark.parametrize("task", ["superres", "inpaint"])
def test_what_the_hole_holds_does_not_matter(task):
    volume = scan()
    results = [
        run(
            replace(volume, array=np.where(HOLE, np.float32(value), volume.array)),
            Local(),
            task=task,
            hole=HOLE,
            samples=1,
            steps=3,
        )
        for value in (0.0, 1e5)
    ]
    for a, b in zip(*((r.mean, r.std, r.samples[0]) for r in results), strict=True):
        np.testing.assert_array_equal(a, b)


def lopsided(shape: tuple[int, ...]) -> Volume:
    """A scan that is not like its reflection."""
    rough = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape), 0.7)
    return Volume((500 + 100 * rough / rough.std()).astype(np.float32), THICK, "MR")


def test_silent_network_gives_the_filling():
    volume = lopsided((21, 18, 11))
    spacing = torch.tensor([volume.spacing])
    expected = holes.fill(torch.from_numpy(volume.array)[None], torch.from_numpy(HOLE)[None], spacing)[0]
    result = run(volume, task="inpaint", hole=HOLE)
    assert float(np.sqrt(np.square(result.mean - expected.numpy()).mean())) < 0.5  # of values up to 1000
    assert result.record["symmetry"] is None


def test_a_hole_is_filled_by_what_lies_across():
    """A scan that is its own mirror image, but for a hole on one side: the other says what was in it."""
    rng = np.random.default_rng(0)
    half = ndimage.gaussian_filter(rng.standard_normal((24, 40, 36)), 1.5)
    truth = 500 + 100 * np.concatenate([half, half[::-1]]) / half.std()
    volume = Volume(truth.astype(np.float32), np.eye(4), "MR")
    hole = box(truth.shape, (5, 14), (15, 24), (12, 21))
    result = run(volume, task="inpaint", hole=hole, noise=0)
    smooth = holes.fill(torch.from_numpy(volume.array)[None], torch.from_numpy(hole)[None], torch.ones(1, 3))[0].numpy()
    errors = [float(np.square(image - truth)[hole].mean()) for image in (result.mean, smooth)]
    assert errors[0] < 0.1 * errors[1]
    assert result.record["symmetry"] > 0.95


def test_super_resolution_fills_holes_by_what_lies_across_too():
    rng = np.random.default_rng(0)
    half = ndimage.gaussian_filter(rng.standard_normal((24, 40, 36)), 2)
    truth = (500 + 100 * np.concatenate([half, half[::-1]]) / half.std()).astype(np.float32)
    thick = truth.reshape(48, 40, 18, 2).mean(axis=3)
    volume = Volume(thick, np.diag([1.0, 1, 2, 1]), "MR")
    hole = box(thick.shape, (5, 14), (15, 24), (6, 11))
    result = run(volume, task="superres", hole=hole, factor=(1, 1, 2), profile="box", noise=0)
    data, gap = torch.from_numpy(thick)[None], torch.from_numpy(hole)[None]
    smooth = holes.fill(data, gap, torch.tensor([volume.spacing]))[0].numpy().repeat(2, axis=2)
    errors = [float(np.square(image - truth)[hole.repeat(2, axis=2)].mean()) for image in (result.mean, smooth)]
    assert errors[0] < 0.3 * errors[1]
    assert result.record["symmetry"] > 0.9


def test_what_was_not_measured_says_nothing_of_symmetry():
    """A third of a symmetric scan is padding: the plane is that of the rest, and what lies across fills the hole."""
    rng = np.random.default_rng(0)
    half = ndimage.gaussian_filter(rng.standard_normal((24, 40, 36)), 1.5)
    truth = (500 + 60 * np.concatenate([half, half[::-1]]) / half.std()).astype(np.float32)
    valid = np.ones(truth.shape, dtype=bool)
    valid[:, 28:] = valid[30:, :, :12] = False
    hole = box(truth.shape, (5, 14), (8, 17), (16, 25))
    volume = Volume(np.where(valid, truth, truth.min()), np.eye(4), "MR", valid=valid)
    result = run(volume, task="inpaint", hole=hole, noise=0)
    assert result.record["symmetry"] > 0.95
    assert np.square(result.mean - truth)[hole].mean() < 0.3 * truth[hole].var()


def test_missing_slices_are_not_looked_for_in_themselves():
    """A reflection maps each gap between slices onto itself, so that it says nothing."""
    half = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((20, 36, 30)), 1.5)
    truth = (500 + 100 * np.concatenate([half, half[::-1]]) / half.std()).astype(np.float32)
    hole = box(truth.shape, (0, 40), (0, 36), (14, 16))
    assert run(Volume(truth, np.eye(4), "MR"), task="inpaint", hole=hole, noise=0).record["symmetry"] is None


def test_noise_of_the_surroundings_does_not_run_into_a_hole():
    """They stay as they are, noise and all; what fills the hole is as quiet as the truth."""
    truth = np.linspace(100, 600, 40)[:, None, None] * np.ones((40, 36, 30))
    hole = box(truth.shape, (15, 25), (13, 23), (10, 20))
    bias = []
    for seed in range(3):
        volume = Volume(magnitude(truth, 40, seed), np.eye(4), "MR")
        noisy, quiet = (run(volume, task="inpaint", hole=hole, noise=n) for n in (0, percent_of(volume, 40)))
        for result in (noisy, quiet):
            np.testing.assert_array_equal(result.mean[~hole], volume.array[~hole])
            assert result.record["data_consistency"] == "exact"
        error = [float(np.sqrt(np.square(r.mean - truth)[hole].mean())) for r in (noisy, quiet)]
        assert error[1] < 0.6 * error[0]
        bias.append(float((quiet.mean - truth)[hole].mean()))
    assert abs(np.mean(bias)) < 5  # the noise of the surroundings moves it, the Rician bias does not


def test_hole_is_seen_with_its_surroundings_only():
    """A distant part of a large scan neither matters nor costs, where that is not its own mirror image."""
    volume = lopsided((120, 12, 12))
    hole = box((120, 12, 12), (100, 110), (3, 9), (3, 9))
    network = Local()
    result = run(volume, network, task="inpaint", hole=hole)
    assert max(window[2] for window in network.windows) <= 32 + 20 + 4
    far = volume.array.copy()
    far[30:40] = far[30:40][:, ::-1]
    np.testing.assert_array_equal(
        run(replace(volume, array=far), Local(), task="inpaint", hole=hole).mean[hole], result.mean[hole]
    )


def percent_of(volume: Volume, sigma: float) -> float:
    return 100 * sigma / intensity.bright_level(volume.array)


def test_thick_slices_with_noise_and_a_hole_in_one_go():
    shape, factor = (40, 36, 14), (1, 1, 3)
    truth = 500 * ball((40, 36, 42)) + 100
    axes = Acquisition((Axis(40, 40), Axis(36, 36), Axis(14, 42, "gaussian")))
    clean = axes.forward(torch.from_numpy(truth)[None])[0].numpy()
    hole = box(shape, (8, 18), (10, 20), (4, 8))
    noisy = magnitude(clean, 30)
    volume = Volume(np.where(hole, np.float32(0), noisy), np.diag([1.0, 1.0, 3.0, 1.0]), "MR", slice_axis=2)
    result = run(volume, task="superres", hole=hole, factor=factor, noise=percent_of(volume, 30), samples=2, steps=4)
    assert result.mean.shape == truth.shape
    inside = axes.spread(torch.from_numpy(hole)[None].float())[0].numpy() > 0.5

    def error(image: NDArray[Any], where: NDArray[np.bool_]) -> float:
        return float(np.sqrt(np.square(image - truth)[where].mean()))

    spline = ndimage.zoom(np.where(hole, clean[~hole].mean(), noisy), factor, order=3, grid_mode=True, mode="nearest")
    assert error(result.mean, ~inside) < 0.7 * error(spline, ~inside)
    assert error(result.mean, inside) < 0.9 * error(spline, inside)
    np.testing.assert_array_equal(result.supplied[inside], 1)
    assert float(result.supplied[~inside].max()) < 1
    assert result.record["data_consistency"] == "statistical"
    assert 0.5 < result.checks["data_residual_variance_ratio"] < 1.1
    assert abs(result.checks["data_residual_mean"]) < 0.15
    assert result.verdicts == ()
    spread = np.std(np.stack(result.samples), axis=0)
    assert float(spread[inside].mean()) > 2 * float(spread[~inside].mean())  # more is unknown in the hole
    json.dumps([result.checks, result.record])


def test_noise_of_a_thick_slice_scan_does_not_come_back():
    truth = 500 * ball((40, 36, 42)) + 100
    axes = Acquisition((Axis(40, 40), Axis(36, 36), Axis(14, 42, "gaussian")))
    clean = axes.forward(torch.from_numpy(truth)[None])[0].numpy()
    for sigma in (5.0, 20.0, 60.0):
        volume = Volume(magnitude(clean, sigma), np.diag([1.0, 1.0, 3.0, 1.0]), "MR", slice_axis=2)
        exact, soft = (run(volume, task="superres", noise=percent).mean for percent in (0, percent_of(volume, sigma)))
        best = run(Volume(clean.astype(np.float32), volume.affine, "MR", slice_axis=2), task="superres").mean
        flat = np.s_[16:24, 15:21, 18:24]  # within the core
        assert np.std((soft - best)[flat]) < 0.65 * np.std((exact - best)[flat])
        assert np.abs((soft - truth).mean()) < 0.05 * sigma  # and the Rician bias is gone


@pytest.mark.parametrize("percent", [0.02, 0.3, 3.0])
@pytest.mark.parametrize("modality", ["MR", "PT"])
def test_noisy_slices_are_explained_as_far_as_their_noise_allows(modality, percent):
    """Whatever the network says, down to no noise, and with the ringing below zero that the data ask for."""
    shape = (24, 24, 12)
    clean = 800 * ball(shape)
    volume = Volume(magnitude(clean, 8 * percent) if modality == "MR" else clean.astype(np.float32), THICK, modality)
    options = {"task": "superres", "factor": (1, 1, 3), "samples": 1, "steps": 3}
    result = run(volume, Wild(), noise=percent, **options)
    sigma = result.record["noise_sigma"]
    for image in (result.mean, *result.samples):
        away = measured_again(result, image, "gaussian") - volume.array
        assert float(np.sqrt(np.square(away).mean())) < 2 * sigma
    assert not [verdict for verdict in result.verdicts if "not kept" in verdict]
    assert float(result.mean.min()) < 0
    nothing, less_than_counts = (run(volume, Local(), noise=level, **options) for level in (0.0, 0.001))
    np.testing.assert_array_equal(nothing.mean, less_than_counts.mean)


def test_noise_that_is_kept_is_told():
    volume = Volume(magnitude(800 * ball((40, 36, 30)), 60), THICK, "MR")
    (warning,) = run(volume, task="superres", factor=(1, 1, 2)).record["warnings"]
    percent = float(warning.split("about ")[1].split()[0])
    assert percent == pytest.approx(run(volume).record["noise_percent"], rel=0.05)
    for noise in ("auto", 0.0):  # taken away, or kept because the user says so
        assert run(volume, task="superres", factor=(1, 1, 2), noise=noise).record["warnings"] == []


@pytest.mark.parametrize("task", ["superres", "inpaint"])
def test_gamma_lies_on_the_line_from_mean_to_sample(task):
    more = {"task": task, "hole": HOLE if task == "inpaint" else None, "samples": 2, "steps": 3}
    plain = run(scan(), Local(), **more)
    assert plain.sample is None
    for gamma in (0.25, 1.0):
        result = run(scan(), Local(), gamma=gamma, **more)
        np.testing.assert_array_equal(result.mean, plain.mean)
        np.testing.assert_allclose(
            result.sample, plain.mean + gamma * (plain.samples[0] - plain.mean), rtol=1e-5, atol=1e-3
        )
    assert float(np.abs(result.sample - plain.mean).max()) > 1


@pytest.mark.parametrize("task", ["superres", "inpaint"])
def test_strength_mixes_with_the_base(task):
    more = {"task": task, "hole": HOLE if task == "inpaint" else None, "samples": 1, "steps": 3}
    full, half, none = (run(scan(modality="CT"), Local(), strength=s, **more) for s in (1.0, 0.5, 0.0))
    base = run(scan(modality="CT"), **{**more, "samples": 0}).mean
    for image in (none.mean, *none.samples):
        np.testing.assert_allclose(image, base, atol=1e-3)
    for mixed, image in ((half.mean, full.mean), (half.samples[0], full.samples[0])):
        np.testing.assert_allclose(mixed, (image + base) / 2, rtol=1e-5, atol=1e-3)
    if task == "superres":
        assert max(each.checks["data_residual"] for each in (full, half, none)) <= 1e-5
    assert float(np.abs(full.mean - base).max()) > 1


@pytest.mark.parametrize("task", ["superres", "inpaint"])
def test_samples_follow_their_seed(task):
    more = {"task": task, "hole": HOLE if task == "inpaint" else None, "steps": 3}
    first = run(scan(), Local(), samples=3, seed=7, **more).samples
    again = run(scan(), Local(), samples=2, seed=7, **more).samples
    for a, b in zip(first, again, strict=False):
        np.testing.assert_array_equal(a, b)
    others = [*first, *run(scan(), Local(), samples=1, seed=8, **more).samples]
    for a, b in itertools.combinations(others, 2):
        assert float(np.abs(a - b)[HOLE if task == "inpaint" else ...].mean()) > 1


@pytest.mark.parametrize("task", ["denoise", "superres", "inpaint"])
@pytest.mark.parametrize(("tile", "batch"), [(16, 4), (20, 1)])
def test_tiles_and_batches_change_nothing(task, tile, batch):
    volume = scan((29, 22, 11))
    hole = box(volume.array.shape, (4, 24), (5, 18), (3, 9)) if task == "inpaint" else None
    more: dict[str, Any] = {"task": task, "hole": hole, "samples": 1, "steps": 4}
    more |= {"noise": 8.0} if task == "denoise" else {"factor": (1, 1, 2.5)} if task == "superres" else {}
    whole = run(volume, Local(), tile=64, **more)
    network = Local()
    cut = run(volume, network, tile=tile, batch=batch, **more)
    assert sum(window[0] for window in network.windows) > 4
    for a, b in zip(*((r.mean, r.std, r.samples[0]) for r in (cut, whole)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("value", [0.0, 7.3, -1000.0])
@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_constant_image_stays_constant(value, modality):
    volume = Volume(np.full((12, 10, 9), value, dtype=np.float32), THICK, modality)
    fine = run(volume, task="superres", samples=1, steps=2, force=True)
    assert fine.mean.shape == (12, 12, 36)
    np.testing.assert_allclose(fine.mean, value, atol=1e-3)
    assert fine.checks["data_residual"] <= 1e-5
    hole = box(volume.array.shape, (3, 8), (3, 8), (3, 8))
    filled = run(volume, task="inpaint", hole=hole, force=True)
    np.testing.assert_allclose(filled.mean, value, atol=1e-3)
    np.testing.assert_array_equal(filled.mean[~hole], volume.array[~hole])


@pytest.mark.parametrize("filling", [0.0, -5000.0, 1e6])
def test_unmeasured_voxels(filling):
    """Padding and NaN: what a reader put in their place neither matters nor is judged."""
    volume = scan()
    valid = np.ones(volume.array.shape, dtype=bool)
    valid[:3], valid[10, 9, 9] = False, False
    hole = HOLE & valid
    plain = replace(volume, array=np.where(valid, volume.array, np.float32(1)), valid=valid)
    padded = replace(plain, array=np.where(valid, volume.array, np.float32(filling)))
    a, b = (run(v, Local(), task="inpaint", hole=hole, samples=1, steps=2) for v in (plain, padded))
    np.testing.assert_array_equal(a.mean[valid], b.mean[valid])
    np.testing.assert_array_equal(b.mean[~valid], filling)
    assert not b.std[~hole].any()
    assert a.checks == b.checks
    assert b.checks["hole_share"] == pytest.approx(hole.mean(), abs=1e-5)
    a, b = (run(v, Local(), task="superres", samples=1, steps=2) for v in (plain, padded))
    np.testing.assert_array_equal(a.mean, b.mean)
    assert np.isfinite(a.mean).all()
    assert a.checks == b.checks
    assert a.checks["data_residual"] <= 1e-5


def test_what_was_not_measured_amid_the_scan_is_a_hole_to_super_resolution():
    gone = box((21, 18, 11), (8, 11), (7, 10), (4, 6))
    volume = scan()
    blind = replace(volume, array=np.where(gone, np.float32(0), volume.array), valid=~gone)
    options = {"task": "superres", "factor": (1, 1, 2)}
    found, masked = run(blind, Local(), **options), run(volume, Local(), hole=gone, **options)
    np.testing.assert_array_equal(found.mean, masked.mean)
    np.testing.assert_array_equal(found.supplied, masked.supplied)
    around = scan((25, 22, 15))  # what lies about the scan is background, as before
    edge = ~box((25, 22, 15), (2, 23), (2, 20), (2, 13))
    background = np.where(edge, around.array[~edge].min(), around.array)
    found, plain = (run(replace(around, array=background, valid=valid), Local(), **options) for valid in (~edge, None))
    np.testing.assert_allclose(found.mean, plain.mean, atol=1e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_amid_a_scan_that_were_not_measured_are_holes(axis):
    volume = scan()
    gone = np.zeros((21, 18, 11), bool)
    np.moveaxis(gone, axis, 0)[[0, 5]] = True  # the first is background
    amid = gone.copy()
    np.moveaxis(amid, axis, 0)[0] = False
    blind = replace(volume, array=np.where(gone, np.float32(0), volume.array), valid=~gone)
    options = {"task": "superres", "factor": (1, 1, 2)}
    found, masked = run(blind, **options), run(replace(volume, array=blind.array, valid=~gone), hole=amid, **options)
    kept = ~gone.repeat(2, axis=2)
    clean = run(volume, **options).mean
    errors = [float(np.abs(each.mean - clean)[kept].mean()) for each in (found, masked)]
    assert errors[0] == pytest.approx(errors[1], rel=0.2)
    assert errors[0] < 25  # of 800: no ringing about a black slice


def test_a_slice_of_a_stack_is_not_a_hole_as_a_whole():
    volume = scan()
    gone, hole = box((21, 18, 11), (8, 11), (7, 10), (0, 1)), np.zeros((21, 18, 11), bool)
    blind = replace(volume, array=np.where(gone, np.float32(0), volume.array), valid=~gone)
    options = {"task": "superres", "factor": (2, 2, 1)}
    found, masked = run(blind, Local(2), **options), run(volume, Local(2), hole=gone, **options)
    np.testing.assert_allclose(found.mean, masked.mean, atol=1)  # its first slice too
    hole[:, :, 2] = True
    gone = box((21, 18, 11), (8, 11), (7, 10), (2, 3))
    blind = replace(volume, array=np.where(gone, np.float32(0), volume.array), valid=~gone)
    assert np.isfinite(run(blind, Local(2), hole=hole & ~gone, **options).mean).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_what_was_not_measured_beside_a_hole_is_no_rim_of_it(dims):
    volume = lopsided((21, 18, 11))
    beside = box((21, 18, 11), (13, 16), (5, 12), (3, 8))
    blind = replace(volume, array=np.where(beside, np.float32(0), volume.array), valid=~beside)
    found = run(blind, Constant(spatial_dims=dims), task="inpaint", hole=HOLE)
    both = run(volume, Constant(spatial_dims=dims), task="inpaint", hole=HOLE | beside)
    assert np.abs(found.mean - both.mean)[HOLE].mean() < 2  # of a spread of 100
    np.testing.assert_array_equal(found.mean[~HOLE], blind.array[~HOLE])
    assert found.record["filled_voxels"] == int(HOLE.sum())
    assert not found.std[~HOLE].any()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dims", [2, 3])
def test_single_slices(axis, dims):
    shape = tuple(int(n) for n in np.insert([25, 20], axis, 1))
    affine = np.diag([*np.insert([1.0, 2.0], axis, 6.0), 1.0])
    volume = scan(shape, affine)
    result = run(volume, Wild(spatial_dims=dims), task="superres", samples=1, steps=3)
    assert result.mean.shape == tuple(int(n) for n in np.insert([25, 40], axis, 1))
    for image in (result.mean, *result.samples):
        assert off(result, image, "kspace") <= 1e-5
    finer = run(volume, Wild(spatial_dims=dims), task="superres", spacing=0.5)
    assert finer.mean.shape == tuple(int(n) for n in np.insert([50, 80], axis, 1))
    hole = np.zeros(shape, dtype=bool)
    hole[tuple(slice(4, 12) if n > 1 else slice(None) for n in shape)] = True
    filled = run(volume, Wild(spatial_dims=dims), task="inpaint", hole=hole, samples=1, steps=3)
    for image in (filled.mean, *filled.samples):
        np.testing.assert_array_equal(image[~hole], volume.array[~hole])
    noisy = run(volume, Local(spatial_dims=dims), noise=5.0, samples=1, steps=2)
    assert noisy.mean.shape == shape
    assert noisy.record.get("slices_one_by_one", False) == (dims == 2)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("task", ["denoise", "superres", "inpaint"])
def test_slices_of_a_stack_do_not_see_each_other(task, axis):
    """A network for planes: slices in another order give the same slices in that order."""
    volume = replace(scan((14, 12, 10)), slice_axis=axis)
    order = np.random.default_rng(0).permutation(volume.array.shape[axis])
    hole = box(volume.array.shape, (3, 9), (3, 9), (3, 9))
    more: dict[str, Any] = {"task": task}
    more |= {"noise": 8.0} if task == "denoise" else {}
    if task == "superres":
        more |= {"factor": tuple(1 if a == axis else 2 for a in range(3))}
    plain = run(volume, Local(2), hole=hole if task == "inpaint" else None, **more)
    other = replace(volume, array=np.ascontiguousarray(volume.array.take(order, axis)))
    mixed = run(other, Local(2), hole=hole.take(order, axis) if task == "inpaint" else None, **more)
    np.testing.assert_allclose(mixed.mean, plain.mean.take(order, axis), rtol=1e-5, atol=1e-2)
    assert plain.record["slices_one_by_one"]
    if task == "superres":
        assert plain.mean.shape == tuple(n if a == axis else 2 * n for a, n in enumerate((14, 12, 10)))
        assert plain.checks["data_residual"] <= 1e-5


def test_planes_of_a_stack_keep_what_was_measured():
    volume = replace(scan((14, 12, 10)), slice_axis=0)
    fine = run(volume, Wild(spatial_dims=2), task="superres", factor=(1, 2, 3), samples=2, steps=3)
    for image in (fine.mean, *fine.samples):
        assert off(fine, image, "kspace") <= 1e-5
    hole = box(volume.array.shape, (3, 9), (0, 7), (3, 9))
    filled = run(volume, Wild(spatial_dims=2), task="inpaint", hole=hole, samples=2, steps=3)
    for image in (filled.mean, *filled.samples):
        np.testing.assert_array_equal(image[~hole], volume.array[~hole])


@pytest.mark.parametrize(
    ("task", "hole", "options", "dims", "error", "says"),
    [
        ("inpaint", None, {}, 3, UsageError, "needs a mask"),
        ("denoise", HOLE, {"noise": 5.0}, 3, UsageError, "takes no mask"),
        ("denoise", HOLE, {"noise": 0.0}, 3, UsageError, "takes no mask"),
        ("inpaint", np.zeros_like(HOLE), {}, 3, ScanError, "no voxel"),
        ("inpaint", np.ones_like(HOLE), {}, 3, ScanError, "the whole scan"),
        ("inpaint", box(HOLE.shape, (0, 21), (0, 18), (4, 5)), {}, 2, ScanError, "whole slices"),
        ("superres", None, {"factor": (1, 1, 2)}, 2, ScanError, "in their plane"),
        ("superres", None, {"factor": (1, 1, 1)}, 3, ScanError, "Nothing becomes finer"),
        ("superres", None, {"spacing": (8.0, 8.0, 8.0)}, 3, UsageError, "coarser"),
    ],
)
def test_what_cannot_be_done_is_said(task, hole, options, dims, error, says):
    with pytest.raises(error, match=says):
        run(scan(), Local(dims), task=task, hole=hole, **options)


@pytest.mark.parametrize("task", ["superres", "inpaint"])
def test_progress_reaches_its_end(task):
    calls: list[tuple[int, int]] = []
    network = Local(2)
    hole = HOLE if task == "inpaint" else None
    more = {"factor": (2, 2, 1)} if task == "superres" else {}
    run(scan(), network, lambda *c: calls.append(c), task=task, hole=hole, samples=2, steps=3, **more)
    assert calls[-1] == (len(network.windows), len(network.windows))
    assert [done for done, _ in calls] == list(range(1, len(network.windows) + 1))


def test_input_is_left_alone():
    volume, hole = scan(), HOLE.copy()
    before = volume.array.copy()
    for task in ("superres", "inpaint"):
        run(volume, Local(), task=task, hole=hole, samples=1, steps=2)
    np.testing.assert_array_equal(volume.array, before)
    np.testing.assert_array_equal(hole, HOLE)


def test_supplied_share_is_what_the_scanner_did_not_see():
    result = run(replace(scan(), slice_axis=2), Local(), task="superres", factor=(1, 1, 4))
    acquisition = resolution.plan((21, 18, 11), (1.0, 1.2, 4.0), factor=(1, 1, 4), slice_axis=2)
    expected = 1 - acquisition.known(torch.zeros(1, 21, 18, 44))[0].expand(21, 18, 44)
    np.testing.assert_allclose(result.supplied, expected, atol=1e-6)
    assert float(result.supplied.mean()) == pytest.approx(0.75, abs=0.02)


def test_images_of_any_magnification():
    trained = {"spacing_mm": [0.5, 2.0], "anisotropy": [1.0, 3.0]}
    micrograph = scan((24, 20, 3), np.diag([0.001, 0.001, 0.02, 1.0]))
    options = RestoreOptions(noise=5.0)
    planar = replace(engine(Constant(spatial_dims=2)), trained_on=trained)
    assert not [text for text in restore(micrograph, planar, options).record["warnings"] if "voxel" in text]
    with pytest.raises(ScanError, match="voxels measure"):
        restore(micrograph, replace(engine(Constant()), trained_on=trained), options)
