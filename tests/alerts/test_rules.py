"""What every alert rule and every case of one has to keep."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from alerts.casefile import CASES, CaseError, Entry, read
from alerts.golden import FOLDER as GOLDEN
from alerts.labels import SCRAPED, Known, LabelError, comparisons, exported
from alerts.ruleset import ALERTS, Rule, load
from alerts.series import TARGET, Series, series_of
from pages import MONITOR, catalog, page

from alerts import generate
from exporter.alert_rules import ALERT, NAME, THRESHOLD
from exporter.commands.rules import DASHBOARDS, RUNBOOKS, thresholds
from exporter.demo.cluster import Cluster

RULES = load()
KNOWN = Known(RULES.records)
TEXTS = {file.name: file.read_text("utf-8") for file in sorted((ALERTS / "rules").glob("*.yml"))}
GROUPS = {Path(name).stem: yaml.load(text, yaml.CSafeLoader)["groups"] for name, text in TEXTS.items()}
BLOCKS = {found["name"]: found[0] for text in TEXTS.values() for found in ALERT.finditer(text)}
CASE_FILES = sorted(CASES.glob("*.yml"))

WATCHDOG = {"PostgreSQLWatchdog"}
"""What always fires, has no instance, and no case in which it is silent."""

ON_TEST_SERVERS = {"PostgreSQLFsyncOff", "PostgreSQLFullPageWritesOff"}
"""What is rightly said of the servers that golden pages come from: they need not outlive a crash."""

DASHBOARD_UIDS = {
    "pg-alerts",
    "pg-exporter",
    "pg-fleet",
    "pg-instance",
    "pg-locks",
    "pg-queries",
    "pg-query-detail",
    "pg-replication",
    "pg-storage",
    "pg-vacuum",
    "pg-wal-io",
}

NOT_IN_ALERTS = {"irate", "topk", "bottomk"}  # the first sees two samples, the others change their labels as they go

NOT_IN_2_42 = {
    "double_exponential_smoothing",
    "histogram_avg",
    "histogram_stddev",
    "histogram_stdvar",
    "holt_winters",  # has another name in 3
    "info",
    "limit_ratio",
    "limitk",
    "mad_over_time",
    "sort_by_label",
    "sort_by_label_desc",
    "ts_of_last_over_time",
    "ts_of_max_over_time",
    "ts_of_min_over_time",
}

ALL = [*RULES.alerts.values(), *RULES.records.values()]
ALERTING = tuple(RULES.alerts.values())

Tool = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def promtool(each_tool: Tool) -> Path:
    return each_tool("promtool", "it comes with Prometheus")


@pytest.fixture(scope="module")
def player(request: pytest.FixtureRequest, tool: Tool, newest_tool: Tool) -> Path:
    """The promtool that plays cases: the installed one, or with --full a newer one; each takes a minute of a core."""
    found = newest_tool if request.config.getoption("full") else tool
    return found("promtool", "it comes with Prometheus")


# What Prometheus says.


def test_promtool_finds_nothing_wrong_with_the_rules(promtool: Path) -> None:
    files = [str(file) for file in sorted((ALERTS / "rules").glob("*.yml"))]
    done = subprocess.run(
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


AS_SHIPPED = ("archiver", "pgbouncer")
"""Rule tests that are run as they ship; of the others each alert is played alone, which takes a tenth of the time."""


def test_rule_tests_pass_as_they_ship(player: Path) -> None:
    _passes(player, *(ALERTS / "tests" / f"{name}.yml" for name in AS_SHIPPED))


@pytest.mark.timeout(600)  # twenty seconds alone, several times that on a machine that is busy
def test_the_rule_tests_pass(player: Path, tmp_path: Path) -> None:
    """Each case with its alert and what that needs: of all other rules promtool would tell nothing."""
    files = sorted((ALERTS / "tests").glob("*.yml"))
    _passes(player, *(each for file in files if file.stem not in AS_SHIPPED for each in alone(file, tmp_path)))


def alone(file: Path, folder: Path) -> Iterator[Path]:
    """Write a rule test for each alert of a file, with no rules but those that it needs."""
    content = yaml.load(file.read_text("utf-8"), yaml.CSafeLoader)
    by_alert: dict[str, list[Any]] = {}
    for test in content["tests"]:
        [asked] = test["alert_rule_test"]
        by_alert.setdefault(asked["alertname"], []).append(test)
    for alert, tests in by_alert.items():
        needs = RULES.needs(RULES.alerts[alert])
        groups = [
            {
                **group,
                "rules": [rule for rule in group["rules"] if rule.get("alert", rule.get("record")) in needs.rules],
            }
            for subject in needs.subjects
            for group in GROUPS[subject]
        ]
        rules, written = folder / f"{alert}.rules.yml", folder / f"{file.stem}-{alert}.yml"
        rules.write_text(yaml.dump({"groups": groups}, Dumper=yaml.CSafeDumper), "utf-8")
        order = [group["name"] for group in groups]
        of_alert = {**content, "rule_files": [rules.name], "group_eval_order": order, "tests": tests}
        written.write_text(yaml.dump(of_alert, Dumper=yaml.CSafeDumper, allow_unicode=True), "utf-8")
        yield written


def test_a_case_that_is_played_alone_can_fail(player: Path, tmp_path: Path) -> None:
    [*files] = alone(ALERTS / "tests" / "archiver.yml", tmp_path)
    _passes(player, *files)
    for rules in tmp_path.glob("*.rules.yml"):
        rules.write_text(rules.read_text("utf-8").replace("severity: ", "severity: x"), "utf-8")
    with pytest.raises(AssertionError, match="FAILED"):
        _passes(player, *files)


def _passes(promtool: Path, *files: Path) -> None:
    patient = os.environ | {"GOGC": "400"}  # a sixth of its time is the garbage collector's
    done = subprocess.run([promtool, "test", "rules", *files], env=patient, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rule_tests_are_what_the_cases_say() -> None:
    written = {file.name: file.read_text("utf-8") for file in (ALERTS / "tests").glob("*.yml")}
    subjects = [generate.generated(file.stem, generate.remembered) for file in CASE_FILES]
    stale = [name for texts in subjects for name, text in texts.items() if written.get(name) != text]
    assert stale == [], "run: uv run python tests/alerts/generate.py"


def test_no_rule_test_is_left_over() -> None:
    subjects = {file.stem for file in CASE_FILES}
    assert {file.stem.rsplit("_", 1)[0] for file in (ALERTS / "tests").glob("*.yml")} - subjects == set()


# Cases.


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return [entry for file in CASE_FILES for entry in read(file)]


def test_every_alert_has_a_case_that_fires_and_one_that_does_not(
    entries: list[Entry], subtests: pytest.Subtests
) -> None:
    for alert in ALERTING:
        with subtests.test(alert.name):
            own = [entry for entry in entries if entry.alert == alert.name]
            assert any(entry.fires for entry in own)
            assert any(entry.silent for entry in own) or alert.name in WATCHDOG


def test_no_case_is_of_an_unknown_alert(entries: list[Entry]) -> None:
    assert {entry.alert for entry in entries} - RULES.alerts.keys() == set()


# Expressions.


def test_every_metric_and_label_exists_and_both_sides_of_an_operator_match(subtests: pytest.Subtests) -> None:
    for rule in ALL:
        with subtests.test(rule.name):
            labels = KNOWN.of(promql_parser.parse(rule.expr)) or frozenset()
            assert labels >= SCRAPED or rule.name in WATCHDOG or not rule.alerting, "job and instance have to stay"


def test_only_functions_are_used_that_do_what_they_should_in_all_versions(subtests: pytest.Subtests) -> None:
    for rule in ALL:
        with subtests.test(rule.name):
            words = set(re.findall(r"[a-z_0-9]+", re.sub(r"#.*", "", rule.expr)))
            assert words & (NOT_IN_ALERTS | NOT_IN_2_42) == set()


def test_ranges_hold_four_scrapes_a_minute_apart(subtests: pytest.Subtests) -> None:
    """A rate over less is empty, or of two samples, where one scrapes every minute."""
    for rule in ALL:
        with subtests.test(rule.name):
            assert _short_ranges(rule) == []


def _short_ranges(rule: Rule) -> list[str]:
    found: list[str] = []

    def visit(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.MatrixSelector) and part.range.total_seconds() < 300:
            found.append(str(part))

    promql_parser.walk(promql_parser.parse(rule.expr), visit)
    return found


def test_recorded_series_are_named_by_level_metric_and_operation(subtests: pytest.Subtests) -> None:
    for record in RULES.records.values():
        with subtests.test(record.name):
            assert re.fullmatch(r"[a-z_]+:[a-z0-9_]+:[a-z0-9_]+", record.name)
            assert "_total:" not in record.name
            assert any(record.name in rule.mentioned for rule in ALL), "unused"


# Thresholds.


def test_each_comment_in_an_expression_names_the_number_before_it(subtests: pytest.Subtests) -> None:
    """That is how `pgvigil rules` and the Helm chart find it."""
    for alert in ALERTING:
        with subtests.test(alert.name):
            lines = [line for line in alert.expr.splitlines() if "#" in line and not line.lstrip().startswith("#")]
            for line in lines:
                assert re.search(THRESHOLD.format(name=NAME) + r"\S", line), line
            names = thresholds(BLOCKS[alert.name])
            assert len(set(names)) == len(names) == len(lines)
            assert {"for", "severity"} & set(names) == set()


def test_each_number_compared_with_can_be_changed_unless_it_is_a_state(subtests: pytest.Subtests) -> None:
    for alert in ALERTING:
        with subtests.test(alert.name):
            commented = {float(found["number"]) for found in re.finditer(THRESHOLD.format(name=NAME), alert.expr)}
            for comparison in comparisons(promql_parser.parse(alert.expr)):
                sides = (comparison.lhs, comparison.rhs)
                numbers = {side.val for side in sides if isinstance(side, promql_parser.NumberLiteral)}
                assert numbers <= commented | {0, 1}, comparison.prettify()


# Results that the exporter serves again.

LASTING = {
    "PostgreSQLChecksumFailure": "the time of a failure stays what it is",
    "PostgreSQLCrashLoop": "counts what changed",
    "PostgreSQLLockQueue": "what may be of the past only excuses",
    "PostgreSQLLockQueueBehindAccessExclusive": "what may be of the past only excuses",
    "PostgreSQLLoginsFail": "what may be of the past only excuses",
    "PostgreSQLMultixactFailsafeReached": "an age only rises until vacuum has done its work",
    "PostgreSQLMultixactNearlyExhausted": "an age only rises until vacuum has done its work",
    "PostgreSQLReplicationSlotLost": "a slot stays lost",
    "PostgreSQLReplicationSlotUnreserved": "a slot leaves that state within a checkpoint, to be lost or for good",
    "PostgreSQLSubscriptionFailing": "counts errors",
    "PostgreSQLXidFailsafeReached": "an age only rises until vacuum has done its work",
    "PostgreSQLXidNearlyExhausted": "an age only rises until vacuum has done its work",
}
"""Critical alerts that a result of the past cannot mislead, and why."""

CONSTANT = {"pg_settings_wal_segment_size_bytes"}
LAST_GOOD_SECONDS = 60


def test_no_page_comes_of_a_result_of_the_past(subtests: pytest.Subtests) -> None:
    """A critical alert waits for longer than one result is served, or asks whether the server answers now."""
    collectors = {metric.name: each for each in catalog() for metric in each.metrics}
    for alert in ALERTING:
        if alert.labels["severity"] != "critical" or alert.name in LASTING:
            continue
        with subtests.test(alert.name):
            read = RULES.needs(alert).metrics & {
                selector.name for rule in _with_records(alert) for selector in rule.selectors
            }
            named = [collectors[name] for name in read - CONSTANT if name in collectors]
            served = [each.cache + LAST_GOOD_SECONDS for each in named if each.last_good]
            waits = promql_parser.parse_duration(alert.hold).total_seconds() if alert.hold else 0
            assert waits > max(served, default=-1) or read & {"pg_up", "pgbouncer_up"}


def _with_records(rule: Rule) -> list[Rule]:
    """A rule and the records that its expression reads."""
    records = [RULES.records[name] for selector in rule.selectors if (name := selector.name or "") in RULES.records]
    return [rule, *(each for record in records for each in _with_records(record))]


# Names, texts and links, by the conventions of Prometheus mixins and ours.


def test_names_labels_and_texts_follow_the_conventions(subtests: pytest.Subtests) -> None:
    for alert in ALERTING:
        with subtests.test(alert.name):
            assert re.fullmatch(r"(PostgreSQL|PgBouncer)([A-Z][a-z0-9]+)+", alert.name)
            assert alert.labels.keys() == {"severity", "component", "alert_family"}
            assert alert.labels["severity"] in {"critical", "warning", "info"}
            assert alert.labels["component"] in {"postgresql", "pgbouncer", "exporter"}
            assert re.fullmatch(r"[a-z][a-z0-9_]*", alert.labels["alert_family"])
            assert alert.annotations.keys() == {"summary", "description", "runbook_url", "dashboard_url"}
            assert re.fullmatch(r"[A-Z][^{}]*\.", alert.annotations["summary"])
            assert "{{" in alert.annotations["description"] or alert.name in WATCHDOG


def test_links_lead_to_a_runbook_and_a_dashboard(subtests: pytest.Subtests) -> None:
    for alert in ALERTING:
        with subtests.test(alert.name):
            assert alert.annotations["runbook_url"] == f"{RUNBOOKS}/{alert.name}.md"
            assert (ALERTS / "runbooks" / f"{alert.name}.md").is_file()
            link = re.fullmatch(re.escape(DASHBOARDS) + r"/d/([a-z-]+)(\?.*)?", alert.annotations["dashboard_url"])
            assert link
            assert link[1] in DASHBOARD_UIDS


LABEL = re.compile(r"\$labels\.(\w+)")
QUERY = re.compile(
    r'printf\s+"((?:[^"\\]|\\.)*)"(?:\([^)]*\)|[^|}])*\|\s*query|"((?:[^"\\]|\\.)*)"\s*\|\s*query|query\s+"((?:[^"\\]|\\.)*)"'
)


def test_annotations_use_labels_that_the_alert_has(subtests: pytest.Subtests) -> None:
    for alert in ALERTING:
        with subtests.test(alert.name):
            had = (KNOWN.of(promql_parser.parse(alert.expr)) or frozenset()) | alert.labels.keys()
            used = {label for text in alert.annotations.values() for label in LABEL.findall(text)}
            assert used - had == set()
            assert "$value" not in str(alert.labels), "a value in a label is another alert each time"


def test_queries_in_annotations_use_metrics_and_labels_that_exist(subtests: pytest.Subtests) -> None:
    for alert in ALERTING:
        with subtests.test(alert.name):
            text = alert.annotations["description"]
            queries = [next(filter(None, found)) for found in QUERY.findall(text)]
            assert len(queries) == len(re.findall(r'\| *query\b|query "', text)), "a query that this test cannot read"
            for query in queries:
                KNOWN.of(promql_parser.parse(re.sub(r"%q|\\?[\"']%[sv]\\?[\"']", '"x"', query).replace('\\"', '"')))


def test_an_alert_and_its_twin_share_a_family_for_inhibition() -> None:
    """A critical alert silences the warnings of its family, so a family that is alone has one severity."""
    families: dict[str, set[str]] = {}
    for alert in RULES.alerts.values():
        families.setdefault(alert.labels["alert_family"], set()).add(alert.labels["component"])
    assert {family for family, components in families.items() if len(components) > 1} == set()


def test_each_file_has_one_group_of_its_name() -> None:
    for name, text in TEXTS.items():
        [group] = yaml.safe_load(text)["groups"]
        assert f"{group['name']}.yml" == name
        assert group.keys() <= {"name", "rules", "interval"}


def test_every_alert_is_written_so_that_it_can_be_changed_as_text() -> None:
    assert BLOCKS.keys() == RULES.alerts.keys()
    assert len(RULES.alerts) == sum(text.count("- alert: ") for text in TEXTS.values()), "a name is used twice"
    for name, block in BLOCKS.items():
        assert block.count("\n        labels:\n          severity: ") == 1, name


# Golden pages.


def test_golden_pages_have_only_metrics_and_labels_of_the_catalog() -> None:
    unknown = [
        f"{file.name}: {series}"
        for file in sorted(GOLDEN.glob("*.prom"))
        for series in series_of(file.stem)
        if not series.labels.keys() - SCRAPED <= exported().get(series.name, set())
    ]
    assert unknown == [], "record the pages again: uv run python tests/alerts/golden.py"


def test_a_page_of_today_has_the_labels_of_the_golden_ones(server18: Cluster) -> None:
    """The golden pages are recorded by hand; this is what notices that they are of another exporter."""
    old = {series.name for file in GOLDEN.glob("*18.prom") for series in series_of(file.stem)}
    found = page(server18.dsn(user=MONITOR))
    for name, series in found.samples.items():
        for labels, _ in series:
            assert labels.keys() == exported()[name], name
    missing = {name for name in found.samples if name not in old}
    assert missing == set(), "record the pages anew: uv run python tests/alerts/golden.py"


# The checks themselves.


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("pg_conections_used > 1", "no such metric"),
        ('pg_lock_entries{state="x"}', "no such label"),
        ("sum by (relname) (pg_lock_entries)", "no such label"),
        ("pg_replication_slots_active / pg_replication_slots", r"no on\(\) or ignoring\(\)"),
        ("pg_replication_slots_active / on (slot_name) pg_replication_slots", "no such label"),
        ("pg_up * on (job, instance) group_left (cluster_name) pg_up", "no such label"),
        ("pg_up * ignoring (datname) pg_database_connections", None),
        ("pg_up / pg_connections_used", None),
        ("pg_up * on (job, instance) group_left (cluster_name) pg_server_info", None),
    ],
)
def test_the_labels_of_an_expression_are_worked_out(expression: str, wrong: str | None) -> None:
    if wrong is None:
        assert Known().of(promql_parser.parse(expression))
        return
    with pytest.raises(LabelError, match=wrong):
        Known().of(promql_parser.parse(expression))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("- alert: A\n  fires: [{name: a, at: 1m, serie: {}}]", "fires.0.serie: no such key"),
        ("- alert: A\n  fires: [{name: a, at: soon}]", "'soon' is no duration"),
        ("- alert: A\n  silent: [{name: a, at: 1m, says: [x]}]", "a silent case says nothing"),
        ("- alert: A\n  silent: [{name: a, at: 1m}, {name: a, at: 2m}]", "two cases have one name"),
        ("- alert: A\n  alert: B", "written twice"),
    ],
)
def test_a_case_file_that_is_wrong_says_where(text: str, wrong: str, tmp_path: Path) -> None:
    (tmp_path / "locks.yml").write_text(text)
    with pytest.raises(CaseError, match=wrong) as raised:
        read(tmp_path / "locks.yml")
    assert str(raised.value).startswith("locks.yml: ")


@pytest.mark.full
@pytest.mark.parametrize("golden", ["healthy18", "standby18"])
def test_a_server_at_peace_fires_nothing(golden: str, player: Path, tmp_path: Path) -> None:
    """Its page as it stands, for longer than any alert waits; the watchdog shows that alerts can be seen here."""
    values = {str(each): f"{each.value}x550" for each in series_of(golden)}
    values |= {str(Series("up", TARGET, "")): "1x550", str(Series("pgvigil_scrapes_total", TARGET, "")): "0+4x550"}
    series = [{"series": each, "values": value} for each, value in values.items()]
    expected = [{"eval_time": "9h", "alertname": name, "exp_alerts": []} for name in RULES.alerts]
    content = {
        "rule_files": [str(ALERTS / "rules" / name) for name in TEXTS],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": expected}],
    }
    file = tmp_path / "peace.yml"
    file.write_text(yaml.safe_dump(content), "utf-8")
    done = subprocess.run([player, "test", "rules", file], capture_output=True, text=True, check=False)
    assert set(re.findall(r"alertname: (\w+),", done.stdout + done.stderr)) == WATCHDOG | ON_TEST_SERVERS
