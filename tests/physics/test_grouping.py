"""The last stage of the classical base: what it leaves alone, what it takes away, and a plain version of itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import fft
from torch import Tensor

from medidiff.physics import grouping
from medidiff.physics.fidelity import foreground_psnr
from medidiff.physics.grouping import _MEANS, _PILOT_VARIANCE, COUNT, SCALES, refine
from medidiff.physics.scales import pilot as pilot_of
from medidiff.physics.shrinkage import block_shape
from medidiff.physics.texture import Texture, block_variances

REACH = {3: 20, 2: 44}  # two rounds of 2 reach + edge - 1, and the two stages of the pilot of edge - 1


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ball(size: int, radius: float) -> Tensor:
    axis = torch.arange(float(size)) - size / 2 + 0.2
    square = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    return (square < radius**2).float()


def base(noisy: Tensor, dims: int = 3, variances: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return refine(noisy, pilot_of(noisy, dims, variances), dims, variances)


def largest(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


@pytest.mark.parametrize(
    ("shape", "dims"), [((9, 10, 11), 3), ((12, 7, 1), 3), ((5, 1, 1), 3), ((3, 2, 2), 3), ((3, 12, 13), 2)]
)
def test_constant_is_itself(shape, dims):
    image = torch.full(shape, 1234.5)
    estimate, variance = base(image, dims)
    torch.testing.assert_close(estimate, image, atol=0, rtol=1e-6)
    # all blocks are equal, so that there is nothing to learn from them
    torch.testing.assert_close(variance, torch.full(shape, _PILOT_VARIANCE))


def test_single_voxel_is_its_pilot():
    estimate, variance = refine(torch.full((1, 1, 1), 7.0), torch.full((1, 1, 1), 5.0))
    assert float(estimate) == pytest.approx(5, rel=1e-6)
    assert float(variance) == pytest.approx(_PILOT_VARIANCE)
    textured, _ = refine(torch.full((1, 1, 1), 7.0), torch.full((1, 1, 1), 5.0), 3, torch.full((1,), 0.5))
    assert float(textured) == pytest.approx(5, rel=1e-6)


@pytest.mark.parametrize("shape", [(48, 48, 48), (96, 96, 1), (200, 200), (48, 48, 2)])
def test_noise_on_a_constant_falls_to_what_is_promised(shape):
    estimate, variance = base(100 + noise(*shape), len(shape))
    error, promised = float((estimate - 100).square().mean()), float(variance.mean())
    pilot = float((pilot_of(100 + noise(*shape), len(shape)) - 100).square().mean())
    print(f"\n{shape}: error {error:.4f}, promised {promised:.4f}, pilot {pilot:.4f}")
    # what is promised is measured where there is structure; on a constant overlapping estimates are far better
    assert error < promised < 0.08
    assert error < 1.01 * pilot  # flat blocks have nothing to learn from each other


def test_nothing_but_noise_is_wanted_gone():
    """A signal far above the noise everywhere in the spectrum survives, and the expected error says so."""
    strong = 1000 * noise(24, 24, 24, seed=1)
    estimate, variance = base(strong + noise(24, 24, 24, seed=2))
    assert float((estimate - strong).square().mean()) == pytest.approx(1, rel=0.05)
    # 40 blocks span 40 of a block's 64 dimensions: the promise is no surer than that; the mean's half is promised to go
    assert float(variance.min()) > 40 / 64
    assert float((variance * (2 - variance)).mean().sqrt()) == pytest.approx(1, rel=0.06)


@pytest.mark.parametrize("dims", [3, 2])
@pytest.mark.parametrize("kind", [None, Texture(0.0, 0.3)])
def test_very_weak_noise_leaves_sharp_edges(dims, kind):
    """Edges 10,000 times as strong as the noise: 1 is below the rounding errors of what it is added to."""
    clean = 1e4 * ball(24, 8)
    variances, added = None, noise(24, 24, 24, seed=3)
    if kind is not None:
        variances = block_variances(kind, block_shape((24,) * dims))
        axes = tuple(range(3 - dims, 3))
        root = torch.from_numpy(kind.power((24,) * dims)).sqrt()
        added = torch.fft.ifftn(torch.fft.fftn(added, dim=axes) * root, dim=axes).real.float()
    noisy = clean + added
    estimate, variance = base(noisy, dims, variances)
    off = largest(estimate, noisy)
    print(f"\n{off:.2f}")
    assert off < 5.5
    assert float((estimate - clean).square().mean()) < 0.5
    assert bool(torch.isfinite(variance).all())


@pytest.mark.parametrize(("percent", "over_pilot", "gain"), [(3, 0.47, 4.47), (9, 0.87, 7.54), (15, 1.08, 9.43)])
def test_phantom_gains(head, add_noise, percent, over_pilot, gain):
    sigma = percent / 100
    noisy = add_noise("gaussian", head, sigma)
    pilot = pilot_of(torch.from_numpy(noisy) / sigma)
    estimate = refine(torch.from_numpy(noisy) / sigma, pilot)[0]
    before, *found = (
        foreground_psnr(image, head) for image in (noisy, pilot.numpy() * sigma, estimate.numpy() * sigma)
    )
    print(f"\n{percent} %: +{found[1] - before:.2f} dB, of it {found[1] - found[0]:.2f}")
    assert found[1] - before == pytest.approx(gain, abs=0.3)
    assert found[1] - found[0] == pytest.approx(over_pilot, abs=0.3)


def test_batch_is_single_images():
    batch = noise(3, 13, 9, 10) * torch.tensor([1.0, 3, 10]).reshape(3, 1, 1, 1)
    together = base(batch)
    for i in range(3):
        for a, b in zip(together, base(batch[i]), strict=True):
            torch.testing.assert_close(a[i], b, atol=1e-4, rtol=1e-4)


def test_plane_is_the_same_in_two_and_in_three_dimensions():
    image = 3 * noise(21, 18)
    for plane, volume in zip(base(image, 2), base(image[:, :, None], 3), strict=True):
        torch.testing.assert_close(plane, volume[:, :, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dims", [3, 2])
def test_negation_and_added_constant(dims):
    image = 2 * noise(17, 17, 17) + torch.arange(17.0)
    pilot = pilot_of(image, dims)
    estimate, variance = refine(image, pilot, dims)
    for other, back in [
        (refine(-image, -pilot, dims), lambda e: -e),
        (refine(image + 64, pilot + 64, dims), lambda e: e - 64),
    ]:
        torch.testing.assert_close(back(other[0]), estimate, atol=1e-3, rtol=0)
        torch.testing.assert_close(other[1], variance, atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(40, 30, 20), (90, 40)])
def test_same_bits_with_any_number_of_threads(monkeypatch, shape):
    monkeypatch.setattr(grouping, "_TOGETHER", 20)  # layers as thin as may be
    image, before = 3 * noise(*shape), torch.get_num_threads()
    dims, results = len(shape), []
    pilot = pilot_of(image, dims)
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(refine(image, pilot, dims))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for single, several in zip(*results, strict=True):
        assert torch.equal(single, several)


@pytest.mark.parametrize("known", ["pilot of noise", "air without noise", "the truth itself"])
def test_continuous_in_the_pilot(known):
    """Where blocks are equal to the last bit, too, as they are in air that was set to zero."""
    clean = 20 * ball(24, 7)
    noisy = clean + noise(24, 24, 24)
    pilot = pilot_of(noisy)
    if known == "air without noise":
        noisy, pilot = noisy * (clean > 0), pilot * (clean > 0)
    elif known == "the truth itself":
        pilot = clean
    nudged = pilot + 1e-5 * noise(24, 24, 24, seed=9).sign()
    for before, after in zip(refine(noisy, pilot), refine(noisy, nudged), strict=True):
        assert largest(before, after) < 1e-3


@pytest.mark.parametrize(("dims", "size"), [(3, 64), (2, 140)])
def test_window_has_in_its_middle_what_the_image_has(dims, size):
    reach = REACH[dims]
    start = 8
    shape = (size, 24, 21)[:dims]
    image = noise(*shape, seed=5) + noise(*shape, seed=6).cumsum(0)  # strong along the axis that is cut
    middle = slice(start + reach, start + reach + 8)
    window = image[start : middle.stop + reach]
    inside = slice(reach, reach + 8)
    for whole, part in zip(base(image, dims), base(window, dims), strict=True):
        assert largest(whole[middle], part[inside]) < 1e-5
        assert largest(whole[start], part[0]) > 1e-3  # at its border it has not


@pytest.mark.parametrize("textured", [False, True])
@pytest.mark.parametrize(("shape", "dims"), [((7, 9, 10), 3), ((2, 11, 14), 2), ((6, 7, 2), 3)])
def test_same_as_block_by_block(shape, dims, textured):
    block = block_shape(shape[-dims:])
    noisy = 2 * noise(*shape, seed=4) + 2 * torch.arange(float(shape[-1]))
    variances = block_variances(Texture(0.6, 0.9, 0.9, 2 if dims == 3 else None), block) if textured else None
    pilot = pilot_of(noisy, dims, variances)
    estimate, variance = refine(noisy, pilot, dims, variances)
    edges = block if dims == 3 else (1, *block)
    spread = None if variances is None else variances.numpy().astype(np.float64)
    expected = plain_refine(noisy.numpy().astype(np.float64), pilot.numpy().astype(np.float64), edges, spread)
    np.testing.assert_allclose(estimate.numpy(), expected[0], atol=1e-4)
    np.testing.assert_allclose(variance.numpy(), expected[1], atol=1e-4)


Array = NDArray[np.float64]


def plain_refine(noisy: Array, pilot: Array, block: tuple[int, ...], spread: Array | None) -> tuple[Array, Array]:
    """Two rounds, the first over every other reference, from the method's description; groups by the first pilot."""
    room = [0 if edge == 1 else (4 if min(block) == 1 else 2) for edge in block]
    step = [min(edge, 4) for edge in block]
    references = [range(0, max(n - e, 0) + s, s) for n, e, s in zip(noisy.shape, block, step, strict=True)]
    margins = [
        (r, r + steps[-1] + edge - n) for n, edge, r, steps in zip(noisy.shape, block, room, references, strict=True)
    ]
    shifts = list(itertools.product(*(range(-r, r + 1) for r in room)))

    def padded(image: Array) -> Array:
        return np.pad(image, margins, mode="symmetric")

    def at(image: Array, corner: tuple[int, ...]) -> Array:
        return image[tuple(slice(c, c + e) for c, e in zip(corner, block, strict=True))]

    first, scan = padded(pilot), padded(noisy)
    groups, alone = [], np.full_like(first, 0.3)
    for reference in itertools.product(*references):
        corners = [tuple(np.add(np.add(reference, room), shift).tolist()) for shift in shifts]
        own = at(first, corners[len(shifts) // 2])
        far = [
            np.square(at(first, corner) - own).mean() + 1e-4 * np.square(shift).sum()
            for corner, shift in zip(corners, shifts, strict=True)
        ]
        order = np.argsort(far, kind="stable")[: min(COUNT + 1, len(shifts))]
        near, limit = [far[i] for i in order[:-1]], far[order[-1]]
        weights = [1 - (each / limit) ** 2 for each in near]
        share = min(max((own.size * np.average(near, weights=weights) - 0.15) / 2, 0), 1) if spread is None else 1
        at(alone, corners[len(shifts) // 2])[...] += 100 * (1 - share)
        even = sum(a // b for a, b, edge in zip(reference, step, block, strict=True) if edge > 1) % 2 == 0
        if share > 0:
            groups.append((even, [(corners[i], share * w) for i, w in zip(order, weights, strict=False)]))

    size = int(np.prod(block))
    found = first
    for scale in SCALES:
        top, bottom, spreads = alone * found, alone.copy(), (alone - 0.3) * 0.02
        for group in [group for even, group in groups if even or scale != SCALES[0]]:
            weights = np.array([weight for _, weight in group])
            known = np.array([white(at(found, corner), spread) for corner, _ in group])
            seen = np.array([white(at(scan, corner), spread) for corner, _ in group])
            mean = weights @ known / weights.sum()
            covariance = scale * ((known - mean).T * weights) @ (known - mean) / weights.sum()
            gain = np.linalg.solve(covariance + np.eye(size), covariance)
            kept = (gain if spread is None else gain * spread[:, None]).trace() / size
            sure = kept + 1 / weights.sum()
            for (corner, weight), values in zip(group, mean + (seen - mean) @ gain, strict=True):
                at(top, corner)[...] += weight / sure * coloured(values, spread, block)
                at(bottom, corner)[...] += weight / sure
                at(spreads, corner)[...] += weight / sure * (kept + _MEANS / weights.sum())
        inside = tuple(slice(r, r + n) for r, n in zip(room, noisy.shape, strict=True))
        estimate, variance = (top / bottom)[inside], (spreads / (bottom - 0.3).clip(1e-12))[inside]
        found = padded(estimate)
    return estimate, variance


def white(block: Array, spread: Array | None) -> Array:
    return block.reshape(-1) if spread is None else fft.dctn(block, norm="ortho").reshape(-1) / np.sqrt(spread)


def coloured(values: Array, spread: Array | None, block: tuple[int, ...]) -> Array:
    if spread is None:
        return values.reshape(block)
    return np.asarray(fft.idctn((values * np.sqrt(spread)).reshape(block), norm="ortho"))
