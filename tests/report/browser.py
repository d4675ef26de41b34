"""Headless Chromium over its DevTools pipe: what a page loads, logs, and looks like."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--remote-debugging-pipe",
]


class Browser:
    """One page of a headless browser."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers, self._buffer, self._number = commands, answers, b"", 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (got := self._next()).get("id") != self._number:
            self._note(got)
        assert "error" not in got, got
        return dict(got["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._answers, 1 << 16)
            assert data, "the browser has ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(line))

    def _note(self, event: dict[str, Any]) -> None:
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])
            case "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded":
                self.complaints.append(json.dumps(event["params"]))
            case "Page.loadEventFired":
                self._loaded = True

    def open(self, page: Path, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Load a page in a window of this size."""
        self.requests.clear()
        self.complaints.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self._loaded = False
        self("Page.navigate", url=page.resolve().as_uri())
        while not self._loaded:
            self._note(self._next())
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def value(self, script: str) -> Any:
        """What an expression is in the page."""
        got = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in got, got
        return got["result"].get("value")

    def screenshot(self, path: Path, size: tuple[int, int] | None = None) -> None:
        """The whole page, or the upper left part of it, as PNG."""
        clip = {"clip": {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}} if size else {}
        got = self("Page.captureScreenshot", captureBeyondViewport=True, **clip)
        path.write_bytes(base64.b64decode(got["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self("Page.printToPDF", printBackground=False)["data"])


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser, for the time of a block. Without one a test is skipped, unless apt-get could have installed it."""
    executable = shutil.which("chromium")
    if executable is None:
        if shutil.which("apt-get") and os.geteuid() == 0:
            pytest.fail("chromium must be installed: apt-get install chromium, as .ci/run does")
        pytest.skip("chromium is not here, and nobody to install it: apt-get install chromium")
    read_commands, commands = os.pipe()
    answers, write_answers = os.pipe()
    ends = (read_commands, write_answers)
    arguments = " ".join([*FLAGS, f"--user-data-dir={profile}"])
    shell = f"exec {executable} {arguments} 3<&{read_commands} 4>&{write_answers}"
    process = subprocess.Popen(
        ["bash", "-c", shell],
        pass_fds=ends,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for end in ends:
        os.close(end)
    try:
        yield Browser(commands, answers)
    finally:
        os.close(commands)  # the browser ends with it
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(answers)
