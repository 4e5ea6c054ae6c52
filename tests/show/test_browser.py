"""The page in a real headless Chromium, from a file, with every request counted.

Skipped where chromium and chromedriver are not installed (.ci/run installs them). PKC_SCREENSHOTS=DIR keeps the pictures there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pkcompiler.show.html import write_html
from pkcompiler.show.nodes import Drawing, Node
from pkcompiler.show.page import Page
from pkcompiler.show.place import place
from tests.show.show_pages import HARM, whole_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps"),
    *("--hide-scrollbars", "--force-device-scale-factor=1", "--window-size=1360,1000", "--blink-settings=preferredColorScheme=1"),
)
pytestmark = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="chromium and chromedriver are not installed")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def visit(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Opens a page by the name of its network, and waits until it is drawn."""
    from selenium.webdriver.support.wait import WebDriverWait

    folder = tmp_path_factory.mktemp("pages")

    def opened(name: str) -> Any:
        file = folder / ("harm.html" if name == HARM else f"{name}.html")
        if not file.exists():
            write_html(file, whole_page(name))
        browser.get(file.as_uri())
        WebDriverWait(browser, 60).until(lambda b: b.execute_script("return document.documentElement.dataset.ready") == "true")
        return browser

    return opened


def complaints(browser: Any) -> list[str]:
    return [line["message"] for line in browser.get_log("browser") if line["level"] in ("WARNING", "SEVERE")]


def requests(browser: Any) -> list[str]:
    """What was loaded: the page, and whatever it asked for (what it holds, ``data:``, left out)."""
    events = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    urls = [s["request"]["url"] for s in sent if s.get("documentURL", "").startswith("file:")]  # not those of the browser itself
    return [url for url in urls if not url.startswith(("data:", "blob:"))]


def keep(browser: Any, folder: Path, name: str) -> None:
    """A picture of the page, in the test's folder and in PKC_SCREENSHOTS."""
    path = folder / f"{name}.png"
    assert browser.save_screenshot(str(path)) and path.stat().st_size > 20_000
    if target := os.environ.get("PKC_SCREENSHOTS"):
        Path(target).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def text(browser: Any, selector: str) -> str:
    return str(browser.find_element("css selector", selector).text)


def click_node(browser: Any, title: str) -> None:
    """A real click in the middle of a node."""
    from selenium.webdriver import ActionChains

    nodes = whole_page().drawing
    assert nodes is not None
    x, y = next(c for n, c in zip(nodes.nodes, place(nodes).centres, strict=True) if n.title == title)
    where = browser.execute_script(
        "const plot = Bokeh.documents.map((d) => d.roots()[0]).find((p) => p.name === 'network');"
        "const at = (v, range, size) => ((v - range.start) / (range.end - range.start)) * size;"
        "const y = plot.inner_height - at(arguments[1], plot.y_range, plot.inner_height);"
        "return [at(arguments[0], plot.x_range, plot.inner_width), y]",
        x,
        y,
    )
    figure = browser.find_element("id", "figure-network")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
    dx, dy = where[0] - figure.size["width"] / 2, where[1] - figure.size["height"] / 2
    ActionChains(browser).move_to_element_with_offset(figure, dx, dy).click().perform()


def test_nothing_is_complained_about_and_nothing_asked_for(visit: Callable[[str], Any], tmp_path: Path) -> None:
    browser = visit("residual")
    assert len(browser.find_elements("css selector", ".figure")) == 7
    assert browser.execute_script("return [...document.querySelectorAll('.figure')].every((f) => f.children.length === 1)")
    keep(browser, tmp_path, "light")
    assert complaints(browser) == []
    assert requests(browser) == [browser.current_url]


def test_the_network_is_refused_to_the_page(visit: Callable[[str], Any]) -> None:
    """The policy of the page forbids what a script would ask for."""
    browser = visit("residual")
    script = "const done = arguments[0]; fetch('https://example.invalid/').then(() => done('sent'), () => done('refused'))"
    assert browser.execute_async_script(script) == "refused"
    assert any("Content Security Policy" in line for line in complaints(browser))


def test_names_run_no_code(visit: Callable[[str], Any]) -> None:
    browser = visit(HARM)
    assert text(browser, "h1") == HARM
    assert browser.title.startswith(HARM[:20])
    assert complaints(browser) == []


def test_a_click_on_a_layer_shows_its_figures(visit: Callable[[str], Any], tmp_path: Path) -> None:
    browser = visit("residual")
    for title, weight in (("shortcut", "shortcut.weight"), ("stem.0", "stem.1.bias")):
        click_node(browser, title)
        shown = text(browser, ".layer:not([hidden])")
        assert shown.startswith(title) and weight in shown and "L2 share" in shown
    assert len(browser.find_elements("css selector", ".layer:not([hidden])")) == 1
    keep(browser, tmp_path, "layer")
    browser.find_element("css selector", "#parameters tbody tr:last-child").click()
    assert text(browser, ".layer:not([hidden]) h3") == "head"
    assert complaints(browser) == []


def test_the_network_is_coloured_and_zoomed(visit: Callable[[str], Any]) -> None:
    browser = visit("residual")
    plot = "Bokeh.documents.map((d) => d.roots()[0]).find((p) => p.name === 'network')"
    fills = f"return Array.from({plot}.renderers.find((r) => r.name === 'boxes').data_source.data.fill)"
    height = f"return Math.abs({plot}.y_range.end - {plot}.y_range.start)"
    before, whole = browser.execute_script(fills), browser.execute_script(height)
    browser.find_element("css selector", "[data-metric=tau]").click()
    assert browser.execute_script(fills) != before
    browser.find_element("css selector", "[data-zoom=in]").click()
    assert browser.execute_script(height) < 0.8 * whole
    browser.find_element("css selector", "[data-zoom=fit]").click()
    assert browser.execute_script(height) == pytest.approx(whole)


@pytest.mark.parametrize("count", [2, 26, 33, 60])
def test_a_chain_of_any_length_is_readable(browser: Any, tmp_path: Path, count: int) -> None:
    """Short, as high as its frame, as wide as its frame, and long: names are drawn at the size of their boxes."""
    from selenium.webdriver.support.wait import WebDriverWait

    nodes = tuple(Node(i, "other", f"node {i}", "", (), (), "", "", "", False) for i in range(count))
    chain = Drawing(nodes, tuple((i, i + 1) for i in range(count - 1)))
    write_html(tmp_path / "chain.html", Page("chain", "", drawing=chain))
    browser.get((tmp_path / "chain.html").as_uri())
    WebDriverWait(browser, 60).until(lambda b: b.execute_script("return document.documentElement.dataset.ready") == "true")
    shown = "const plot = Bokeh.documents[0].roots()[0]; const names = plot.renderers.find((r) => r.name === 'title');"
    visible, size, scale = browser.execute_script(
        f"{shown} const height = plot.y_range.start - plot.y_range.end;"
        "return [names.visible, names.glyph.text_font_size.value, plot.inner_height / height]"
    )
    assert visible and float(size.removesuffix("px")) == pytest.approx(12 * scale, abs=0.01)
    assert complaints(browser) == []


def test_tables_are_sorted(visit: Callable[[str], Any]) -> None:
    browser = visit("residual")
    cells = "return [...document.querySelectorAll('#parameters tbody tr')].map((r) => r.cells[%d].textContent)"
    at = [h.text.split("\n")[0].rstrip(" ↕") for h in browser.find_elements("css selector", "#parameters th")].index("entries")
    button = browser.find_elements("css selector", "#parameters th button")[at]
    plain = browser.execute_script(cells % at)
    for direction, backwards in (("descending", True), ("ascending", False)):
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        numbers = [int(v.replace(",", "")) for v in browser.execute_script(cells % at)]
        assert numbers == sorted(numbers, reverse=backwards)
        assert browser.find_elements("css selector", "#parameters th")[at].get_attribute("aria-sort") == direction
        assert browser.execute_script(cells % at) != plain
    by_name = browser.find_elements("css selector", "#parameters th button")[0]
    by_name.click()
    names = browser.execute_script(cells % 0)
    assert names[0].startswith("first") and names[-1] == "third.weight"
    by_name.click()
    assert browser.execute_script(cells % 0) == names[::-1]


def test_light_and_dark(visit: Callable[[str], Any], tmp_path: Path) -> None:
    browser = visit("residual")
    ground = "return getComputedStyle(document.body).backgroundColor"
    ink = "return Bokeh.documents[1].roots()[0].left[0].major_label_text_color"
    light = browser.execute_script(ground), browser.execute_script(ink)
    browser.find_element("id", "theme").click()
    dark = browser.execute_script(ground), browser.execute_script(ink)
    assert dark[0] != light[0] and dark[1] != light[1]
    assert text(browser, "#theme") == "Light"
    keep(browser, tmp_path, "dark")
    browser.find_element("id", "theme").click()
    assert (browser.execute_script(ground), browser.execute_script(ink)) == light
    assert complaints(browser) == []


def test_the_page_follows_the_system(visit: Callable[[str], Any]) -> None:
    browser = visit("residual")
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(ground)
    feature = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    try:
        assert browser.execute_script(ground) != light
        assert text(browser, "#theme") == "Light"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
