"""Headless Chromium, driven by selenium."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import shutil
import tempfile
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",  # pictures of the whole page are laid out without them
)


class Browser:
    """One browser with an empty profile; `show` makes it a desktop's or a phone's."""

    def __init__(self) -> None:
        from selenium import webdriver

        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in (*FLAGS, f"--user-data-dir={self._profile.name}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_page_load_timeout(60)
        self.driver.set_script_timeout(60)

    @staticmethod
    def missing() -> str:
        """Say what there is no browser for; empty if there is one."""
        if importlib.util.find_spec("selenium") is None:
            return "selenium is not installed"
        absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
        return f"no {' and '.join(absent)} here: scripts/install-browser" if absent else ""

    def show(self, address: str, width: int = 1200, dark: bool = False) -> None:
        """Open a page in a window of some width, in light or dark mode."""
        self._read_logs()
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(address)

    def run(self, script: str, *arguments: object) -> Any:
        """Run JavaScript in the page; a promise is waited for."""
        return self.driver.execute_script(script, *arguments)

    def picture(self, selector: str, scale: int = 1) -> Image.Image:
        """Return what an element looks like, magnified."""
        box = self.run(
            "const e = document.querySelector(arguments[0]); e.scrollIntoView();"
            "const b = e.getBoundingClientRect();"
            "return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height}",
            selector,
        )
        shot = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot",
            {"captureBeyondViewport": True, "clip": {**box, "scale": scale}},
        )
        return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")

    def errors(self) -> list[str]:
        """Return the console's errors since the page was opened."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE"
        ]

    def hosts(self) -> set[str | None]:
        """Return the hosts that were asked for anything since the page was opened."""
        found: set[str | None] = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                asked = message["params"]
                address = urlsplit(asked.get("url") or asked["request"]["url"])
                if address.scheme in ("http", "https", "ws", "wss"):
                    found.add(address.hostname)
        return found

    def _read_logs(self) -> None:
        for name in ("browser", "performance"):
            self.driver.get_log(name)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.quit()
        self._profile.cleanup()
