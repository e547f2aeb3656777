"""The routing is sound, sends each alert where it belongs, and tells PagerDuty all that it needs."""

import subprocess
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from alerting import (
    ALERTMANAGER,
    ALERTS,
    HINT,
    ROUTING,
    Alertmanager,
    Event,
    PagerDuty,
    alertmanager,
    on_loopback,
    pagerduty,
    routing,
)
from patience import wait_until

from exporter.commands.rules import TAKEN

Tool = Callable[..., Path]

NOTHING_ELSE_SECONDS = 1.0
"""After the first event so long is waited for others, which are not to come."""

WHERE = {"job": "postgresql", "instance": "db1:9187"}
CRITICAL = {"severity": "critical", "component": "postgresql", **WHERE}
WARNING = {"severity": "warning", "component": "postgresql", **WHERE}

NO_CULPRIT = {
    "alert_family",
    "client_addr",
    "command",
    "component",
    "conflict",
    "data_type",
    "duplicate_of",
    "held_mode",
    "host",
    "locktype",
    "mode",
    "phase",
    "reason",
    "slot_type",
    "state",
    "system_identifier",
    "wait_event",
    "wait_event_type",
    "wal_status",
}
"""Labels that change while the culprit is the same, or that tell nothing more about who it is."""

SAYS = {
    "summary": "Sessions wait behind a lock.",
    "description": "4 sessions wait, 42s already: pid 4711 (deploy, migration) holds what they need.",
    "runbook_url": "https://runbooks.example.com/PostgreSQLX",
    "dashboard_url": "https://grafana.example.com/d/pg-locks?var-instance=db1%3A9187",
}


@pytest.fixture(scope="session")
def amtool(each_tool: Tool) -> Path:
    return each_tool("amtool", HINT)


@pytest.fixture
def quick(each_tool: Tool, tmp_path: Path) -> Iterator[tuple[Alertmanager, PagerDuty]]:
    """Our routing with its waits cut to a second, in front of a stand-in for PagerDuty."""
    config = routing(group_wait="1s", group_interval="1s")
    for route in config["route"]["routes"]:
        for wait in ("group_wait", "group_interval"):
            route.pop(wait, None)
    with pagerduty() as stub:
        path = on_loopback(config, tmp_path, stub)
        with alertmanager(each_tool(*ALERTMANAGER), path, tmp_path) as manager:
            yield manager, stub
        assert manager.problems == [], "a template that is broken says so here, and only here"


def test_amtool_accepts_it(amtool: Path) -> None:
    done = subprocess.run([amtool, "check-config", ROUTING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 templates" in done.stdout


@pytest.mark.parametrize(
    ("receiver", "labels"),
    [
        ("page", {"alertname": "PostgreSQLDown", **CRITICAL}),
        ("page", {"alertname": "PostgreSQLExporterStale", **CRITICAL, "component": "exporter"}),
        ("ticket", {"alertname": "PostgreSQLIndexInvalid", **WARNING, "datname": "shop"}),
        ("nobody", {"alertname": "PostgreSQLRestarted", **WARNING, "severity": "info"}),
        ("dead-mans-switch", {"alertname": "PostgreSQLWatchdog", "severity": "info"}),
        ("dead-mans-switch", {"alertname": "PostgreSQLWatchdog", "severity": "critical"}),
        ("ticket", {"alertname": "PostgreSQLDown", **WARNING, "severity": "Critical"}),
        ("ticket", {"alertname": "SomethingElse"}),
    ],
)
def test_each_severity_has_its_receiver_and_nothing_gets_lost(
    amtool: Path, receiver: str, labels: dict[str, str]
) -> None:
    pairs = [f"{name}={value}" for name, value in labels.items()]
    command = [str(amtool), "config", "routes", "test", f"--config.file={ROUTING}", f"--verify.receivers={receiver}"]
    done = subprocess.run([*command, *pairs], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_key_is_in_the_file() -> None:
    integrations = [each for receiver in routing()["receivers"] for each in receiver.get("pagerduty_configs", ())]
    assert integrations
    for integration in integrations:
        assert "routing_key" not in integration
        assert "service_key" not in integration
        assert integration["routing_key_file"].startswith("/")


def test_severities_are_written_out_and_details_are_flat() -> None:
    """A severity from a template comes out empty for a group of two; Alertmanager 0.25 refuses nested details."""
    for receiver in routing()["receivers"]:
        for integration in receiver.get("pagerduty_configs", ()):
            assert integration["severity"] in {"critical", "warning"}
            assert all(isinstance(value, str) for value in integration["details"].values())


def test_pagerduty_is_told_who_it_is_and_where_to_read_on(quick: tuple[Alertmanager, PagerDuty]) -> None:
    manager, stub = quick
    culprit = {"datname": "shop", "pid": "4711", "usename": "deploy", "relation": "users", "gid": ""}
    manager.post({"alertname": "PostgreSQLX", "alert_family": "locks", **CRITICAL, **culprit}, says=SAYS)
    event = stub.wait("PostgreSQLX")
    assert event.receiver == "page"
    assert event.payload["summary"] == f"db1:9187: {SAYS['summary']} {SAYS['description']}"
    assert event.payload["source"] == "db1:9187"
    assert event.payload["severity"] == "critical"
    assert event.payload["component"] == "shop"
    assert event.payload["group"] == "postgresql"
    details = event.payload["custom_details"]
    assert details["culprit"] == "datname=shop pid=4711 relation=users usename=deploy of db1:9187"
    text = SAYS["description"].replace(": ", ":\u00a0")  # newer ones would make a table of it
    assert details["description"] == text
    assert str(details["num_firing"]) == "1"
    assert text in details["firing"]
    assert details["resolved"] == "none"
    assert {link["text"]: link["href"] for link in event.body["links"]} == {
        "Runbook": SAYS["runbook_url"],
        "Dashboard": SAYS["dashboard_url"],
        "What the sessions did": "http://db1:9187/incidents",
        "Prometheus": "http://prometheus.example.com/graph?g0.expr=up",
    }


def test_an_alert_that_says_nothing_still_has_all_that_pagerduty_requires(
    quick: tuple[Alertmanager, PagerDuty],
) -> None:
    manager, stub = quick
    manager.post({"alertname": "PostgreSQLBare", "severity": "critical"}, {"alertname": "Other"})
    for event in (stub.wait("PostgreSQLBare"), stub.wait("Other")):
        _is_whole(event)
        assert event.payload["component"] == "postgresql"


def test_two_alerts_of_one_culprit_are_one_incident_that_is_whole(quick: tuple[Alertmanager, PagerDuty]) -> None:
    manager, stub = quick
    one = {"alertname": "PostgreSQLX", **CRITICAL, "pid": "4711"}
    manager.post({**one, "state": "active"}, {**one, "state": "idle in transaction"}, says=SAYS)
    event = stub.wait("PostgreSQLX")
    _is_whole(event)
    assert str(event.payload["custom_details"]["num_firing"]) == "2"
    assert "state=active" in event.payload["custom_details"]["firing"]
    assert event.payload["summary"].endswith("(one of 2)")
    time.sleep(NOTHING_ELSE_SECONDS)
    assert {e.dedup_key for e in stub.events} == {event.dedup_key}


def test_another_culprit_is_another_incident(quick: tuple[Alertmanager, PagerDuty]) -> None:
    manager, stub = quick
    culprits: tuple[dict[str, str], ...] = (
        {"pid": "1"},
        {"pid": "2"},
        {"gid": "forgotten"},
        {"slot_name": "search"},
        {"queryid": "7"},
        {"datname": "shop"},
        {"datname": "shop", "schemaname": "public", "relname": "orders"},
        {"datname": "shop", "schemaname": "public", "relname": "orders", "indexrelname": "orders_idx"},
        {"instance": "db2:9187"},
    )
    manager.post(*({"alertname": "PostgreSQLX", **CRITICAL, **culprit} for culprit in culprits))
    wait_until(lambda: len(stub.events) >= len(culprits))
    assert len({event.dedup_key for event in stub.events}) == len(culprits)


@pytest.mark.parametrize(
    ("family", "members"),
    [
        ("xid_wraparound", [{"datname": "shop"}, {"datname": "template0"}]),
        ("multixact_wraparound", [{"datname": "shop"}, {"datname": "template0"}]),
        (
            "primaries",
            [{"system_identifier": "7", "instance": "db1:9187"}, {"system_identifier": "7", "instance": "db2"}],
        ),
    ],
)
def test_what_hits_all_at_once_is_one_incident(
    quick: tuple[Alertmanager, PagerDuty], family: str, members: list[dict[str, str]]
) -> None:
    manager, stub = quick
    manager.post(*({"alertname": "PostgreSQLX", "alert_family": family, **CRITICAL, **each} for each in members))
    event = stub.wait("PostgreSQLX")
    time.sleep(NOTHING_ELSE_SECONDS)
    assert len({each.dedup_key for each in stub.events}) == 1
    _is_whole(event)
    assert all(value in event.payload["custom_details"]["firing"] for each in members for value in each.values())


def test_collectors_that_fail_together_are_one_ticket(quick: tuple[Alertmanager, PagerDuty]) -> None:
    manager, stub = quick
    failing = {"alertname": "PostgreSQLX", "alert_family": "collector", **WARNING}
    collectors = ("progress", "ssl", "vacuum_progress")
    manager.post(*({**failing, "collector": each} for each in collectors))
    event = stub.wait("PostgreSQLX")
    time.sleep(NOTHING_ELSE_SECONDS)
    assert len({each.dedup_key for each in stub.events}) == 1
    assert all(each in event.payload["custom_details"]["firing"] for each in collectors)


@cache
def _checks() -> list[dict[str, Any]]:
    files = [yaml.load(file.read_text(), yaml.CSafeLoader) for file in sorted((ALERTS / "tests").glob("*.yml"))]
    return [check for file in files for test in file["tests"] for check in test["alert_rule_test"]]


def test_each_label_of_an_alert_either_names_the_culprit_or_does_not() -> None:
    """A label that is new has to be put among those of group_by, or among those that may change."""
    fired = [alert for check in _checks() for alert in check.get("exp_alerts", [])]
    assert fired
    grouped = set(routing()["route"]["group_by"])
    assert {label for alert in fired for label in alert["exp_labels"]} <= grouped | NO_CULPRIT
    assert not grouped & NO_CULPRIT


def _grouped(route: dict[str, Any]) -> set[str]:
    return set(route.get("group_by", ())).union(*map(_grouped, route.get("routes", ())))


def test_no_label_that_a_person_adds_can_hide_who_it_is() -> None:
    fired = [alert for check in _checks() for alert in check.get("exp_alerts", [])]
    of_alerts = {label for alert in fired for label in alert["exp_labels"]}
    assert (of_alerts | _grouped(routing()["route"])) - {"cluster"} == TAKEN


def test_the_resolve_event_ends_the_same_incident(quick: tuple[Alertmanager, PagerDuty]) -> None:
    manager, stub = quick
    alert = {"alertname": "PostgreSQLX", **CRITICAL, "pid": "4711"}
    manager.post(alert, says=SAYS)
    trigger = stub.wait("PostgreSQLX")
    manager.post(alert, ended=True, says=SAYS)
    wait_until(lambda: len(stub.events) > 1)
    resolve = stub.events[-1]
    assert resolve.action == "resolve"
    assert resolve.dedup_key == trigger.dedup_key
    assert resolve.receiver == trigger.receiver


def test_a_warning_goes_to_the_low_urgency_service_and_info_nowhere(quick: tuple[Alertmanager, PagerDuty]) -> None:
    manager, stub = quick
    manager.post(
        {"alertname": "PostgreSQLNote", **WARNING, "severity": "info"}, {"alertname": "PostgreSQLTicket", **WARNING}
    )
    event = stub.wait("PostgreSQLTicket")
    assert event.receiver == "ticket"
    assert event.payload["severity"] == "warning"
    time.sleep(NOTHING_ELSE_SECONDS)
    assert {e.alertname for e in stub.events} == {"PostgreSQLTicket"}


def test_the_dead_mans_switch_hears_the_watchdog(quick: tuple[Alertmanager, PagerDuty]) -> None:
    manager, stub = quick
    manager.post({"alertname": "PostgreSQLWatchdog", "severity": "info"})
    wait_until(lambda: bool(stub.pings))
    assert stub.events == []


DOWN = {"alertname": "PostgreSQLDown", **CRITICAL}
BLIND = {
    "alertname": "PostgreSQLExporterStale",
    **CRITICAL,
    "component": "exporter",
    "alert_family": "blind",
}
LOCKS = {"alert_family": "locks", "datname": "shop"}
SEQUENCE = {"alert_family": "sequence", "datname": "shop", "schemaname": "public", "sequencename": "orders_id_seq"}
DISK = {"alert_family": "disk", "host": "db1", "mountpoint": "/data"}


@pytest.mark.parametrize(
    ("source", "silenced", "heard"),
    [
        pytest.param(
            DOWN,
            [{"alertname": "PostgreSQLX", **CRITICAL}, {"alertname": "PostgreSQLY", **WARNING}],
            [BLIND, {"alertname": "PostgreSQLX", **CRITICAL, "instance": "db2:9187"}],
            id="a server that is down explains what else is wrong with it, but not another server",
        ),
        pytest.param(
            BLIND,
            [{"alertname": "PostgreSQLX", **CRITICAL}],
            [DOWN, {"alertname": "PostgreSQLX", **CRITICAL, "job": "other"}],
            id="old data gives no alerts, but down is down",
        ),
        pytest.param(
            {"alertname": "PostgreSQLLockQueue", **CRITICAL, **LOCKS},
            [{"alertname": "PostgreSQLLockWait", **WARNING, **LOCKS}],
            [
                {"alertname": "PostgreSQLLockWait", **WARNING, **LOCKS, "datname": "other"},
                {"alertname": "PostgreSQLSlot", **WARNING, "alert_family": "slots", "datname": "shop"},
                {"alertname": "PostgreSQLOther", **CRITICAL, **LOCKS},
            ],
            id="critical silences the warning of its family in the same database",
        ),
        pytest.param(
            {"alertname": "PostgreSQLSequenceEnds", **CRITICAL, **SEQUENCE},
            [{"alertname": "PostgreSQLSequenceUsed", **WARNING, **SEQUENCE}],
            [{"alertname": "PostgreSQLSequenceUsed", **WARNING, **SEQUENCE, "sequencename": "items_id_seq"}],
            id="a sequence that ends hides no other sequence",
        ),
        pytest.param(
            {"alertname": "PostgreSQLDiskFullSoon", **CRITICAL, **DISK},
            [{"alertname": "PostgreSQLDiskFullLater", **WARNING, **DISK}],
            [{"alertname": "PostgreSQLDiskFullLater", **WARNING, **DISK, "mountpoint": "/wal"}],
            id="a full file system hides no other",
        ),
    ],
)
def test_who_silences_whom(
    quick: tuple[Alertmanager, PagerDuty], source: dict[str, str], silenced: list[Any], heard: list[Any]
) -> None:
    manager, stub = quick
    manager.post(source, *silenced, *heard)
    wait_until(lambda: len(stub.events) >= 1 + len(heard))
    time.sleep(NOTHING_ELSE_SECONDS)
    told = sorted((event.alertname, event.source) for event in stub.events)
    assert told == sorted((alert["alertname"], alert["instance"]) for alert in (source, *heard))
    assert manager.inhibited() == sorted(alert["alertname"] for alert in silenced)


def _is_whole(event: Event) -> None:
    assert all(event.payload[name] for name in ("summary", "source", "severity", "class", "component", "group"))
