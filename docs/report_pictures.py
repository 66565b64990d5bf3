"""Draws the pictures of `how-to/read-the-report.md`: a report of the sample scans, photographed in Chromium.

    python docs/report_pictures.py [FOLDER]

Needs chromium and chromedriver on the path, and the extra `test`.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver

from medidiff.cli import main

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
WIDTH = 1180
SCANS = ("phantom_t1w.nii.gz", "icbm152_2mm_noisy.nii.gz", "dicom_mr")
PICTURES = {"summary": "#summary", "measures": "#measures", "case": "#case-1", "methods": "#methods"}


def draw(page: Path) -> None:
    """Photograph the sections of a report."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")
    for flag in (*flags, f"--window-size={WIDTH},1000", f"--user-data-dir={tempfile.mkdtemp()}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(page.as_uri())
        browser.implicitly_wait(5)
        browser.find_element("css selector", ".view.drawn")
        height = browser.execute_script("return document.documentElement.scrollHeight")
        browser.set_window_size(WIDTH, height)
        for name, selector in PICTURES.items():
            target = IMAGES / f"report_{name}.png"
            shot = Image.open(io.BytesIO(browser.find_element("css selector", selector).screenshot_as_png))
            shot.convert("RGB").quantize(128).save(target, optimize=True)
            print(target)
    finally:
        browser.quit()


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    inputs = [str(ROOT / "sample_data" / name) for name in SCANS]
    sys.argv = ["medidiff", "denoise", *inputs, "-o", str(folder), "--uncertainty", "--report"]
    code = main(sys.argv[1:])
    if code == 0:
        draw((folder / "report.html").resolve())
    sys.exit(code)
