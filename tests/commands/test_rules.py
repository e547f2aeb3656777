"""The alert rules with a person's own values in them."""

import re
from difflib import ndiff
from pathlib import Path
from typing import Any

import pytest
import yaml
from serving import run

from exporter.alert_rules import ALERT, NAME, THRESHOLD, shipped
from exporter.commands.rules import (
    DASHBOARDS,
    RUNBOOKS,
    Values,
    read_values,
    rule_files,
    thresholds,
)
from exporter.errors import ValuesError

MARK = "# Written by `pgvigil rules`, which overwrites or removes this file when it runs again.\n"

RULES = """\
groups:
  - name: shop
    rules:
      # What the alerts use.
      - record: instance:used:ratio
        expr: pg_connections_used / pg_connections_max

      # Comes first.
      - alert: PostgreSQLFull
        expr: |
          instance:used:ratio
            > 0.8  # ratio: as the post-mortem says
          and
          deriv(pg_wal_position_bytes[5m])
            > 1e6  # wal_rate: so says nobody
        for: 5m  # a deploy is over by then
        labels:
          severity: warning
        annotations:
          summary: Full.
          runbook_url: RUNBOOKS/PostgreSQLFull.md
          dashboard_url: DASHBOARDS/d/pg-instance?var-job={{ $labels.job }}

      - alert: PostgreSQLFuller
        expr: instance:used:ratio > 0.9  # ratio: more
        labels:
          severity: critical
        annotations:
          summary: 'For: 5m, severity: warning.'
""".replace("RUNBOOKS", RUNBOOKS).replace("DASHBOARDS", DASHBOARDS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "shop.yml").write_text(RULES)
    return rules


def changes(folder: Path, **values: Any) -> list[str]:
    """The lines that values take away and add."""
    text = rule_files(Values.model_validate(values), folder)["shop.yml"]
    yaml.safe_load(text)
    lines = (line for line in ndiff(RULES.splitlines(), text.splitlines()) if line[0] in "+-")
    return [f"{line[0]} {line[1:].strip()}" for line in lines]


def test_without_values_they_are_what_they_are(folder: Path) -> None:
    assert changes(folder) == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            {"ratio": 0.95},
            ["- > 0.8  # ratio: as the post-mortem says", "+ > 0.95  # ratio: as the post-mortem says"],
        ),
        ({"wal_rate": 2000000}, ["- > 1e6  # wal_rate: so says nobody", "+ > 2000000  # wal_rate: so says nobody"]),
        ({"for": "10m"}, ["- for: 5m  # a deploy is over by then", "+ for: 10m  # a deploy is over by then"]),
        ({"severity": "critical"}, ["- severity: warning", "+ severity: critical"]),
    ],
)
def test_only_the_line_that_is_overridden_changes(folder: Path, override: Any, expected: list[str]) -> None:
    assert changes(folder, overrides={"PostgreSQLFull": override}) == expected


def test_an_alert_without_for_gets_one(folder: Path) -> None:
    assert changes(folder, overrides={"PostgreSQLFuller": {"for": "1m"}}) == ["+ for: 1m"]


def test_a_threshold_is_that_of_one_alert(folder: Path) -> None:
    changed = changes(folder, overrides={"PostgreSQLFuller": {"ratio": 1}})
    assert changed == [
        "- expr: instance:used:ratio > 0.9  # ratio: more",
        "+ expr: instance:used:ratio > 1  # ratio: more",
    ]


def test_labels_are_added_to_every_alert(folder: Path) -> None:
    assert changes(folder, labels={"team": "db: yes 🐘"}) == ['+ team: "db: yes 🐘"'] * 2


def test_links_begin_with_what_one_says(folder: Path) -> None:
    changed = changes(folder, runbookBaseUrl="https://wiki/pg/", dashboardBaseUrl="https://grafana")
    assert [line for line in changed if line.startswith("+")] == [
        "+ runbook_url: https://wiki/pg/PostgreSQLFull.md",
        "+ dashboard_url: https://grafana/d/pg-instance?var-job={{ $labels.job }}",
    ]


@pytest.mark.parametrize(("key", "line"), [("dashboardBaseUrl", "dashboard_url"), ("runbookBaseUrl", "runbook_url")])
def test_a_link_that_leads_nowhere_is_left_out(key: str, line: str) -> None:
    ours = rule_files(Values(), shipped("rules"))
    without = rule_files(Values.model_validate({key: ""}), shipped("rules"))
    for name, text in ours.items():
        kept = [each for each in text.splitlines() if not each.startswith(f"          {line}: ")]
        assert without[name].splitlines() == kept != text.splitlines()


def test_a_disabled_alert_goes_with_its_comment(folder: Path) -> None:
    changed = changes(folder, disable=["PostgreSQLFull"])
    assert not [line for line in changed if line.startswith("+")]
    assert changed[:2] == ["- # Comes first.", "- - alert: PostgreSQLFull"]
    assert not [line for line in changed if "Fuller" in line or "record" in line]


def test_a_file_that_is_left_without_rules_is_left_out(folder: Path) -> None:
    alert = RULES[RULES.index("      - alert: PostgreSQLFuller") :]
    (folder / "more.yml").write_text("groups:\n  - name: more\n    rules:\n" + alert.replace("Fuller", "Fullest"))
    values = Values.model_validate({"disable": ["PostgreSQLFullest"]})
    assert rule_files(values, folder).keys() == {"shop.yml"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            "override: {}",
            "my.yml: override: no such key; there are: dashboardBaseUrl, disable, labels, overrides, runbookBaseUrl",
        ),
        ("[disable]", "my.yml: Input should be a mapping"),
        ("disable: [A]\ndisable: [B]", "my.yml: line 2: key 'disable' is written twice. Keep one of them."),
        ("disable: PostgreSQLFull", "my.yml: disable: Input should be a list"),
        ("labels: {severity: x}", "my.yml: labels.severity.[key]: severity: our alerts say with this label"),
        ("labels: {datname: x}", "datname: our alerts say with this label"),
        ("labels: {te-am: x}", "my.yml: labels.te-am"),
        ("labels: {__name__: x}", "labels that begin with __ are Prometheus' own"),
        ('labels: {team: "{{ $labels.datname }}"}', "my.yml: labels.team: a label is the same on every alert"),
        ("overrides: {PostgreSQLFull: }", "my.yml: overrides.PostgreSQLFull: Input should be a mapping"),
    ],
)
def test_values_that_cannot_be_read_name_file_and_place(tmp_path: Path, values: str, expected: str) -> None:
    (tmp_path / "my.yml").write_text(values)
    with pytest.raises(ValuesError) as raised:
        read_values(tmp_path / "my.yml")
    assert expected in str(raised.value)
    assert str(raised.value).startswith("my.yml: ")


def test_of_many_alerts_the_nearest_is_named() -> None:
    values = Values.model_validate({"disable": ["PostgreSQLConectionsAtLimit"]})
    with pytest.raises(ValuesError) as raised:
        rule_files(values, shipped("rules"))
    said = "values: disable.PostgreSQLConectionsAtLimit: no such alert; did you mean PostgreSQLConnectionsAtLimit?"
    assert str(raised.value) == said


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"disable": ["Full"]}, "disable.Full: no such alert; there are: PostgreSQLFull, PostgreSQLFuller"),
        ({"overrides": {"Full": {"ratio": 1}}}, "overrides.Full: no such alert; there are: PostgreSQLFull, "),
        (
            {"overrides": {"PostgreSQLFull": {"ration": 1}}},
            "overrides.PostgreSQLFull.ration: no such threshold; there are: for, ratio, severity, wal_rate",
        ),
    ],
)
def test_values_that_fit_no_rule_say_what_there_is(folder: Path, values: Any, expected: str) -> None:
    with pytest.raises(ValuesError) as raised:
        rule_files(Values.model_validate(values), folder)
    assert str(raised.value).startswith(f"values: {expected}")


SEVERITY = "must be one of critical, warning, info"
DURATION = "must be a duration such as 10m"
NUMBER = "must be a number such as 0.9"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("severity", "page", SEVERITY),
        ("severity", None, SEVERITY),
        ("severity", ["info"], SEVERITY),
        *(
            ("for", value, DURATION)
            for value in ("soon", "", "30m1h", "5m5m", "1ms1s", "1.5h", "10", "-5m", "5m\n", 10, None)
        ),
        *(("for", value, "") for value in ("0", "90s", "1h30m", "1y2w3d4h5m6s7ms")),
        *(("ratio", value, NUMBER) for value in ("90%", "0.9", None, True, float("inf"), float("nan"), [1])),
        *(("ratio", value, "must be within 0 and 1") for value in (90, 1.01)),
        *(("ratio", value, "") for value in (0, 0.5, 1)),
        *((name, -1, "must not be negative") for name in ("ratio", "wal_rate")),
        *(("wal_rate", value, "") for value in (0, 1.5, 2e9)),
    ],
)
def test_an_override_is_what_prometheus_takes(folder: Path, key: str, value: object, expected: str) -> None:
    values = Values.model_validate({"overrides": {"PostgreSQLFull": {key: value}}})
    if not expected:
        rule_files(values, folder)
        return
    with pytest.raises(ValuesError) as raised:
        rule_files(values, folder)
    assert str(raised.value).startswith(f"values: overrides.PostgreSQLFull.{key}: {expected}")


ALERTS = [found for file in sorted(shipped("rules").glob("*.yml")) for found in ALERT.finditer(file.read_text("utf-8"))]


def test_everything_of_our_own_alerts_can_be_overridden(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for alert in ALERTS:
        with subtests.test(alert["name"]):
            numbers = {name: round(0.1234 + i / 10000, 4) for i, name in enumerate(thresholds(alert[0]))}
            override = {"for": "77m", "severity": "info", **numbers}
            (tmp_path / "one.yml").write_text(f"groups:\n  - name: one\n    rules:\n{alert[0]}")
            text = rule_files(Values.model_validate({"overrides": {alert["name"]: override}}), tmp_path)["one.yml"]
            [rule] = yaml.safe_load(text)["groups"][0]["rules"]
            assert rule["for"] == "77m"
            assert rule["labels"]["severity"] == "info"
            assert all(f"{number}  # {name}: " in text for name, number in numbers.items())


def test_our_own_thresholds_may_be_written_as_values() -> None:
    numbers = {
        alert["name"]: {
            found["name"]: float(found["number"]) for found in re.finditer(THRESHOLD.format(name=NAME), alert[0])
        }
        for alert in ALERTS
    }
    assert rule_files(Values.model_validate({"overrides": numbers}), shipped("rules"))


def test_the_command_writes_our_rules_byte_by_byte_under_its_mark(tmp_path: Path) -> None:
    done = run("rules", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    ours = {file.name: MARK.encode() + file.read_bytes() for file in shipped("rules").glob("*.yml")}
    assert done.stdout == f"wrote {len(ours)} files to {tmp_path / 'out'}\n"
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").glob("*.yml")} == ours


def test_what_an_earlier_run_wrote_and_this_one_does_not_is_removed(tmp_path: Path) -> None:
    """A subject whose alerts are all disabled, or that had another name before an upgrade; files of others stay."""
    out = tmp_path / "out"
    assert run("rules", str(out)).returncode == 0
    (out / "former.yml").write_text(MARK + "groups: []\n")
    (out / "mine.yml").write_text("groups: []\n")
    archiver = [alert["name"] for alert in ALERT.finditer((shipped("rules") / "archiver.yml").read_text("utf-8"))]
    (tmp_path / "my.yml").write_text(yaml.safe_dump({"disable": archiver}))
    done = run("rules", str(out), "--values", str(tmp_path / "my.yml"))
    assert done.returncode == 0, done.stderr
    ours = {file.name for file in shipped("rules").glob("*.yml")}
    assert {file.name for file in out.glob("*.yml")} == ours - {"archiver.yml"} | {"mine.yml"}
    wrote, *removed = done.stdout.splitlines()
    assert wrote == f"wrote {len(ours) - 1} files to {out}"
    assert removed == ["archiver.yml: no alert left; removed", "former.yml: no alert left; removed"]


def test_a_folder_that_cannot_be_made_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("rules", str(tmp_path / "file" / "out"))
    assert done.returncode == 1
    assert done.stderr == f"Error: {tmp_path / 'file' / 'out'}: Not a directory. Choose a folder that can be written.\n"


def test_the_command_says_what_is_wrong_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "my.yml").write_text("disable: [Nothing]")
    done = run("rules", str(tmp_path / "out"), "--values", str(tmp_path / "my.yml"))
    assert done.returncode == 1
    assert done.stderr.startswith("pgvigil: my.yml: disable.Nothing: no such alert; there are: ")
    assert "Traceback" not in done.stderr
