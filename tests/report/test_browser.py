"""The pages in headless Chromium: no script error, no empty plot, no blank view, no request."""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinetograph.analysis import energy_errors
from kinetograph.evaluation import disagreement
from kinetograph.report import read_run, write_evaluation_page, write_report

pytestmark = [pytest.mark.browser]
pytest.importorskip("selenium")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --enable-unsafe-swiftshader"
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.add_argument("--window-size=1000,700")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


def opened(browser: webdriver.Chrome, page: Path) -> None:
    """Open a page from disk and wait until its scripts have run."""
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page.as_uri())
    ready = "return !!window.kinetograph && [...document.querySelectorAll('.plot')].every(p => p._fullLayout)"
    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(ready))


def complaints(browser: webdriver.Chrome) -> list[str]:
    """Console messages, but for the graphics driver's word on reading pixels in software."""
    return [
        entry["message"]
        for entry in browser.get_log("browser")
        if "GL Driver Message" not in entry["message"]
    ]


def requests(browser: webdriver.Chrome) -> list[str]:
    """What the page asked for beside itself; chrome:// and chrome-untrusted:// are of its own first tab."""
    urls = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            urls.append(message["params"].get("request", message["params"])["url"])
    own = ("data:", "blob:", "chrome://", "chrome-untrusted://", browser.current_url.split("#")[0])
    return [url for url in urls if not url.startswith(own)]


def drawn_points(browser: webdriver.Chrome) -> list[dict[str, float]]:
    """For each plot: the least number of finite points of a trace, and how many marks are drawn."""
    return browser.execute_script(
        """return [...document.querySelectorAll('.plot')].map(plot => ({
             traces: plot.data.length,
             points: Math.min(...plot.data.map(t => Array.from(t.y).filter(Number.isFinite).length)),
             marks: plot.querySelectorAll('.scatterlayer path').length,
             width: plot.getBoundingClientRect().width, inside: plot.querySelector('svg').clientWidth }))"""
    )


def colors_of_view(browser: webdriver.Chrome, index: int = 0) -> int:
    """How many different colours the picture of a 3D view has."""
    from PIL import Image

    uri = browser.execute_script(f"return window.kinetograph.views[{index}].viewer.pngURI()")
    picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))).convert("RGBA")
    return len(np.unique(np.asarray(picture).view(np.uint32)))  # one number a pixel: far faster to sort


def assert_sound(browser: webdriver.Chrome, n_plots: int) -> None:
    assert complaints(browser) == []
    assert requests(browser) == []
    plots = drawn_points(browser)
    assert len(plots) == n_plots
    for plot in plots:
        assert plot["traces"] >= 1
        assert plot["points"] >= 2
        assert plot["marks"] >= 1
        assert plot["inside"] <= plot["width"] + 1


def test_a_whole_run_is_drawn_and_its_trajectory_plays(
    browser: webdriver.Chrome, run_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    opened(browser, write_report(tmp_path / "report.html", [read_run(run_folders[0])]))
    # parity, cosines, g(r), temperature, cold start, force sizes, loss, validation error
    assert_sound(browser, 8)
    shown = browser.execute_script(
        "const v = window.kinetograph.views[0]; return [v.model.selectedAtoms({}).length, v.scene.n_frames]"
    )
    assert shown == [108, 60]
    assert colors_of_view(browser) > 100  # shaded spheres; a blank canvas has one colour

    before = browser.execute_script("return window.kinetograph.views[0].model.selectedAtoms({})[0].x")
    browser.find_element(By.CSS_SELECTOR, ".controls button").click()
    WebDriverWait(browser, 20).until(
        lambda driver: driver.execute_script("return window.kinetograph.views[0].frame()") >= 2
    )
    browser.find_element(By.CSS_SELECTOR, ".controls button").click()
    assert browser.execute_script("return window.kinetograph.views[0].playing()") is False
    stopped = browser.execute_script("return window.kinetograph.views[0].frame()")
    slider = browser.find_element(By.CSS_SELECTOR, ".controls input")
    assert int(slider.get_property("value")) == stopped
    assert browser.find_element(By.CSS_SELECTOR, ".controls output").text != "0.0 ps"
    assert browser.execute_script("return window.kinetograph.views[0].model.selectedAtoms({})[0].x") != before
    time.sleep(0.3)
    assert browser.execute_script("return window.kinetograph.views[0].frame()") == stopped

    browser.execute_script(
        "arguments[0].value = '59'; arguments[0].dispatchEvent(new Event('input'))", slider
    )
    assert browser.find_element(By.CSS_SELECTOR, ".controls output").text == "14.9 ps"
    assert complaints(browser) == []


def test_two_runs_are_overlaid_with_two_views(
    browser: webdriver.Chrome, run_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    opened(browser, write_report(tmp_path / "report.html", [read_run(folder) for folder in run_folders]))
    assert_sound(browser, 8)
    assert browser.execute_script("return window.kinetograph.views.length") == 2
    assert colors_of_view(browser, 1) > 100
    names = browser.execute_script("return document.getElementById('plot-2').data.map(t => t.name)")
    assert {"reference", "argon-covariant", "argon-paper"} <= set(names)


def test_water_keeps_its_bonds_and_fits_a_phone(
    browser: webdriver.Chrome, water_folder: Path, tmp_path: Path
) -> None:
    page = write_report(tmp_path / "report.html", [read_run(water_folder)])
    metrics = {"width": 400, "height": 860, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        opened(browser, page)
        # three pairs between molecules, two inside, temperature, kinetic energy, force sizes of two elements
        assert_sound(browser, 9)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
        bonds = "return window.kinetograph.views[0].model.selectedAtoms({elem: 'O'}).map(a => a.bonds.length)"
        assert browser.execute_script(bonds) == [2] * 64
        assert colors_of_view(browser) > 100
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_dark_theme_repaints_every_plot(
    browser: webdriver.Chrome, run_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    evaluation = json.loads((run_folders[0] / "evaluation.json").read_text())
    opened(browser, write_evaluation_page(tmp_path / "evaluation.html", evaluation))
    assert_sound(browser, 2)
    ink = "return document.getElementById('plot-0')._fullLayout.font.color"
    light = browser.execute_script(ink)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        WebDriverWait(browser, 20).until(lambda driver: driver.execute_script(ink) != light)
        assert_sound(browser, 2)
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_energies_are_drawn_beside_the_diagonal(
    browser: webdriver.Chrome, run_folders: tuple[Path, Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    numbers = [[8, 1, 1] * n for n in rng.integers(20, 40, size=80)]
    reference = np.array([-690.0 * len(of) for of in numbers]) + rng.normal(size=80)
    energies = energy_errors(reference, reference + 0.3 * rng.normal(size=80), numbers)
    assert energies is not None
    forces = json.loads((run_folders[0] / "evaluation.json").read_text())
    opened(browser, write_evaluation_page(tmp_path / "evaluation.html", {**forces, **energies.to_json()}))
    assert_sound(browser, 3)
    # every structure lies inside the axes, and they are no wider than it takes
    ranges, values = browser.execute_script(
        "const p = document.getElementById('plot-2'), l = p._fullLayout;"
        "return [[...l.xaxis.range, ...l.yaxis.range], [...p.data[0].x, ...p.data[0].y]]"
    )
    assert len(values) == 160
    assert min(ranges) < min(values)
    assert max(values) < max(ranges)
    assert max(ranges) - min(ranges) < 1.1 * (max(values) - min(values))


def test_the_spread_of_an_ensemble_is_drawn_on_equal_logarithmic_axes(
    browser: webdriver.Chrome, run_folders: tuple[Path, Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    forces = json.loads((run_folders[0] / "evaluation.json").read_text())
    error = rng.lognormal(-4.0, 1.0, size=2000)
    known = disagreement(error * rng.lognormal(0.0, 0.5, size=2000), error)
    opened(browser, write_evaluation_page(tmp_path / "evaluation.html", {**forces, **known.to_json()}))
    assert_sound(browser, 3)
    kinds, ranges, values, pixels = browser.execute_script(
        "const p = document.getElementById('plot-2'), l = p._fullLayout;"
        "return [[l.xaxis.type, l.yaxis.type], [l.xaxis.range, l.yaxis.range],"
        "  [...p.data[0].x, ...p.data[0].y], [l.xaxis._length, l.yaxis._length]]"
    )
    assert kinds == ["log", "log"]
    assert len(values) == 20
    assert ranges[0] == pytest.approx(ranges[1])
    assert pixels[0] == pytest.approx(pixels[1])  # the diagonal is one
    assert ranges[0][0] < np.log10(min(values))
    assert np.log10(max(values)) < ranges[0][1]


def test_without_webgl_a_sentence_stands_in_for_the_view(
    browser: webdriver.Chrome, water_folder: Path, tmp_path: Path
) -> None:
    source = "HTMLCanvasElement.prototype.getContext = () => null"
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    try:
        run = replace(read_run(water_folder), analysis=None)  # no plots: a page that opens at once
        opened(browser, write_report(tmp_path / "report.html", [run]))
        assert "no WebGL" in browser.find_element(By.CSS_SELECTOR, ".stage").text
        assert not browser.find_element(By.CSS_SELECTOR, ".controls").is_displayed()
        assert complaints(browser) == []
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_a_broken_script_would_be_noticed(browser: webdriver.Chrome, tmp_path: Path) -> None:
    page = write_evaluation_page(tmp_path / "evaluation.html", {"errors": {}})
    page.write_text(page.read_text().replace("</body>", "<script>missing.thing()</script></body>"))
    opened(browser, page)
    assert any("missing is not defined" in message for message in complaints(browser))
    browser.execute_script("fetch('https://example.org/').catch(() => {})")
    time.sleep(0.3)
    assert any("Content Security Policy" in message for message in complaints(browser))
