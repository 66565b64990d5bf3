"""The figures that judge a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medidiff.physics.fidelity import foreground_psnr
from medidiff.physics.rician import rician_mean
from medidiff.physics.tasks import parameter_names
from medidiff.training import validation
from medidiff.training.pack import Pack


def test_psnr_is_over_the_foreground_with_the_references_peak():
    reference = np.zeros((10, 10, 10), dtype=np.float32)
    reference[:5] = 2.0
    restored = reference + np.float32(0.02)
    restored[5:] += 100  # air does not count
    assert foreground_psnr(restored, reference) == pytest.approx(40, abs=1e-3)


def test_noise_is_rician_and_the_same_on_every_machine():
    clean = np.full((64, 64, 64), 0.3, dtype=np.float32)
    noisy = validation.noisy_version(clean, 15)
    assert noisy.mean() == pytest.approx(0.15 * float(rician_mean(np.array([2.0]))[0]), rel=2e-3)
    np.testing.assert_array_equal(noisy, validation.noisy_version(clean, 15))
    assert not np.array_equal(noisy, validation.noisy_version(clean, 15, seed=1))
    first = validation.noisy_version(clean, 3)[0, 0, :4]
    np.testing.assert_allclose(first, [0.270047, 0.314572, 0.284611, 0.296711], rtol=1e-5)


def restored_half(pack, index: int):
    """A predictor that halves the error of the base, told by what it measured which task it is."""
    truth = torch.from_numpy(pack.normalised(index))[None]

    def predict(problem):
        base = problem.image(torch.zeros_like(problem.base))
        return base + 0.5 * (truth[tuple(slice(0, n) for n in base.shape)] - base)

    return predict


def test_table_of_methods(pack):
    table = validation.evaluate(pack, restored_half(pack, 3), torch.device("cpu"))
    assert list(table) == ["denoise_3", "denoise_9", "denoise_15", "inpaint"]  # slices of 3 mm are refined by nobody
    clean = pack.normalised(3)
    for name, row in table.items():
        assert row["network"] == pytest.approx(row["base"] + 20 * np.log10(2), abs=2e-3)
        if name != "inpaint":
            noisy = validation.noisy_version(clean, int(name.removeprefix("denoise_")))
            assert row["noisy"] == pytest.approx(foreground_psnr(noisy, clean), abs=1e-3)
            assert row["base"] > row["noisy"] + 2
    assert table["denoise_9"]["nlm"] == 25.0
    assert "nlm" not in table["denoise_3"]


def cases(pack, **changes) -> list[validation.Case]:
    judge = replace(pack.entries[3], **changes)
    return list(validation.cases(Pack((judge,), (pack.arrays[3],)), torch.device("cpu"), ("MR",), 3))


def test_isotropic_volumes_are_refined_too(pack):
    found = {case.name: case for case in cases(pack, spacing=(1.0, 1.0, 1.0))}
    assert list(found) == [
        "denoise_3",
        "denoise_9",
        "denoise_15",
        "superres_4",
        "superres_6",
        "superres_2x2x2",
        "inpaint",
    ]
    assert [axis.coarse for axis in found["superres_4"].problem.acquisition.axes] == [24, 22, 4]
    assert [axis.coarse for axis in found["superres_6"].problem.acquisition.axes] == [24, 22, 3]
    assert [axis.coarse for axis in found["superres_2x2x2"].problem.acquisition.axes] == [12, 11, 9]
    for case in found.values():
        if case.name.startswith("superres"):
            clean = torch.from_numpy(case.clean)[None]
            torch.testing.assert_close(case.problem.data, case.problem.acquisition.forward(clean))
            np.testing.assert_array_equal(case.inside, validation.foreground(case.clean))


def test_hole_is_judged_inside(pack):
    (case,) = (case for case in cases(pack) if case.name == "inpaint")
    np.testing.assert_array_equal(case.problem.support[0], case.inside)
    np.testing.assert_array_equal(case.problem.base[0][~case.inside], case.clean[~case.inside])
    assert 0 < case.inside.mean() < 0.6
    again = next(case for case in cases(pack) if case.name == "inpaint")
    np.testing.assert_array_equal(again.inside, case.inside)  # the same hole in every evaluation


def test_slices_of_one_voxel_are_no_obstacle(pack):
    judge = replace(pack.entries[3], spacing=(1.0, 1.0, 1.0))
    flat = Pack((judge,), (np.ascontiguousarray(pack.arrays[3][:, :, 8:9]),))
    found = {case.name: case for case in validation.cases(flat, torch.device("cpu"), ("MR",), 3)}
    assert [axis.fine for axis in found["superres_2x2x2"].problem.acquisition.axes] == [24, 22, 1]
    assert [axis.coarse for axis in found["superres_2x2x2"].problem.acquisition.axes] == [12, 11, 1]


def test_planes_of_a_volume(pack):
    judge = replace(pack.entries[3], spacing=(1.0, 1.0, 3.0))
    found = list(validation.cases(Pack((judge,), (pack.arrays[3],)), torch.device("cpu"), ("MR",), 2))
    assert len(found) == 3 * 7  # slices of equal voxels are refined whatever their distance
    np.testing.assert_array_equal(found[0].clean, pack.normalised(3)[:, :, 4])
    assert found[0].problem.parameters.shape == (1, len(parameter_names(2)) - 1)
