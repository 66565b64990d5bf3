"""Simulated noise: its moments, its colour and its strength against theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.physics import degradations
from medidiff.physics.rician import rician_mean, rician_variance
from medidiff.physics.texture import Texture

SHAPE = (2, 64, 64, 64)
COUNT = 64**3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def white(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def level(*values: float) -> Tensor:
    return torch.tensor(values).reshape(-1, 1, 1, 1).expand(len(values), *SHAPE[1:]).clone()


def test_gaussian_noise_has_no_bias():
    clean, sigma = level(3.0, -1.0), torch.tensor([0.5, 2.0]).reshape(2, 1, 1, 1)
    error = degradations.add_gaussian(clean, sigma, generator()) - clean
    for i, expected in enumerate((0.5, 2.0)):
        assert float(error[i].mean()) == pytest.approx(0, abs=5 * expected / math.sqrt(COUNT))
        assert float(error[i].var()) == pytest.approx(expected**2, rel=5 * math.sqrt(2 / COUNT))


def test_noise_may_differ_at_each_voxel():
    sigma = level(1.0, 1.0) * torch.linspace(1, 3, 64)[:, None, None]
    error = degradations.add_gaussian(level(0.0, 0.0), sigma, generator())
    np.testing.assert_allclose(error.std(dim=(0, 2, 3)), torch.linspace(1, 3, 64), rtol=0.05)


@pytest.mark.parametrize("signal", [0.0, 1.5, 8.0])
def test_rician_noise_has_the_moments_of_the_law(signal):
    sigma = 0.7
    noisy = degradations.add_rician(level(sigma * signal), torch.tensor(sigma), generator())
    nu = np.array([signal])
    assert float(noisy.mean()) == pytest.approx(sigma * float(rician_mean(nu)[0]), abs=5 * sigma / math.sqrt(COUNT))
    assert float(noisy.var()) == pytest.approx(sigma**2 * float(rician_variance(nu)[0]), rel=0.02)
    assert float(noisy.min()) >= 0


@pytest.mark.parametrize("coils", [1, 2, 4, 8])
@pytest.mark.parametrize("signal", [0.0, 5.0])
def test_noncentral_chi_noise_has_the_moments_of_the_law(coils, signal):
    noisy = degradations.add_noncentral_chi(level(signal), torch.tensor(1.0), coils, generator())
    # E[m^2] = signal^2 + 2 L; Var[m^2] = 4 L + 4 signal^2
    square = noisy.square()
    spread = math.sqrt(4 * coils + 4 * signal**2)
    assert float(square.mean()) == pytest.approx(signal**2 + 2 * coils, abs=5 * spread / math.sqrt(COUNT))
    assert float(square.std()) == pytest.approx(spread, rel=0.02)


def test_one_coil_is_rician():
    chi = degradations.add_noncentral_chi(level(1.0), torch.tensor(1.0), 1, generator(1))
    rice = degradations.add_rician(level(1.0), torch.tensor(1.0), generator(2))
    quantiles = torch.linspace(0.01, 0.99, 25)
    a, b = (torch.quantile(x.flatten(), quantiles) for x in (chi, rice))
    np.testing.assert_allclose(a, b, atol=0.02)


def test_given_textures_replace_white_noise():
    clean, one = level(2.0), torch.ones(1, *SHAPE[1:])
    assert torch.equal(degradations.add_gaussian(clean, torch.tensor(3.0), generator(), one), clean + 3)
    noisy = degradations.add_rician(clean, torch.tensor(3.0), generator(), (one, 2 * one))
    torch.testing.assert_close(noisy, torch.full_like(clean, math.hypot(5, 6)))


def lag_one(noise: Tensor, axis: int) -> float:
    return float((noise * noise.roll(1, axis)).mean() / noise.square().mean())


def test_colour_keeps_unit_variance_and_gives_the_correlation_of_a_gaussian():
    fwhm = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 1.5]])
    noise = degradations.colour(white(*SHAPE), fwhm)
    for i in range(2):
        assert float(noise[i].var()) == pytest.approx(1, abs=0.05)
        for axis in range(3):
            # white noise convolved with a Gaussian of width w: correlation exp(-lag^2 / 4 w^2), sampled at whole voxels
            width = float(fwhm[i, axis]) / math.sqrt(8 * math.log(2))
            frequency = np.fft.fftfreq(64)
            power = np.exp(-4 * (np.pi * frequency * width) ** 2)
            expected = float((power * np.cos(2 * np.pi * frequency)).sum() / power.sum())
            if width > 0.8:
                assert expected == pytest.approx(math.exp(-1 / (4 * width**2)), abs=0.02)
            assert lag_one(noise[i], axis) == pytest.approx(expected, abs=0.02)


def test_colour_of_no_width_is_the_noise_itself():
    noise = white(1, 16, 12, 10)
    torch.testing.assert_close(degradations.colour(noise, torch.zeros(1, 3)), noise)
    plane = white(2, 32, 20)
    assert degradations.colour(plane, torch.full((2, 2), 1.5)).shape == plane.shape


@pytest.mark.parametrize(("exponent", "cutoff"), [(0.7, 0.4), (1.0, 0.6), (1.1, 0.3)])
@pytest.mark.parametrize("depth", [None, 8])
def test_ct_texture_has_the_spectrum_of_filtered_back_projection(exponent, cutoff, depth):
    count, size = 24, 128
    shape = (count, size, size) if depth is None else (count // depth, size, size, depth)
    noise = degradations.textured(white(*shape), Texture(exponent, cutoff, axis=None if depth is None else 2))
    assert float(noise.square().mean()) == pytest.approx(1, rel=0.05)
    power = torch.fft.fft2(noise, dim=(1, 2)).abs().square()
    power = power.mean(dim=(0, *range(3, noise.ndim))).numpy()
    frequency = 2 * np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij"))
    edges = np.linspace(0, 1, 33)
    ring = np.digitize(frequency, edges)
    radial = np.array([power[ring == i].mean() for i in range(1, 33)])
    centre = np.array([frequency[ring == i].mean() for i in range(1, 33)])
    expected = centre**exponent * np.exp(-((centre / cutoff) ** 2))
    relative = radial / radial.sum() - expected / expected.sum()
    assert np.abs(relative).max() < 0.1 * (expected / expected.sum()).max()
    peak = cutoff * math.sqrt(exponent / 2)
    assert centre[radial.argmax()] == pytest.approx(peak, abs=0.08)


def test_ct_texture_leaves_slices_independent():
    noise = degradations.textured(white(1, 96, 96, 8), Texture(1.0, 0.3, axis=2))
    assert abs(lag_one(noise, 3)) < 0.05
    assert lag_one(noise, 1) > 0.3


def test_varying_noise_keeps_its_mean_square():
    sigma = torch.tensor([0.01, 0.2, 3.0])
    clean = torch.zeros(3, 24, 20, 16)
    noise_map = degradations.vary(sigma, clean, torch.tensor([0.0, 0.3, 0.7]), generator())
    np.testing.assert_allclose(noise_map.square().mean(dim=(1, 2, 3)).sqrt(), sigma, rtol=1e-5)
    assert torch.equal(noise_map[0], torch.full_like(noise_map[0], 0.01))
    ratio = noise_map.amax(dim=(1, 2, 3)) / noise_map.amin(dim=(1, 2, 3))
    assert 1.3 < float(ratio[1]) < math.exp(0.6)
    assert 1.9 < float(ratio[2]) < math.exp(1.4)
    step = (noise_map[2].diff(dim=0).abs() / noise_map[2][:-1]).max()
    assert float(step) < 0.15  # smooth


@pytest.mark.parametrize("spatial", [(20,), (20, 30), (20, 30, 10), (20, 1, 30), (1, 1, 1)])
def test_smooth_field_stays_in_its_range(spatial):
    field = degradations.smooth_field(torch.Size((5, *spatial)), generator(), torch.device("cpu"))
    assert field.shape == (5, *spatial)
    assert float(field.abs().max()) <= 1
    assert float(field.std()) > 0.2
    for axis, n in enumerate(spatial, start=1):
        if n > 1:
            assert float(field.diff(dim=axis).abs().max()) < 2 * 3 / n


def test_same_generator_same_noise_and_no_global_state():
    clean, sigma = level(1.0), torch.tensor(0.1)

    def draws(seed: int) -> list[Tensor]:
        source = generator(seed)
        return [
            degradations.add_gaussian(clean, sigma, source),
            degradations.add_rician(clean, sigma, source),
            degradations.add_noncentral_chi(clean, sigma, 3, source),
            degradations.vary(torch.tensor([0.1]), clean, torch.tensor([0.5]), source),
        ]

    torch.manual_seed(0)
    first = draws(5)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    second = draws(5)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(torch.equal(a, b) for a, b in zip(first, draws(6), strict=True))


def holes_of(
    shape: tuple[int, ...], count: int = 60, radius: tuple[float, float] = (3.0, 8.0), seed: int = 0
) -> Tensor:
    return degradations.hole(torch.Size((count, *shape)), generator(seed), torch.device("cpu"), radius)


@pytest.mark.parametrize("shape", [(32, 32, 32), (64, 64, 3), (20, 9, 1), (40, 40), (8, 8), (2, 2, 2), (1, 30, 30)])
def test_hole_leaves_something_to_fill_it_from(shape):
    share = holes_of(shape).flatten(1).float().mean(1)
    assert float(share.min()) > 0
    assert float(share.max()) < 0.601


def test_holes_are_lesions_cuboids_and_missing_slices():
    found = holes_of((48, 48, 48), 400, (4.0, 6.0))
    whole = torch.stack([h.flatten(1).all(1).any() | h.all(0).all(1).any() | h.all(0).all(0).any() for h in found])
    assert 0.05 < float(whole.float().mean()) < 0.15  # one in ten lacks slices
    rest = found[~whole]
    volume = rest.flatten(1).sum(1)
    # one to three lobes of 4 to 6 voxels; a rough boundary adds or takes up to half of the squared radius
    assert 4 / 3 * math.pi * (4 * math.sqrt(0.5)) ** 3 < float(volume.float().quantile(0.02))
    assert float(volume.max()) < 3 * 4 / 3 * math.pi * (6 * math.sqrt(1.5)) ** 3
    centre = torch.stack([h.nonzero().float().mean(0) for h in rest])
    assert float(centre.min()) > 48 * 0.25 - 8
    assert float(centre.max()) < 48 * 0.75 + 8
    assert float(centre.std(0).min()) > 4  # and they are not all in one place


def test_missing_slices_are_whole_and_few():
    for hole in holes_of((24, 24, 24), 300):
        for axis in range(3):
            line = hole.flatten(1).all(1) if axis == 0 else hole.transpose(0, axis).flatten(1).all(1)
            if bool(line.any()):
                assert int(line.sum()) <= 6
                assert int(hole.sum()) == int(line.sum()) * 24 * 24
                assert not (line.nonzero().diff(dim=0) > 1).any()  # one next to the other


def test_same_generator_same_hole():
    assert torch.equal(holes_of((20, 20, 20), 5, seed=3), holes_of((20, 20, 20), 5, seed=3))
    assert not torch.equal(holes_of((20, 20, 20), 5, seed=3), holes_of((20, 20, 20), 5, seed=4))
