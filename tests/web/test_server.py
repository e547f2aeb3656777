"""The exporter as its users run it: a process, its routes, its signals and its exit codes."""

import gzip
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from pages import MONITOR, read, read_whole
from patience import SECONDS, Stopwatch, wait_until
from prometheus_client.openmetrics import parser as openmetrics
from serving import Exporter, environment, run, serving
from standby import clone_standby

from exporter import __version__
from exporter.demo.cluster import Cluster, free_port
from exporter.exposition.negotiation import negotiate

ASLEEP = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgvigil' AND wait_event = 'PgSleep'"

PROMETHEUS = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}


@pytest.fixture(scope="module")
def exporter(servers: Callable[[int], Cluster]) -> Iterator[Exporter]:
    """One exporter of the newest server."""
    with serving(dsn=servers(18).dsn(user=MONITOR)) as running:
        yield running


def test_the_text_page_is_whole_and_lawful(exporter: Exporter, tool: Callable[[str, str], Path]) -> None:
    answer = exporter.get()
    assert answer.headers["Content-Type"] == negotiate("").content_type
    found = read_whole(answer.text)
    assert found.value("pg_up") == 1
    assert found.value("pgvigil_build_info") == 1
    assert found.value("process_resident_memory_bytes") > 1e6
    promtool = tool("promtool", "it comes with Prometheus; Debian's package is called prometheus")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=answer.text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_scraper_that_accepts_openmetrics_gets_it(exporter: Exporter) -> None:
    answer = exporter.get(headers=PROMETHEUS)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in openmetrics.text_string_to_metric_families(answer.text)}
    assert families["pgvigil_scrapes"].type == "counter"
    assert families["pg_up"].samples[0].value == 1


def test_an_unreadable_accept_header_gets_the_text_format(exporter: Exporter) -> None:
    answer = exporter.get(headers={"Accept": "application/openmetrics-text;version=x"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, negotiate("").content_type)
    assert read(answer.text).value("pg_up") == 1


def test_gzip_is_the_same_page(exporter: Exporter) -> None:
    with httpx.stream("GET", exporter.url + "/metrics", headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        packed = b"".join(answer.iter_raw())
    plain = exporter.get(headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert read(gzip.decompress(packed).decode()).value("pg_up") == read(plain.text).value("pg_up") == 1
    assert len(packed) < len(plain.content) / 4  # of a page that is mostly help texts


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health(exporter: Exporter, path: str) -> None:
    answer = exporter.get(path)
    assert (answer.status_code, answer.text) == (200, "ok\n")


def test_a_load_balancer_learns_who_is_primary_and_who_is_not(server18: Cluster) -> None:
    standby = clone_standby(server18)
    standby.start()
    try:
        targets = [
            {"name": "one", "dsn": server18.dsn(user=MONITOR)},
            {"name": "two", "dsn": standby.dsn(user=MONITOR)},
        ]
        with serving(targets=json.dumps(targets)) as running:

            def told(path: str) -> tuple[int, str]:
                answer = running.get(path)
                return answer.status_code, answer.text

            assert told("/primary?target=one") == (200, "primary\n")
            assert told("/replica?target=one") == (503, "primary\n")
            assert told("/primary?target=two") == (503, "replica\n")
            assert told("/replica?target=two") == (200, "replica\n")
            assert told("/primary?target=three") == (404, "no target is named 'three'; configured: one, two\n")
            standby.value("SELECT pg_promote()")
            wait_until(lambda: told("/primary?target=two") == (200, "primary\n"))
            standby.stop()
            wait_until(lambda: told("/primary?target=two") == (503, "refused\n"))
    finally:
        standby.remove()


def test_a_page_tells_how_each_collector_fares(exporter: Exporter) -> None:
    text = exporter.get("/collectors").text
    assert "PostgreSQL is up" in text
    assert "<code>lock_blockers</code>" in text
    assert "at the next scrape</td>" in text
    assert "skipped: runs on a standby only" in text


def test_statements_are_listed_with_their_normalised_texts(server18: Cluster) -> None:
    server18.execute("CREATE ROLE secretive PASSWORD 's3cret'; DROP ROLE secretive")
    for _ in range(3):
        server18.value("SELECT count(*) FROM pg_class WHERE relname = 'a literal' AND pg_sleep(0.05) IS NOT NULL")
    every = json.dumps({"statements": {"limit": 0}})
    with serving(dsn=server18.dsn(user=MONITOR), collectors=every) as running:
        text = running.get("/statements").text
    assert "SELECT count(*) FROM pg_class WHERE relname = $1" in text
    assert "s3cret" not in text


def test_unknown_targets_are_not_found(exporter: Exporter) -> None:
    answer = exporter.get("/probe?target=postgresql://evil/")
    assert answer.status_code == 404
    assert "no target is named" in answer.text


def test_the_scrapers_time_limit_is_kept(server18: Cluster, tmp_path: Path) -> None:
    (tmp_path / "slow.yaml").write_text(
        "name: slow\nhelp: Slow.\nsql: SELECT 1 AS value FROM pg_sleep(4)\n"
        "metrics:\n  - {name: pg_slow, type: gauge, help: Slow., column: value}\n"
    )
    with serving(dsn=server18.dsn(user=MONITOR), collectors_dir=str(tmp_path)) as running:
        started, watch = time.monotonic(), Stopwatch(running.process.pid)
        found = read(running.get(headers={"X-Prometheus-Scrape-Timeout-Seconds": "3"}).text)
        assert time.monotonic() - started > 2.0
        assert watch.seconds < 4.5  # the next look at what there is to do is up to five seconds away
    assert found.value("pg_up") == 1
    assert found.value("pgvigil_collector_success", collector="slow") == 0


def test_metrics_and_collectors_drop_the_samples_beyond_the_limit(server18: Cluster, tmp_path: Path) -> None:
    (tmp_path / "many.yaml").write_text(
        "name: many\nhelp: Many.\nsql: SELECT n, 1 AS value FROM generate_series(1, 5000) AS n\nlabels: [n]\n"
        "metrics:\n  - {name: pg_many, type: gauge, help: Many., column: value}\n"
    )
    with serving(dsn=server18.dsn(user=MONITOR), collectors_dir=str(tmp_path), max_samples="1000") as running:
        found = read(running.get().text)
        collectors = running.get("/collectors").text
    dropped = found.value("pgvigil_collector_dropped_samples", collector="many")
    assert dropped > 4000
    assert len(found.series("pg_many")) == 5000 - dropped
    said = re.findall(r"<code>many</code>.*?(\d+) samples dropped", collectors, re.DOTALL)
    assert [int(number) > 4000 for number in said] == [True]


def test_a_collector_is_one_new_file(server: Cluster, tmp_path: Path) -> None:
    """From a YAML file that nobody else knows of to a sample that Prometheus would read, on each version."""
    (tmp_path / "own_tablespaces.yaml").write_text("""
name: own_tablespaces
help: Tablespaces there are.
sql:
  13: SELECT spcname, 13 AS query_of, NULL::int AS future FROM pg_catalog.pg_tablespace
  17: SELECT spcname, 17 AS query_of, 1 AS future FROM pg_catalog.pg_tablespace
labels: [spcname]
metrics:
  - {name: pg_tablespace_query_of, type: gauge, help: The version whose query ran., column: query_of, also: old_name}
  - {name: pg_tablespace_future, type: gauge, help: Only newer servers have it., column: future, since: 17}
""")
    settings = {"dsn": server.dsn(user=MONITOR), "collectors_dir": str(tmp_path), "compatibility_names": "true"}
    with serving(**settings) as running:
        found = read(running.get().text)
    version = 17 if int(server.value("SHOW server_version_num")) >= 170000 else 13
    assert found.value("pg_tablespace_query_of", spcname="pg_default") == version
    assert found.value("old_name", spcname="pg_default") == version
    assert len(found.series("pg_tablespace_future")) == (2 if version == 17 else 0)
    assert found.value("pgvigil_collector_success", collector="own_tablespaces") == 1


def test_several_targets_are_probed_by_name(server18: Cluster, tmp_path: Path) -> None:
    config = tmp_path / "pgvigil.yaml"
    config.write_text(
        json.dumps(
            {
                "targets": [
                    {"name": "one", "dsn": server18.dsn(user=MONITOR)},
                    {"name": "two", "dsn": "host=/nowhere user=u"},
                ]
            }
        )
    )
    with serving("--config", str(config)) as running:
        own = read(running.get().text)
        assert (own.value("pg_up", target="one"), own.value("pg_up", target="two")) == (1, 0)
        assert own.value("pg_up_reason", target="two", reason="refused") == 1
        assert own.series("pg_connections_used") == []
        assert read(running.get("/probe?target=one").text).value("pg_connections_used") > 0
        assert read(running.get("/probe?target=two").text).value("pg_up") == 0
        assert running.get("/probe?target=three").status_code == 404
        assert "probe?target=one" in running.get("/collectors").text


def test_a_password_file_beside_targets_is_for_each_that_names_none(tmp_path: Path) -> None:
    """The file is missing, which is what the log says of both."""
    (tmp_path / "own").write_text("secret")
    config = tmp_path / "pgvigil.yaml"
    none, own = {"name": "none", "dsn": "host=127.0.0.1 port=1"}, {"name": "own", "dsn": "host=127.0.0.1 port=1"}
    own["password_file"] = str(tmp_path / "own")
    config.write_text(json.dumps({"targets": [none, own], "password_file": str(tmp_path / "gone")}))
    with serving("--config", str(config)) as running:
        found = read(running.get().text)
    assert found.value("pg_up_reason", target="none", reason="settings") == 1
    assert found.value("pg_up_reason", target="own", reason="refused") == 1


def test_an_exporter_without_targets_serves_all_the_same(tmp_path: Path) -> None:
    """A shard may have none; it must not look for the server that PG* variables would name."""
    config = tmp_path / "pgvigil.yaml"
    config.write_text("targets: []\n")
    with serving("--config", str(config)) as running:
        page = read(running.get().text)
        assert page.series("pg_up") == []
        assert page.value("process_resident_memory_bytes") > 0
        assert running.get("/").status_code == 200
        missing = running.get("/probe?target=one")
        assert (missing.status_code, missing.text) == (404, "no target is named 'one'; configured: none\n")
    assert run("--config", str(config), "check").returncode == 0
    assert "configured: none" in run("--config", str(config), "scrape").stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_page_in_hand_is_sent(
    server18: Cluster, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "slow.yaml").write_text(
        "name: slow\nhelp: Slow.\nsql: SELECT 1 AS value FROM pg_sleep(2)\n"
        "metrics:\n  - {name: pg_slow, type: gauge, help: Slow., column: value}\n"
    )
    with serving(dsn=server18.dsn(user=MONITOR), collectors_dir=str(tmp_path), log_format="json") as running:
        with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=SECONDS) as caller:
            caller.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            wait_until(lambda: server18.value(ASLEEP))
            running.process.send_signal(number)
            page = b"".join(iter(lambda: caller.recv(65536), b""))
        assert running.process.wait(SECONDS) == 0
        log = running.process.stderr.read() if running.process.stderr else ""
    assert b"\npg_slow 1\n" in page
    assert "Finished server process" in [json.loads(line)["message"] for line in log.splitlines()][-1]
    assert server18.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgvigil'") <= 3


def test_an_idle_exporter_rests_and_yet_ends_at_once() -> None:
    with serving(targets="[]") as running:
        process = psutil.Process(running.process.pid)

        def rests() -> bool:
            before = process.num_ctx_switches().voluntary
            time.sleep(6)  # in which it would wake six times
            return process.num_ctx_switches().voluntary - before <= 3

        wait_until(rests)
        watch = Stopwatch(running.process.pid)
        running.process.terminate()
        assert running.process.wait(SECONDS) == 0
        assert watch.seconds < 4.5  # the next look at what there is to do is up to five seconds away


def test_signals_that_ask_for_what_it_does_not_do_end_nothing(server18: Cluster) -> None:
    numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
    with serving(dsn=server18.dsn(user=MONITOR)) as running:
        for number in numbers:
            running.process.send_signal(number)
            assert read(running.get().text).value("pg_up") == 1
        running.process.terminate()
        log = running.process.communicate()[1]
    said = [line.rpartition("exporter.web.server: ")[2].split()[0] for line in log.splitlines() if "is ignored" in line]
    assert said == [number.name for number in numbers]


def test_scrape_prints_a_page_and_exits_0_when_up(server18: Cluster) -> None:
    done = run("scrape", dsn=server18.dsn(user=MONITOR))
    assert (done.returncode, read(done.stdout).value("pg_up")) == (0, 1)


def test_scrape_exits_1_when_down() -> None:
    done = run("scrape", dsn="host=/nowhere user=u")
    assert (done.returncode, read(done.stdout).value("pg_up")) == (1, 0)


def test_a_port_in_use_is_named(server18: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("serve", dsn=server18.dsn(user=MONITOR), listen=address)
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == f"pgvigil: cannot listen on {address}: Address already in use; set PGVIGIL_LISTEN to another address"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"listne": "x"}, "pgvigil: PGVIGIL_LISTNE: no such setting; did you mean PGVIGIL_LISTEN?"),
        ({"dsn": "mysql://u:s3cret@h"}, "pgvigil: dsn: a connection URI starts with postgresql://"),
        ({"disable": "table_vacum"}, "pgvigil: disable: table_vacum: no such collector; did you mean table_vacuum?"),
        ({"collectors_dir": "/nowhere"}, "pgvigil: /nowhere: no such folder of collectors"),
    ],
)
def test_a_mistake_is_one_line_and_no_traceback(settings: dict[str, str], message: str) -> None:
    done = run("serve", **settings)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
    assert "s3cret" not in done.stderr


def test_nothing_secret_is_logged(cluster: Callable[..., Cluster]) -> None:
    server = cluster(auth="scram-sha-256", password="right")
    with serving(dsn=server.dsn(password="s3cret"), log_level="debug") as running:
        page = running.get().text + running.get("/").text + running.get("/statements").text
        running.process.terminate()
        log = running.process.communicate()[1]
    assert 'pg_up_reason{reason="authentication"} 1' in page
    assert "authentication" in log
    assert "s3cret" not in page + log


def test_the_start_is_logged_and_a_wrong_password_before_any_scrape(cluster: Callable[..., Cluster]) -> None:
    server = cluster(auth="scram-sha-256", password="right")
    with serving(dsn=server.dsn(password="s3cret")) as running:
        lines: list[str] = []

        def said() -> bool:
            assert running.process.stderr is not None
            lines.append(running.process.stderr.readline())
            return "is down" in lines[-1]

        wait_until(said)
        log = "".join(lines)
    listens = (
        f"pgvigil {__version__} listens on {running.url.removeprefix('http://')} (targets=127.0.0.1:{server.port})"
    )
    assert listens in log
    assert "password authentication failed" in log
    assert "s3cret" not in log


def test_of_several_targets_what_is_down_comes_first_and_statements_are_a_choice(
    server18: Cluster, tmp_path: Path
) -> None:
    config = tmp_path / "pgvigil.yml"
    targets = [
        {"name": "here", "dsn": server18.dsn(user=MONITOR)},
        {"name": "gone", "dsn": f"postgresql://u@127.0.0.1:{free_port()}/d"},
    ]
    config.write_text(json.dumps({"targets": targets}))
    with serving(config=str(config)) as running:
        front, collectors = running.get("/").text, running.get("/collectors").text
        choice = running.get("/statements")
        leads = [running.get(f"/{link}") for link in re.findall(r'href="(statements\?target=[^"]+)"', choice.text)]
        unknown = running.get("/statements?target=nowhere")
        running.process.terminate()
        log = running.process.communicate()[1]
    assert re.findall(r"<h2>(\w+) ", collectors) == ["gone", "here"]
    assert re.findall(r'<h2><a href="./\?target=(\w+)"', front) == ["gone", "here"]
    assert '<a href="statements?target=here">' in collectors
    assert (choice.status_code, len(leads)) == (200, 2)
    assert [lead.status_code for lead in leads] == [200, 200]
    assert "FROM pg_catalog" in leads[0].text or "pg_stat" in leads[0].text
    assert unknown.status_code == 404
    assert f"(targets=here=127.0.0.1:{server18.port}, gone=127.0.0.1:" in log


def test_python_m_and_the_command_are_the_same() -> None:
    help_text = run("--help").stdout
    assert help_text.startswith("Usage: pgvigil ")
    for command in ("serve", "demo", "check", "grants", "scrape", "now", "reference"):
        assert f"  {command} " in help_text
    assert environment(dsn="x")["PGVIGIL_DSN"] == "x"
