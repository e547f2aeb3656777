"""Samples of active sessions -> seconds by statement and by application."""

import asyncio
import itertools
import random
from collections import Counter

import pytest
from clients import client, waiting
from pages import MONITOR, Page, catalog, named, scraped, target
from patience import until

from exporter.catalog.model import Catalog
from exporter.demo.cluster import Cluster
from exporter.planning.oid_names import Names
from exporter.samples.model import Family
from exporter.scrape.target import Target
from exporter.watch import active_sessions
from exporter.watch.active_sessions import (
    MOST_APPLICATIONS,
    MOST_SERIES,
    Activity,
    ApplicationSeconds,
    StatementSeconds,
)
from exporter.watch.loop import WatchOptions
from exporter.watch.statement_matching import OTHER, Statement
from exporter.watch.wait_sampler import SESSION_SECONDS, Sampler

SECONDS = "pg_statement_sampled_seconds_total"
BY_APPLICATION = "pg_application_sampled_seconds_total"
SESSIONS = "pg_session_sampled_seconds_total"

PAY: Statement = ("shop", "app", "11")
SHIP: Statement = ("shop", "app", "-12")


def activity(
    statement: Statement = PAY, kind: str = "Lock", event: str = "tuple", application: str = "web"
) -> Activity:
    return Activity(statement, application, kind, event)


def values(family: Family) -> dict[str, float]:
    return {text: float(value or 0) for text, value in zip(family.labels, family.values, strict=True)}


def labelled(statement: Statement, kind: str, event: str) -> str:
    database, user, queryid = statement
    names = f'datname="{database}",usename="{user}",queryid="{queryid}"'
    return f'{names},wait_event_type="{kind}",wait_event="{event}"'


def test_members_have_series_by_wait_and_all_others_are_one() -> None:
    seconds = StatementSeconds()
    seconds.choose({PAY: ""})
    for each in (activity(), activity(), activity(kind="CPU", event=""), activity(SHIP), activity(OTHER)):
        seconds.add(each, 0.5)
    assert values(seconds.family()) == {
        labelled(PAY, "Lock", "tuple"): 1.0,
        labelled(PAY, "CPU", ""): 0.5,
        labelled(OTHER, "Lock", "tuple"): 1.0,
    }


def test_a_member_that_leaves_hands_its_seconds_to_the_others_and_begins_again_at_zero() -> None:
    seconds = StatementSeconds()
    seconds.choose({PAY: ""})
    seconds.add(activity(), 8)
    seconds.choose({SHIP: ""})
    seconds.add(activity(SHIP), 1)
    assert values(seconds.family()) == {labelled(OTHER, "Lock", "tuple"): 8, labelled(SHIP, "Lock", "tuple"): 1}
    seconds.choose({PAY: ""})
    seconds.add(activity(), 2)
    assert values(seconds.family()) == {labelled(OTHER, "Lock", "tuple"): 9, labelled(PAY, "Lock", "tuple"): 2}


def test_series_by_statement_are_bounded_and_keep_the_sum() -> None:
    seconds = StatementSeconds()
    seconds.choose({PAY: ""})
    for number in range(3 * MOST_SERIES):
        seconds.add(activity(kind="Extension", event=f"event {number}"), 1)
    seconds.add(activity(kind="a wait of tomorrow"), 1)
    found = values(seconds.family())
    assert sum(found.values()) == 3 * MOST_SERIES + 1
    assert len(found) == MOST_SERIES + 2
    assert found[labelled(OTHER, "Extension", "other")] == 2 * MOST_SERIES
    assert found[labelled(OTHER, "other", "other")] == 1


def test_applications_that_spend_most_have_series_and_the_sum_is_whole() -> None:
    seconds = ApplicationSeconds()
    for now in range(10):
        for number in range(3 * MOST_APPLICATIONS):
            seconds.add(activity(application=f"worker {number}"), number)
        found = values(seconds.family(float(now)))
    assert sum(found.values()) == 10 * sum(range(3 * MOST_APPLICATIONS))
    assert len(found) == MOST_APPLICATIONS + 1
    assert found[f'application_name="worker {3 * MOST_APPLICATIONS - 1}",wait_event_type="Lock"'] == 590


def test_names_with_numbers_are_forgotten_and_no_second_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active_sessions, "_REMEMBERED", 50)
    seconds = ApplicationSeconds()
    before: Counter[str] = Counter()
    for now, number in itertools.product(range(5), range(100)):
        seconds.add(activity(application=f"job {now} {number % 77}"), 1)
        seconds.add(activity(application="web", kind="CPU", event=""), 5)
        if number % 10 == 0:
            after = values(seconds.family(now + number / 100))
            assert sum(after.values()) == 6 * (100 * now + number + 1)
            before = Counter(after)
    assert before['application_name="web",wait_event_type="CPU"'] == 5 * 491


@pytest.mark.parametrize("name", ["pgvigil", "", "other"])
def test_no_name_of_an_application_is_lost(name: str) -> None:
    seconds = ApplicationSeconds()
    seconds.add(activity(application=name), 3)
    seconds.add(activity(application="web"), 4)
    assert values(seconds.family(0.0)) == {
        f'application_name="{name}",wait_event_type="Lock"': 3,
        'application_name="web",wait_event_type="Lock"': 4,
    }


def test_an_application_named_other_is_among_the_others() -> None:
    seconds = ApplicationSeconds()
    seconds.add(activity(application='o"ther'), 1)
    seconds.add(activity(application="other"), 2)
    assert values(seconds.family(0.0)) == {
        r'application_name="o\"ther",wait_event_type="Lock"': 1,
        'application_name="other",wait_event_type="Lock"': 2,
    }


def test_the_sums_are_exactly_the_time_of_active_sessions() -> None:
    """Whatever the seconds between looks, and whoever joins and leaves."""
    chance = random.Random(7)
    names = Names()
    names.replace({1: "shop"}, {10: "app"})
    sampler = Sampler()
    now = 1e6 / 7
    for _ in range(500):
        now += chance.uniform(0.1, 1.7)
        sampler.choose({("shop", "app", str(chance.randrange(40))): "" for _ in range(10)})
        kinds = [(None, None), ("Lock", "tuple"), ("IO", "DataFileRead")]
        rows = [
            {
                "datid": 1,
                "state": state,
                "wait_event_type": kind,
                "wait_event": event,
                "usesysid": 10,
                "application_name": chance.choice(["pgvigil", *(f"app {number}" for number in range(60))]),
                "query": b"SELECT 1",
                "queryid": chance.choice([None, *range(40)]),
                "sessions": chance.randrange(4),
                "lock_sessions": None,
                "lock_waiters": None,
                "slots": 97,
                "seconds": 0.001,
            }
            for state in ("active", "idle")
            for kind, event in kinds
            for _ in range(5)
        ]
        sampler.add(rows, now, 1.0, names)
        found = {family.metric.name: values(family) for family in sampler.samples(names, now).families}
        active = sum(seconds for text, seconds in found[SESSION_SECONDS.name].items() if 'state="active"' in text)
        assert sum(found[SECONDS].values()) == sum(found[BY_APPLICATION].values()) == active
    assert active > 500


def statements() -> Catalog:
    return Catalog((named(catalog(), "statements").model_copy(update={"limit": 200, "cache": 0}),))


async def _looked_at(server: Cluster, seconds: float) -> Page:
    """A page after some seconds of looks, of which none counts before the statements and their texts are known."""
    options = WatchOptions(interval=0.1, cost_budget=0)
    watched = target(server.dsn(user=MONITOR), statements(), watch=options, statement_text_length=160)
    try:
        await scraped(watched)
        await until(lambda: _has_text(watched))
        watched.start()
        await asyncio.sleep(seconds)
        return await scraped(watched)
    finally:
        await watched.close()


async def _has_text(watched: Target) -> bool:
    watched.texts.read_newcomers()
    return any("FROM account" in text for text in watched.texts.listed().values())


@pytest.mark.parametrize(
    ("held", "waits"),
    [("UPDATE account SET id = 3", "transactionid"), ("LOCK TABLE account", "relation")],
    ids=["in execution", "in parse analysis"],
)
async def test_a_statement_says_what_it_waits_for(server: Cluster, held: str, waits: str) -> None:
    """On 13 and in parse analysis a session shows no query identifier."""
    server.execute("SELECT pg_stat_statements_reset()")
    server.execute("CREATE TABLE account AS SELECT 1 AS id")
    server.execute("DELETE FROM account WHERE id IN (-2, 4)")  # the ledger lists what has ended once
    try:
        async with client(server, "holder") as holder:
            await holder.execute(f"BEGIN; {held}")
            async with waiting(server, "cashier", "DELETE FROM account  WHERE id IN (1, 5);"):
                found = await _looked_at(server, 4)
    finally:
        server.execute("DROP TABLE account")
    active = sum(value for _, value in found.series(SESSIONS, state="active"))
    assert sum(value for _, value in found.series(BY_APPLICATION)) == active
    assert sum(value for _, value in found.series(SECONDS)) == active
    waited = found.value(SESSIONS, state="active", wait_event_type="Lock", wait_event=waits)
    assert waited > 1
    assert found.value(BY_APPLICATION, application_name="cashier", wait_event_type="Lock") == waited
    [(labels, seconds)] = found.series(SECONDS, wait_event_type="Lock")
    assert seconds == waited
    assert (labels["datname"], labels["usename"], labels["wait_event"]) == ("postgres", "postgres", waits)
    assert found.value("pg_statements_calls_total", queryid=labels["queryid"]) == 1
    [(info, _)] = found.series("pg_statement_info", queryid=labels["queryid"])
    assert info["query"].startswith("DELETE FROM account WHERE id IN ($1")
