"""A real browser, headless: Debian's chromium, driven by selenium."""

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from support.paths import ROOT
from support.tiers import need
from support.waiting import wait_until

DEADLINE_S = 60.0
DESK = (1120, 900)
PHONE = (360, 740)

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
"""The checks of accessibility. CONTRIBUTING.md says how to install them."""

NAMED = {"button", "heading", "image", "link", "progressbar", "region", "searchbox"}
"""Roles whose name a screen reader reads: without a name it reads nothing."""


class Browser:
    """One window."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver
        self._width = DESK[0]

    def size(self, width: int, height: int) -> None:
        """Set the window's size in pixels; a narrow one is a phone's."""
        self._width = width
        phone = width < 600
        self._do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        self._do("Emulation.setTouchEmulationEnabled", enabled=phone)

    def prefer(self, **features: str) -> None:
        """Set what the reader prefers: `prefers_color_scheme="dark"`."""
        wanted = [
            {"name": name.replace("_", "-"), "value": value} for name, value in features.items()
        ]
        self._do("Emulation.setEmulatedMedia", features=wanted)

    def open(self, url: str) -> None:
        """Go to a page."""
        self._driver.get(url)

    def run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401  JSON
        """Return what a script in the page returns."""
        return self._driver.execute_script(script, *arguments)

    def words(self) -> str:
        """Return all text that is shown, spaces taken together."""
        return " ".join(str(self.run("return document.body.innerText")).split())

    def wait_for(self, words: str, deadline_s: float = DEADLINE_S) -> None:
        """Wait until the page shows these words, without loading it again."""
        wait_until(lambda: words in self.words(), deadline_s, f"page says {words!r}")

    def find(self, selector: str) -> WebElement:
        """Return the first element of a selector."""
        return self._driver.find_element(By.CSS_SELECTOR, selector)

    def follow(self, selector: str) -> None:
        """Click what leads to another page, and wait for that page.

        A click returns before the browser has asked for the page. What reads next would see the
        page before.
        """
        before = self._document()
        self.find(selector).click()
        wait_until(lambda: self._document() != before, DEADLINE_S, f"a page after {selector}")

    def reload(self) -> None:
        """Load the page again."""
        self._driver.refresh()

    def press(self, *keys: str) -> None:
        """Press keys in the element that has the focus."""
        for key in keys:
            self._driver.switch_to.active_element.send_keys(key)

    def focused(self) -> str:
        """Return what has the focus: its id, or else its text."""
        return str(
            self.run("const e = document.activeElement;return e.id || e.innerText || e.nodeName")
        )

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        # Not window.innerWidth: on a phone, that grows with the page.
        return int(self.run("return document.documentElement.scrollWidth")) - self._width

    def tree(self) -> list[tuple[str, str]]:
        """Return role and name of each element that a screen reader sees."""
        nodes = self._do("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]

    def violations(self) -> list[str]:
        """Return what axe objects to in this page: the rule, and the elements."""
        if not AXE.exists():
            pytest.skip("npm package axe-core is missing: npm install --no-save axe-core")
        # The page's own policy would refuse the script: the browser's tools run it.
        self.run(AXE.read_text("utf-8"))
        found: list[dict[str, Any]] = self._driver.execute_async_script(
            "const [rules, done] = arguments;"
            "axe.run({ rules }).then((result) => done(result.violations))",
            {"target-size": {"enabled": True}},
        )
        return [
            f"{item['id']}: {node['html']} ({node['failureSummary']})"
            for item in found
            for node in item["nodes"]
        ]

    def speak(self, language: str) -> None:
        """Ask for all pages in this language."""
        self._do("Network.enable")
        self._do("Network.setExtraHTTPHeaders", headers={"Accept-Language": language})

    def reset(self) -> None:
        """Undo what a test may have left: language, cookies, scheme, print preview, no script."""
        self._do("Network.enable")
        self._do("Network.setExtraHTTPHeaders", headers={})
        self._do("Network.clearBrowserCookies")
        self._do("Emulation.setEmulatedMedia", media="", features=[])
        self.allow_script(on=True)

    def allow_script(self, *, on: bool) -> None:
        """Switch scripts of pages on or off."""
        self._do("Emulation.setScriptExecutionDisabled", value=not on)

    def printed(self) -> bytes:
        """Return the page as a PDF, without backgrounds unless the page asks for them."""
        return base64.b64decode(self._do("Page.printToPDF", printBackground=False)["data"])

    def print_preview(self, *, on: bool) -> None:
        """Show pages as they are printed."""
        self._do("Emulation.setEmulatedMedia", media="print" if on else "")

    def complaints(self) -> list[str]:
        """Return the messages of the console since the last call."""
        return [str(item["message"]) for item in self._log("browser")]

    def requests(self) -> list[str]:
        """Return the addresses that were requested since the last call."""
        lines = (json.loads(item["message"])["message"] for item in self._log("performance"))
        return [
            str(line["params"]["request"]["url"])
            for line in lines
            if line["method"] == "Network.requestWillBeSent"
        ]

    def shoot(self, path: Path, height_max: int) -> None:
        """Write a picture of the page, `height_max` pixels high at most."""
        height = self.run("return document.documentElement.scrollHeight")
        height, width = min(height, height_max), self.run("return window.innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self._do("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _document(self) -> str:
        """Return what names the document that is shown; also without script."""
        return str(self._do("Page.getFrameTree")["frameTree"]["frame"]["loaderId"])

    def _log(self, kind: str) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = self._driver.get_log(kind)  # type: ignore[no-untyped-call]  # not typed by selenium
        return lines

    def _do(self, command: str, **parameters: object) -> dict[str, Any]:
        answer: dict[str, Any] = self._driver.execute_cdp_cmd(command, parameters)
        return answer


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Start a browser; the test is skipped where there is none."""
    need("chromium", "chromedriver")
    program = str(shutil.which("chromium"))
    driver = str(shutil.which("chromedriver"))
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    # Small shared memory, as in containers, would end it.
    options.add_argument("--disable-dev-shm-usage")
    # Without colours at the edges of letters pictures are half as large.
    options.add_argument("--disable-lcd-text")
    options.add_argument(f"--user-data-dir={profile}")
    options.add_argument("--lang=en-IN")
    if os.getuid() == 0:
        # Its sandbox is not for root, and the only page it sees is ours.
        options.add_argument("--no-sandbox")
    logs = {"browser": "ALL", "performance": "ALL"}
    options.set_capability("goog:loggingPrefs", logs)
    # In Kolkata, where no hour begins with UTC's.
    service = Service(driver, env={**os.environ, "TZ": "Asia/Kolkata"})
    window = webdriver.Chrome(options=options, service=service)
    try:
        yield Browser(window)
    finally:
        window.quit()
