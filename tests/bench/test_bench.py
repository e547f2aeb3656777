"""The benchmark's own arithmetic: pages, logs, rounds, goals and plans."""

import gzip
import itertools
from collections import Counter
from dataclasses import replace

import pytest
from bench import exporters
from bench.cases import CASES, QUICK, SMALL
from bench.exporters import EQUAL, EQUAL_STATEMENTS, SHIPPED, filled, peer
from bench.measure import Page, Round, oldest, orders, page, sessions
from bench.plans import Explained, explained
from bench.report import (
    CPU,
    GOALS,
    PAGE,
    PAGE_MEAN,
    SERVER,
    Outcome,
    Result,
    figures_per_series,
    goals,
    growth,
    ratios,
    report,
)

from exporter.catalog.load import BUILT_IN, load

PAGE_TEXT = """\
# HELP pg_up Up.
pg_up 1.0
pg_locks{mode="a {b"} 2
pg_locks{mode="c"} 3
pgvigil_collector_age_seconds{collector="locks",datname=""} 0.5
pgvigil_collector_age_seconds{collector="tables",datname="a"} 7.0
pgvigil_collector_age_seconds{collector="tables",datname="b"} 9.0
go_threads 7
# EOF
"""


def test_series_are_counted_by_name_and_those_of_the_exporter_itself_apart() -> None:
    found = page(gzip.compress(PAGE_TEXT.encode()))
    assert found.series["pg_locks"] == 2
    assert (found.total, found.own, found.size) == (7, 4, len(PAGE_TEXT))


def test_the_age_of_a_collector_is_that_of_its_oldest_result_on_any_page() -> None:
    older = PAGE_TEXT.replace("0.5", "30.25").encode()
    assert oldest([gzip.compress(PAGE_TEXT.encode()), older]) == {"locks": 30.25, "tables": 9.0}


BEGAN = "2026-01-01 00:00:00 UTC [7] LOG:  connection authorized: user={} database=app application_name=x\n"
ENDED = "2026-01-01 00:00:00 UTC [7] LOG:  disconnection: session time: 0:01:{} user={} database=app host=::1 port=1\n"


def test_sessions_are_counted_from_the_log_and_cpu_is_shared_out_by_the_time_they_were_open() -> None:
    before = BEGAN.format("a") * 2 + ENDED.format("00.000", "a")
    log = before + BEGAN.format("a") + ENDED.format("30.000", "a") + BEGAN.format("b") + ENDED.format("30.000", "b")
    found = sessions(log, len(before))
    assert found.most == {"a": 2, "b": 1}
    assert found.ended == {"a": 90.0, "b": 90.0}
    assert found.share_of(3.0) == {"a": 1.5, "b": 1.5}
    assert sessions(before, len(before)).most == {"a": 1}
    assert sessions(before, len(before)).share_of(3.0) == {}


def result(name: str, *pages: float, cpu: float = 0.01, series: int = 500) -> Result:
    rounds = tuple(
        Round((each,), cpu, 0.002, 0.003, 2**20, 2, Page(1000, Counter(pg_a=series, go_b=7)), {"locks": 3.0})
        for each in pages
    )
    return Result(name, 0.5, 2**20, rounds)


THEIRS = result("postgres_exporter", 0.1, 0.1, 0.1)
OURS = result(SHIPPED.title, 0.02, 0.06, 0.03, cpu=0.02)


def test_a_ratio_is_that_of_the_figures_of_all_rounds() -> None:
    text = ratios([Outcome(SMALL, (OURS, THEIRS), 0.0)])
    assert "| small database | pgvigil, as shipped | **0.30** (0.20 to 0.60) | **2.00** (2.00 to 2.00) |" in text
    assert len(text.splitlines()) == 3, "theirs is not compared with itself"


def test_a_cost_is_the_mean_of_the_rounds_for_what_is_read_in_one_of_them_costs_as_well() -> None:
    often, seldom = result("x", 0.1, 0.1, 0.1), result("x", 0.1, 0.1, 0.1)
    rounds = (*seldom.rounds[:2], replace(seldom.rounds[2], statements=0.008))
    assert SERVER.ratio(replace(seldom, rounds=rounds), often) == pytest.approx(2)


def test_a_page_that_takes_long_every_second_time_has_a_mean_that_says_so() -> None:
    rounds = [replace(each, seconds=(0.02, 0.02, 0.02, 0.1, 0.1)) for each in OURS.rounds]
    assert PAGE_MEAN.of(replace(OURS, rounds=tuple(rounds))) == pytest.approx(52)
    assert PAGE.of(replace(OURS, rounds=tuple(rounds))) == 20


def test_ratios_to_a_peer_are_printed_when_asked_for() -> None:
    text = report([Outcome(SMALL, (OURS, THEIRS, result("before", 0.06, 0.06, 0.06)), 0.0)], "", "", ["before"])
    of_before = text.partition("### Ratios to before")[2].partition("###")[0]
    assert "| small database | pgvigil, as shipped | **0.50** (0.33 to 1.00) |" in of_before


def test_each_round_has_an_order_of_its_own_and_none_is_more_often_before_another() -> None:
    found = orders(4, 6)
    assert len({tuple(order) for order in found}) == 6
    assert all(sorted(order) == [0, 1, 2, 3] for order in found)
    for a, b in itertools.combinations(range(4), 2):
        assert sum(order.index(a) < order.index(b) for order in found) == 3
    assert orders(4, 6) == found


def test_goals_are_judged_where_there_is_something_to_judge() -> None:
    lines = goals([Outcome(SMALL, (OURS, THEIRS), 0.0)]).splitlines()
    assert "| small database | pgvigil, as shipped | page p50, ratio | 0.3 | 0.5 | yes |" in lines
    assert "| small database | pgvigil, as shipped | exporter CPU, ratio | 2 | 1 | **no** |" in lines
    alone = goals([Outcome(SMALL, (OURS,), 0.0)])
    assert "ratio" not in alone
    assert "| RSS idle, MiB | 1 | 45 | yes |" in alone


def test_every_goal_is_of_something_that_is_measured() -> None:
    measured = {(case.name, way.title) for case in CASES for way in case.ours}
    assert {(goal.case, goal.exporter) for goal in GOALS} - measured == set()


def test_costs_for_a_thousand_series_leave_the_exporters_own_out() -> None:
    text = figures_per_series([Outcome(SMALL, (OURS,), 0.0)])
    assert "| small database | pgvigil, as shipped | 60.00 | 40.00 | 4.00 | 6.00 | 2.00 |" in text


def test_growth_is_the_slope_between_the_least_and_the_most() -> None:
    few, some, many = (
        next(case for case in CASES if case.name == name) for name in ("sessions_100", "sessions_400", "sessions_800")
    )
    found = [Outcome(few, (result("x", 0.01),), 0), Outcome(some, (), 0), Outcome(many, (result("x", 0.08),), 0)]
    assert "| sessions | x | 100.0 | 0.0 |" in growth(found)
    assert growth(found[:1]) == ""


def test_placeholders_are_filled_in_and_other_braces_stay() -> None:
    assert (
        filled('--at={address} {"x": "{role}"} {other}', {"address": "a:1", "role": "r"})
        == '--at=a:1 {"x": "r"} {other}'
    )


def test_a_peer_is_a_name_and_a_command() -> None:
    assert peer("pgsty=env A='b c' run --url={dsn}").command == ("env", "A=b c", "run", "--url={dsn}")
    with pytest.raises(ValueError, match="write NAME=COMMAND"):
        peer("pgsty")


def test_equal_freshness_has_the_subjects_that_theirs_has_and_caches_nothing() -> None:
    default, with_statements = exporters.subjects("default"), exporters.subjects("default", exporters.STATEMENTS)
    assert default >= {
        "locks",
        "database_transactions",
        "database_sizes",
        "table_access",
        "settings",
        "replication_slots",
    }
    assert not default & {"statements", "indexes", "lock_blockers", "wraparound", "connections"}
    assert with_statements - default == {"statements"}
    assert default < {each.name for each in load(BUILT_IN)}
    assert EQUAL.environment["PGVIGIL_COST_BUDGET"] == "0"
    assert '"statements": {"cache": 0, "enabled": true}' in EQUAL_STATEMENTS.environment["PGVIGIL_COLLECTORS"]
    assert '"indexes": {"cache": 0, "enabled": false}' in EQUAL_STATEMENTS.environment["PGVIGIL_COLLECTORS"]


def test_as_shipped_is_told_nothing_but_where_to_look_and_to_listen() -> None:
    assert {*SHIPPED.environment} == {"PGVIGIL_DSN", "PGVIGIL_LISTEN"}


def test_exporters_of_a_case_have_roles_of_their_own() -> None:
    for case in CASES:
        assert len({way.role for way in case.ours}) == len(case.ours)


PLAN = """\
2026-01-01 00:00:00.000 UTC [42] LOG:  duration: 12.345 ms  plan:
\tQuery Text: SELECT 1
\t/* pgvigil:locks */
\tSort  (cost=1.00..2.00 rows=1 width=8) (actual time=10.0..12.0 rows=9 loops=1)
\t  Sort Method: external merge  Disk: 1234kB
\t  Buffers: shared hit=100 read=20, temp read=154 written=155
\t  ->  Hash Join  (actual time=1.0..2.0 rows=9 loops=1)
\t        Buffers: shared hit=90
\t        ->  Hash  (actual time=1.0..1.0 rows=9 loops=1)
\t              Buckets: 1024  Batches: 1  Memory Usage: 9kB
2026-01-01 00:00:00.000 UTC [42] LOG:  duration: 1.000 ms  plan:
\tQuery Text: SELECT 2
\tResult  (cost=0.00..0.01 rows=1 width=4)
"""


def test_plans_are_read_off_the_log() -> None:
    [found] = explained(PLAN)
    assert (found.collector, found.milliseconds, found.blocks, found.temporary) == ("locks", 12.345, 120, 155)
    assert found.spills == ("Sort Method: external merge  Disk: 1234kB",)
    assert found.plan.startswith("Sort  (cost=1.00")
    assert (
        Explained("x", 1, "Limit\n  Buffers: temp read=1 written=2\n  ->  Sort\n    Buffers: shared hit=3").blocks == 0
    )
    assert Explained("x", 1, "Batches: 16  Memory Usage: 9kB\nBatches: 1").spills == ("Batches: 16  Memory Usage: 9kB",)


def test_quick_runs_cases_that_exist() -> None:
    assert set(QUICK) < {case.name for case in CASES}


def test_the_first_measures_are_those_of_the_rounds() -> None:
    assert PAGE.of(OURS) == 30
    assert CPU.of(OURS) == 20
