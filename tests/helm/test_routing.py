"""The AlertmanagerConfig routes as alerts/alertmanager.yml does, and says the same."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from alerting import ALERTMANAGER, ROUTING, Event, alertmanager, on_loopback, pagerduty, routing
from helm.chart import one

VALUES = {
    "alertmanagerConfig": {
        "enabled": True,
        "pagerdutySecret": {"name": "pagerduty", "ticketKey": "low"},
        "deadMansSwitchSecret": {"name": "switch"},
    }
}

ALERT = {
    "alertname": "PostgreSQLLockQueue",
    "alert_family": "locks",
    "severity": "critical",
    "component": "postgresql",
    "job": "postgresql",
    "instance": "shop",
    "datname": "orders",
    "pid": "4711",
}
SAYS = {
    "summary": "Sessions wait behind a lock.",
    "description": "4 sessions wait for pid 4711.",
    "runbook_url": "https://runbooks.example.com/PostgreSQLLockQueue.md",
    "dashboard_url": "https://grafana.example.com/d/pg-locks",
}


def _matchers(matchers: list[Mapping[str, str]]) -> list[str]:
    return [f'{each["name"]} {each["matchType"]} "{each["value"]}"' for each in matchers]


def _route(route: Mapping[str, Any]) -> dict[str, Any]:
    """A route as Alertmanager has it."""
    names = {
        "groupBy": "group_by",
        "groupWait": "group_wait",
        "groupInterval": "group_interval",
        "repeatInterval": "repeat_interval",
    }
    found = {names.get(name, name): value for name, value in route.items()}
    if "matchers" in found:
        found["matchers"] = _matchers(found["matchers"])
    if "routes" in found:
        found["routes"] = [_route(each) for each in found["routes"]]
    return found


def _integration(found: Mapping[str, Any], key_file: str) -> dict[str, Any]:
    """An integration with PagerDuty as Alertmanager has it; its key is in a file instead of a Secret."""
    same = ("severity", "description", "source", "class", "component", "group")
    return {
        "routing_key_file": key_file,
        "send_resolved": found["sendResolved"],
        **{name: found[name] for name in same},
        "links": [{"text": each["alt"], "href": each["href"]} for each in found["pagerDutyLinkConfigs"]],
        "details": {each["key"]: each["value"] for each in found["details"]},
    }


def test_it_routes_and_inhibits_alike() -> None:
    ours = yaml.safe_load(ROUTING.read_text("utf-8"))
    spec = one("AlertmanagerConfig", VALUES)["spec"]
    assert _route(spec["route"]) == ours["route"]
    assert [
        {
            "source_matchers": _matchers(each["sourceMatch"]),
            "target_matchers": _matchers(each["targetMatch"]),
            "equal": each["equal"],
        }
        for each in spec["inhibitRules"]
    ] == ours["inhibit_rules"]


def test_keys_come_from_secrets() -> None:
    receivers = {each["name"]: each for each in one("AlertmanagerConfig", VALUES)["spec"]["receivers"]}
    keys = {name: each["routingKey"] for name, found in receivers.items() for each in found.get("pagerdutyConfigs", ())}
    assert keys == {"page": {"name": "pagerduty", "key": "page"}, "ticket": {"name": "pagerduty", "key": "low"}}
    [switch] = receivers["dead-mans-switch"]["webhookConfigs"]
    assert switch == {"urlSecret": {"name": "switch", "key": "url"}, "sendResolved": False}
    assert receivers["nobody"] == {"name": "nobody"}


def test_the_link_to_incidents_is_left_out_where_nobody_says_where_they_are() -> None:
    receivers = one("AlertmanagerConfig", VALUES)["spec"]["receivers"]
    integrations = [each for found in receivers for each in found.get("pagerdutyConfigs", ())]
    links = [[link["alt"] for link in each["pagerDutyLinkConfigs"]] for each in integrations]
    assert links == [["Runbook", "Dashboard", "Prometheus"]] * 2


def _told(config: dict[str, Any], folder: Path, program: Path) -> Event:
    """What PagerDuty is told of the alert."""
    folder.mkdir()
    with pagerduty() as stub:
        path = on_loopback(config, folder, stub)
        with alertmanager(program, path, folder) as manager:
            manager.post(ALERT, says=SAYS)
            event = stub.wait(ALERT["alertname"])
            assert manager.problems == []
    return event


def _timeless(body: Mapping[str, Any]) -> Any:
    """A message without the moment of its alert and the address of its Alertmanager, which are others in each run."""
    found = json.loads(re.sub(r"since [0-9: -]+ UTC", "", json.dumps(body)))
    del found["client_url"]
    return found


def test_pagerduty_is_told_the_same_without_template_files(each_tool: Callable[..., Path], tmp_path: Path) -> None:
    """A message whose template is missing is not sent at all, so each text has to bring its own.

    Where `instance` is a name, as here, neither has a link to the exporter's incidents: nothing says where it is.
    """
    ours = routing(group_wait="0s")
    for route in ours["route"]["routes"]:
        route.pop("group_wait", None)
    theirs = {**ours, "receivers": []}
    del theirs["templates"]
    for receiver in one("AlertmanagerConfig", VALUES)["spec"]["receivers"]:
        found = [_integration(each, "/key") for each in receiver.get("pagerdutyConfigs", ())]
        theirs["receivers"].append({"name": receiver["name"], **({"pagerduty_configs": found} if found else {})})
    program = each_tool(*ALERTMANAGER)
    said, wanted = (_told(config, tmp_path / name, program) for name, config in (("theirs", theirs), ("ours", ours)))
    assert (said.receiver, wanted.receiver) == ("page", "page")
    assert _timeless(said.body) == _timeless(wanted.body)
    assert "pid=4711" in said.text
    assert "What the sessions did" not in said.text
