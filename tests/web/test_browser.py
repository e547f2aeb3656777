"""The pages in Chromium: whoever was paged sees the culprit at once, on a phone too, and nothing foreign runs."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsers import VIEWS, Seen, browser_of, opened
from pages import read
from patience import Stopwatch, wait_until
from playwright.sync_api import Browser
from queues import queue, running

from exporter.demo.cluster import Cluster
from exporter.diagnosis.findings import limit

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def browser(tool: Callable[..., Path]) -> Iterator[Browser]:
    """Chromium."""
    with browser_of(tool) as found:
        yield found


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """The demo, playing the migration that stops a shop; gives the address of its page."""
    command = [sys.executable, "-m", "exporter", "demo", "--incident", "migration", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            said = ""
            for line in process.stdout or ():
                said += line
                if found := re.search(r"(http://\S+/)metrics", line):
                    yield found[1]
                    break
            else:
                raise AssertionError(said)
        finally:
            process.terminate()
            process.wait(60)


def longest_wait(url: str) -> float:
    """The longest wait for a lock, in seconds, as the page of metrics has it."""
    page = read(httpx.get(f"{url}metrics", timeout=30).text)
    return max((value for _, value in page.series("pg_lock_longest_wait_seconds")), default=0.0)


def in_view(seen: Seen) -> bool:
    """Return whether the first sentence names a culprit, without scrolling."""
    heading = seen.page.locator(".finding h3").first
    if not heading.count() or not re.search(r"pid \d+ .*blocks \d+ sessions?", heading.inner_text()):
        return False
    box = heading.bounding_box()
    return box is not None and box["y"] >= 0 and box["y"] + box["height"] <= seen.view.height


def test_the_culprit_comes_into_view_by_itself(browser: Browser, demo: str) -> None:
    with ExitStack() as windows:
        every = [windows.enter_context(opened(browser, view, demo)) for view in VIEWS]
        threshold = limit("LockWait", "wait_seconds")
        wait_until(lambda: longest_wait(demo) >= threshold, every=0.5)
        watch = Stopwatch()
        while not all(map(in_view, every)):
            assert watch.seconds < 10, [seen.page.locator(".finding h3").all_inner_texts() for seen in every]
            every[0].page.wait_for_timeout(200)
        for seen in every:
            assert "SELECT pg_cancel_backend(" in seen.page.locator(".finding").first.inner_text()
            assert seen.overhang <= 0, seen.view
            assert seen.screens <= (5 if seen.view.width < 500 else 3), seen.view
            seen.picture("now")
            seen.page.get_by_role("button", name="copy").first.click()
            seen.page.get_by_role("button", name="copied").first.wait_for()
            copied = seen.page.evaluate("navigator.clipboard.readText()")
            assert re.fullmatch(r"SELECT pg_(cancel|terminate)_backend\(\d+\);", copied)
            clock = seen.page.locator("header .dim").inner_text()
            later = "text => !document.querySelector('header .dim').innerText.includes(text)"
            seen.page.wait_for_function(later, arg=clock)
            assert seen.complaints == []


@pytest.mark.parametrize(
    "path", ["", "incidents", "statements", "collectors", "runbooks/PostgreSQLLockWait", "of an incident"]
)
def test_every_page_can_be_read_by_everyone(browser: Browser, demo: str, path: str) -> None:
    if path == "of an incident":
        path = f"incidents/{wait_until(lambda: httpx.get(f'{demo}incidents?format=json').json())[0]['id']}"
    for view in VIEWS:
        with opened(browser, view, demo + path) as seen:
            found = Axe().run(seen.page).response["violations"]
            grave = [each for each in found if each["impact"] in ("serious", "critical")]
            said = [(each["id"], each["nodes"][0]["html"]) for each in grave]
            assert said == [], view
            assert seen.overhang <= 0, view
            assert seen.complaints == [], view
            seen.picture(path.partition("/")[0] or "now-later")


def test_it_can_be_read_without_scripts_and_on_paper(browser: Browser, demo: str) -> None:
    with opened(browser, VIEWS[0], demo, scripts=False) as seen:
        assert "is up" in seen.page.locator("header").inner_text()
        assert seen.page.locator("h2").first.inner_text() == "What is wrong now"
        seen.page.emulate_media(media="print")
        assert not seen.page.locator("nav").is_visible()


def test_names_that_attack_stay_text(browser: Browser, server18: Cluster) -> None:
    with running(server18) as exporter, queue(server18, HOSTILE[:60]):
        wait_until(lambda: "blocks 1 session" in exporter.get("/").text)
        incidents = wait_until(lambda: exporter.get("/incidents?format=json").json())
        for path in ("/", "/incidents", f"/incidents/{incidents[0]['id']}", "/collectors", "/statements"):
            for view in VIEWS[::2]:
                with opened(browser, view, exporter.url + path) as seen:
                    time.sleep(0.3)  # for an image that is not there to say so
                    assert seen.complaints == [], path
                    assert seen.overhang <= 0, path
                    assert seen.page.locator("img, script:not([src])").count() == 0
        with opened(browser, VIEWS[0], exporter.url) as seen:
            assert "<script>alert(1)</script>" in seen.page.locator(".finding h3").first.inner_text()
