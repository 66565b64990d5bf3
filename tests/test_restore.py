"""The straight line, with networks so simple that the answer is known."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medidiff.config import RestoreOptions
from medidiff.diffusion.schedule import TERMINAL
from medidiff.physics import intensity, noise, tasks
from medidiff.restore import restore
from medidiff.scans.volume import Volume
from tests.fake_networks import Constant, Local, ball, engine, gained, magnitude, run

AFFINE = np.diag([1.0, 1.2, 2.0, 1.0])


@pytest.fixture(scope="module")
def mr() -> Volume:
    return Volume(magnitude(800 * ball(), 60), AFFINE, "MR")


@pytest.fixture(scope="module")
def ct() -> Volume:
    clean = 1100 * ball() - 1000
    noisy = clean + 40 * np.random.default_rng(1).standard_normal(clean.shape)
    return Volume(noisy.astype(np.float32), AFFINE, "CT", "HU")


def posed(volume: Volume, percent: float) -> tuple[intensity.Intensity, NDArray[np.float32], NDArray[np.float32]]:
    """Scaling, base and scale that a scan in RAS+ axes must get, step by step."""
    scaling, unit = intensity.normalise(volume.array, volume.modality)
    sigma = torch.full((1, 1, 1, 1), percent / 100 * scaling.bright)
    law = noise.law_of(unit, volume.modality)
    problem = tasks.denoise(torch.from_numpy(unit)[None], sigma, law, torch.tensor([volume.spacing]).float())
    base = problem.base[0].numpy()
    return scaling, np.maximum(base, 0) if law == "rician" else base, problem.scale[0].numpy()


@pytest.mark.parametrize("kind", ["mr", "ct"])
def test_silent_network_gives_the_classical_base(kind, request):
    volume = request.getfixturevalue(kind)
    scaling, base, scale = posed(volume, 8.0)
    result = run(volume, noise=8.0)
    np.testing.assert_array_equal(result.mean, scaling.undo(base))
    np.testing.assert_allclose(result.std, scale * scaling.scale, rtol=1e-5)
    assert result.mean.dtype == result.std.dtype == np.float32
    assert result.samples == ()
    assert result.volume is volume


def test_network_answers_in_residuals_of_the_base(ct):
    scaling, base, scale = posed(ct, 8.0)
    result = run(ct, Constant(-0.5, math.log(4)), noise=8.0)
    np.testing.assert_allclose(result.mean, scaling.undo(base + np.float32(0.5) * scale), rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(result.std, 2 * scale * scaling.scale, rtol=1e-5)


@pytest.mark.parametrize("gain", [0.0, 0.25, 1.0])
def test_the_gain_is_the_share_of_the_networks_correction(ct, gain):
    base, whole = (run(ct, network, noise=8.0) for network in (Constant(), Local()))
    found = restore(ct, gained(Local(), gain), RestoreOptions(noise=8.0))
    np.testing.assert_allclose(found.mean, base.mean + gain * (whole.mean - base.mean), atol=1e-3)
    if gain in (0, 1):
        np.testing.assert_array_equal(found.mean, (whole if gain else base).mean)
    assert float(np.abs(whole.mean - base.mean).max()) > 1
    assert (found.record["network_gain"], whole.record["network_gain"]) == (gain, 1.0)
    np.testing.assert_array_equal(found.supplied, whole.supplied)


def test_answers_to_states_have_no_gain(ct):
    problem = tasks.denoise(torch.rand(1, 12, 12, 12), torch.full((1, 1, 1, 1), 0.1), "gaussian", torch.ones(1, 3))
    half, whole = (engine(Local()).denoiser(problem, None, gain=gain) for gain in (0.5, 1.0))
    torch.testing.assert_close(half(None, TERMINAL)[0], whole(None, TERMINAL)[0] / 2)
    torch.testing.assert_close(half(None, TERMINAL)[1], whole(None, TERMINAL)[1])
    z = torch.rand(problem.base.shape)
    torch.testing.assert_close(half(z, 1.0), whole(z, 1.0), rtol=0, atol=0)


def test_variance_head_is_bounded(ct):
    _, _, scale = posed(ct, 8.0)
    np.testing.assert_allclose(run(ct, Constant(0, 99), noise=8.0).std, math.exp(6) * scale * 2000, rtol=1e-5)
    np.testing.assert_allclose(run(ct, Constant(0, -99), noise=8.0).std, math.exp(-6) * scale * 2000, rtol=1e-5)


def test_magnitudes_are_never_negative(mr):
    result = run(mr, Constant(velocity=50.0), noise=8.0, samples=1, steps=2)
    assert float(result.mean.min()) == 0
    assert float(result.samples[0].min()) == 0


@pytest.mark.parametrize(("smoothing", "told"), [(0.0, False), (0.8, True)])
def test_noise_that_neighbours_share_is_told_and_its_interval_is_not_vouched_for(smoothing, told):
    rough = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((40, 40, 40)), smoothing, mode="wrap")
    scan = Volume((400 + 800 * ball((40, 40, 40)) + 50 * rough / rough.std()).astype(np.float32), AFFINE, "PT")
    record = restore(scan, gained(Constant(), 1.0), RestoreOptions()).record
    assert any("interpolated or smoothed" in warning for warning in record["warnings"]) is told
    assert record["interval"] == {"level": 0.9, "quantile": 1.6, "calibrated": not told, "volumes": 9}


@pytest.mark.parametrize("kind", ["mr", "ct"])
@pytest.mark.parametrize("percent", ["auto", 8.0])
def test_strength(kind, percent, request):
    volume = request.getfixturevalue(kind)
    full = run(volume, Local(), noise=percent, samples=1, steps=2)
    half = run(volume, Local(), noise=percent, samples=1, steps=2, strength=0.5)
    none = run(volume, Local(), noise=percent, samples=1, steps=2, strength=0)
    for image in (none.mean, none.samples[0]):
        np.testing.assert_array_equal(image, volume.array)  # to the last bit
    sigma = full.record["noise_sigma"]
    np.testing.assert_allclose(none.std, sigma, rtol=1e-4)  # the scan, with all of its noise
    assert not none.supplied.any()
    np.testing.assert_allclose(half.supplied, full.supplied / 2, rtol=1e-5)
    for mixed, image in ((half.mean, full.mean), (half.samples[0], full.samples[0])):
        np.testing.assert_allclose(mixed, (image + volume.array) / 2, rtol=1e-5, atol=1e-3)
    left = sigma**2 * (0.25 + 0.5 * (1 - full.supplied))  # the noise of half a scan, and what both halves share of it
    np.testing.assert_allclose(half.std, np.sqrt(np.square(full.std / 2) + left), rtol=1e-4)


ORIENTATIONS = [
    np.stack(pair, axis=1).astype(float)
    for pair in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
]


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(ORIENTATIONS), st.tuples(*[st.floats(-25, 25)] * 3), st.sampled_from(["MR", "CT"]))
def test_result_does_not_depend_on_how_the_scan_is_stored(orientation, angles, modality):
    rotation = np.eye(4)
    rotation[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    clean = ball((14, 13, 9))
    array = magnitude(100 * clean, 8) if modality == "MR" else (1000 * clean - 900).astype(np.float32)
    array += np.linspace(1, 3, 9, dtype=np.float32)
    upright = Volume(array, rotation @ AFFINE, modality)
    stored = replace(
        upright,
        array=np.ascontiguousarray(nib.apply_orientation(array, orientation)),
        affine=upright.affine @ nib.orientations.inv_ornt_aff(orientation, array.shape),
    )
    options = {"noise": 8.0, "samples": 2, "steps": 3, "seed": 5}
    expected, found = (run(volume, Local(), **options) for volume in (upright, stored))
    images = [(result.mean, result.std, *result.samples) for result in (expected, found)]
    for a, b in zip(*images, strict=True):
        np.testing.assert_array_equal(b, nib.apply_orientation(a, orientation))
    assert found.checks == expected.checks


def test_unmeasured_voxels_stay_and_do_not_count(mr):
    valid = np.ones(mr.array.shape, dtype=bool)
    valid[:6] = False
    valid[:, :, -3:] = False
    results = []
    for filling in (0.0, -5000.0, 1e6):
        padded = np.where(valid, mr.array, np.float32(filling))
        result = run(replace(mr, array=padded, valid=valid), Local(), noise=8.0, samples=1, steps=2)
        np.testing.assert_array_equal(result.mean[~valid], filling)
        np.testing.assert_array_equal(result.samples[0][~valid], filling)
        assert not result.std[~valid].any()
        assert not result.supplied[~valid].any()
        results.append((result.mean[valid], result.supplied[valid], result.checks))
    for found in results[1:]:
        np.testing.assert_array_equal(found[0], results[0][0])
        np.testing.assert_array_equal(found[1], results[0][1])
        assert found[2] == results[0][2]


@pytest.mark.parametrize("modality", ["MR", "CT", "PT"])
@pytest.mark.parametrize("value", [0.0, 7.3, -1000.0])
@pytest.mark.parametrize("percent", ["auto", 5.0])
def test_constant_image_comes_back_to_the_last_bit(modality, value, percent):
    volume = Volume(np.full((12, 10, 9), value, dtype=np.float32), AFFINE, modality)
    result = run(volume, Local(), noise=percent, samples=1, steps=2, force=True)
    np.testing.assert_array_equal(result.mean, volume.array)
    assert not result.std.any()
    assert not result.supplied.any()
    json.dumps([result.checks, result.record])


def test_number_of_samples_is_kept_where_there_is_nothing_to_do():
    result = run(Volume(np.ones((8, 8, 8), dtype=np.float32), AFFINE, "MR"), samples=3)
    assert len(result.samples) == 3
    np.testing.assert_array_equal(result.samples[2], 1)


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_masked_background_comes_back_to_the_last_bit(mr, modality):
    array = np.where(ball() > 0.5, mr.array, np.float32(0 if modality == "MR" else -1000))
    result = run(replace(mr, array=array, modality=modality), Local(), samples=2, steps=2)
    inside = ball() > 0.5
    for image in (result.mean, *result.samples):
        np.testing.assert_array_equal(image[~inside], array[~inside])
        assert (image[inside] != array[inside]).mean() > 0.99
    assert not result.std[~inside].any()


@pytest.mark.parametrize(("tile", "batch"), [(None, 1), (16, 1), (16, 4), (20, 3), (32, 2)])
def test_tiles_and_batches_change_nothing(mr, tile, batch):
    whole = run(mr, Local(), noise=8.0, samples=1, steps=4, tile=64)
    calls: list[tuple[int, int]] = []
    network = Local()
    cut = run(
        mr,
        network,
        lambda *counts: calls.append(counts),
        noise=8.0,
        samples=1,
        steps=4,
        tile=tile,
        batch=batch,
    )
    for a, b in ((cut.mean, whole.mean), (cut.std, whole.std), (cut.samples[0], whole.samples[0])):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3)
    assert max(len(network.windows) and shape[0] for shape in network.windows) <= batch
    assert tile is None or max(max(shape[2:]) for shape in network.windows) <= tile
    done, total = zip(*calls, strict=True)
    assert set(total) == {sum(shape[0] for shape in network.windows)}
    assert list(done) == sorted(set(done))
    assert done[-1] == total[0]


@pytest.mark.parametrize(("samples", "steps", "evaluations"), [(0, 8, 1), (1, 8, 8), (3, 4, 10), (2, 2, 3)])
def test_progress_counts_every_evaluation_of_the_network(mr, samples, steps, evaluations):
    calls: list[tuple[int, int]] = []
    network = Constant()
    run(mr, network, lambda *counts: calls.append(counts), noise=8.0, samples=samples, steps=steps, tile=64)
    assert calls == [(i + 1, evaluations) for i in range(evaluations)]
    assert len(network.windows) == evaluations


def test_progress_counts_mirror_images(mr):
    calls: list[tuple[int, int]] = []
    network = Constant()
    run(mr, network, lambda *counts: calls.append(counts), noise=8.0, preset="best", samples=1, steps=3, tile=64)
    assert calls == [(8, 10), (9, 10), (10, 10)]
    assert len(network.windows) == 10


def test_the_mean_is_over_mirror_images_and_samples_start_from_it(mr):
    scaling, _, scale = posed(mr, 8.0)
    plain, best = (run(mr, Local(), noise=8.0, preset=preset, samples=1, steps=2) for preset in ("balanced", "best"))
    assert (best.record["preset"], best.record["flips"], best.record["steps"]) == ("best", True, 2)
    assert (plain.record["preset"], plain.record["flips"]) == ("balanced", False)
    moved = np.abs(best.mean - plain.mean) / (scale * scaling.scale)
    assert 0.001 < moved.mean() < 0.5  # another answer of the network, not another image
    assert float(np.abs(best.samples[0] - plain.samples[0]).mean()) > 0.1 * moved.mean()  # the same noise
    fast = run(mr, Local(), noise=8.0, preset="fast")
    np.testing.assert_array_equal(fast.mean, plain.mean)


def test_where_nothing_is_taken_away_the_record_says_what_the_map_is(mr):
    result = run(mr, noise=0.0, samples=1)
    np.testing.assert_array_equal(result.mean, mr.array)
    assert not result.std.any()
    known = {key: result.record[key] for key in ("interval", "network_gain", "data_consistency")}
    assert known == {
        "interval": {"level": 0.9, "quantile": None, "calibrated": False, "volumes": 0},
        "network_gain": 0.0,
        "data_consistency": "exact",
    }


@pytest.mark.parametrize("order", [(2, 0, 1), (0, 2, 1)])
def test_slices_of_ct_lie_from_head_to_foot_however_they_are_stored(order):
    """Its noise has another texture in the slices than across."""
    clean = 1100 * ball((36, 32, 24)) - 1000
    noise = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal(clean.shape), (0.8, 0.8, 0))
    volume = Volume((clean + 40 * noise / noise.std()).astype(np.float32), AFFINE, "CT", "HU")
    turned = replace(volume, array=np.ascontiguousarray(volume.array.transpose(order)), affine=AFFINE[:, [*order, 3]])
    found, expected = (run(each, Local()) for each in (turned, volume))
    assert found.record["noise_sigma"] == expected.record["noise_sigma"]
    np.testing.assert_array_equal(found.mean, expected.mean.transpose(order))


def test_given_noise_is_percent_of_the_bright_level(mr):
    bright = intensity.bright_level(mr.array)
    record = run(mr, noise=5.0).record
    assert record["noise_percent"] == 5.0
    assert record["noise_sigma"] == pytest.approx(0.05 * bright, rel=1e-6)
    assert (record["noise_source"], record["noise_law"], record["noise_varies"]) == ("given", "rician", False)
    assert record["scale"] == pytest.approx(bright)


def test_estimated_noise_is_the_noise(mr):
    clean = np.full((40, 40, 40), 500.0)
    clean[:10] = 0
    volume = Volume(magnitude(clean, 25), AFFINE, "MR")
    result = run(volume)
    assert result.record["noise_sigma"] == pytest.approx(25, rel=0.05)
    assert result.record["noise_percent"] == pytest.approx(100 * 25 / intensity.bright_level(volume.array), rel=0.05)
    assert result.record["noise_source"] == "estimated"
    given = run(volume, noise=result.record["noise_percent"])
    np.testing.assert_allclose(given.mean, result.mean, rtol=1e-3, atol=0.5)


def test_hounsfield_units_and_negative_values(ct):
    result = run(ct)
    clean = 1100 * ball() - 1000
    assert result.record["noise_law"] == "gaussian"
    assert result.record["noise_sigma"] == pytest.approx(40, rel=0.08)
    assert (result.record["offset"], result.record["scale"]) == (-1024.0, 2000.0)
    error, before = result.mean - clean, ct.array - clean
    assert error.std() < 0.4 * before.std()
    air = ball() < 0.01
    assert float(result.mean[air].mean()) == pytest.approx(-1000, abs=2)


def test_checks_describe_what_was_taken_away(mr):
    checks = run(mr, noise=60 / intensity.bright_level(mr.array) * 100).checks
    assert 0.6 < checks["removed_variance_ratio"] < 1  # the base keeps some noise at edges
    assert abs(checks["removed_mean"]) < 0.1
    assert checks["removed_lag1"] < 0.05
    too_much = run(mr, noise=30.0).checks
    assert too_much["removed_lag1"] > 0.15 or too_much["removed_variance_ratio"] < 0.5


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_single_slices(axis, modality):
    clean = np.expand_dims(ball((60, 52, 1))[:, :, 0], axis)
    noisy = magnitude(400 * clean, 20) if modality == "MR" else (400 * clean).astype(np.float32)
    if modality == "CT":
        noisy += 20 * np.random.default_rng(2).standard_normal(noisy.shape).astype(np.float32)
    result = run(Volume(noisy, AFFINE, modality), Local(), samples=1, steps=2)
    assert result.mean.shape == result.std.shape == result.samples[0].shape == clean.shape
    silent = run(Volume(noisy, AFFINE, modality))
    assert (silent.mean - 400 * clean).std() < 0.6 * (noisy - 400 * clean).std()
    assert silent.record["noise_sigma"] == pytest.approx(20, rel=0.1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 1), (3, 2, 5), (8, 8, 8), (65, 3, 3)])
def test_tiny_volumes(shape):
    array = np.random.default_rng(0).uniform(50, 100, shape).astype(np.float32)
    for percent in ("auto", 5.0):
        result = run(Volume(array, AFFINE, "MR"), Local(), noise=percent, samples=1, steps=2)
        assert np.isfinite(result.mean).all()
        assert np.isfinite(result.std).all()
        assert float(np.abs(result.mean - array).max()) < 100


def test_affine_without_a_third_direction_gives_finite_voxels(mr):
    result = run(replace(mr, affine=np.diag([1.0, 1.0, 0.0, 1.0])), Local(), noise=8.0)
    assert np.isfinite(result.mean).all()


def test_samples_follow_their_seed(mr):
    def draw(**options: Any) -> tuple[NDArray[np.float32], ...]:
        return run(mr, Local(), noise=8.0, steps=3, **options).samples

    first = draw(samples=3, seed=11)
    again = draw(samples=2, seed=11)
    for a, b in zip(first, again, strict=False):
        np.testing.assert_array_equal(a, b)  # also: sample 1 is sample 1, however many follow
    others = [*first, *draw(samples=1, seed=12)]
    for a, b in itertools.combinations(others, 2):
        assert float(np.abs(a - b).mean()) > 1


def test_mean_is_the_same_with_and_without_samples(mr):
    alone, with_samples = (run(mr, Local(), noise=8.0, samples=n, steps=2).mean for n in (0, 2))
    np.testing.assert_array_equal(alone, with_samples)


def test_silent_network_samples_independent_unit_residuals(ct):
    """Zero velocity is the perfect network of white unit residuals; eight steps reach 0.98 of their spread."""
    scaling, base, scale = posed(ct, 8.0)
    samples = run(ct, noise=8.0, samples=4, steps=8).samples
    residuals = (np.stack(samples) - scaling.undo(base)) / (scale * scaling.scale)
    assert residuals.std() == pytest.approx(0.98, abs=0.03)
    assert residuals.mean() == pytest.approx(0, abs=5 / math.sqrt(residuals.size))
    assert abs(np.corrcoef(residuals[0].flatten(), residuals[1].flatten())[0, 1]) < 0.05


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.7])
def test_the_deviation_of_a_mixture_holds_the_scans_noise(strength):
    """Where nothing but noise is, the base keeps a share v of it: ``rho v n + (1 - rho) n`` is left."""
    shape, sigma = (48, 48, 48), 60.0
    clean = np.broadcast_to(800 + np.linspace(-300, 300, shape[0], dtype=np.float32)[:, None, None], shape)
    noise = sigma * np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    scan = Volume(clean + noise, np.eye(4), "PT")
    result = run(scan, Constant(), noise=100 * sigma / intensity.bright_level(scan.array), strength=strength)
    error = float(np.sqrt(np.square(result.mean - clean).mean(dtype=np.float64)))
    stated = float(np.sqrt(np.square(result.std).mean(dtype=np.float64)))
    assert stated == pytest.approx(error, rel=0.15)
    if strength == 0:
        np.testing.assert_allclose(result.std, sigma, rtol=1e-4)


@pytest.mark.parametrize("count", [2, 5])
def test_spread_joins_variance_head_and_samples(ct, count):
    scaling, _, scale = posed(ct, 8.0)
    result = run(ct, Constant(0.0, math.log(9)), noise=8.0, samples=count, steps=4)
    drawn = ndimage.gaussian_filter(np.var(np.stack(result.samples).astype(np.float64), axis=0, ddof=1), 1)
    weight = count / (count + 8)
    expected = np.sqrt(weight * drawn + (1 - weight) * (3 * scale * scaling.scale) ** 2)
    np.testing.assert_allclose(result.std, expected, rtol=1e-3)


def test_record_says_what_determined_the_result(mr):
    record = run(mr, Local(), noise=8.0, samples=2, steps=5, seed=9, strength=0.75, tile=32, halo=8).record
    expected = {"task": "denoise", "modality": "MR", "samples": 2, "steps": 5, "seed": 9, "strength": 0.75}
    expected |= {"tile": 32, "halo": 8, "device": "cpu", "precision": "fp32", "offset": 0.0}
    assert {key: record[key] for key in expected} == expected
    assert record["seconds"] >= 0
    json.dumps(record)


def test_input_is_left_alone(mr, ct):
    for volume in (mr, ct):
        before = volume.array.copy()
        run(volume, Local(), noise=8.0, samples=1, steps=2)
        np.testing.assert_array_equal(volume.array, before)


def test_save_writes_the_mean_on_the_scans_grid(mr, tmp_path):
    result = run(mr, noise=8.0)
    path = result.save(tmp_path / "restored.nii.gz")
    image = nib.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), result.mean)
    np.testing.assert_allclose(image.affine, mr.affine)


@pytest.mark.parametrize("factor", [1e-3, 64.0])
def test_units_do_not_matter(mr, factor):
    plain = run(mr, Local(), samples=1, steps=2)
    scaled = run(replace(mr, array=mr.array * np.float32(factor)), Local(), samples=1, steps=2)
    np.testing.assert_allclose(scaled.mean, factor * plain.mean, rtol=1e-3, atol=0.2 * factor)
    np.testing.assert_allclose(scaled.std, factor * plain.std, rtol=1e-2)
