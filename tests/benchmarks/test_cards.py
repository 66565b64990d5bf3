from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import card_figures, cards, superres
from benchmarks.cases import ROOT
from medidiff.evaluation.statistics import interval
from medidiff.training import card

# (volume, subject, what the spline reaches, what medidiff gains over it)
VOLUMES = [("a1", "a", 30.0, 1.0), ("a2", "a", 31.0, 2.0), ("b", "b", 28.0, -0.5), ("c", "c", 29.0, 0.75)]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The files of the shipped mr that a card is made of, under its name."""
    folder = tmp_path / "pipelines/mr"
    for part in (card.METADATA, card.LOG):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).write_bytes((ROOT / "pipelines/mr" / part).read_bytes())
    return folder


def results(folder: Path, bundle: Path, **other: str) -> Path:
    """What a run of the super-resolution benchmark with a bundle leaves behind."""
    metadata = json.loads((bundle / card.METADATA).read_text())
    where = {
        "pipeline": "mr",
        "version": metadata["version"],
        "weights_sha256": metadata["medidiff"]["weights"]["sha256"],
        "device": "cpu",
        "packages": {"medidiff": "0.1.0"},
        **other,
    }
    rows = [
        {
            "volume": volume,
            "subject": subject,
            "setting": "4x",
            "methods": {
                superres.SPLINE: {"psnr": spline, "ssim": 0.8},
                superres.MEDIDIFF: {"psnr": spline + gain, "ssim": 0.9, "data_residual": 2e-7},
            },
        }
        for volume, subject, spline, gain in VOLUMES
    ]
    verdicts = [{"goal": "at least +9 dB", "found": "+1 dB", "met": False}, {"goal": "x", "found": "y", "met": True}]
    folder.mkdir(exist_ok=True)
    result = {"environment": where, "data": "four volumes", "rows": rows, "verdicts": verdicts}
    (folder / "superres.json").write_text(json.dumps(result))
    return folder


def test_shipped_cards_are_what_the_results_say() -> None:
    assert cards.main(["--check"]) == 0


def test_figures_are_means_over_subjects_with_their_interval(bundle: Path, tmp_path: Path) -> None:
    text = cards.write(bundle, results(tmp_path / "results", bundle))
    # the two volumes of one subject count as one
    own, gain = (interval(np.array(values)) for values in ([32.0, 27.5, 29.75], [1.5, -0.5, 0.75]))
    cells = f"29.75 ({own[0]:.2f} to {own[1]:.2f}) | +0.58 ({gain[0]:+.2f} to {gain[1]:+.2f})"
    assert f"| 4x | 4 of 3 | {cells} |" in text
    assert "Better than medidiff: 4x, cubic spline on 1 of 4 (by 0.50 dB at most)." in text
    assert "reproduced to 2e-07 of its range" in text


def test_goals_that_were_missed_are_known_failures(bundle: Path, tmp_path: Path) -> None:
    text = cards.write(bundle, results(tmp_path / "results", bundle))
    _, _, failures = text.partition("## Known failures")
    assert "- at least +9 dB. Found: +1 dB (`superres`)." in failures
    assert "- x." not in failures


@pytest.mark.parametrize("other", [{"version": "0.0.9"}, {"weights_sha256": "f" * 64}])
def test_figures_of_other_weights_stand_apart(bundle: Path, tmp_path: Path, other: dict[str, str]) -> None:
    text = cards.write(bundle, results(tmp_path / "results", bundle, **other))
    own, found, rest = text.partition("## Measured with other weights than mr")
    assert found
    assert "cubic spline" not in own
    assert "cubic spline" in rest
    assert f"Pipeline mr {other.get('version', '')}" in rest
    assert "+9 dB" not in text


def test_figures_of_another_pipeline_are_left_out(bundle: Path, tmp_path: Path) -> None:
    text = cards.write(bundle, results(tmp_path / "results", bundle, pipeline="ct"))
    assert "cubic spline" not in text
    assert "Nothing but the figures of training" in text


def test_check_notices_a_card_that_was_edited(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    where = [f"--pipelines={bundle.parent}", f"--results={results(tmp_path / 'results', bundle)}"]
    assert cards.main(["mr", "--check", *where]) == 1
    assert not (bundle / card.CARD).exists()
    assert cards.main(["mr", *where]) == 0
    assert cards.main(["--check", *where]) == 0
    (bundle / card.CARD).write_text((bundle / card.CARD).read_text().replace("+0.58", "+0.90"))
    capsys.readouterr()
    assert cards.main(["--check", *where]) == 1
    assert "card of mr" in capsys.readouterr().out


def test_unknown_pipelines_are_told(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        cards.main(["nothing"])
    assert "there is no pipeline nothing; there are ct, image2d, mr" in capsys.readouterr().err


def test_shares_have_the_interval_of_wilson() -> None:
    assert card_figures.share(0, 20) == "0 of 20: 0.0 % (0.0 to 16.1)"
    assert card_figures.share(44, 50) == "44 of 50: 88.0 % (76.2 to 94.4)"


def test_two_subjects_have_no_interval() -> None:
    assert card_figures.spread(np.array([1.0, 2.0])) == "+1.50 (– to –)"
    assert card_figures.spread(np.array([])) == "–"
