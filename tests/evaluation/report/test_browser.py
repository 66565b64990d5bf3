"""The page in a browser: sliders, outlines and ratings work by hand, nothing is complained of, paper shows all."""

from __future__ import annotations

import base64
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medidiff.evaluation import report
from medidiff.evaluation.results import Evaluation

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
)
PIXELS = """
const canvas = document.querySelector(`#${arguments[0]} [data-plane="${arguments[1]}"]`)
  .querySelector(`figure[data-panel="${arguments[2]}"] canvas:not(.over)`);
const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
copy.drawImage(canvas, 0, 0);
return [...copy.getImageData(0, 0, canvas.width, canvas.height).data]
  .filter((value, index) => index % 4 === 0).join();
"""

pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def file(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.write(evaluation, path)
    return path


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield started
    started.quit()


@pytest.fixture
def browser(session: Any, file: Path) -> Iterator[Any]:
    """The page, fresh; afterwards the console must be empty."""
    session.get(file.as_uri())
    session.execute_script("localStorage.clear()")
    session.refresh()
    until(lambda: session.execute_script("return document.querySelectorAll('.view.drawn').length") == 2 * (3 * 7 + 2))
    yield session
    assert session.get_log("browser") == []


def until(condition: Callable[[], object]) -> None:
    for _ in range(100):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("the page did not get there in 5 seconds")


def pixels(browser: Any, panel: str, plane: int = 0, case: str = "case-1") -> str:
    return str(browser.execute_script(PIXELS, case, plane, panel))


def press(browser: Any, selector: str, keys: str) -> None:
    browser.find_element("css selector", selector).send_keys(keys)


GREY = ("before", "restored", "reference")


@pytest.mark.parametrize(
    ("control", "changed"),
    [("level", GREY), ("window", GREY), ("signed", ("residual", "difference")), ("heat", ("uncertainty",))],
)
def test_a_slider_changes_all_pictures_of_its_kind(browser: Any, control: str, changed: tuple[str, ...]) -> None:
    panels = (*GREY, "residual", "difference", "uncertainty", "supplied")
    before = {(panel, plane): pixels(browser, panel, plane) for panel in panels for plane in range(3)}
    other = pixels(browser, "before", case="case-2")
    press(browser, f"#case-1 [data-control={control}]", "\ue012" * 12)  # the left arrow
    until(lambda: pixels(browser, changed[0], 2) != before[changed[0], 2])
    for (panel, plane), old in before.items():
        assert (pixels(browser, panel, plane) != old) == (panel in changed), (panel, plane)
    assert pixels(browser, "before", case="case-2") == other
    browser.find_element("css selector", "#case-1 [data-control=reset]").click()
    until(lambda: all(pixels(browser, *key) == old for key, old in before.items()))


def test_window_and_level_mean_what_they_say(browser: Any) -> None:
    """In the pictures of a case grey 0 is level - window / 2, and white level + window / 2."""
    info = json.loads(browser.execute_script("return document.getElementById('data').textContent"))["cases"][0]
    low, high = (browser.find_element("css selector", f"#case-1 .bar .{end}").text for end in ("low", "high"))
    assert float(low) == pytest.approx(info["level"] - info["window"] / 2, abs=0.5)
    assert float(high) == pytest.approx(info["level"] + info["window"] / 2, rel=0.01)
    shown = [int(value) for value in pixels(browser, "reference").split(",")]
    truth = {0: 0, 100: 100, 200: 200, 300: 300}
    wanted = {round(255 * min(max((value - float(low)) / info["window"], 0), 1)) for value in truth}
    common = sorted(set(shown), key=shown.count)[-4:]
    for value in common:
        assert min(abs(value - each) for each in wanted) <= 4


def test_a_window_from_zero_begins_at_zero(session: Any, make_case: Callable[..., Any], tmp_path: Path) -> None:
    found = Evaluation("run", "x", ("medidiff",), (make_case("one", 1),), {}, ())
    path = tmp_path / "report.html"
    text = re.sub(r'"level":[\d.]+,"window":[\d.]+', '"level":150.1,"window":300.20000000000005', report.render(found))
    path.write_text(text, encoding="utf-8")
    session.get(path.as_uri())
    until(lambda: session.find_element("css selector", ".bar .high").text)
    assert [session.find_element("css selector", f".bar .{end}").text for end in ("low", "high")] == ["0", "300"]


def test_the_slice_slider_moves_one_plane(browser: Any) -> None:
    before = [pixels(browser, "restored", plane) for plane in range(3)]
    where = browser.find_element("css selector", "#case-1 [data-plane='1'] .where")
    text = where.text
    press(browser, "#case-1 [data-plane='1'] [data-control=slice]", "\ue014")  # the right arrow
    until(lambda: where.text != text)
    until(lambda: pixels(browser, "restored", 1) != before[1])
    assert re.fullmatch(r"\d+ of 36 \(\d+\.\d mm\)", where.text)
    assert [pixels(browser, "restored", plane) for plane in (0, 2)] == [before[0], before[2]]


def test_a_folded_case_is_drawn_when_it_is_opened(browser: Any) -> None:
    browser.find_element("id", "fold").click()
    assert browser.execute_script("return document.querySelectorAll('details.case[open]').length") == 0
    browser.find_element("css selector", ".glance a[href='#case-2']").click()
    until(lambda: browser.execute_script("return document.getElementById('case-2').open"))


def rate(browser: Any, place: str, case: int, value: str) -> None:
    browser.find_element("css selector", f"[name=rate-{place}-{case}][value={value}]").click()


def checked(browser: Any) -> list[str]:
    return list(
        browser.execute_script("return [...document.querySelectorAll('.rating :checked')].map((e) => e.name + e.value)")
    )


def listed(browser: Any) -> list[str]:
    text = browser.execute_script("return document.getElementById('list').value")
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_ratings_are_shared_kept_and_cleared(browser: Any) -> None:
    rate(browser, "table", 1, "reject")  # `good`, which has a pattern of its own
    rate(browser, "case", 0, "reject")
    assert checked(browser) == ["rate-table-0reject", "rate-table-1reject", "rate-case-0reject", "rate-case-1reject"]
    assert listed(browser) == ["bad", "bad.nii", "bad.nii.gz", "sub-01/good.nii.gz"]
    press(browser, "#case-1 .remark input", "folds")
    assert "# bad: folds" in browser.execute_script("return document.getElementById('list').value")
    rate(browser, "table", 0, "keep")
    assert listed(browser) == ["sub-01/good.nii.gz"]
    browser.refresh()
    assert checked(browser) == ["rate-table-0keep", "rate-table-1reject", "rate-case-0keep", "rate-case-1reject"]
    assert browser.execute_script("return document.querySelector('#case-1 .remark input').value") == "folds"
    browser.find_element("css selector", ".glance [data-rate='1'] .clear").click()
    assert listed(browser) == []


def test_lists_are_saved_as_files(browser: Any, tmp_path: Path) -> None:
    behaviour = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    rate(browser, "case", 1, "reject")
    browser.find_element("id", "save-list").click()
    until((tmp_path / "exclude.txt").exists)
    lines = (tmp_path / "exclude.txt").read_text().splitlines()
    assert lines == ["# rejected in: Denoise & <script>alert(1)</script>", "sub-01/good.nii.gz"]
    browser.find_element("id", "save-ratings").click()
    until((tmp_path / "ratings.json").exists)
    rated = json.loads((tmp_path / "ratings.json").read_text())["cases"]
    assert [(each["name"], each["rating"]) for each in rated] == [("bad", ""), ("good", "reject"), ("lost", "")]
    browser.find_element("link text", "figures.csv").click()
    until((tmp_path / "figures.csv").exists)
    assert (tmp_path / "figures.csv").read_text().startswith("case,method,metric,region,value\n")


def test_nothing_sticks_out_of_a_narrow_window(browser: Any) -> None:
    metrics = {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") == 420
        width = browser.execute_script("return document.querySelector('#case-1 figure .view').offsetWidth")
        assert 120 < width < 210  # two beside each other
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_paper_shows_all_cases_and_no_sliders(browser: Any) -> None:
    browser.find_element("id", "fold").click()
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 100_000  # the pictures of folded cases are in it
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        hidden = browser.execute_script(
            "return [...document.querySelectorAll('input, button, textarea')].every((e) => e.offsetParent === null)"
        )
        assert hidden
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
