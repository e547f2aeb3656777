"""Opens the pages in a real browser, as phones and desks have it, and remembers what it complained of."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

PICTURES = os.environ.get("PGVIGIL_TEST_PICTURES")
"""A folder for pictures of what the tests saw, such as docs/pictures; none are kept without it."""


@dataclass(frozen=True)
class View:
    """A window, and what its user prefers."""

    name: str
    width: int
    height: int
    scheme: str


VIEWS = tuple(
    View(f"{name}-{scheme}", width, height, scheme)
    for name, width, height in (("phone", 390, 844), ("desktop", 1440, 900))
    for scheme in ("light", "dark")
)


@dataclass
class Seen:
    """A page that is open in a view."""

    view: View
    page: Page
    complaints: list[str] = field(default_factory=list)
    """Errors of scripts, refusals of the Content-Security-Policy, dialogs."""

    def picture(self, name: str) -> None:
        """Keep a picture, where they are asked for."""
        if PICTURES:
            self.page.screenshot(path=Path(PICTURES) / f"{name}-{self.view.name}.png")

    @property
    def overhang(self) -> int:
        """Pixels by which the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    @property
    def screens(self) -> float:
        """Height of the page in windows."""
        return float(self.page.evaluate("document.documentElement.scrollHeight / window.innerHeight"))


@contextmanager
def browser_of(tool: Callable[..., Path]) -> Iterator[Browser]:
    """Chromium as the system has it; its sandbox needs rights that containers do not have."""
    program = tool("chromium", "Debian's package is called chromium", "chromium-browser", "google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, view: View, url: str, *, scripts: bool = True) -> Iterator[Seen]:
    """Open a page in a window of its own."""
    context: BrowserContext = browser.new_context(
        viewport={"width": view.width, "height": view.height},
        color_scheme="dark" if view.scheme == "dark" else "light",
        java_script_enabled=scripts,
        permissions=["clipboard-read", "clipboard-write"],
    )
    seen = Seen(view, context.new_page())
    seen.page.on("console", lambda said: seen.complaints.append(said.text) if said.type == "error" else None)
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on("dialog", lambda dialog: seen.complaints.append(dialog.message))
    seen.page.goto(url)
    yield seen
    context.close()
