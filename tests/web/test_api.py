"""The API for programs: every route on a real server, as its document describes it, and at no cost to the server."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from pages import MONITOR, read
from patience import wait_until
from pydantic import TypeAdapter
from queues import queue, running
from serving import Exporter, serving

from exporter.alert_rules import alert_rules
from exporter.demo.cluster import SUPERUSER, Cluster, free_port
from exporter.history.historian import Historian
from exporter.settings import Settings
from exporter.watch.incidents import SESSIONS
from exporter.web.answers import RecordedSession
from exporter.web.api import router_of
from exporter.web.scraper_routes import ScraperRoutes
from exporter.web.user_pages import create_user_app

SETTINGS = Settings(targets=())
ROUTES = [route for route in router_of({}, SETTINGS, Historian({}, SETTINGS)).routes if isinstance(route, APIRoute)]
MODELS = {route.path: TypeAdapter[Any](route.response_model) for route in ROUTES}

OF_TARGETS = ("targets", "now", "statements", "sessions/history", "incidents", "collectors")
"""Routes that take ?target=."""


def said(exporter: Exporter, route: str, path: str = "") -> Any:
    """The answer of a route, which is what its model has: no field more or less."""
    answer = exporter.get(f"/api/v1/{path or route}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    model = MODELS[f"/api/v1/{route}"]
    assert model.dump_python(model.validate_json(answer.text), mode="json") == answer.json()
    return answer.json()


def test_every_route_of_the_api_is_in_the_document_with_a_schema() -> None:
    document = create_user_app({}, SETTINGS, ScraperRoutes({}, SETTINGS), Historian({}, SETTINGS)).openapi()
    assert document["paths"].keys() == MODELS.keys()
    assert {*MODELS} == {
        *(f"/api/v1/{name}" for name in (*OF_TARGETS, "runbooks")),
        "/api/v1/incidents/{id}",
        "/api/v1/runbooks/{name}",
    }
    for path, methods in document["paths"].items():
        answers = methods["get"]["responses"]
        schema = answers["200"]["content"]["application/json"]["schema"]
        named = schema["items"] if schema.get("type") == "array" else schema
        model = document["components"]["schemas"][named["$ref"].rpartition("/")[2]]
        assert model["properties"], path
        assert methods["get"]["description"], path
        if "{" in path or path.removeprefix("/api/v1/") in OF_TARGETS:
            problem = answers["404"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            assert document["components"]["schemas"][problem]["required"] == ["detail"]
    names = [methods["get"]["operationId"] for methods in document["paths"].values()]
    assert sorted(names) == sorted(
        ["targets", "now", "statements", "sessions", "incidents", "incident", "collectors", "runbooks", "runbook"]
    )
    finding = document["components"]["schemas"]["Finding"]["properties"]
    assert finding["alert"]["description"] == "The alert that fires for it, whose runbook it has."


def test_a_lock_queue_is_told_by_every_route(server18: Cluster) -> None:
    with running(server18) as exporter, queue(server18, "nightly") as pid:
        sentence = f"pid {pid} ({SUPERUSER}, nightly, idle in transaction) blocks 1 session"
        wait_until(lambda: any(each["kind"] == "lock_wait" for each in said(exporter, "incidents")))
        [summary] = wait_until(
            lambda: [each for each in said(exporter, "targets") if each["worst"] and each["version"]]
        )
        [now] = said(exporter, "now")
        [listed] = [each for each in said(exporter, "incidents") if each["kind"] == "lock_wait"]
        whole = said(exporter, "incidents/{id}", f"incidents/{listed['id']}")
        [collectors] = said(exporter, "collectors")
        address = f"127.0.0.1:{server18.port}"
    assert summary["sentence"].startswith(f"pid {pid} ({SUPERUSER}, nightly, idle in transaction")
    assert (summary["address"], summary["kind"], summary["role"]) == (address, "postgresql", "primary")
    assert (summary["is_up"], summary["down_reason"], summary["version"].split(".")[0]) == (True, "", "18")
    assert (summary["findings"], summary["worst"]) == (len(now["findings"]), now["findings"][0]["severity"])
    assert now["findings"][0]["alert"] in alert_rules()
    assert whole["title"] == sentence
    assert [(node["depth"], node["names"]) for node in whole["locks"][:1]] == [(0, [str(pid)])]
    assert whole["snapshots"] == len(whole["moments"]) >= 1
    sessions = {each["application_name"]: each for each in whole["moments"][0]["sessions"]}
    assert sessions["checkout"]["blocked_by"] == [sessions["nightly"]["pid"]] == [pid]
    assert sessions["checkout"]["query"] == "SELECT count(*) FROM queued"
    assert "a literal" not in json.dumps(whole)
    assert (collectors["is_up"], collectors["product"], collectors["address"]) == (True, "PostgreSQL", address)
    blockers = next(each for each in collectors["collectors"] if each["collector"] == "lock_blockers")
    assert (blockers["success"], blockers["datname"], blockers["message"]) == (True, "", "")
    assert blockers["rows"] >= 0
    assert any("standby" in reason for reason in collectors["skipped"].values())


def test_the_address_is_that_of_the_server_in_use(server18: Cluster) -> None:
    """Of several hosts the DSN names another one first, which says nothing."""
    dsn = f"host=127.0.0.1,127.0.0.1 port={free_port()},{server18.port} user={MONITOR} dbname=postgres"
    with serving(targets=json.dumps([{"name": "shop", "dsn": dsn}])) as exporter:
        assert read(exporter.get("/probe?target=shop").text).value("pg_up") == 1
        address = f"127.0.0.1:{server18.port}"
        for route in ("targets", "now", "collectors"):
            assert [each["address"] for each in said(exporter, route)] == [address]
        assert f"<small>{address}</small>" in exporter.get("/").text
        assert [each["labels"].get("instance") for each in exporter.get("/sd").json()] == [None, "shop"]
        assert {labels["target"] for labels, _ in read(exporter.get().text).series("pg_up")} == {"shop"}


def test_runbooks_are_those_of_the_alerts_as_markdown(server18: Cluster) -> None:
    with running(server18) as exporter:
        listed = said(exporter, "runbooks")
        one = said(exporter, "runbooks/{name}", "runbooks/PostgreSQLDown")
    assert {each["name"]: each["severity"] for each in listed} == {
        name: rule.severity for name, rule in alert_rules().items()
    }
    assert (one["name"], one["severity"]) == ("PostgreSQLDown", "critical")
    assert one["markdown"].startswith("# PostgreSQLDown\n\n## Meaning\n")


def test_statements_have_the_texts_that_are_known_and_none_is_asked_for(server18: Cluster) -> None:
    text = "SELECT count(*) AS told FROM pg_class WHERE relname = $1"
    server18.execute("SELECT pg_stat_statements_reset()")  # an alias does not tell it from another test's
    for _ in range(3):
        server18.value("SELECT count(*) AS told FROM pg_class WHERE relname = 'a literal'")
    every = json.dumps({"statements": {"limit": 0}})
    with running(server18, collectors=every, statement_text_length="0") as exporter:
        exporter.get()
        [before] = said(exporter, "statements")
        page = exporter.get("/statements").text
        [after] = said(exporter, "statements")
    assert before["statements"]
    assert {each["text"] for each in before["statements"]} == {""}
    assert before["note"].startswith("some texts are not known: ")
    assert not after["note"]
    assert text in page
    [statement] = [each for each in after["statements"] if each["text"] == text]
    assert (statement["usename"], statement["datname"]) == (SUPERUSER, "postgres")
    assert (statement["calls"], statement["rows"]) == (3, 3)
    assert statement["mean_exec_seconds"] == pytest.approx(statement["exec_seconds"] / 3)
    assert statement["mean_exec_seconds"] > 0


def test_reading_it_is_no_scrape(server18: Cluster) -> None:
    with running(server18) as exporter:
        wait_until(lambda: said(exporter, "now")[0]["is_up"])
        for _ in range(5):
            for route in OF_TARGETS:
                said(exporter, route)
        assert read(exporter.get().text).value("pgvigil_scrapes_total") == 1


def test_of_several_targets_one_is_chosen_by_name(server18: Cluster, tmp_path: Path) -> None:
    config = tmp_path / "pgvigil.yml"
    targets = [
        {"name": "here", "dsn": server18.dsn(user=MONITOR)},
        {"name": "gone", "dsn": f"postgresql://u@127.0.0.1:{free_port()}/d"},
    ]
    config.write_text(json.dumps({"targets": targets}))
    with serving(config=str(config)) as exporter:
        wait_until(lambda: [each["down_reason"] for each in said(exporter, "targets")][:1] == ["refused"])
        for route in ("targets", "now", "collectors", "statements"):
            assert {each["target"] for each in said(exporter, route)} == {"here", "gone"}
            assert [each["target"] for each in said(exporter, route, f"{route}?target=here")] == ["here"]
        assert said(exporter, "incidents", "incidents?target=here") == []
        [down] = said(exporter, "now", "now?target=gone")
        [none] = said(exporter, "statements", "statements?target=gone")
        missing = [exporter.get(f"/api/v1/{route}?target=nowhere") for route in OF_TARGETS]
    assert down["findings"][0]["sentence"] == "PostgreSQL does not answer: refused (no process listens at its address)"
    assert (none["statements"], none["note"]) == ([], "the server does not answer: refused")
    assert [answer.status_code for answer in missing] == [404] * len(OF_TARGETS)
    assert [answer.json() for answer in missing] == [
        {"detail": "no target is named 'nowhere'; configured: here, gone"}
    ] * len(OF_TARGETS)


def test_what_there_is_not_is_said_with_a_remedy_and_no_answer_is_kept(server18: Cluster) -> None:
    with running(server18) as exporter:
        found = {
            path: exporter.get(f"/api/v1/{path}")
            for path in ("now?target=x", "incidents/x", "runbooks/..%2Frules%2Flocks", "runbooks/x", "nothing")
        }
        fine = [exporter.get(path) for path in ("/api/v1/now", "/api/v1/openapi.json", "/incidents?format=json")]
        assert fine[1].json()["info"]["title"] == "pgvigil"
    assert [answer.status_code for answer in found.values()] == [404] * len(found)
    assert found["now?target=x"].json()["detail"] == (
        "no target is named 'x'; there is one, without a name: leave out ?target="
    )
    assert found["incidents/x"].json()["detail"] == (
        "no incident is named 'x'; those remembered are listed at /api/v1/incidents"
    )
    assert found["runbooks/x"].json()["detail"] == "no alert is named 'x'; all runbooks are listed at /api/v1/runbooks"
    for answer in (*found.values(), *fine):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"].startswith("application/json")


def test_a_recorded_session_has_a_field_for_each_column_that_is_recorded() -> None:
    selected = {line.rpartition(" AS ")[2].strip(" ,\n") for line in SESSIONS.splitlines() if " AS " in line}
    fields = {*RecordedSession.__dataclass_fields__}
    assert {"transaction_seconds", "query_seconds", "state_seconds", "query", "application_name"} <= selected & fields
    assert fields == {
        *("pid", "usename", "datname", "application_name", "client_addr", "backend_type", "state"),
        *("wait_event_type", "wait_event", "transaction_seconds", "query_seconds", "state_seconds", "query"),
        "blocked_by",
    }
