"""The noise estimate against noise of known strength."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.physics import noise

LAWS = ("gaussian", "rician")


@pytest.fixture(scope="module")
def ramp():
    return np.broadcast_to(np.linspace(50, 150, 64)[:, None, None], (64, 64, 64))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("sigma", [0.5, 3.0, 10.0, 30.0])
def test_sigma_on_a_constant_and_on_a_ramp(add_noise, ramp, law, sigma):
    for clean in (np.full((64, 64, 64), 100.0), ramp):
        found = noise.estimate(add_noise(law, clean, sigma), law)
        assert found.sigma == pytest.approx(sigma, rel=0.03)
        assert (found.map, found.law, found.source) == (None, law, "estimated")
        assert abs(found.correlation) < 0.02


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("percent", [3, 5, 9, 15])
def test_sigma_on_shells_in_air(add_noise, shells, law, percent):
    found = noise.estimate(add_noise(law, shells, percent / 100), law)
    assert found.sigma == pytest.approx(percent / 100, rel=0.03)
    assert found.map is None


@pytest.mark.parametrize(
    ("percent", "excess"), [(0.3, 0.2), (0.5, 0.1), (1, 0.05), (2, 0.05), (3, 0.05), (5, 0.1), (9, 0.08), (15, 0.04)]
)
def test_sigma_on_a_head_whose_folds_are_as_fine_as_voxels(add_noise, head, percent, excess):
    found = noise.estimate(add_noise("rician", head, percent / 100), "rician", with_map=False).sigma
    assert percent / 100 * 0.97 < found < percent / 100 * (1 + excess)


@pytest.mark.parametrize("shape", [(64, 64, 64), (64, 64, 20), (64, 64, 6)])
def test_the_quietest_blocks_of_white_noise_are_as_loud_as_all(shape):
    """A low percentile lies below what it is the percentile of: that much has to be made good."""
    found = []
    for seed in range(4):
        values = np.random.default_rng(seed).standard_normal(shape, np.float32)
        band = np.abs(noise._diagonal_band(values, shape))
        found.append(noise._quiet_sigma(shape, lambda band=band: [(band, np.ones(shape, bool))]))
    assert np.mean(found) == pytest.approx(1, rel=0.02)


def test_anatomy_that_rules_the_band_is_told(add_noise, head):
    found = noise.estimate(add_noise("rician", head, 0.005), "rician")
    assert found.correlation > 0.1
    assert found.map is None  # it would be a map of anatomy


@pytest.mark.parametrize("percent", [0.5, 1, 3, 9])
def test_fine_anatomy_is_not_taken_for_noise(add_noise, percent):
    """Power falls as that of anatomy does, and roughness grows away from the middle."""
    radius = np.sqrt(sum(f**2 for f in np.meshgrid(*[64 * np.fft.fftfreq(64)] * 3, indexing="ij"))).clip(1)
    rough = np.fft.ifftn(np.fft.fftn(np.random.default_rng(3).standard_normal((64, 64, 64))) / radius**2).real
    place = np.linspace(-1, 1, 64)
    strength = 0.02 + 0.2 * np.abs(place)[:, None, None] * np.ones((1, 64, 64))
    clean = 1 + strength * rough / rough.std()
    found = noise.estimate(add_noise("gaussian", clean, percent / 100), "gaussian", with_map=False)
    assert percent / 100 * 0.9 < found.sigma < percent / 100 * 1.1


def test_sigma_is_never_lost_where_noise_varies_over_anatomy(add_noise, head):
    growth = np.broadcast_to(0.01 * np.linspace(1, 3, head.shape[0])[:, None, None], head.shape)
    found = noise.estimate(add_noise("rician", head, growth), "rician", with_map=False)
    assert 0.01 < found.sigma < 0.03


def test_interpolated_noise_is_told(add_noise):
    rough = add_noise("gaussian", np.full((65, 64, 64), 100.0), 5.0)
    found = noise.estimate((rough[1:] + rough[:-1]) / 2, "gaussian")
    assert found.correlation > 0.1


@pytest.mark.parametrize("shape", [(128, 128, 1), (1, 128, 128), (96, 96, 3), (40, 30, 20), (300, 40, 2)])
def test_thin_and_small_scans(add_noise, shape):
    found = noise.estimate(add_noise("gaussian", np.full(shape, 100.0), 5.0), "gaussian")
    assert found.sigma == pytest.approx(5, rel=0.04)


@pytest.mark.parametrize("law", LAWS)
def test_scan_that_is_all_noise(add_noise, law):
    found = noise.estimate(add_noise(law, np.zeros((48, 48, 48)), 5.0), law)
    assert found.sigma == pytest.approx(5, rel=0.15)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("factor", [1e-3, 0.25, 4.0, 1e4])
def test_scale_goes_through(add_noise, shells, law, factor):
    noisy = add_noise(law, shells, 0.05)
    plain, scaled = (noise.estimate((noisy * np.float32(f)), law) for f in (1.0, factor))
    assert scaled.sigma == pytest.approx(factor * plain.sigma, rel=1e-3)
    assert scaled.correlation == pytest.approx(plain.correlation, abs=1e-3)


@pytest.mark.parametrize("law", LAWS)
def test_masked_background_does_not_count(add_noise, shells, law):
    noisy = np.where(shells > 0.2, add_noise(law, shells, 0.05), np.float32(0))
    assert noise.estimate(noisy, law).sigma == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("value", [0.0, 7.0, -1000.0])
def test_constant_has_no_noise(value):
    found = noise.estimate(np.full((32, 32, 32), value, dtype=np.float32), "gaussian")
    assert (found.sigma, found.map) == (0, None)


@pytest.mark.parametrize("law", LAWS)
def test_map_follows_noise_that_grows_threefold(add_noise, law):
    sigma = np.broadcast_to(3 * np.linspace(1, 3, 96)[:, None, None], (96, 96, 96))
    found = noise.estimate(add_noise(law, np.full(sigma.shape, 100.0), sigma), law)
    assert found.map is not None
    assert found.map.shape == sigma.shape
    ratio = found.map / sigma
    np.testing.assert_allclose(ratio[16:-16].mean((1, 2)), 1, atol=0.05)
    np.testing.assert_allclose(ratio.mean((1, 2)), 1, atol=0.1)
    assert found.sigma == pytest.approx(float(np.median(sigma)), rel=0.1)


def test_map_follows_noise_that_is_strongest_in_the_middle(add_noise):
    shape = (80, 72, 64)
    along = [np.sin(np.pi * (np.arange(n) + 0.5) / n) for n in shape]
    sigma = 10 * (1 + 2 * np.einsum("i,j,k->ijk", *along))
    found = noise.estimate(add_noise("gaussian", np.full(shape, 500.0), sigma), "gaussian")
    assert float(np.sqrt(np.square(found.map / sigma - 1).mean())) < 0.08
    assert float((found.map / sigma).min()) > 0.8


def test_map_over_a_head_shaped_object(add_noise, shells):
    sigma = np.broadcast_to(0.05 * np.linspace(1, 3, 64)[None, :, None], shells.shape)
    found = noise.estimate(add_noise("rician", shells, sigma), "rician")
    assert found.map is not None
    inside = shells > 0.3
    assert float(np.abs(found.map / sigma - 1)[inside].mean()) < 0.10
    assert np.corrcoef(found.map[inside], sigma[inside])[0, 1] > 0.95


def strongest_amid(shape, least, most):
    along = [np.sin(np.pi * (np.arange(n) + 0.5) / n) for n in shape]
    return least + (most - least) * np.einsum("i,j,k->ijk", *along)


def error_of_map(found, sigma, inside=...):
    return float(np.sqrt(np.square(np.log(found.map / sigma)[inside]).mean()))


def test_map_amid_a_scan_that_is_dim_there(add_noise, shells):
    """Much of the middle is darker than the threshold of the foreground; the rim's noise is not that of the middle."""
    sigma = strongest_amid((72, 72, 72), 0.04, 0.12)
    radius = np.sqrt(sum(np.square(axis) for axis in np.meshgrid(*[np.linspace(-1, 1, 72)] * 3, indexing="ij")))
    found = noise.estimate(add_noise("rician", np.clip(0.35 + 3 * (radius - 0.75), 0.35, 1.0), sigma), "rician")
    assert error_of_map(found, sigma) < 0.12
    sigma = strongest_amid(shells.shape, 0.04, 0.12)
    found = noise.estimate(add_noise("rician", shells, sigma), "rician")
    assert error_of_map(found, sigma, shells > 0.2) < 0.1


def test_noise_that_varies_is_not_taken_for_anatomy(add_noise):
    """The quietest blocks are those where the noise is weak, not those where there is little to be seen."""
    radius = np.sqrt(sum(f**2 for f in np.meshgrid(*[64 * np.fft.fftfreq(64)] * 3, indexing="ij"))).clip(1)
    rough = np.fft.ifftn(np.fft.fftn(np.random.default_rng(3).standard_normal((64, 64, 64))) / radius**2).real
    rough[:32] = 0
    sigma = strongest_amid(rough.shape, 0.04, 0.12)
    found = noise.estimate(add_noise("rician", (1 + 0.5 * rough / rough[32:].std()).clip(0), sigma), "rician")
    assert found.correlation > 0.04
    assert error_of_map(found, sigma) < 0.17


def test_map_across_few_slices(add_noise):
    sigma = np.broadcast_to(3 * np.linspace(1, 3, 22), (64, 64, 22))
    found = noise.estimate(add_noise("gaussian", np.full(sigma.shape, 100.0), sigma), "gaussian")
    np.testing.assert_allclose((found.map / sigma).mean((0, 1)), 1, atol=0.15)


def test_map_only_when_asked_and_only_of_wide_scans(add_noise):
    sigma = np.broadcast_to(3 * np.linspace(1, 3, 96)[:, None, None], (96, 96, 32))
    noisy = add_noise("gaussian", np.full(sigma.shape, 100.0), sigma)
    assert noise.estimate(noisy, "gaussian").map is not None
    assert noise.estimate(noisy, "gaussian", with_map=False).map is None
    assert noise.estimate(noisy[:, :40], "gaussian").map is None


def test_what_lies_still_ends_where_values_do():
    values = np.zeros((12, 12, 12), np.float32)
    values[4:8, 4:8, 4:8] = np.arange(1, 65).reshape(4, 4, 4)
    np.testing.assert_array_equal(noise.still(values), values == 0)
    rounded = (
        np.random.default_rng(0).integers(0, 3, (20, 20, 20)).astype(np.float32)
    )  # equal by chance, here and there
    assert noise.still(rounded).mean() < 0.01
    assert noise.still(np.ones((3, 1, 1), np.float32)).all()


def test_fluctuating_marks_both_sides_of_a_step():
    values = np.zeros((5, 4, 3), dtype=np.float32)
    values[2, 1, 1] = 1
    expected = np.zeros(values.shape, dtype=bool)
    for offset in [(0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]:
        expected[tuple(np.add((2, 1, 1), offset))] = True
    np.testing.assert_array_equal(noise.fluctuating(values), expected)
    assert not noise.fluctuating(np.ones((4, 1, 1))).any()
    assert not noise.fluctuating(np.ones((1, 1, 1))).any()


@pytest.mark.parametrize(
    ("modality", "lowest", "law"),
    [("MR", 0.0, "rician"), ("MR", -1.0, "gaussian"), ("CT", 0.0, "gaussian"), ("PT", 0.0, "gaussian")],
)
def test_law(modality, lowest, law):
    assert noise.law_of(np.array([[lowest, 5.0]], dtype=np.float32), modality) == law


def test_given_noise_is_taken_as_it_is():
    assert noise.of_scan(np.full((4, 4, 4), 1, np.float32), "MR", None, sigma=0.25) == noise.NoiseEstimate(
        0.25, None, "rician", 0.0, "given"
    )
