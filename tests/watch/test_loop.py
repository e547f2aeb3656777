"""The look between scrapes: waits that come and go are counted, and what was wrong can be read afterwards."""

import asyncio
import json
import time
from typing import Any

import asyncpg
import pytest
from clients import client, waiting
from pages import MONITOR, Page, read, scraped, target
from patience import until
from serving import serving

from exporter.demo.cluster import Cluster
from exporter.scrape.target import Target
from exporter.watch.incidents import Incident
from exporter.watch.loop import WatchOptions
from exporter.watch.wait_sampler import COLLECTOR


@pytest.mark.timeout(180)
def test_a_lock_wait_of_8_s_between_two_scrapes_15_s_apart_is_counted_and_recorded(server18: Cluster) -> None:
    """As its users run it, with its defaults: over HTTP."""
    server18.execute("CREATE TABLE IF NOT EXISTS account (id int PRIMARY KEY, pin text)")

    async def wait_for_8_s() -> None:
        async with client(server18, "holder") as holder:
            await holder.execute("BEGIN; LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
            async with waiting(server18, "waiter", "UPDATE account SET pin = '1234' WHERE id = 77"):
                await asyncio.sleep(8)

    with serving(dsn=server18.dsn(user=MONITOR)) as exporter:
        before = read(exporter.get().text)
        asyncio.run(asyncio.wait_for(_during(15, wait_for_8_s()), 30))
        after = read(exporter.get().text)
        listed = exporter.get("/incidents").json()
        [found] = [incident for incident in listed if incident["kind"] == "lock_wait"]
        whole = exporter.get(f"/incidents/{found['id']}").json()
        people = exporter.get("/incidents", headers={"Accept": "text/html"})
        person = exporter.get(f"/incidents/{found['id']}", headers={"Accept": "text/html"})
        unknown = exporter.get("/incidents/nonsense")
    server18.execute("DROP TABLE account")

    assert sum(value for _, value in before.series("pg_lock_wait_sampled_seconds_total")) < 1
    assert after.value("pg_lock_wait_sampled_seconds_total", datname="postgres") == pytest.approx(8, abs=2.1)
    assert after.value("pg_lock_wait_longest_recent_seconds") == pytest.approx(8, abs=2)
    waited = after.value("pg_session_sampled_seconds_total", datname="postgres", wait_event_type="Lock")
    assert waited == pytest.approx(8, abs=2.1)
    assert after.series("pg_lock_queue_waiters") == []
    assert after.value("pgvigil_incidents_total", kind="lock_wait") == 1

    assert found["seconds"] == pytest.approx(3, abs=2.1)  # an incident from the fifth second on
    sessions = {session["application_name"]: session for session in whole["snapshots"][0]["sessions"]}
    assert sessions["waiter"]["blocked_by"] == [sessions["holder"]["pid"]]
    assert sessions["waiter"]["query"] == "UPDATE account SET pin = ? WHERE id = ?"
    assert sessions["holder"]["query"] == "BEGIN; LOCK TABLE account IN ACCESS EXCLUSIVE MODE"
    assert "1234" not in json.dumps(whole)
    assert "(postgres, holder, idle in transaction) blocks 1 session" in people.text
    culprit = f"pid {sessions['holder']['pid']} (postgres, holder, idle in transaction) blocks 1 session"
    assert f"<h1>{culprit}</h1>" in person.text
    assert "UPDATE account SET pin = ?" in person.text
    assert (unknown.status_code, "nonsense" in unknown.text) == (404, True)


async def _during(seconds: float, work: object) -> None:
    await asyncio.gather(asyncio.sleep(seconds), work)  # type: ignore[call-overload]


async def _watched(server: Cluster, seconds: float, **options: Any) -> Page:
    watched = target(server.dsn(user=MONITOR), watch=WatchOptions(**options))
    watched.start()
    try:
        await asyncio.sleep(seconds)
        return await scraped(watched)
    finally:
        await watched.close()


async def test_sampling_says_how_it_fares_as_any_collector(server: Cluster) -> None:
    async with client(server, "idler"):
        began = time.monotonic()
        found = await _watched(server, 4.0, interval=0.2)
        elapsed = time.monotonic() - began
    assert found.value("pgvigil_collector_success", collector=COLLECTOR) == 1
    assert 0 < found.value("pgvigil_collector_seconds_total", collector=COLLECTOR) < elapsed
    sampled = found.value("pg_session_sampling_seconds_total")
    assert 1 < sampled < elapsed
    idle = sum(value for _, value in found.series("pg_session_sampled_seconds_total", state="idle"))
    assert idle >= sampled * 0.9


async def test_sampling_slows_down_when_it_costs_more_than_its_share(server18: Cluster) -> None:
    async with client(server18, "idler"):
        found = await _watched(server18, 1.5, interval=0.1, cost_budget=1e-6)
    assert found.value("pgvigil_collector_interval_seconds", collector=COLLECTOR) > 1
    assert found.value("pgvigil_collector_age_seconds", collector=COLLECTOR) > 0.5


async def test_without_sampling_there_are_no_such_series(server18: Cluster) -> None:
    plain = target(server18.dsn(user=MONITOR))
    plain.start()
    found = await scraped(plain)
    await plain.close()
    assert found.series("pg_session_sampling_seconds_total") == []
    assert found.series("pgvigil_collector_success", collector=COLLECTOR) == []


def of_connections(watched: Target) -> Incident | None:
    """Return the incident of too many connections; on a busy machine there may be others."""
    return next((incident for incident in watched.incidents if incident.kind == "connections"), None)


async def test_few_connections_left_are_an_incident(server18: Cluster) -> None:
    watched = target(server18.dsn(user=MONITOR), watch=WatchOptions(interval=0.1, connections=0.01))
    watched.start()
    async with client(server18, "one"), client(server18, "two"):
        incident = await until(lambda: of_connections(watched))
    await watched.close()
    assert incident.snapshots[0].sessions or incident.snapshots[0].idle_sessions


async def test_a_role_that_is_new_has_a_name_in_an_incident(server18: Cluster) -> None:
    watched = target(server18.dsn(user=MONITOR), watch=WatchOptions(interval=0.1, connections=0.01))
    await scraped(watched)
    server18.execute("CREATE ROLE newcomer LOGIN")
    session = await asyncpg.connect(server18.dsn(user="newcomer"))
    await session.execute("BEGIN")
    watched.start()
    async with client(server18, "one"), client(server18, "two"):
        incident = await until(lambda: of_connections(watched))
    await watched.close()
    await session.close()
    server18.execute("DROP ROLE newcomer")
    shown = incident.snapshots[0].sessions  # one that is still starting has no state
    assert [row["usename"] for row in shown if row.get("state") == "idle in transaction"] == ["newcomer"]


async def test_a_server_that_is_down_is_an_incident_that_ends_when_it_is_back(server18: Cluster) -> None:
    watched = target(server18.dsn(user=MONITOR), watch=WatchOptions(interval=0.1))
    watched.start()
    await scraped(watched)
    await asyncio.to_thread(server18.stop)
    await until(lambda: watched.incidents)
    await asyncio.to_thread(server18.start)
    found = await until(lambda: next((incident for incident in watched.incidents if incident.ended), None))
    await watched.close()
    assert found.kind == "down"
    assert found.snapshots[0].summary
