from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medidiff.evaluation import ct

SPACING = (0.5, 0.5, 2.0)


def test_white_noise_has_a_flat_spectrum_of_its_variance() -> None:
    noise = np.random.default_rng(0).normal(0, 3, (128, 128, 6)).astype(np.float32)
    found = ct.noise_power(noise, np.ones(noise.shape, bool), SPACING)
    assert found is not None
    assert found.regions == 16 * 6
    assert found.frequency[-1] == pytest.approx(1.0)  # Nyquist of 0.5 mm
    assert found.power[4:] == pytest.approx(9 * 0.25, rel=0.1)  # variance times pixel area
    assert found.mean == pytest.approx(0.53, abs=0.03)


def test_a_trend_is_no_noise() -> None:
    x = np.linspace(0, 1, 64)
    ramp = np.broadcast_to((100 * x[:, None] + 50 * x**2)[:, :, None], (64, 64, 2)).astype(np.float32)
    found = ct.noise_power(ramp, np.ones(ramp.shape, bool), SPACING)
    assert found is not None
    assert found.power.max() < 1e-4


def test_the_peak_of_coloured_noise_is_found() -> None:
    white = np.random.default_rng(0).standard_normal((192, 192, 8))
    radius = np.hypot(np.fft.fftfreq(192)[:, None], np.fft.fftfreq(192)[None, :]) * 2  # of the Nyquist frequency
    power = radius * np.exp(-((radius / 0.5) ** 2))
    spectrum = np.fft.fft2(white, axes=(0, 1)) * np.sqrt(power)[:, :, None]
    textured = np.fft.ifft2(spectrum, axes=(0, 1)).real.astype(np.float32)
    found = ct.noise_power(textured, np.ones(textured.shape, bool), SPACING)
    assert found is not None
    # f exp(-(f / f0)^2) is largest at f0 / sqrt(2), f0 half of the Nyquist frequency of 1 / mm
    assert found.peak == pytest.approx(0.5 / np.sqrt(2), abs=0.07)
    smooth = ndimage.gaussian_filter(textured, (1, 1, 0))
    smeared = ct.noise_power(smooth, np.ones(smooth.shape, bool), SPACING)
    assert smeared is not None
    assert smeared.mean < 0.8 * found.mean


def test_regions_that_hold_few_squares_have_no_spectrum() -> None:
    image = np.ones((64, 64, 1), np.float32)
    small = np.zeros(image.shape, bool)
    small[:40, :40] = True
    assert ct.noise_power(image, small, SPACING) is None


def rod(width: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """A blurred rod of 25 pixels radius, and its outline; drawn eight times finer than it is measured."""
    x = np.arange(1024) / 8 - 7 / 16
    distance = np.hypot(x[:, None] - 63.3, x[None, :] - 64.1)
    sharp = ndimage.gaussian_filter(100.0 * (distance <= 25), 8 * width)
    plane = sharp.reshape(128, 8, 128, 8).mean(axis=(1, 3))
    image = np.repeat(plane[:, :, None], 3, 2) + np.random.default_rng(0).normal(0, noise, (128, 128, 3))
    inside = np.hypot(np.arange(128)[:, None] - 63.3, np.arange(128)[None, :] - 64.1) <= 25
    return image.astype(np.float32), np.repeat(inside[:, :, None], 3, 2)


@pytest.mark.parametrize("width", [0.8, 1.5])
@pytest.mark.parametrize("noise", [0.0, 10.0])
def test_mtf50_of_a_blurred_edge(width: float, noise: float) -> None:
    image, inside = rod(width, noise)
    frequency = np.linspace(0.001, 1, 5000)
    transfer = np.exp(-2 * (np.pi * 0.5 * width * frequency) ** 2) * np.sinc(0.5 * frequency)
    expected = frequency[np.argmax(transfer < 0.5)]
    assert ct.mtf50(image, inside, SPACING) == pytest.approx(expected, rel=0.04)


def test_there_is_no_mtf_without_a_round_outline_or_contrast() -> None:
    image, inside = rod(1.0, 0.0)
    box = np.zeros_like(inside)
    box[40:90, 50:75] = True
    assert np.isnan(ct.mtf50(image, box, SPACING))
    flat = np.random.default_rng(0).normal(0, 1, image.shape).astype(np.float32)
    assert np.isnan(ct.mtf50(flat, inside, SPACING))
