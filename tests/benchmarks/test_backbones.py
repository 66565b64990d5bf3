from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from benchmarks import backbone_data, backbone_document, backbones
from benchmarks.backbone_networks import Autoencoder, DiT, LatentNet, positions
from medidiff.physics.tasks import STATE_CHANNELS, VIEWS, parameter_names
from medidiff.training import objective
from medidiff.training.pack import Entry, Pack

SPOKEN = {"in_channels": STATE_CHANNELS + len(VIEWS), "parameters": len(parameter_names(2))}


@pytest.fixture(scope="module")
def data() -> Pack:
    """Smooth tissue that fills four volumes, two of which judge, and slabs that are too thin."""
    entries, arrays = [], []
    for seed, (split, shape) in enumerate(
        [("train", (72, 70, 68)), ("train", (70, 70, 12)), ("validation", (70, 66, 40)), ("validation", (64, 64, 33))]
    ):
        field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 3)
        arrays.append(np.clip(140 + 35 * field / field.std(), 20, 255).astype(np.uint8))
        entries.append(Entry(f"v{seed}", f"s{seed}", split, "MR", (1.0, 1.0, 1.0), 1.2, 0.01, {}))
    return Pack(tuple(entries), tuple(arrays))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_transformer_puts_every_token_where_it_came_from(dims: int) -> None:
    network = DiT(dims, 3, 4, width=12, depth=1, heads=2, patch=2)
    image = torch.arange(2 * 2 * 6 * 4 * (8 if dims == 3 else 1)).reshape(2, 2, 6, 4, *(8,) * (dims - 2)).float()
    windows = image
    for axis in range(dims):
        windows = windows.unfold(2 + axis, 2, 2)  # the grid, then the inside of a patch
    tokens = windows.movedim(1, 1 + dims).flatten(1, dims).flatten(2)
    assert torch.equal(network._unpatchify(tokens, tuple(n // 2 for n in image.shape[2:])), image)


def test_places_of_tokens_differ() -> None:
    found = positions((8, 6), 16)
    distances = torch.cdist(found, found) + 10 * torch.eye(48)
    assert float(distances.min()) > 0.1


def test_untrained_networks_add_nothing_to_the_base(data: Pack) -> None:
    example = backbone_data.Patches(data, 2, 0).draw()
    base = example.problem.image(torch.zeros_like(example.problem.base))
    assert torch.equal(objective.predict_mean(DiT(2, **SPOKEN), example.problem), base)
    space = Autoencoder(2, 4, 4)
    network = LatentNet(2, len(VIEWS), len(parameter_names(2)), 4, 4)
    with torch.no_grad():
        assert torch.equal(backbones.restored(space, network, example.problem), space(example.problem.base))


def test_an_autoencoder_keeps_so_many_numbers() -> None:
    for dims, spaces in backbones.SPACES.items():
        for factor, latents in spaces:
            space = Autoencoder(dims, factor, latents)
            image = torch.rand(1, *(16,) * dims)
            assert space.encode(image).shape == (1, latents, *(16 // factor,) * dims)
            assert space(image).shape == image.shape


def test_judged_are_patches_of_volumes_that_judge(data: Pack) -> None:
    first, second = backbone_data.held_out(data, 2, 0)
    assert (first.subject, second.subject) == ("s2", "s3")
    assert first.clean.shape == (4, 64, 64)
    middle = data.normalised(2)[3:67, 1:65, 7:32:8]  # slices 7, 15, 23, 31 of 40
    assert np.array_equal(first.clean, middle.transpose(2, 0, 1))
    posed = first.problems["superres"]
    assert posed.acquisition is not None
    assert posed.data is not None
    assert posed.data.shape == (4, 64, 16)
    assert torch.allclose(posed.acquisition.forward(torch.from_numpy(first.clean)), posed.data, atol=1e-6)
    noise = first.problems["denoise"].measured.numpy() - first.clean
    assert noise.std() == pytest.approx(backbone_data.SIGMA, rel=0.03)


def test_the_script_compares_all_and_says_so(
    data: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backbone_data, "BATCH", {2: 2})
    data.save(tmp_path / "p.npz")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench:backbones_2d -->\n<!-- /bench -->\nafter\n")
    monkeypatch.setattr(backbones, "PAGE", page)
    command = [str(tmp_path / "p.npz"), "--dims", "2", "--minutes", "0.002", "--docs"]
    backbones.main([*command, "--results", str(tmp_path)])
    found = json.loads((tmp_path / "backbones_2d.json").read_text())
    unet, transformer, coarse, fine = found["rows"]
    assert all(row["iterations"] >= 1 and row["seconds"] >= 0.1 for row in found["rows"])
    assert all(0.8e6 < row["parameters"] < 1.2e6 for row in (unet, transformer, coarse))
    assert unet["kflop_a_voxel"] < transformer["kflop_a_voxel"]
    for row in (unet, transformer):  # what was measured is kept by the product's way, missed by a latent space
        assert backbone_document.of(row, "superres", "data_residual").max() < 1e-5
    for row in (coarse, fine):
        assert backbone_document.of(row, "superres", "data_residual").max() > 1e-2
        projected, raw = (backbone_document.of(row, "superres", key) for key in ("psnr", "unprojected"))
        assert (projected > raw).all()
        assert len(row["autoencoder"]["psnr"]) == 2
        assert row["autoencoder"]["largest_change"] > 0.1
    told = backbone_document.document(found)
    assert "2 volumes of 2 subjects" in told
    assert told in capsys.readouterr().out
    assert told in page.read_text()


def test_networks_take_turns(data: Pack) -> None:
    class Slow(backbones.Learner):
        def step(self, example: object, budget: float) -> None:
            self.seconds += 3 if self.name == "slow" else 1
            self.iterations += 1

    weights = torch.nn.Linear(1, 1)
    slow, fast = (Slow(name, weights, lambda _: torch.zeros(())) for name in ("slow", "fast"))
    backbones.train([slow, fast], backbone_data.Patches(data, 2, 0), 9)
    assert (slow.iterations, fast.iterations) == (3, 9)


def test_a_pack_without_volumes_to_judge_on_is_told(data: Pack, tmp_path: Path) -> None:
    Pack(data.entries[:2], data.arrays[:2]).save(tmp_path / "p.npz")
    with pytest.raises(SystemExit, match="no validation volume"):
        backbones.main([str(tmp_path / "p.npz"), "--dims", "2", "--results", str(tmp_path)])
