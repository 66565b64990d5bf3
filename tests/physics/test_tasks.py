"""The tasks as posed problems: the base, the size of its error, and what the network is told."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from medidiff.physics import holes, tasks
from medidiff.physics.grouping import refine
from medidiff.physics.operators import Acquisition, Axis
from medidiff.physics.residual import put_back
from medidiff.physics.rician import remove_rician_bias
from medidiff.physics.scales import pilot as pilot_of
from medidiff.physics.tasks import SMALLEST_SCALE, SMALLEST_SIGMA, VIEWS, Problem, parameter_names

LAWS = ("rician", "gaussian")


def scalar(value: float) -> Tensor:
    return torch.full((1, 1, 1, 1), value)


def pose(noisy: np.ndarray, sigma: float, law: str) -> Problem:
    return tasks.denoise(torch.from_numpy(noisy)[None], scalar(sigma), law, torch.ones(1, 3))


@pytest.fixture(scope="module")
def problem(head, add_noise) -> Problem:
    return pose(add_noise("rician", head, 0.05), 0.05, "rician")


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("percent", [1, 3, 9, 15])
def test_scale_is_the_size_of_the_bases_error(head, add_noise, law, percent):
    posed = pose(add_noise(law, head, percent / 100), percent / 100, law)
    error = posed.base[0] - torch.from_numpy(head)
    assert rms(error) == pytest.approx(rms(posed.scale), rel=0.3)
    assert abs(float((error / posed.scale[0]).mean())) < 0.05  # and the bias of the Rician law is gone
    # not only on average: where more error is expected there is more, up to the mark
    order = posed.scale[0].flatten().argsort()
    for quarter in order[len(order) // 4 :].chunk(3):
        assert rms(error.flatten()[quarter]) == pytest.approx(rms(posed.scale.flatten()[quarter]), rel=0.4)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("percent", [3, 9, 15])
def test_base_is_far_better_than_the_scan(head, add_noise, law, percent):
    noisy = add_noise(law, head, percent / 100)
    truth = torch.from_numpy(head)
    gain = 20 * math.log10(rms(torch.from_numpy(noisy) - truth) / rms(pose(noisy, percent / 100, law).base[0] - truth))
    assert gain > {3: 3.5, 9: 6.0, 15: 7.5}[percent]


def test_base_is_the_groups_estimate_and_what_is_put_back_in_units_of_sigma(head, add_noise):
    noisy = torch.from_numpy(add_noise("rician", head, 0.05))[None]
    sigma = 0.05 * torch.linspace(0.5, 2, noisy.shape[1])[None, :, None, None].expand_as(noisy)
    estimate, variance = refine(noisy / sigma, pilot_of(noisy / sigma))
    estimate = put_back(noisy / sigma, estimate, variance, 3)
    gaussian = tasks.denoise(noisy, sigma, "gaussian", torch.ones(1, 3))
    torch.testing.assert_close(gaussian.base, estimate * sigma)
    torch.testing.assert_close(gaussian.scale, sigma * (variance * (2 - variance)).sqrt())
    rician = tasks.denoise(noisy, sigma, "rician", torch.ones(1, 3))
    torch.testing.assert_close(rician.base, remove_rician_bias(estimate) * sigma)
    assert torch.equal(rician.scale, gaussian.scale)


def test_residual_and_image_are_inverse(problem, head):
    clean = torch.from_numpy(head)[None]
    torch.testing.assert_close(problem.image(problem.residual(clean)), clean, atol=1e-6, rtol=0)
    residual = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(problem.residual(problem.image(residual)), residual, atol=1e-3, rtol=1e-3)


def test_zero_residual_is_the_base(problem):
    assert torch.equal(problem.image(torch.zeros_like(problem.base)), problem.base)


def test_views_say_what_their_names_say(problem):
    views = dict(zip(VIEWS, problem.views().unbind(1), strict=True))
    measured, base, scale, sigma = (t.numpy() for t in (problem.measured, problem.base, problem.scale, problem.sigma))
    np.testing.assert_allclose(views["removed"], np.clip((measured - base) / sigma, -8, 8), atol=1e-4)
    mean = ndimage.uniform_filter(base[0].astype(np.float64), 3, mode="reflect")  # half-sample symmetric
    np.testing.assert_allclose(views["detail"][0], np.arcsinh((base[0] - mean) / scale[0]), atol=1e-3)
    np.testing.assert_array_equal(views["base"], base)
    np.testing.assert_allclose(views["log scale"], np.log10(scale) + 2, atol=1e-5)
    np.testing.assert_allclose(views["log sigma"], np.log10(sigma) + 2, atol=1e-5)
    np.testing.assert_array_equal(views["known"], np.ones_like(base))


@pytest.mark.parametrize("factor", [1e-4, 1.0, 20.0])
def test_views_are_of_order_one_at_any_noise(head, add_noise, factor):
    sigma = 0.05 * factor
    views = pose(add_noise("rician", head, sigma), sigma, "rician").views()
    assert torch.isfinite(views).all()
    assert float(views.abs().max()) < 12


def test_scale_and_sigma_never_vanish(head):
    posed = pose(head, 0.0, "rician")
    assert float(posed.sigma.min()) == pytest.approx(SMALLEST_SIGMA)
    assert float(posed.scale.min()) == pytest.approx(SMALLEST_SCALE)
    assert rms(posed.base[0] - torch.from_numpy(head)) < 1e-4


@pytest.mark.parametrize("law", LAWS)
def test_brighter_scan_brighter_base(head, add_noise, law):
    noisy = add_noise(law, head, 0.1)
    plain, double = pose(noisy, 0.1, law), pose(2 * noisy, 0.2, law)
    torch.testing.assert_close(double.base, 2 * plain.base, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(double.scale, 2 * plain.scale, atol=1e-5, rtol=1e-4)


def test_parameters_of_a_batch():
    noisy = torch.rand(3, 8, 8, 8)
    sigma = torch.tensor([0.01, 0.1, 0.2]).reshape(3, 1, 1, 1)
    spacing = torch.tensor([[1.0, 1, 1], [0.5, 0.5, 4], [1, 100, 2]])
    for law, flag in (("rician", 1.0), ("gaussian", 0.0)):
        found = tasks.denoise(noisy, sigma, law, spacing).parameters
        expected = torch.tensor([[0, flag, 0, 0, 0], [1, flag, 0, 0, 3], [math.log10(0.2) + 2, flag, 0, 4, 1]])
        torch.testing.assert_close(found[:, :5], expected, atol=1e-6, rtol=1e-6)
        assert not found[:, 5:].any()  # no axis is refined
        assert found.shape[1] == len(parameter_names(3)) - 1  # the diffusion angle comes first


def test_batch_is_single_images():
    noisy = torch.rand(2, 9, 10, 7, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.05, 0.3]).reshape(2, 1, 1, 1)
    together = tasks.denoise(noisy, sigma, "rician", torch.ones(2, 3))
    for i in range(2):
        alone = tasks.denoise(noisy[i : i + 1], sigma[i : i + 1], "rician", torch.ones(1, 3))
        for name in ("base", "scale", "sigma", "parameters"):
            torch.testing.assert_close(getattr(together, name)[i : i + 1], getattr(alone, name), msg=name)
        torch.testing.assert_close(together.views()[i : i + 1], alone.views(), atol=1e-4, rtol=1e-4)


def test_planes():
    noisy = torch.rand(2, 24, 17, generator=torch.Generator().manual_seed(0))
    sigma = torch.full((2, 1, 1), 0.3)
    plane = tasks.denoise(noisy, sigma, "rician", torch.ones(2, 2))
    volume = tasks.denoise(noisy[..., None], sigma[..., None], "rician", torch.ones(2, 3))
    torch.testing.assert_close(plane.base, volume.base[..., 0])
    torch.testing.assert_close(plane.views(), volume.views()[..., 0], atol=1e-4, rtol=1e-4)
    assert plane.parameters.shape == (2, len(parameter_names(2)) - 1)
    kept = [parameter_names(3).index(name) - 1 for name in parameter_names(2)[1:]]
    torch.testing.assert_close(plane.parameters, volume.parameters[:, kept])


def sphere(shape: tuple[int, ...], radius: float) -> Tensor:
    centre = [(n - 1) / 2 for n in shape]
    grids = np.meshgrid(*[np.arange(n) - c for n, c in zip(shape, centre, strict=True)], indexing="ij")
    return torch.from_numpy(sum(g**2 for g in grids) < radius**2)[None]


def test_inpainting_starts_from_the_filling(head):
    clean = torch.from_numpy(head)[None]
    hole, spacing = sphere(head.shape, 9), torch.tensor([[1.0, 1.0, 2.0]])
    problem = tasks.inpaint(torch.where(hole, 99.0, clean), hole, spacing)
    torch.testing.assert_close(problem.base, holes.fill(clean, hole, spacing), atol=1e-4, rtol=0)
    assert torch.equal(problem.base[~hole], clean[~hole])
    assert torch.equal(problem.known > 0.5, ~hole)
    assert torch.equal(problem.measured, problem.base)
    residual = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    image = problem.image(residual)
    assert torch.equal(image[~hole], clean[~hole])
    torch.testing.assert_close(image[hole], (problem.base + problem.scale * residual)[hole])
    assert not problem.consistent(residual)[~hole].any()
    torch.testing.assert_close(problem.consistent(residual)[hole], residual[hole], atol=1e-4, rtol=1e-4)
    assert torch.equal(problem.confine(residual), residual * hole)
    views = dict(zip(VIEWS, problem.views().unbind(1), strict=True))
    assert torch.equal(views["known"], (~hole).float())
    assert not views["removed"].any()


def test_scale_of_a_hole_is_the_size_of_the_fillings_error(head):
    clean = torch.from_numpy(head)[None]
    shift = [torch.roll(clean, n, 1) for n in (-12, -6, 0, 6, 12)]
    hole = sphere(head.shape, 8)
    posed = [tasks.inpaint(each, hole, torch.ones(1, 3)) for each in shift]
    error = torch.cat([(p.base - each)[hole] for p, each in zip(posed, shift, strict=True)])
    expected = torch.cat([p.scale[hole] for p in posed])
    assert rms(error) == pytest.approx(rms(expected), rel=0.5)
    rim, core = (
        torch.cat([p.scale[hole & mask] for p in posed]) for mask in (holes.depth(hole) == 1, holes.depth(hole) > 3)
    )
    assert float(core.mean()) > 1.3 * float(rim.mean())


ACQUISITION = Acquisition((Axis(56, 56), Axis(28, 56, "kspace"), Axis(12, 48, "gaussian", 0.8)))


def seen(head: np.ndarray) -> tuple[Tensor, Tensor]:
    clean = torch.from_numpy(head)[None]
    return clean, ACQUISITION.forward(clean)


def test_noiseless_super_resolution_keeps_the_data(head):
    clean, data = seen(head)
    problem = tasks.superresolve(data, ACQUISITION, torch.ones(1, 3))
    torch.testing.assert_close(problem.known, ACQUISITION.known(problem.base))
    residual = 3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    for image in (problem.base, problem.image(residual), problem.image(problem.consistent(residual))):
        assert float((ACQUISITION.forward(image) - data).abs().max()) < 1e-5
    truth = problem.residual(clean)  # explains the data, so it is left as it is
    torch.testing.assert_close(problem.consistent(truth), truth, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(problem.image(truth), clean, atol=1e-5, rtol=0)
    once = problem.consistent(residual)
    torch.testing.assert_close(problem.consistent(once), once, atol=1e-3, rtol=1e-3)
    assert rms(truth) == pytest.approx(1, abs=0.5)
    smooth = ACQUISITION.lift(data)
    assert rms(smooth - clean) < 0.9 * rms(ACQUISITION.spread(data) - clean)
    assert rms(problem.base - clean) < 0.95 * rms(smooth - clean)


def test_super_resolution_of_a_constant_is_the_constant():
    data = torch.full((1, 56, 28, 12), 0.7)
    problem = tasks.superresolve(data, ACQUISITION, torch.ones(1, 3))
    torch.testing.assert_close(problem.base, torch.full((1, 56, 56, 48), 0.7), atol=1e-5, rtol=0)


@pytest.mark.parametrize("law", LAWS)
def test_no_noise_no_law(head, law):
    """The network was never told of noise that is not there."""
    _, data = seen(head)
    names = parameter_names(3)[1:]
    found = tasks.superresolve(data, ACQUISITION, torch.tensor([[1.0, 1.0, 2.0]]), law=law).parameters[0]
    told = dict(zip(names, found.tolist(), strict=True))
    assert told["rician"] == 0
    assert told["log10 sigma"] == pytest.approx(math.log10(SMALLEST_SIGMA) + 2)
    assert [told[f"log2 spacing {k}"] for k in (1, 2, 3)] == pytest.approx([0, 0, 1])
    assert [told[f"log2 factor {k}"] for k in (1, 2, 3)] == pytest.approx([0, 1, 2])
    assert [told[f"profile {k}"] for k in (1, 2, 3)] == pytest.approx([0, -1, 0.8])


@pytest.mark.parametrize("law", LAWS)
def test_noisy_super_resolution_starts_from_the_denoised_data(head, add_noise, law):
    clean, data = seen(head)
    data = data.clamp(min=0)
    noisy = torch.from_numpy(add_noise(law, data[0].numpy(), 0.05))[None]
    problem = tasks.superresolve(noisy, ACQUISITION, torch.ones(1, 3), sigma=scalar(0.05), law=law)
    denoised = tasks.denoise(noisy, scalar(0.05), law, torch.ones(1, 3))
    torch.testing.assert_close(ACQUISITION.forward(problem.base), denoised.base, atol=1e-5, rtol=0)
    assert rms(problem.base - clean) < 0.97 * rms(ACQUISITION.lift(denoised.base) - clean)
    assert problem.parameters[0, 1] == float(law == "rician")
    assert torch.equal(problem.sigma, torch.full_like(problem.base, 0.05))
    # asked again softly: the noise does not come back, and what an image lacks of the data does
    again = ACQUISITION.forward(problem.image(torch.zeros_like(problem.base)))
    assert rms(again - data) < 0.7 * rms(noisy - data)
    darker = problem.image(problem.residual(problem.base - 0.1))
    assert float((darker - problem.base).mean()) > -0.03
    assert problem.damping > 1


def test_hole_in_thick_slices(head):
    clean, data = seen(head)
    hole = torch.zeros_like(data, dtype=torch.bool)
    hole[:, 20:30, 10:16, 4:7] = True
    problem = tasks.superresolve(torch.where(hole, -5.0, data), ACQUISITION, torch.ones(1, 3), hole=hole)
    torch.testing.assert_close(problem.trusted, (~hole).float())
    fine_hole = ACQUISITION.spread(hole.float()) > 0
    assert not problem.known.expand_as(clean)[fine_hole].any()
    torch.testing.assert_close(problem.known[~fine_hole], ACQUISITION.known(clean).expand_as(clean)[~fine_hole])
    whole = tasks.superresolve(data, ACQUISITION, torch.ones(1, 3))
    assert bool((problem.scale >= 0.9 * whole.scale)[fine_hole].all())
    residual = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    off = (ACQUISITION.forward(problem.image(residual)) - data).abs()
    assert float(off[~hole].max()) < 1e-5
    assert float(off[hole].mean()) > 0.05  # nothing is asked there
    measured_spacing = torch.tensor([[1.0, 2.0, 4.0]])
    torch.testing.assert_close(problem.data, holes.fill(data, hole, measured_spacing), atol=1e-3, rtol=0)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("profile", ["gaussian", "box", "kspace"])
def test_scale_of_super_resolution_is_the_size_of_the_bases_error(head, factor, profile):
    acquisition = Acquisition((Axis(56, 56), Axis(56, 56), Axis(48 // factor, 48, profile)))
    clean = torch.from_numpy(head)[None]
    problem = tasks.superresolve(acquisition.forward(clean), acquisition, torch.ones(1, 3))
    assert rms(problem.base - clean) == pytest.approx(rms(problem.scale), rel=0.45)
