"""What hid in flags: each case once cost an innocent job, database or server its name."""

import asyncio
import logging
from typing import Any

import pytest
from fake_session import FakeServer, collector, job, scraping
from virtual_time import in_virtual_time

from exporter.backoff import RECONNECT
from exporter.errors import ConnectError, QueryError
from exporter.report import Login
from exporter.watch.loop import WatchOptions


def test_a_slow_look_up_of_names_suspends_nothing() -> None:
    """D1: the directory may take 5 s; the limit for names goes to the session, and is no reason to blame a job."""

    async def scenario() -> None:
        server = FakeServer()
        named = collector("named", labels=["datname"], names={"datname": "database"})
        server.on("named", rows=[{"datname": 77, "value": 1}])
        async with scraping(server, named) as target:
            await target.scrape(10)
            server.on("directory", after=1.6)
            server.on("named", rows=[{"datname": 78, "value": 1}])
            await target.scrape(10)
            report = await target.scrape(10)
            assert (job(report, "named").success, dict(job(report, "named").errors)) == (True, {})
            assert server.runs("named") == 3
            assert len(server.sessions) == 2

    in_virtual_time(scenario())


def test_a_directory_that_hangs_is_not_blamed_on_the_job_that_asked_for_names(caplog: pytest.LogCaptureFixture) -> None:
    """A sibling of D1: the connection is stuck with a question of our own."""

    async def scenario() -> None:
        server = FakeServer()
        named = collector("named", labels=["datname"], names={"datname": "database"})
        async with scraping(server, named) as target:
            await target.scrape(10)
            server.on("named", rows=[{"datname": 78, "value": 1}])
            server.on("directory", hangs=True)
            await target.scrape(10)
            server.off()
            report = await target.scrape(10)
            assert job(report, "named").success

    in_virtual_time(scenario())
    assert "suspended" not in caplog.text


def test_a_ping_that_waits_no_longer_leaves_its_session_usable() -> None:
    """A sibling of D1: a limit laid around a question from outside left the session stuck."""

    async def scenario() -> None:
        server = FakeServer()
        async with scraping(server, collector("a")) as target:
            assert (await target.ping(10)).up
            await asyncio.sleep(1)
            server.on("vitals", after=1.5)
            assert not (await target.ping(1)).up
            await asyncio.sleep(1)
            server.off()
            assert (await target.ping(10)).up
            assert (len(server.sessions), server.sessions[0].is_usable) == (1, True)

    in_virtual_time(scenario())


def test_a_ping_asks_on_the_other_connection_while_one_waits_for_its_next_login(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A password was mended: the log said up, down for the old password, and up again 15 s later."""

    async def scenario() -> None:
        server = FakeServer()
        async with scraping(server, collector("a")) as target:
            await target.scrape(10)
            server.on_login(error=ConnectError("authentication", "password authentication failed"))
            server.sessions[0].terminate()
            for _ in range(3):
                await asyncio.sleep(1)
                assert (await target.ping(10)).up
            server.sessions[1].terminate()
            await asyncio.sleep(1)
            assert (await target.ping(10)).down_reason == "authentication"

    with caplog.at_level(logging.INFO):
        in_virtual_time(scenario())
    assert [line for line in caplog.messages if line.startswith("PostgreSQL is")] == [
        "PostgreSQL is up",
        "PostgreSQL is down: password authentication failed",
    ]


@pytest.mark.parametrize("turns", range(20))
def test_whoever_asks_next_leaves_those_their_answer_who_asked_before(turns: int) -> None:
    """In a flood of pages of the process, who had an answer found the next question open, and said `hung` for all."""

    async def scenario() -> None:
        server = FakeServer()
        async with scraping(server, collector("a")) as target:
            assert (await target.scrape(10)).up
            server.on("vitals", after=1)
            first = asyncio.create_task(target.ping(10))
            await asyncio.sleep(1)
            for _ in range(turns):  # of the loop, until the first has its answer, and before it knows of it
                await asyncio.sleep(0)
            second = asyncio.create_task(target.ping(10))
            assert (await first).up
            assert (await second).up

    in_virtual_time(scenario())


def test_a_question_that_is_open_makes_no_other_page_say_down(caplog: pytest.LogCaptureFixture) -> None:
    """A flood of pages of the process, each of which asks whether servers are up, had a scrape say `hung`."""

    async def scenario() -> None:
        server = FakeServer()
        async with scraping(server, collector("a")) as target:
            assert (await target.ping(10)).up
            server.on("vitals", after=1)
            scraped = asyncio.create_task(target.scrape(10))
            await asyncio.sleep(0.1)
            assert (await target.ping(10)).up, "it was asked just now"
            assert (await scraped).up
            await asyncio.sleep(1)
            server.on("vitals", hangs=True)
            pinged = asyncio.create_task(target.ping(3))
            await asyncio.sleep(1)
            assert (await target.known()).up
            assert not (await pinged).up
            assert not (await target.ping(1)).up

    in_virtual_time(scenario())
    assert [record.message for record in caplog.records if "is down" in record.message] == [
        "PostgreSQL is down: no answer in time"
    ]


def test_what_is_known_of_a_server_stays_until_it_is_known_better() -> None:
    """Whoever opens a page begins a run, and must not read that a server is down which is only being asked."""

    async def scenario() -> None:
        server = FakeServer()
        async with scraping(server, collector("a")) as target:
            first = await target.known(10, patience=0)
            assert (first.up, first.down_reason) == (False, "")  # not asked yet
            await asyncio.sleep(1)
            for _ in range(5):
                assert (await target.known(10, patience=0)).up
                await asyncio.sleep(60)
            server.on("vitals", hangs=True)
            assert [(await target.known(10)).up, (await target.known(10)).up] == [True, True]
            await asyncio.sleep(60)
            await target.known(10)
            last = await target.known(10)
            assert (last.up, last.down_reason) == (False, "hung")
            assert server.runs("a") == 5

    in_virtual_time(scenario())


def test_what_is_asked_after_a_pause_is_fresh_and_of_a_server_that_hangs_at_once() -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with scraping(server, collector("a")) as target:
            await target.scrape(10)
            await asyncio.sleep(300)
            [job] = (await target.known(10)).jobs
            assert job.age is not None
            assert job.age < 1  # not what was seen five minutes ago
            await asyncio.sleep(300)
            server.on("a", hangs=True)
            began = asyncio.get_running_loop().time()
            [job] = (await target.known(10)).jobs
            assert asyncio.get_running_loop().time() - began <= 0.25
            assert job.age is not None
            assert job.age >= 300

    in_virtual_time(scenario())


def test_pings_of_many_clients_ask_the_server_five_times_a_second() -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with scraping(server, collector("a")) as target:
            for _ in range(100):
                reports = await asyncio.gather(*(target.ping(10) for _ in range(8)))
                assert all(report.up for report in reports)
                await asyncio.sleep(0.01)
            assert 4 <= server.runs("vitals") <= 5 + 2  # a login asks as well

    in_virtual_time(scenario())


def test_a_page_for_people_is_no_scrape() -> None:
    """D2: ten reloads once made scrapes look 1.4 s apart, which throttled collectors."""

    async def scenario() -> None:
        server = FakeServer()
        async with scraping(server, collector("a")) as target:
            for _ in range(20):
                await target.scrape(10)
                await asyncio.sleep(15)
            runs = server.runs("a")
            for _ in range(10):
                report = await target.current(10)
                await asyncio.sleep(1)
            assert report.scrapes == 20
            assert server.runs("a") == runs + 1
            assert target._parts.schedule.scrape_interval == pytest.approx(15.0)

    in_virtual_time(scenario())


def test_an_unexpected_error_of_a_worker_is_booked_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """D3: it once was retrieved by the garbage collector, and every job was late without a reason."""

    async def scenario() -> None:
        server = FakeServer()
        async with scraping(server, collector("a"), collector("vital", vital=True)) as target:
            server.on("contents", error=ValueError("odd"))
            report = await target.scrape(10)
            assert (job(report, "a").reason, dict(job(report, "a").errors)) == ("query", {"query": 1})
            assert "ValueError: odd" in job(report, "a").message
            server.off()
            assert job(await target.scrape(10), "a").success

    in_virtual_time(scenario())
    found = {vars(r)["worker"]: vars(r)["target"] for r in caplog.records if r.levelno == logging.ERROR}
    assert found == {"vital": "db1", "main": "db1"}


def test_an_unexpected_error_in_one_database_costs_no_other() -> None:
    """A sibling of D3: a visitor goes on with the next database."""

    async def scenario() -> None:
        server = FakeServer(databases=("postgres", "a", "b"))
        async with scraping(server, collector("tables", scope="database"), max_connections=3) as target:
            server.on("contents", error=ValueError("odd"), database="a")
            report = await target.scrape(10)
            assert (job(report, "tables", "a").success, job(report, "tables", "b").success) == (False, True)
            assert dict(job(report, "tables", "a").errors) == {"query": 1}

    in_virtual_time(scenario())


def test_a_database_is_not_refused_because_the_server_hangs() -> None:
    """D4: the vital connection hangs while a query in another database is stuck."""

    async def scenario() -> None:
        server = FakeServer(databases=("postgres", "shop"))
        per_database = collector("tables", scope="database", timeout=1)
        async with scraping(server, per_database, collector("vital", vital=True)) as target:
            await target.scrape(10)
            server.on("tables", hangs=True, database="shop")
            scrape = asyncio.create_task(target.scrape(10))
            await asyncio.sleep(0.1)
            server.on("vitals", hangs=True)
            await scrape
            server.off()
            await asyncio.sleep(0.1)  # a database that refused us rests longer
            visits = server.runs("tables", "shop")
            report = await target.scrape(10)
            assert server.runs("tables", "shop") == visits + 1
            assert job(report, "tables", "shop").success

    in_virtual_time(scenario())


def test_a_database_is_not_refused_because_our_own_connections_are_in_use() -> None:
    """A sibling of D4: a visitor that finds no free place says nothing about the database."""

    async def scenario() -> None:
        server = FakeServer(databases=("postgres", "shop"))
        async with scraping(server, collector("tables", scope="database"), max_connections=3) as target:
            async with target._parts.pool.borrowed("postgres"):
                report = await target.scrape(30)
            assert not job(report, "tables", "shop").success
            assert job(await target.scrape(30), "tables", "shop").success

    in_virtual_time(scenario())


def test_labels_reach_the_list_of_statements_as_they_are() -> None:
    r"""D5: they were parsed back out of the exposition format, so that a quote came out as \"."""

    async def scenario() -> None:
        server = FakeServer()
        names = collector(
            "statements",
            labels=["datname", "usename", "queryid"],
            statements=True,
            limit=5,
            ledger={"key": ["userid", "dbid", "queryid", "toplevel", "generation"], "rank": "exec_seconds"},
            metrics=[
                {"name": "pg_statements_exec_seconds_total", "type": "counter", "help": "A.", "column": "exec_seconds"}
            ],
        )
        row = {"datname": 'd"b', "usename": 'o"bri\\en', "queryid": 42, "userid": 1, "dbid": 1, "toplevel": True}
        costs = {"generation": 0, "exec_seconds": 2.5, "plan_seconds": 0.0, "rows": 1}
        server.on("statements", rows=[row | costs | {"shared_blks_hit": 1, "shared_blks_read": 1}])
        async with scraping(server, names) as target:
            await target.scrape(10)
            found = (await target.statements(10)).statements
        assert [(row.queryid, row.labels["datname"], row.labels["usename"]) for row in found] == [
            ("42", 'd"b', 'o"bri\\en'),
            ("pgvigil", "", ""),
            ("other", "", ""),
        ]
        assert found[0].counts == {"exec_seconds": 2.5}

    in_virtual_time(scenario())


def test_a_login_that_fails_unexpectedly_costs_no_place_and_is_tried_again() -> None:
    """The exception stayed in the finished login, and was raised for ever; its place was never given back."""

    async def scenario() -> None:
        server = FakeServer(databases=("postgres", "shop"))
        server.on_login(error=ValueError("odd"))
        async with scraping(server, collector("tables", scope="database"), max_connections=3) as target:
            report = await target.scrape(10)
            assert (report.up, report.down_reason) == (False, "other")
            server.off()
            await asyncio.sleep(RECONNECT.longest)
            assert (await target.scrape(10)).up
            server.on_login(error=ValueError("odd"), database="shop")
            for _ in range(5):
                await asyncio.sleep(60)
                report = await target.scrape(10)
                assert (report.up, job(report, "tables", "shop").reason) == (True, "connection")
            server.off()
            await asyncio.sleep(60)
            assert job(await target.scrape(10), "tables", "shop").success
        assert server.open == 0

    in_virtual_time(scenario())


def test_a_login_probe_that_fails_unexpectedly_says_so_and_goes_on() -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with scraping(server, collector("vital", vital=True)) as target:
            await target.scrape(10)
            server.on_login(error=ValueError("odd"))
            for wanted in (Login(False, 0.0, "other", None, "ValueError: odd"), Login(True, 0.0)):
                await asyncio.sleep(60)
                await target.scrape(10)
                await asyncio.sleep(1)
                assert (await target.ping(10)).login == wanted
                server.off()

    in_virtual_time(scenario())


def test_a_page_for_people_waits_for_the_run_under_way_instead_of_calling_the_server_down() -> None:
    async def scenario() -> None:
        server = FakeServer()
        server.on_login(after=0.3)
        async with scraping(server, collector("a")) as target:
            first, second = await asyncio.gather(target.current(10), target.current(10))
            assert [report.up for report in (first, second)] == [True, True]
            await asyncio.sleep(15)
            server.on("vitals", after=0.2)
            run = asyncio.create_task(target.scrape(10))
            await asyncio.sleep(0.1)
            assert (await target.current(10)).up
            assert (await run).up

    in_virtual_time(scenario())


def test_a_server_that_hangs_is_not_called_up_while_an_earlier_query_is_late() -> None:
    async def scenario() -> None:
        server = FakeServer()
        server.on("slow", hangs=True)
        async with scraping(server, collector("slow", timeout=60, cache=600)) as target:
            assert (await target.scrape(10)).up
            server.on("vitals", hangs=True)
            await asyncio.sleep(1)
            assert not (await target.ping(9)).up

    in_virtual_time(scenario())


def test_a_scrape_that_joins_the_run_of_a_page_for_people_counts_for_the_scrape_interval() -> None:
    async def scenario() -> None:
        clock = asyncio.get_running_loop().time
        server = FakeServer()
        server.on("a", after=3)
        async with scraping(server, collector("a")) as target:
            for at in range(0, 90, 15):
                await asyncio.sleep(at - clock())
                await target.scrape(10)
            await asyncio.sleep(90.2 - clock())
            page = asyncio.create_task(target.current(10))
            await asyncio.sleep(90.5 - clock())
            await target.scrape(10)
            await asyncio.sleep(105 - clock())
            await target.scrape(10)
            await page
            assert target._parts.schedule.scrape_interval == pytest.approx(15, abs=0.2)

    in_virtual_time(scenario())


def test_a_database_that_rests_is_not_due_before_its_rest_is_over() -> None:
    async def scenario() -> None:
        names = ("postgres", *(f"d{number}" for number in range(300)))
        server = FakeServer(databases=names)
        server.on_login(error=ConnectError("no_database", "gone"), database="d7")
        async with scraping(server, collector("tables", scope="database", cache=0)) as target:
            await target.scrape(10)
            await asyncio.sleep(1)
            await target.scrape(10)
            found = job(await target.scrape(10), "tables", "d7")
            rests = target._parts.schedule.rotation.turn("d7").rests_until - asyncio.get_running_loop().time()
            assert found.next_run_why == "backoff"
            assert found.next_run_seconds == pytest.approx(rests)
            assert rests > 60

    in_virtual_time(scenario())


def test_a_look_between_scrapes_that_fails_unexpectedly_is_booked() -> None:
    async def scenario() -> None:
        server = FakeServer()
        server.on("wait_sampler", error=ValueError("odd"))
        async with scraping(server, collector("a"), watch=WatchOptions(interval=1.0)) as target:
            target.start()
            await asyncio.sleep(5)
            found = job(await target.scrape(10), "wait_sampler")
            assert (found.success, found.message) == (False, "ValueError: odd")
            assert found.errors["query"] >= 4

    in_virtual_time(scenario())


@pytest.mark.parametrize(
    ("script", "note"),
    [
        ({"vitals": {"hangs": True}}, "the server does not answer: hung"),
        ({"statements": {"error": QueryError("permission", "denied")}}, "collector statements fails: permission"),
    ],
)
def test_the_list_of_statements_says_why_it_is_empty(script: dict[str, dict[str, Any]], note: str) -> None:
    async def scenario() -> None:
        server = FakeServer()
        for query, answer in script.items():
            server.on(query, **answer)
        ledger = {"key": ["userid", "dbid", "queryid", "toplevel", "generation"], "rank": "value"}
        statements = collector("statements", labels=["queryid"], statements=True, limit=5, ledger=ledger)
        async with scraping(server, statements) as target:
            await target.scrape(10)
            assert (await target.statements(10)).note == note

    in_virtual_time(scenario())


def test_log_lines_name_the_target_and_what_was_suspended(caplog: pytest.LogCaptureFixture) -> None:
    """D6: with 50 targets `PostgreSQL is down` was anonymous, and a suspended query had no name."""

    async def scenario() -> None:
        server = FakeServer()
        async with scraping(server, collector("slow", timeout=1), collector("vital", vital=True), name="db7") as target:
            server.on("slow", hangs=True)
            await target.scrape(10)

    caplog.set_level(logging.INFO)
    in_virtual_time(scenario())
    assert {vars(record).get("target") for record in caplog.records} == {"db7"}
    [suspended] = [record for record in caplog.records if "suspended" in record.message]
    assert (vars(suspended)["collector"], vars(suspended)["datname"]) == ("slow", "postgres")
    assert "ignored its statement_timeout" in suspended.message


def test_without_a_name_log_lines_name_the_address(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        server = FakeServer()
        server.on_login(error=QueryError("query", "odd"))
        async with scraping(FakeServer(), collector("a"), name="") as target:
            await target.scrape(10)

    caplog.set_level(logging.INFO)
    in_virtual_time(scenario())
    assert {vars(record).get("target") for record in caplog.records} == {"fake:5432"}


def test_two_servers_that_take_turns_behind_one_session_are_not_read_anew_at_each_scrape() -> None:
    """A pooler may have several. What it leads to from some moment on was started later than what it led to before."""

    async def scenario() -> None:
        server = FakeServer(started=1000.0)
        async with scraping(server, collector("a", cache=3600)) as target:
            runs = []
            for started in (1000.0, 900.0, 1000.0, 2000.0, 1000.0, 2000.0):
                server.started = started
                await target.scrape(10)
                await asyncio.sleep(5)
                runs.append(server.runs("a"))
            for session in server.sessions:
                session.terminate()
            server.started = 1500.0  # a new session says where the target is, the earlier server or not
            await target.scrape(10)
        assert (runs, server.runs("a")) == ([1, 1, 1, 2, 2, 2], 3)

    in_virtual_time(scenario())
