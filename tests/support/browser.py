"""Debian's Chromium as a user has it, and what axe-core finds on its page."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.common.exceptions import (
    ElementClickInterceptedException,
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.support.programs import need_program
from tests.support.waiting import eventually

PAGE = Path(__file__).parents[2] / "realtime" / "api"
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--lang=en-US",
)
_AXE = """
const done = arguments[arguments.length - 1];
axe.run().then((found) => done(found.violations.map((one) => ({
  id: one.id, impact: one.impact, help: one.help,
  nodes: one.nodes.map((node) => `${node.target} ${node.failureSummary}`),
}))), (error) => done([{ id: "axe", impact: "serious", help: String(error), nodes: [] }]));
"""


def page_packages() -> None:
    """Have the packages that the page uses below realtime/api, as its lock says; skips the test without npm."""
    npm = str(need_program("npm", "npm"))
    installed = PAGE / "node_modules" / ".package-lock.json"
    if installed.is_file() and _packages(installed) == _packages(PAGE / "package-lock.json"):
        return
    command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=PAGE, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, f"npm could not install the page's packages:\n{done.stderr}"


def _packages(lock: Path) -> dict[str, str]:
    packages = json.loads(lock.read_text())["packages"]
    return {name: one["version"] for name, one in packages.items() if name}


class Browser:
    """Chromium, with what the tests do on a page."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        self._width = 0
        self._axe = (PAGE / "node_modules" / "axe-core" / "axe.min.js").read_text()

    def open(self, url: str, *, dark: bool = False, width: int = 1280, height: int = 900) -> None:
        """Open a page as a new visitor who prefers a theme, and forget what the console said before."""
        self.driver.get(f"{url.partition('/#')[0]}/static/icon.svg")
        self.run("sessionStorage.clear(); localStorage.clear()")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", features=[scheme])
        self.resize(width, height)
        self.console()
        self.driver.get(url)

    def resize(self, width: int, height: int = 900) -> None:
        """Give the page so many CSS pixels."""
        self._width = width
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._devtools("Emulation.setDeviceMetricsOverride", **size)

    def block(self, *patterns: str) -> None:
        """Let no request to these addresses through; none lets all through again."""
        self._devtools("Network.enable")
        self._devtools("Network.setBlockedURLs", urls=list(patterns))

    def console(self) -> list[str]:
        """Errors that the page has had since this was asked last."""
        entries: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [str(one["message"]) for one in entries if one["level"] == "SEVERE"]

    def find(self, selector: str) -> WebElement:
        """Wait for an element that can be seen."""

        def visible() -> WebElement | None:
            try:
                found = self.driver.find_element(By.CSS_SELECTOR, selector)
                return found if found.is_displayed() else None
            except (NoSuchElementException, StaleElementReferenceException):
                return None

        found = eventually(visible, 10, what=f"{selector} can be seen")
        assert found is not None
        return found

    def click(self, selector: str) -> None:
        """Click an element as soon as it stands still."""

        def clicked() -> bool:
            try:
                self.find(selector).click()
            except (ElementClickInterceptedException, StaleElementReferenceException):
                return False
            return True

        eventually(clicked, 10, what=f"{selector} is clicked")

    def all(self, selector: str) -> list[WebElement]:
        """Elements as they are now."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """What elements say now, seen or not."""
        found: str = self.run(
            f"return [...document.querySelectorAll({json.dumps(selector)})].map(e=>e.innerText).join('\\n')"
        )
        return found

    def says(self, text: str, selector: str = "main", timeout: float = 10.0) -> None:
        """Wait until it is there to be read."""
        eventually(lambda: text in self.text(selector), timeout, what=f"{selector} says {text!r}")

    def run(self, script: str) -> Any:
        """What a function with this body returns."""
        return self.driver.execute_script(script)

    def press(self, *keys: str) -> None:
        """Keys, to whatever has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def overflow(self) -> int:
        """By how many CSS pixels the page is wider than its window."""
        needed: int = self.run("return document.documentElement.scrollWidth")
        return needed - self._width  # not innerWidth: on a phone it grows with what it shows

    def faults(self) -> list[str]:
        """What axe-core finds that is serious or critical, and where."""
        self.run(self._axe)
        found = self.driver.execute_async_script(_AXE)
        return [
            f"{one['id']}: {one['help']} {one['nodes']}" for one in found if one["impact"] in ("serious", "critical")
        ]

    def picture(self, file: Path) -> None:
        """Keep how all of the page looks."""
        self.resize(self._width, self.run("return document.documentElement.scrollHeight"))
        self.driver.save_screenshot(str(file))
        self.resize(self._width)

    def _devtools(self, command: str, **parameters: Any) -> None:
        self.driver.execute_cdp_cmd(command, parameters)


@contextmanager
def chromium(directory: Path) -> Iterator[Browser]:
    """A browser with a new profile; skips the test where Chromium or its driver is missing."""
    options = ChromeOptions()
    options.binary_location = str(need_program("chromium", "chromium"))
    for argument in (*_ARGUMENTS, f"--user-data-dir={directory / 'profile'}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(str(need_program("chromedriver", "chromium-driver")), log_output=str(directory / "driver.log"))
    driver = Chrome(options, service)
    try:
        driver.set_script_timeout(20)
        yield Browser(driver)
    finally:
        driver.quit()
