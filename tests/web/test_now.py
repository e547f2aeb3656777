"""The page for whoever was paged: the culprit in a sentence, what ends it, and nothing that runs but what we ship."""

import asyncio
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html import unescape

import asyncpg
import jinja2
import pytest
from markupsafe import Markup
from pages import MONITOR
from patience import SECONDS, Stopwatch, wait_until
from queues import queue, running
from serving import Exporter

from exporter.alert_rules import alert_rules
from exporter.demo.cluster import SUPERUSER, Cluster
from exporter.web.runbooks import filled, runbook, runbooks
from exporter.web.user_pages import _visible

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def undisturbed(server18: Cluster) -> Iterator[Exporter]:
    """One for tests that change nothing."""
    with running(server18) as exporter:
        yield exporter


def page_with(exporter: Exporter, text: str) -> str:
    """The page once it has a text; empty until then."""
    page = exporter.get("/").text
    return page if text in page else ""


def test_the_page_names_who_holds_up_whom_with_what_ends_it(server18: Cluster) -> None:
    with running(server18) as exporter, queue(server18, "nightly") as pid:
        sentence = f"pid {pid} ({SUPERUSER}, nightly, idle in transaction"
        wait_until(lambda: page_with(exporter, "PostgreSQL 18"))
        text = unescape(wait_until(lambda: page_with(exporter, f"<h3>{sentence}")))
        said = exporter.get("/api/v1/now").json()
    assert "blocks 1 session" in text
    assert re.search(r"<b>PostgreSQL 18[.\d]* is up</b>", text), "not in the green of a server that is well"
    assert f'data-copy="SELECT pg_terminate_backend({pid});"' in text
    assert "a literal" not in text
    assert re.search(rf'href="runbooks/\w+\?[^"]*\bpid={pid}\b', text)
    assert re.findall(r"<b>\s*pid (\d+)\s*</b>", text)[0] == str(pid)  # the root of the tree
    assert f"127.0.0.1:{server18.port}" in text
    assert "PostgreSQL 18" in text
    assert "primary" in text
    [server] = said
    assert server["findings"][0]["sentence"].startswith(sentence)
    assert [node["depth"] for node in server["locks"]] == [0, 1]


def test_who_waits_is_shown_as_of_the_last_seconds(server18: Cluster) -> None:
    """The pid of a session that has let go may be another's."""
    with running(server18) as exporter:
        with queue(server18, "nightly") as pid:
            wait_until(lambda: page_with(exporter, f"pid {pid}"))
        wait_until(lambda: f"pid {pid}" not in exporter.get("/").text)
        assert exporter.get("/api/v1/now").json()[0]["locks"] == []


@pytest.mark.full
@pytest.mark.timeout(300)
def test_a_statement_that_takes_the_servers_time_is_named(cluster: Callable[..., Cluster]) -> None:
    server, over = cluster(), threading.Event()

    async def dashboard() -> None:
        session = await asyncpg.connect(server.dsn(), ssl="disable", server_settings={"application_name": "dashboard"})
        while not over.is_set():
            await session.execute("SELECT count(pg_sleep(0.25)) AS drawn")
        await session.close()

    fresh = json.dumps({"statements": {"cache": 5}})
    with ThreadPoolExecutor(1) as pool, running(server, collectors=fresh) as exporter:
        drawing = pool.submit(asyncio.run, dashboard())
        try:
            sentence = f"a statement of {SUPERUSER} in postgres (application dashboard) takes"
            give_up = time.monotonic() + 2 * SECONDS
            while not (found := page_with(exporter, sentence)):  # most of a minute has to be over first
                assert time.monotonic() < give_up
                exporter.get()
                time.sleep(3)
            text = unescape(found)
        finally:
            over.set()
        drawing.result()
    assert re.search(
        rf"<h3>{re.escape(sentence)} \d+% of all execution time of the last \d+ (s|min): \d+ ms a call", text
    )
    assert "SELECT count(pg_sleep($1)) AS drawn" in text
    assert 'data-copy="EXPLAIN (GENERIC_PLAN) SELECT count(pg_sleep($1)) AS drawn;"' in text


def test_names_that_attack_the_page_stay_text(server18: Cluster) -> None:
    name = HOSTILE[:60]
    with running(server18) as exporter, queue(server18, name):
        text = wait_until(lambda: page_with(exporter, "blocks 1 session"))
    assert name in unescape(text)
    assert "<script>alert" not in text
    assert "<img" not in text


def test_marks_of_direction_are_written_out() -> None:
    page = jinja2.Environment(autoescape=True, finalize=_visible).from_string("{{ name }} <b>{{ 7 }}</b> {{ html }}")
    said = page.render(name="evil\u202e<name>\u2066", html=Markup("<i>kept</i>"))
    assert said == "evil\\u202e&lt;name&gt;\\u2066 <b>7</b> <i>kept</i>"


@pytest.mark.parametrize("path", ["/", "/collectors", "/incidents", "/statements", "/runbooks/PostgreSQLDown"])
def test_only_what_we_ship_may_run(undisturbed: Exporter, path: str) -> None:
    page = undisturbed.get(path, headers={"Accept": "text/html"})
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert re.findall(r"<style|style=|<script(?! defer src=)|\son\w+=|http-equiv", page.text) == []
    for link in re.findall(r'(?:src|href)="([^"]*static/[^"]+)"', page.text):
        assert undisturbed.get("/" + link.removeprefix("../")).status_code == 200


def test_it_answers_at_once_while_the_server_stands_still(cluster: Callable[..., Cluster]) -> None:
    server = cluster(18)
    with running(server) as exporter:
        wait_until(lambda: "is up" in exporter.get("/").text)
        backends = server.query("SELECT pid FROM pg_stat_activity WHERE usename = $1", MONITOR)
        stopped = [server.pid, *(row["pid"] for row in backends)]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(5):
                watch = Stopwatch(exporter.process.pid)
                text = exporter.get("/").text
                assert watch.seconds < 1
                assert re.search(r"Newest reading \d+ \w+ ago", text)
            wait_until(lambda: "is down: hung" in exporter.get("/").text or "timeout" in exporter.get("/").text)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)


def test_opening_it_is_no_scrape(server18: Cluster) -> None:
    with running(server18) as exporter:
        wait_until(lambda: "is up" in exporter.get("/").text)
        for _ in range(20):
            exporter.get("/")
        assert re.search(r"^pgvigil_scrapes_total 1\b", exporter.get().text, re.MULTILINE)


def test_every_alert_has_its_runbook_as_a_page() -> None:
    assert runbooks() == alert_rules().keys()
    assert "<h1>PostgreSQLLockQueue</h1>" in runbook("PostgreSQLLockQueue", {})
    assert "<script" not in "".join(runbook(name, {}) for name in runbooks())


def test_a_runbook_has_the_values_of_the_case_filled_in() -> None:
    case = {"pid": "9148", "relname": 'odd"name', "schemaname": "it's", "gid": "a\\b", "queryid": "-42"}
    sql = "SELECT :pid, :queryid, :'schemaname', :\"relname\", :'gid', x::regclass, :'datname', now()::text -- 12:30:45"
    assert filled(sql, case) == (
        """SELECT 9148, -42, 'it''s', "odd""name", E'a\\\\b', x::regclass, :'datname', now()::text -- 12:30:45"""
    )
    assert filled("WHERE pid = :pid", {"pid": "1; DROP TABLE users"}) == "WHERE pid = :pid"
    page = runbook("PostgreSQLLockWait", {"pid": "9148", "usename": "<b>"})
    assert "WHERE pid = 9148" in page
    assert "<b>" not in page


@pytest.mark.parametrize("name", ["Nothing", "..%2F..%2Frules%2Flocks", "PostgreSQLDown.md"])
def test_a_runbook_that_is_none_is_not_found(undisturbed: Exporter, name: str) -> None:
    answer = undisturbed.get(f"/runbooks/{name}")
    assert answer.status_code == 404
