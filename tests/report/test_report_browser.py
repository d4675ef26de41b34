"""The pages of `fedmpi report` in a real browser: nothing is loaded, nothing is wrong, and everything can be seen."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from report import folders, picture, recorded
from report.browser import Browser, chromium

from fedmpi.report import write_report


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Headless Chromium."""
    with chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs side by side."""
    base = tmp_path_factory.mktemp("runs")
    return write_report([folders.coded(base / "coded"), folders.bgw(base / "bgw")], base / "out")


UNSEEN = """[...document.querySelectorAll('svg[role=img], img')].filter(p => p.checkVisibility()).filter(picture => {
    const box = picture.getBoundingClientRect();
    return box.width < 100 || box.height < 30 || (picture.tagName == 'IMG' && !picture.naturalWidth);
}).length"""

BRIGHTNESS = """(color => color.match(/[0-9.]+/g).slice(0, 3).reduce((sum, v) => sum + Number(v), 0) / 3)"""

CONTRAST = f"""(() => {{
    const of = (element, what) => {BRIGHTNESS}(getComputedStyle(element)[what]);
    return Math.abs(of(document.querySelector('h1'), 'color') - of(document.body, 'backgroundColor'));
}})()"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_can_be_read(browser: Browser, page: Path, width: int, dark: bool, tmp_path: Path) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.requests == [page.resolve().as_uri()], "nothing else is loaded"
    assert browser.complaints == []
    assert browser.value("document.querySelectorAll('svg[role=img]').length") == 18
    assert browser.value(UNSEEN) == 0
    assert browser.value("document.documentElement.scrollWidth") <= width, "a phone need not scroll sideways"
    background = browser.value(f"{BRIGHTNESS}(getComputedStyle(document.body).backgroundColor)")
    assert background < 60 if dark else background > 200
    assert browser.value(CONTRAST) > 150
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve runs on three sets of rows, one of them stopped."""
    base = tmp_path_factory.mktemp("twelve")
    return write_report(recorded.write(base), base / "out")


CUT = """(() => {
    document.querySelectorAll('details').forEach(one => one.open = true);
    const found = [];
    for (const input of document.querySelectorAll('input')) {
        input.checked = true;
        for (const one of document.querySelectorAll('body, body *')) {
            if (!one.checkVisibility()) continue;
            const svg = one.ownerSVGElement;
            if (one.scrollWidth > one.clientWidth)
                found.push(one.tagName + ' ' + one.textContent.slice(0, 40));
            if (svg && svg.role == 'img' && one.tagName == 'text') {
                const box = one.getBoundingClientRect(), all = svg.getBoundingClientRect();
                if (box.left < all.left - 1 || box.right > all.right + 1 || box.bottom > all.bottom + 1)
                    found.push('text ' + one.textContent);
            }
        }
    }
    return [...new Set(found)];
})()"""


@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_nothing_is_cut_on_a_page_of_twelve_runs(browser: Browser, twelve: Path, width: int) -> None:
    browser.open(twelve, width=width)
    assert browser.complaints == []
    assert browser.value(CUT) == []
    assert browser.value(UNSEEN) == 0


@pytest.mark.parametrize("dark", [False, True])
def test_no_two_of_twelve_runs_have_the_same_colour_or_mark(browser: Browser, twelve: Path, dark: bool) -> None:
    browser.open(twelve, width=1440, dark=dark)
    marks = """[...document.querySelectorAll('.legend .mark')].map(one => %s)"""
    colors = browser.value(marks % "getComputedStyle(one).fill")
    shapes = browser.value(marks % "one.getAttribute('d')")
    assert len(colors) == len(set(colors)) == len(set(shapes)) == 12


def test_the_picture_of_the_readme_is_that_of_today(browser: Browser, tmp_path: Path) -> None:
    """Fonts differ from machine to machine: the page must be the same but for a few of its pixels."""
    picture.draw(browser, tmp_path / "runs", tmp_path / "report.png")
    kept, new = (matplotlib.image.imread(path)[..., :3] for path in (picture.PICTURE, tmp_path / "report.png"))
    assert kept.shape == new.shape, "python tests/report/picture.py"
    assert np.abs(kept - new).mean() < 0.03, "python tests/report/picture.py"


def test_the_page_can_be_printed(browser: Browser, page: Path) -> None:
    browser.open(page, width=1200, dark=True)
    assert browser.pdf().startswith(b"%PDF")
    browser("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser("Emulation.setEmulatedMedia", media="")


def test_a_folder_of_an_enemy_is_text(browser: Browser, tmp_path: Path) -> None:
    page = write_report([folders.evil(tmp_path / "evil")])
    browser.open(page, width=1200)
    assert browser.requests == [page.resolve().as_uri()]
    assert browser.complaints == []
    assert "<script>alert(1)</script>" in browser.value("document.body.innerText")


def test_these_tests_would_notice(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<!doctype html><body><img src='data:image/png;base64,AAAA'><script>throw Error('x')</script>")
    browser.open(bad, width=360)
    assert browser.complaints
    assert browser.value(UNSEEN) == 1
    bad.write_text("<!doctype html><body><img src='missing.png'><p style='width:5000px'>wide</p>")
    browser.open(bad, width=1200)
    assert len(browser.requests) == 2
    assert browser.value("document.documentElement.scrollWidth") > 1200
