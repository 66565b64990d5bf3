"""Metrics against independent implementations, and against values that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics.regression import compute_ms_ssim
from scipy import ndimage
from skimage import metrics as skimage_metrics
from torchmetrics.functional import image as torch_metrics

from medidiff.evaluation import metrics
from medidiff.evaluation.metrics import Mask
from medidiff.evaluation.results import Image
from medidiff.physics import fidelity
from medidiff.physics.rician import RAYLEIGH_MEAN


def pair(*shape: int) -> tuple[Image, Image]:
    """A smooth image from 0 to 1, and the same with noise."""
    rng = np.random.default_rng(0)
    clean = ndimage.gaussian_filter(rng.random(shape), 1.5)
    clean = ((clean - clean.min()) / np.ptp(clean)).astype(np.float32)
    return (clean + 0.1 * rng.standard_normal(shape)).astype(np.float32), clean


def tensors(*images: Image) -> list[torch.Tensor]:
    return [torch.from_numpy(image).double()[None, None] for image in images]


def everywhere(image: Image) -> Mask:
    return np.ones(image.shape, dtype=np.bool_)


def test_psnr_is_that_of_scikit_image() -> None:
    restored, clean = pair(12, 13, 14)
    expected = skimage_metrics.peak_signal_noise_ratio(clean.astype(float), restored.astype(float), data_range=0.8)
    assert fidelity.psnr(restored, clean, everywhere(clean), 0.8) == pytest.approx(expected, abs=1e-6)


def test_psnr_by_hand_and_of_equal_images() -> None:
    clean = np.array([[[2.0, 4.0], [0.0, 0.0]]], np.float32)
    restored = np.array([[[2.0, 3.0], [1.0, 9.0]]], np.float32)
    inside = clean > 0
    assert fidelity.psnr(restored, clean, inside) == pytest.approx(10 * np.log10(4**2 / 0.5))
    assert fidelity.psnr(clean, clean, inside) == 200
    assert np.isnan(fidelity.psnr(restored, clean, clean > 9))


def torchmetrics_ssim(restored: Image, clean: Image, peak: float) -> float:
    """The mean that leaves half a window at the faces out, as in the paper."""
    _, similarity = torch_metrics.structural_similarity_index_measure(
        *tensors(restored, clean), data_range=peak, return_full_image=True
    )
    return float(similarity[(..., *(slice(5, -5) for _ in clean.shape))].mean())


def test_ssim_is_that_of_torchmetrics() -> None:
    restored, clean = pair(20, 24, 22)
    expected = torchmetrics_ssim(restored, clean, 0.9)
    assert metrics.ssim(restored, clean, 0.9) == pytest.approx(expected, abs=1e-6)


def test_ssim_of_a_region_is_the_mean_of_its_map() -> None:
    restored, clean = pair(20, 24, 22)
    restored[:10] = clean[:10]
    far = np.zeros(clean.shape, dtype=np.bool_)
    far[:4] = True  # more than half a window away from where the images differ
    assert metrics.ssim(restored, clean, 1.0, far) == pytest.approx(1)
    assert metrics.ssim(restored, clean, 1.0, ~far) < 0.9
    assert np.isnan(metrics.ssim(restored, clean, 1.0, np.zeros_like(far)))


def test_thin_images_are_judged_slice_by_slice() -> None:
    restored, clean = pair(30, 32, 3)
    slices = [torchmetrics_ssim(restored[:, :, k], clean[:, :, k], 1.0) for k in range(3)]
    assert metrics.ssim(restored, clean, 1.0) == pytest.approx(sum(slices) / 3, abs=1e-6)
    flat = metrics.ssim(restored[:, :, :1], clean[:, :, :1], 1.0)
    assert flat == pytest.approx(slices[0], abs=1e-6)


@pytest.mark.parametrize("shape", [(10, 32, 3), (1, 1, 40), (4, 4, 4)])
def test_images_that_are_too_small_have_no_ssim(shape: tuple[int, ...]) -> None:
    restored, clean = pair(*shape)
    assert np.isnan(metrics.ssim(restored, clean, 1.0))
    assert np.isnan(metrics.ms_ssim(restored, clean, 1.0))
    assert np.isnan(metrics.vif(restored, clean, 1.0, everywhere(clean)))


def torchmetrics_ms_ssim(restored: Image, clean: Image, weights: np.ndarray) -> float:
    """From the parts that torchmetrics gives at each scale; its own product takes faces into its last part only."""
    images, figures = tensors(restored, clean), []
    pool = {2: torch.nn.functional.avg_pool2d, 3: torch.nn.functional.avg_pool3d}[clean.ndim]
    for scale in range(len(weights)):
        if scale == len(weights) - 1:
            figures.append(torchmetrics_ssim(*(each[0, 0].numpy() for each in images), 1.0))
        else:
            _, structure = torch_metrics.structural_similarity_index_measure(
                *images, data_range=1.0, return_contrast_sensitivity=True
            )
            figures.append(float(structure))
        images = [pool(each, 2) for each in images]
    return float(np.prod(np.array(figures) ** weights))


@pytest.mark.parametrize(("shape", "count"), [((24, 22, 23), 2), ((46, 45, 44), 3)])
def test_ms_ssim_of_few_scales_is_that_of_torchmetrics(shape: tuple[int, ...], count: int) -> None:
    restored, clean = pair(*shape)
    weights = np.array(metrics.SCALES[:count]) * (sum(metrics.SCALES) / sum(metrics.SCALES[:count]))
    found = metrics.ms_ssim(restored, clean, 1.0)
    assert found == pytest.approx(torchmetrics_ms_ssim(restored, clean, weights), abs=1e-6)
    if count == 2:
        single = compute_ms_ssim(*tensors(restored, clean), 3, 1.0, weights=weights.tolist())
        assert found == pytest.approx(float(single), abs=1e-4)  # MONAI computes in single precision


def test_ms_ssim_of_an_image_has_all_five_scales() -> None:
    restored, clean = pair(180, 178, 1)
    expected = torchmetrics_ms_ssim(restored[:, :, 0], clean[:, :, 0], np.array(metrics.SCALES))
    assert metrics.ms_ssim(restored, clean, 1.0) == pytest.approx(expected, abs=1e-6)


def test_vif_is_that_of_torchmetrics() -> None:
    restored, clean = pair(48, 44, 4)
    images = [torch.from_numpy(each).double().permute(2, 0, 1)[:, None] * 255 / 0.7 for each in (restored, clean)]
    inside = everywhere(clean)
    inside[:, :, 3] = False  # a slice that does not count
    expected = torch_metrics.visual_information_fidelity(*(each[:3] for each in images))
    assert metrics.vif(restored, clean, 0.7, inside) == pytest.approx(float(expected), abs=1e-6)
    assert metrics.vif(clean, clean, 0.7, inside) == pytest.approx(1, abs=1e-6)


def test_nrmse_and_nmi_are_those_of_scikit_image() -> None:
    restored, clean = pair(12, 12, 12)
    inside = clean > 0.4
    theirs = skimage_metrics.normalized_root_mse(
        clean[inside].astype(float), restored[inside].astype(float), normalization="min-max"
    )
    assert metrics.nrmse(restored, clean, inside) == pytest.approx(theirs, abs=1e-6)
    expected = skimage_metrics.normalized_mutual_information(clean, restored, bins=100)
    assert metrics.nmi(restored, clean, everywhere(clean)) == pytest.approx(expected, abs=1e-6)
    assert metrics.nmi(clean, clean, everywhere(clean)) == pytest.approx(2)


def test_errors_by_hand() -> None:
    clean, restored = np.array([[[0.0, 2.0, 4.0, 9.0]]], np.float32), np.array([[[1.0, 0.0, 5.0, 0.0]]], np.float32)
    inside = np.array([[[True, True, True, False]]])
    assert metrics.mae(restored, clean, inside) == pytest.approx(4 / 3)
    assert metrics.bias(restored, clean, inside) == pytest.approx(0)
    assert metrics.rmse(restored, clean, inside) == pytest.approx(np.sqrt(2))
    assert metrics.nrmse(restored, clean, inside) == pytest.approx(np.sqrt(2) / 4)
    nowhere = np.zeros_like(inside)
    for metric in (metrics.mae, metrics.bias, metrics.rmse, metrics.nrmse, metrics.hfen, metrics.nmi):
        assert np.isnan(metric(restored, clean, nowhere))


def test_hfen_is_the_lost_share_of_a_laplacian() -> None:
    restored, clean = pair(20, 21, 22)
    one, two = (ndimage.gaussian_laplace(each.astype(float), 1.5) for each in (restored, clean))
    expected = np.sqrt(np.square(one - two).sum() / np.square(two).sum())
    assert metrics.hfen(restored, clean, everywhere(clean)) == pytest.approx(expected, abs=1e-9)
    assert metrics.hfen(0.75 * clean, clean, everywhere(clean)) == pytest.approx(0.25, abs=1e-6)
    flat = (
        ndimage.gaussian_laplace(clean[:, :, 0].astype(float), 1.5),
        ndimage.gaussian_laplace(restored[:, :, 0].astype(float), 1.5),
    )
    expected = np.linalg.norm(flat[1] - flat[0]) / np.linalg.norm(flat[0])
    found = metrics.hfen(restored[:, :, :1], clean[:, :, :1], everywhere(clean[:, :, :1]))
    assert found == pytest.approx(expected, abs=1e-9)


def test_metrics_of_noise_follow_from_the_noise_alone() -> None:
    rng, sigma = np.random.default_rng(0), 0.05
    clean = np.zeros((40, 40, 40), np.float32)
    clean[10:30, 10:30, 10:30] = 1
    real, imaginary = sigma * rng.standard_normal((2, *clean.shape))
    noisy = np.hypot(clean + real, imaginary).astype(np.float32)
    found = metrics.denoised(noisy, clean, noisy, sigma, "rician")
    assert found["psnr"] == pytest.approx(-20 * np.log10(sigma), abs=0.3)
    assert found["dark_bias"] == pytest.approx(RAYLEIGH_MEAN, abs=0.02)  # where there is no signal
    assert found["removed"] < 0.05
    perfect = metrics.denoised(clean, clean, noisy, sigma, "rician")
    assert perfect["ssim"] == pytest.approx(1)
    assert perfect["dark_bias"] == 0
    assert perfect["removed"] == pytest.approx(1, abs=0.05)


def hole_of(shape: tuple[int, ...], *voxels: tuple[int, ...]) -> Mask:
    hole = np.zeros(shape, dtype=np.bool_)
    hole[tuple(np.transpose(voxels))] = True
    return hole


def test_mse_and_psnr_of_the_challenge_by_hand() -> None:
    truth, restored = np.full((9, 9, 9), 50, np.float32), np.zeros((9, 9, 9), np.float32)
    hole = hole_of(truth.shape, (4, 4, 4), (4, 4, 5))
    truth[4, 4, 4:6], restored[4, 4, 4:6] = (2, 4), (3, 4)
    found = metrics.brats_inpainting(restored, truth, hole)
    assert found["mse"] == pytest.approx((1 / 4) ** 2 / 2)  # over the maximum inside the hole, 4
    assert found["psnr"] == pytest.approx(10 * np.log10((2 / 4) ** 2 / found["mse"]))
    assert metrics.brats_inpainting(truth, truth, hole)["ssim"] == pytest.approx(1)


@pytest.mark.parametrize("height", [0.5, 1.5])
def test_ssim_of_the_challenge_by_hand(height: float) -> None:
    truth, restored = np.full((15, 15, 15), 7, np.float32), np.full((15, 15, 15), 3, np.float32)
    truth[7, 7, 7], restored[7, 7, 7] = 20, 20 * height
    hole = hole_of(truth.shape, (7, 7, 7))
    # one voxel of 1, and of `height`, in zeros: every window sees it with the weight of the kernel's middle
    line = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
    weight = (1 / line.sum()) ** 3
    c1, c2 = (0.01 * max(1, height)) ** 2, (0.03 * max(1, height)) ** 2
    brightness = (2 * weight**2 * height + c1) / (weight**2 * (1 + height**2) + c1)
    structure = (2 * (weight - weight**2) * height + c2) / ((weight - weight**2) * (1 + height**2) + c2)
    found = metrics.brats_inpainting(restored, truth, hole)["ssim"]
    assert found == pytest.approx(brightness * structure, abs=1e-6)


def test_ssim_of_the_challenge_is_that_of_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((24, 20, 22), dtype=np.float32)
    restored = truth + 0.1 * rng.standard_normal(truth.shape).astype(np.float32)
    hole = np.zeros(truth.shape, dtype=np.bool_)
    hole[3:14, 8:20, 5:12] = True  # up to a face
    images = [
        torch.from_numpy((one * hole).astype(float) / float(truth[hole].max()))[None, None] for one in (truth, restored)
    ]
    _, similarity = torch_metrics.structural_similarity_index_measure(*images, return_full_image=True)
    expected = float(similarity[0, 0].numpy()[hole].mean())
    assert metrics.brats_inpainting(restored, truth, hole)["ssim"] == pytest.approx(expected, abs=1e-6)


def test_the_challenge_has_no_figures_for_a_truth_of_zeros_or_a_single_slice() -> None:
    hole = hole_of((9, 9, 9), (4, 4, 4), (4, 4, 5))
    zeros = np.zeros(hole.shape, np.float32)
    assert all(np.isnan(list(metrics.brats_inpainting(zeros, zeros, hole).values())))
    _, flat = pair(30, 30, 1)
    found = metrics.brats_inpainting(flat * 0.9, flat, flat > 0.5)
    assert found["mse"] > 0
    assert np.isnan(found["ssim"])
