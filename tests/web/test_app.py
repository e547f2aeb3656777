"""Scrapers are answered without FastAPI, and as FastAPI would answer them."""

import asyncio
import subprocess
import sys

import httpx
import pytest
from fake_session import FakeServer, collector, scraping
from starlette.types import ASGIApp

from exporter.history.historian import Historian
from exporter.settings import Settings
from exporter.web.app import create_app
from exporter.web.scraper_routes import ScraperRoutes
from exporter.web.user_pages import create_user_app

SETTINGS = Settings(targets=())

JSON = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
"""Headers of every answer as JSON."""

OPENMETRICS = "application/openmetrics-text; version=1.0.0"

OFFLINE = """
import asyncio, sys, httpx
from exporter.settings import Settings
from exporter.web.app import create_app

async def ask(*paths):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app({}, Settings(targets=())))) as client:
        return [(await client.get("http://localhost" + path)).status_code for path in paths]

print(asyncio.run(ask("/metrics", "/probe?target=x", "/healthz", "/readyz")), {"fastapi", "jinja2"} & {*sys.modules})
print(asyncio.run(ask("/incidents?format=json")), sorted({"fastapi", "jinja2"} & {*sys.modules}))
"""


async def answer(app: ASGIApp, method: str, path: str) -> tuple[int, dict[str, str], str]:
    """Ask an application; values of a page change from one to the next."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        found = await client.request(method, path)
    headers = {name: value for name, value in found.headers.items() if name != "content-length"}
    return found.status_code, headers, "" if path == "/metrics" and found.is_success else found.text


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    "path",
    ["/metrics", "/metrics/", "/probe?target=x", "/healthz", "/readyz", "/primary", "/", "/incidents/x", "/nothing"],
)
async def test_every_request_is_answered_as_by_fastapi(method: str, path: str) -> None:
    found = await answer(create_app({}, SETTINGS), method, path)
    assert found == await answer(
        create_user_app({}, SETTINGS, ScraperRoutes({}, SETTINGS), Historian({}, SETTINGS)), method, path
    )
    assert found[0] != 500


async def test_users_who_ask_at_once_share_one_application() -> None:
    app = create_app({}, SETTINGS)
    found = await asyncio.gather(*(answer(app, "GET", "/incidents") for _ in range(5)))
    assert found == [(200, {"content-type": "application/json", **JSON}, "[]")] * 5


async def test_an_application_that_could_not_be_built_is_built_at_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = create_app({}, SETTINGS)
    with monkeypatch.context() as broken:
        broken.setattr("exporter.web.user_pages.create_user_app", _no_files_left)
        with pytest.raises(OSError, match="Too many open files"):
            await answer(app, "GET", "/incidents")
    assert (await answer(app, "GET", "/incidents"))[0] == 200


def _no_files_left(*_: object) -> None:
    raise OSError(24, "Too many open files")


def test_a_scraper_costs_no_import_of_what_only_users_need() -> None:
    done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[200, 404, 200, 200] set()", "[200] ['fastapi', 'jinja2']"]


async def test_a_large_page_is_written_beside_the_loop() -> None:
    server = FakeServer()
    server.on("tables", rows=[{"relname": f"t{number}", "value": number} for number in range(100_000)])
    tables = collector("tables", labels=["relname"], cache=60)
    async with (
        scraping(server, tables) as target,
        httpx.AsyncClient(transport=httpx.ASGITransport(create_app({"": target}, SETTINGS))) as client,
    ):
        plain = await client.get("http://localhost/metrics")
        page = asyncio.create_task(client.get("http://localhost/metrics", headers={"Accept": OPENMETRICS}))
        answered = 0
        while not page.done():
            await asyncio.sleep(0)
            answered += (await client.get("http://localhost/healthz")).is_success
        assert answered > 20
        assert server.runs("tables") == 1
        assert [text.count("\npg_tables{") for text in (plain.text, page.result().text)] == [100_000, 100_000]
