"""The text of what runs for the first time, and so is in no list: of a migration, for one."""

import asyncio
from contextlib import suppress

import asyncpg
import pytest
from clients import client
from fake_session import FakeServer
from pages import MONITOR, target
from patience import until

from exporter.demo.cluster import Cluster
from exporter.errors import QueryError
from exporter.watch.loop import WatchOptions
from exporter.watch.seen_texts import SeenTexts


async def test_what_runs_for_the_first_time_has_its_text_without_literals(server: Cluster, major: int) -> None:
    watched = target(server.dsn(user=MONITOR), watch=WatchOptions(interval=0.2))
    watched.start()
    try:
        assert watched.watch
        texts = watched.watch.texts.texts
        async with client(server, "migration") as session:
            assert (await watched.scrape(60)).up
            running = asyncio.create_task(session.execute("SELECT pg_sleep(60), 'a secret' AS /* of */ first_run"))
            if major < 14:  # a session shows no query identifier
                await asyncio.sleep(3)
                assert texts == {}
            else:
                await until(lambda: texts)
                assert list(texts.values()) == ["SELECT pg_sleep(?), ? AS first_run"]
            running.cancel()
            with suppress(asyncio.CancelledError, asyncpg.PostgresError):
                await running
    finally:
        await watched.close()


@pytest.mark.parametrize(("length", "texts"), [(160, {"42": "SELECT ?"}), (0, {})])
async def test_it_is_asked_for_once_a_while_and_not_where_texts_are_off(length: int, texts: dict[str, str]) -> None:
    server = FakeServer()
    server.on("seen_texts", rows=[{"queryid": 42, "query": b"SELECT 1"}])
    session, seen = await server.connect(), SeenTexts(length)
    statement = ("shop", "web", "42")
    for look in range(30):
        await seen.learn(session, {statement}, {statement: ""}, float(look), 2.0)
    assert seen.texts == texts
    assert server.runs("seen_texts") == len(texts)


async def test_a_question_that_fails_is_no_failed_look() -> None:
    server = FakeServer()
    server.on("seen_texts", error=QueryError("timeout", "no"))
    session, seen = await server.connect(), SeenTexts(160)
    for look in range(30):
        await seen.learn(session, {("shop", "web", "42")}, {}, float(look), 2.0)
    assert seen.texts == {}
    assert server.runs("seen_texts") == 3
