from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cases, lesions
from benchmarks.lesions import Lesion, Outcome
from medidiff.physics.operators import Acquisition, Axis

LESION = Lesion((16, 16, 16), 4, 0.2, 0.1)


def noise(sigma: float, seed: int = 0, edge: int = 33) -> np.ndarray:
    return sigma * np.random.default_rng(seed).standard_normal((edge,) * 3).astype(np.float32)


def test_d_prime_of_one_voxel_by_hand() -> None:
    one = np.zeros((8, 4, 4), np.float32)
    one[3, 2, 2] = 0.2
    assert lesions.d_prime(one, 0.05) == pytest.approx(4)
    # a pair of voxels is averaged: half of the height in 1 / sqrt(2) of the noise
    pairs = Acquisition((Axis(4, 8, "box"), Axis(4, 4), Axis(4, 4)))
    assert lesions.d_prime(one, 0.05, pairs) == pytest.approx(4 / np.sqrt(2))
    one[2, 2, 2] = 0.2  # both of the pair: nothing is lost
    assert lesions.d_prime(one, 0.05, pairs) == pytest.approx(4 * np.sqrt(2))


def test_d_prime_is_what_the_matched_filter_reaches() -> None:
    template = lesions.profile(LESION, (33, 33, 33))
    scores = [float((template * noise(0.1, seed)).sum()) for seed in range(400)]
    reached = float((template * template).sum()) / np.std(scores)
    assert reached == pytest.approx(lesions.d_prime(template, 0.1), rel=0.1)


@pytest.mark.parametrize("diameter", lesions.DIAMETERS)
def test_spheres_have_their_volume_and_filters_measure_their_height(diameter: int) -> None:
    ball = lesions.sphere(diameter)
    assert ball.sum() == pytest.approx(np.pi / 6 * diameter**3, rel=0.03)
    measured = float((lesions.contrast_filter(diameter) * (0.3 * ball + 0.8)).sum())
    assert measured == pytest.approx(0.3, rel=1e-4)


def test_lesions_lie_apart_in_calm_tissue(body: Path) -> None:
    case = cases.load(body, 48, "MR")
    found = lesions.placed(case, 0)
    assert len(found) >= 3
    assert found == lesions.placed(case, 0)
    centres = np.array([lesion.centre for lesion in found])
    apart = np.abs(centres[:, None] - centres[None]).max(axis=2)[~np.eye(len(found), dtype=bool)]
    assert apart.min() > 2 * lesions.REACH
    for lesion in found:
        assert lesion.size == pytest.approx(lesion.contrast * 0.8, rel=0.5)
        assert case.clean[lesion.box].min() >= 0


def outcome(clean: np.ndarray, before: np.ndarray, after: np.ndarray) -> Outcome:
    return Outcome(clean + before, clean + after, clean + after)


def test_contrast_and_noise_of_a_lesion_by_hand() -> None:
    clean = np.full((33, 33, 33), 0.7, np.float32)
    added = lesions.profile(LESION, clean.shape)
    errors = noise(0.04)
    pair = outcome(clean, errors, errors / 4), outcome(clean, errors + added, errors / 4 + 0.6 * added)
    found = lesions.survival(LESION, clean, *pair, 0.04, None)
    assert found["contrast_kept"][lesions.BEFORE] == pytest.approx(1, rel=1e-4)
    assert found["contrast_kept"][lesions.MEAN] == pytest.approx(0.6, rel=1e-4)
    assert found["cnr_ratio"][lesions.MEAN] == pytest.approx(0.6 * 4, rel=1e-4)
    assert found["d_prime"] == pytest.approx(lesions.d_prime(added, 0.04))


def test_a_sphere_that_is_not_in_the_truth_is_one_false_lesion_and_noise_is_none() -> None:
    clean = np.full((33, 33, 33), 0.7, np.float32)
    added = lesions.profile(LESION, clean.shape)
    planted = clean + added
    nothing = lesions.appeared(clean + noise(0.01), planted, clean, [LESION], 0.01, None)
    assert nothing["blobs"] == 0
    assert (nothing["planted"], nothing["found"]) == (1, 1)
    made_up = lesions.appeared(planted + noise(0.01), planted, clean, [LESION], 0.01, None)
    assert made_up["blobs"] == 1
    lost = lesions.appeared(clean, clean, planted, [LESION], 0.01, None)  # gone, which is not made up
    assert (lost["blobs"], lost["any_shape"], lost["found"]) == (0, 0, 0)


def test_the_faintest_detectable_sphere_fades_with_noise_and_thick_slices() -> None:
    fine = lesions.smallest(4, 0.02, None)
    assert fine == pytest.approx(3 * 0.02 / np.sqrt(np.square(lesions.sphere(4)).sum()), rel=1e-5)
    thick = Acquisition((Axis(40, 40), Axis(40, 40), Axis(10, 40)))
    assert lesions.smallest(4, 0.02, thick) > 1.2 * fine


def test_goals_name_lesions_that_were_lost_and_made_up() -> None:
    name = lesions.SETTINGS[0].name
    rows = [
        {"setting": name, "d_prime": 5.0, "cnr_ratio": {lesions.MEAN: 1.2, lesions.SAMPLE: 0.8}},
        {"setting": name, "d_prime": 2.0, "cnr_ratio": {lesions.MEAN: 0.1, lesions.SAMPLE: 0.1}},
    ]
    blobs = [
        {"setting": name, "image": kind, "blobs": int(kind == lesions.SAMPLE)}
        for kind in (lesions.BEFORE, lesions.MEAN, lesions.SAMPLE)
    ]
    assert [verdict.met for verdict in lesions.verdicts(rows, blobs)] == [True, False, True, False]


def test_a_run_follows_lesions_through_its_settings(
    silent_bundle: Path, body: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lesions, "SETTINGS", (lesions.SETTINGS[0], lesions.SETTINGS[3]))
    arguments = [
        "--pipeline",
        str(silent_bundle),
        "--files",
        str(body),
        "--crop",
        "48",
        "--steps",
        "2",
        "--threads",
        "1",
    ]
    lesions.main([*arguments, "--results", str(tmp_path)])
    result = json.loads((tmp_path / "lesions.json").read_text())
    assert {found["setting"] for found in result["lesions"]} == {setting.name for setting in lesions.SETTINGS}
    for found in result["lesions"]:
        if found["setting"] == "noise of 3 %":
            assert found["contrast_kept"][lesions.BEFORE] == pytest.approx(1, abs=0.1)
        assert found["contrast_kept"][lesions.MEAN] < 1.3
    assert len(result["false_lesions"]) == 3 * len(lesions.SETTINGS)
    assert "planted lesions that the search finds" in (tmp_path / "lesions.md").read_text()
