"""Sentences for what is wrong, and silence for what is right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medidiff.diffusion import guard
from medidiff.diffusion.consistency import check, filled, reproduced

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def truth():
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*[np.linspace(-1, 1, 48)] * 3, indexing="ij")))
    texture = ndimage.gaussian_filter(RNG(1).standard_normal((48, 48, 48)), 2)
    return ((radius < 0.9) * (0.7 + 0.1 * texture / texture.std())).astype(np.float32)


def noisy(truth, sigma=0.09):
    first, second = RNG(0).standard_normal((2, *truth.shape))
    return np.hypot(truth + sigma * first, sigma * second).astype(np.float32)


def judged(measured, image, percent=9.0, **options):
    return guard.denoise(check(measured, image, np.float32(percent / 100), "rician"), percent, **options)


class TestDenoise:
    def test_a_denoiser_that_leaves_the_coarse_part_of_the_noise_is_sound(self, truth):
        measured = noisy(truth)
        residual = (measured - truth).astype(np.float32)
        kept = ndimage.gaussian_filter(residual, 1.0)
        assert judged(measured, truth + kept) == ()

    def test_a_denoiser_that_takes_all_noise_from_flat_regions_is_sound(self):
        flat = ndimage.gaussian_filter(np.pad(np.full((24, 24, 24), np.float32(0.8)), 12), 1)
        measured = noisy(flat, 0.15)
        kept = ndimage.gaussian_filter((measured - flat).astype(np.float32), 1.0)
        edges = ndimage.gaussian_gradient_magnitude(flat, 1) > 0.01
        assert judged(measured, flat + edges * kept, 15.0) == ()

    @pytest.mark.parametrize("percent", [9.0, 15.0])
    def test_median_filter(self, truth, percent):
        measured = noisy(truth, percent / 100)
        (sentence, *_) = judged(measured, ndimage.median_filter(measured, 3), percent)
        assert sentence.startswith("Structure removed")

    def test_blur(self, truth):
        (sentence, *rest) = judged(noisy(truth, 0.03), ndimage.gaussian_filter(truth, 1.5), 3.0)
        assert sentence.startswith("Structure removed")
        assert not rest

    def test_nothing_was_done(self, truth):
        measured = noisy(truth)
        assert [s.split(":")[0] for s in judged(measured, measured)] == ["Under-denoised"]

    def test_half_of_the_noise_is_left_unless_it_was_asked_for(self, truth):
        measured = noisy(truth)
        kept = ndimage.gaussian_filter((measured - truth).astype(np.float32), 1.0)
        half = (truth + kept + measured) / 2
        assert judged(measured, half)
        assert judged(measured, half, strength=0.5) == ()

    def test_a_noise_level_given_by_hand_that_the_scan_does_not_show(self):
        assert "27 % was given, but the scan shows 9 %" in guard.denoise({}, 27.0, measured_percent=9.0)[0]
        assert guard.denoise({}, 9.0, measured_percent=8.0) == ()
        assert guard.denoise({}, 3.0, measured_percent=9.0)

    def test_without_figures_there_is_nothing_to_say(self):
        assert guard.denoise({}, 9.0) == ()


class TestSuperres:
    def test_exact(self):
        y = RNG(0).random((8, 8, 8)).astype(np.float32)
        figures = reproduced(y, y)
        assert figures == {"data_residual": 0}
        assert guard.superres(figures, exact=True) == ()
        off = y.copy()
        off[0, 0, 0] += np.float32(2e-5) * (y.max() - y.min())
        assert reproduced(y, off)["data_residual"] == pytest.approx(2e-5, rel=0.02)
        assert "Data not kept" in guard.superres(reproduced(y, off), exact=True)[0]

    def test_only_what_was_measured_counts(self):
        y = np.ones((8, 8, 8), np.float32)
        other, seen = y.copy(), np.ones(y.shape, bool)
        other[2, 2, 2], seen[2, 2, 2] = 5, False
        assert reproduced(y, other, seen=seen)["data_residual"] == 0
        assert reproduced(y, other, seen=np.zeros(y.shape, bool)) == {}

    def test_soft_figures_are_in_sigma(self):
        y = RNG(0).normal(0, 0.05, (20, 20, 20)).astype(np.float32)
        figures = reproduced(y, np.zeros_like(y), 0.05)
        assert figures["data_residual_variance_ratio"] == pytest.approx(1, abs=0.05)
        assert figures["data_residual_mean"] == pytest.approx(0, abs=0.05)
        assert guard.superres(figures, exact=False) == ()
        assert "Data not kept" in guard.superres(reproduced(y + 0.01, np.zeros_like(y), 0.05), exact=False)[0]
        assert "Under-denoised" in guard.superres(reproduced(y, y, 0.05), exact=False)[0]

    def test_a_smooth_residual_is_structure(self):
        smooth = ndimage.gaussian_filter(RNG(0).standard_normal((24, 24, 24)), 1.5)
        y = (0.04 * smooth / smooth.std()).astype(np.float32)
        assert "Structure removed" in guard.superres(reproduced(y, np.zeros_like(y), 0.05), exact=False)[0]


class TestInpaint:
    @staticmethod
    def scene(shift=0):
        image = (1 + 0.1 * RNG(0).standard_normal((32, 32, 32))).astype(np.float32)
        artefact = np.zeros(image.shape, bool)
        artefact[10:20, 10:20, 10:20] = True
        scan = np.where(artefact, np.float32(0), image)
        hole = np.roll(artefact, shift, 0)
        return scan, np.where(hole, image, scan), hole

    def test_a_mask_that_fits(self):
        figures = filled(*self.scene())
        assert figures["changed_outside"] == 0
        assert figures["hole_share"] == pytest.approx(1000 / 32**3, abs=1e-6)
        assert figures["hole_border_jump"] == pytest.approx(1, abs=0.1)
        assert figures["hole_beside_constant"] == 0
        assert guard.inpaint(figures) == ()

    @pytest.mark.parametrize("shift", [1, 3, -4])
    def test_a_shifted_mask(self, shift):
        figures = filled(*self.scene(shift))
        assert figures["hole_beside_constant"] > 0.1
        assert any("mask may be shifted" in sentence for sentence in guard.inpaint(figures))

    def test_background_beside_a_hole_is_no_artefact(self):
        scan, restored, hole = self.scene()
        for image in (scan, restored):
            image[:, :10] = 0
        assert filled(scan, restored, hole)["hole_beside_constant"] == 0

    def test_a_jump_at_the_border(self):
        scan, restored, hole = self.scene()
        restored = np.where(hole, restored + np.float32(3), restored)
        assert any("steps" in sentence for sentence in guard.inpaint(filled(scan, restored, hole)))

    def test_a_change_outside(self):
        scan, restored, hole = self.scene()
        restored[0, 0, 0] = np.nextafter(restored[0, 0, 0], np.float32(9))
        figures = filled(scan, restored, hole)
        assert figures["changed_outside"] == 1
        assert "1 voxels outside" in guard.inpaint(figures)[0]

    def test_no_hole_and_nothing_but_a_hole(self):
        image = np.ones((4, 4, 4), np.float32)
        assert filled(image, image, np.zeros(image.shape, bool)) == {"changed_outside": 0, "hole_share": 0}
        assert filled(image, image, np.ones(image.shape, bool)) == {"changed_outside": 0, "hole_share": 1}


class TestRange:
    trained = {  # noqa: RUF012
        "noise_percent": [1, 18],
        "spacing_mm": [0.5, 2.0],
        "anisotropy": [1.0, 3.0],
        "intensity": {"coherence": [-0.2, 0.2], "middle": [0.7, 0.1]},
    }

    def found(self, unit, spacing=(1, 1, 1), modality="MR", percent=5.0):
        return guard.range_check(unit, spacing, modality, percent, self.trained)

    def test_inside(self, truth):
        found = self.found(truth)
        assert (found.warnings, found.refusal) == ((), None)
        assert abs(found.figures["z_middle"]) < 4

    def test_beyond_the_range_is_a_warning_and_far_beyond_a_refusal(self, truth):
        assert "noise is 25 %" in self.found(truth, percent=25.0).warnings[0]
        assert self.found(truth, percent=20.0).warnings == ()
        assert "noise is 40 %" in self.found(truth, percent=40.0).refusal
        assert self.found(truth, percent=0.1).warnings == ()
        assert "3 mm" in self.found(truth, (3, 3, 3)).warnings[0]
        assert "0.2 mm" in self.found(truth, (0.2, 0.2, 0.2)).refusal
        assert "ratio of its voxel edges is 4" in self.found(truth, (0.5, 0.5, 2)).warnings[0]

    def test_ct_is_refused_and_pet_is_warned_of(self, truth):
        assert "not on CT" in self.found(truth, modality="CT").refusal
        found = self.found(truth, modality="PT")
        assert "not on PT" in found.warnings[0]
        assert found.refusal is None

    def test_negative_values_are_no_magnitudes(self, truth):
        assert "negative" in self.found(truth - np.float32(0.5)).refusal

    def test_noise_alone_is_refused(self):
        unit = np.hypot(*RNG(0).standard_normal((2, 40, 40, 40))).astype(np.float32) / 3
        assert "noise alone" in self.found(unit, percent=18.0).refusal

    def test_an_unusual_histogram(self, truth):
        found = guard.range_check(truth, (1, 1, 1), "MR", None, {"intensity": {"middle": [0.3, 0.08]}})
        assert found.refusal is None
        assert "middle parts are too bright" in found.warnings[0]
        assert found.figures["z_middle"] > 4
        found = guard.range_check(truth, (1, 1, 1), "MR", None, {"intensity": {"middle": [0.99, 0.05]}})
        assert "middle parts are too dark" in found.warnings[0]

    def test_what_the_bundle_does_not_tell_is_not_judged(self, truth):
        found = guard.range_check(truth, (9, 9, 9), "MR", 90.0, {})
        assert (found.warnings, found.refusal) == ((), None)
