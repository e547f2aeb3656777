"""What the page says of the past, on minutes made by hand."""

from exporter.history.minute import Span, Use
from exporter.history.summary import Contribution, session_history, top_statements
from exporter.watch.active_sessions import Activity
from exporter.watch.statement_matching import OTHER, Statement
from exporter.web.activity_chart import HEIGHT, activity_chart

DEALS: Statement = ("shop", "web", "42")
USERS: Statement = ("shop", "web", "43")
TEXTS = {DEALS: "SELECT * FROM deals"}


def test_sessions_are_told_by_minute_statement_and_application() -> None:
    sessions = {
        Activity(DEALS, "checkout", "Lock", "transactionid"): 90.0,
        Activity(DEALS, "checkout", "CPU", ""): 30.0,
        Activity(USERS, "", "IO", "DataFileRead"): 60.0,
        Activity(OTHER, "cron", "CPU", ""): 60.0,
    }
    waits = {60: {"CPU": 30.0, "Lock": 90.0, "IO": 60.0}, 120: {"CPU": 60.0}}
    found = session_history(Span(waits, sessions, texts=TEXTS))
    assert [(each.at, each.sessions) for each in found.minutes] == [(60, 3.0), (120, 1.0)]
    assert found.minutes[0].by_wait_event_type == {"Lock": 1.5, "IO": 1.0, "CPU": 0.5}
    assert found.statements == (
        Contribution("SELECT * FROM deals", 1.0, 0.5, "Lock transactionid"),
        Contribution("query identifier 43", 0.5, 0.25, "IO DataFileRead"),
        Contribution("(other statements)", 0.5, 0.25, "CPU"),
    )
    assert [(each.name, each.share) for each in found.applications] == [
        ("checkout", 0.5),
        ("(no application_name)", 0.25),
        ("cron", 0.25),
    ]


def test_nothing_known_is_nothing_shown() -> None:
    found = session_history(Span())
    assert (found.minutes, found.statements, found.applications) == ((), (), ())
    assert activity_chart(found.minutes, 0) is None


def test_top_statements_are_compared_with_the_time_before() -> None:
    latest = Span({at: {} for at in range(5)}, {}, {DEALS: Use(50, 30.0, 0), USERS: Use(500, 15.0, 250)})
    before = Span({at: {} for at in range(60)}, {}, {DEALS: Use(600, 120.0, 0)})
    by_time = top_statements(latest, before, lambda statement: statement.seconds)
    assert [(each.queryid, each.seconds, each.change) for each in by_time] == [("42", 30.0, 3.0), ("43", 15.0, None)]
    by_calls = top_statements(latest, before, lambda statement: statement.calls)
    assert [(each.queryid, each.calls) for each in by_calls] == [("43", 500.0), ("42", 50.0)]
    by_blocks = top_statements(latest, before, lambda statement: statement.blocks)
    assert [(each.queryid, each.blocks) for each in by_blocks] == [("43", 250.0)]  # the other read nothing


def test_the_bars_stand_on_each_other_and_reach_the_top() -> None:
    waits = {0: {"CPU": 120.0}, 60: {"Lock": 120.0, "CPU": 60.0, "Timeout": 60.0}}
    minutes = session_history(Span(waits)).minutes
    chart = activity_chart(minutes, first=0, count=2)
    assert chart is not None
    assert (chart.most, chart.begins, chart.ends) == (4.0, "00:00", "00:02")
    assert chart.legend == (("cpu", "CPU"), ("lock", "Lock"), ("others", "other waits"))
    [low, high] = chart.bars
    assert [(part.css, part.y, part.height) for part in low.parts] == [("cpu", HEIGHT / 2, HEIGHT / 2)]
    assert [(part.css, part.height) for part in high.parts] == [("cpu", 30), ("lock", 60), ("others", 30)]
    assert high.parts[-1].y == 0
    assert (low.x, high.x) == (0, 300)
    assert high.title == "00:01 UTC: 4.0 active sessions (2.0 Lock, 1.0 CPU, 1.0 Timeout)"
