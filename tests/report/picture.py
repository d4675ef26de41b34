"""docs/report.png: the page of three recorded runs in a browser. ``python tests/report/picture.py`` renews it."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from report import recorded
from report.browser import Browser, chromium

from fedmpi.report import write_report

PICTURE = Path(__file__).parents[2] / "docs" / "report.png"
SIZE = (1160, 1000)


def draw(browser: Browser, base: Path, out: Path) -> None:
    """The upper part of the page."""
    page = write_report(recorded.write(base, recorded.PICTURED), base / "out")
    browser.open(page, width=SIZE[0], height=SIZE[1])
    browser.screenshot(out, SIZE)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder) / "profile") as one:
        draw(one, Path(folder) / "runs", PICTURE)
