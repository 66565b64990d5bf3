from __future__ import annotations

import re
from pathlib import Path

from medidiff.evaluation import catalogue
from medidiff.evaluation.report import study

PAGE = Path(__file__).parents[2] / "docs/explanation/metrics.md"


def test_every_metric_is_on_the_page_of_metrics() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))
    assert {*catalogue.METRICS, *study.METRICS} - named == set()


def test_metrics_say_how_they_are_read() -> None:
    for name, metric in catalogue.METRICS.items():
        assert metric.meaning.endswith("."), name
        assert metric.better in ("higher", "lower", "zero", "one", ""), name
    assert catalogue.METRICS["hfen"].better == "lower"
    assert set(catalogue.JUDGED) <= set(catalogue.METRICS)


def test_the_order_is_the_catalogues() -> None:
    assert list(catalogue.used(["seconds", "ssim", "psnr", "psnr"])) == ["psnr", "ssim", "seconds"]
