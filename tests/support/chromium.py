"""A headless Chromium, driven over its own protocol: pictures of pages, and axe's findings.

Source: Chrome DevTools Protocol, domains Target, Network, Page and Runtime.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from support.platform_process import wait

PROGRAM = shutil.which("chromium")
COMMAND_S = 30.0
AXE = os.environ.get("MLPLATFORM_TEST_AXE", "")
"""Where axe-core's axe.min.js is (`make test-page` gets one)."""
PICTURES = os.environ.get("MLPLATFORM_TEST_PICTURES", "")
"""The folder in which pictures of each page are left."""


class Chromium:
    """One browser with one tab."""

    def __init__(self, folder: Path) -> None:
        assert PROGRAM is not None
        profile = folder / "profile"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        flags.append("--disable-dev-shm-usage")  # a container's /dev/shm may hold next to nothing
        place = [f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
        self._process = subprocess.Popen(
            [PROGRAM, *flags, *place], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        told = profile / "DevToolsActivePort"
        wait(lambda: told.is_file() and len(told.read_text().split()) == 2, "chromium")
        port, path = told.read_text().split()
        self._socket = connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None)
        self._number = 0
        self._session: str | None = None
        self.seen: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What a command is answered with; events that come before are kept in `seen`."""
        self._number += 1
        sent = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            sent["sessionId"] = self._session
        self._socket.send(json.dumps(sent))
        while True:
            got = json.loads(self._socket.recv(COMMAND_S))
            if got.get("id") == self._number:
                assert "error" not in got, got
                answer: dict[str, Any] = got["result"]
                return answer
            self.seen.append(got)

    def log_in(self, password: str) -> None:
        given = base64.b64encode(f"x:{password}".encode()).decode()
        self.call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {given}"})

    def prefer(self, scheme: str) -> None:
        """Show pages as for a reader who has chosen light or dark."""
        wanted = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=wanted)

    def open(self, url: str, *, width: int = 1200) -> None:
        """Returns once the page is loaded."""
        self.resize(width)
        self.seen.clear()
        assert "errorText" not in self.call("Page.navigate", url=url)
        wait(lambda: self.run("document.readyState") == "complete", url)

    def resize(self, width: int) -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def fill(self, selector: str, text: str) -> None:
        """Type into a field, as a person does."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Press what is there, and return once the page that it leads to is loaded."""
        self.run("window.before = true")
        self.run(f"document.querySelector({json.dumps(selector)}).click()")
        wait(self._is_another_page, f"what {selector} leads to")

    def _is_another_page(self) -> bool:
        try:
            return bool(self.run("!window.before && document.readyState == 'complete'"))
        except AssertionError as error:
            if "navigated or closed" in str(error):  # the page left while it was asked
                return False
            raise

    def run(self, script: str) -> Any:
        """What a script comes to, promises awaited: the tools' world, where no policy holds."""
        told = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """What the browser wrote to its console about the page: refused styles, missing files."""
        return [
            event["params"]["entry"]["text"]
            for event in self.seen
            if event.get("method") == "Log.entryAdded"
            and event["params"]["entry"]["level"] in ("error", "warning")
        ]

    def close(self) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(10)


def violations(browser: Chromium) -> list[tuple[str, str, str]]:
    """What axe has against the page that is open: level, rule, and where."""
    browser.run(Path(AXE).read_text() + ";0")
    text = browser.run("axe.run({resultTypes: ['violations']}).then(JSON.stringify)")
    looked = json.loads(text)
    assert len(looked["passes"]) > 5, "it did look"
    return [(v["impact"], v["id"], v["nodes"][0]["html"]) for v in looked["violations"]]


def looked_at(browser: Chromium, name: str, widths: Sequence[int] = (1400, 390)) -> None:
    """Nothing overflows, in light and in dark, and axe finds nothing of any level."""
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        for width in widths:
            browser.resize(width)
            assert browser.run("document.documentElement.scrollWidth") <= width, (name, width)
            if PICTURES:
                browser.picture(Path(PICTURES) / f"{name}-{scheme}-{width}.png")
            if AXE:
                assert violations(browser) == [], (name, scheme, width)
    assert browser.complaints() == [], name
