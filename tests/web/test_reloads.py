"""Targets that come and go while an exporter runs, and configurations that cannot be used."""

import itertools
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from clients import client
from pages import MONITOR, Page, read
from patience import until, wait_until
from serving import Exporter, Surroundings, environment, run, serving, serving_in

from exporter.demo.cluster import Cluster, free_port

OWN = """\
name: sizes
help: Somebody's own.
sql: SELECT {value} AS bytes
metrics:
  - {{name: shop_size_bytes, type: gauge, help: A size., column: bytes}}
"""


class Configured:
    """An exporter whose configuration is in files."""

    def __init__(self, folder: Path, server: Cluster, role: str = MONITOR) -> None:
        self.folder, self.server, self.role = folder, server, role
        self.config, self.targets = folder / "pgvigil.yml", folder / "targets"
        self.targets.mkdir()
        self.log = folder / "log"
        self.own = folder / "collectors"
        self.own.mkdir()
        self.exporter: Exporter

    def write(self, **settings: Any) -> None:
        """Write the configuration file."""
        fixed = {"targets_files": [f"{self.targets}/*.yml"], "collectors_dir": str(self.own)}
        self.config.write_text(yaml.safe_dump(fixed | settings))

    def name(self, file: str, *names: str, **more: Any) -> None:
        """Write a file of targets: by rename, as one should."""
        written = self.folder / "being written"
        dsn = self.server.dsn(user=self.role)
        written.write_text(yaml.safe_dump([{"name": name, "dsn": dsn, **more} for name in names]))
        written.replace(self.targets / file)

    def page(self, target: str) -> Page:
        """Scrape one."""
        return read(self.exporter.get(f"/probe?target={target}").text)

    def metrics(self) -> Page:
        """Read the metrics of the exporter."""
        return read(self.exporter.get().text)

    def names(self) -> set[str]:
        """List the targets, as Prometheus would."""
        return {found["labels"]["instance"] for found in self.discovered() if "instance" in found["labels"]}

    def discovered(self) -> list[Mapping[str, Any]]:
        """Return what Prometheus would be told."""
        answer = wait_until(lambda: _unless_it_asks_for_patience(self.exporter.get("/sd")))
        found: list[Mapping[str, Any]] = json.loads(answer.text)
        return found


def _unless_it_asks_for_patience(answer: httpx.Response) -> httpx.Response | None:
    return None if answer.status_code == 503 else answer


@pytest.fixture
def configured(tmp_path: Path, server18: Cluster) -> Iterator[Configured]:
    """Two targets, in one file."""
    made = Configured(tmp_path, server18)
    made.write()
    made.name("shops.yml", "shop", "blog")
    with running(made):
        yield made


@contextmanager
def running(made: Configured) -> Iterator[None]:
    """Run it."""
    with serving("--config", str(made.config)) as made.exporter:
        yield


def test_a_target_that_stays_keeps_connections_and_counters(configured: Configured) -> None:
    for _ in range(2):
        before = configured.page("shop")
    backends = _backends(configured.server)
    configured.name("more.yml", "news", labels={"team": "press"})
    wait_until(lambda: configured.names() == {"shop", "blog", "news"})
    assert configured.page("news").value("pg_up") == 1
    configured.name("shops.yml", "shop")
    wait_until(lambda: configured.names() == {"shop", "news"})
    after = configured.page("shop")
    assert set(backends) & set(_backends(configured.server)), "of two targets one has gone, with its own"
    assert after.value("pgvigil_scrapes_total") == (before.value("pgvigil_scrapes_total") or 0) + 1
    assert configured.exporter.get("/probe?target=blog").status_code == 404
    assert configured.metrics().series("pg_up", target="blog") == []


def _backends(server: Cluster) -> list[int]:
    found = server.value(
        "SELECT array_agg(pid ORDER BY backend_start) FROM pg_stat_activity WHERE usename = $1", MONITOR
    )
    assert isinstance(found, list)
    return found


@pytest.mark.full
async def test_connections_of_what_has_gone_are_closed(configured: Configured) -> None:
    configured.page("blog")
    configured.name("shops.yml")
    await until(lambda: configured.names() == set())
    async with client(configured.server) as watching:
        await until(
            lambda: watching.fetchval("SELECT NOT exists(SELECT FROM pg_stat_activity WHERE usename = $1)", MONITOR)
        )


NOTICE = "The configuration is not used as it is now"


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory, server18: Cluster) -> Iterator[Configured]:
    """One that is given what it cannot use, again and again, and writes its log into a file.

    Its connections are a role's of its own: others count those of theirs.
    """
    server18.execute("CREATE ROLE refusing LOGIN; GRANT pg_monitor TO refusing")
    made = Configured(tmp_path_factory.mktemp("refusing"), server18, "refusing")
    made.write()
    made.name("shops.yml", "shop", "blog")
    with (
        made.log.open("w") as log,
        serving_in(Surroundings(stderr=log.fileno()), "--config", str(made.config)) as made.exporter,
    ):
        yield made
    server18.execute("DROP ROLE refusing")


@pytest.mark.full
@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("targets/shops.yml", "[{name: shop}, {name: shop}]", "shops.yml: shop: is in it twice"),
        ("targets/other.yml", "[{name: shop}]", "shops.yml: shop: is in {folder}/targets/other.yml as well"),
        ("targets/shops.yml", "[{name: shop, dsn: 'port=x'}]", "shop: dsn: port is no number"),
        ("targets/shops.yml", "[{nam: shop}]", "shops.yml: 0.name: Field required"),
        ("targets/shops.yml", "name: shop", "shops.yml: expected a list of targets"),
        ("targets/shops.yml", "[{name: shop", "shops.yml"),
        ("targets/shops.yml", "", "shops.yml: is empty. A list of no targets is written as []"),
        ("targets", "", "targets_files: no file matches {folder}/targets/*.yml any more"),
        ("pgvigil.yml", "", "pgvigil.yml: names no targets any more"),
        ("targets/shops.yml", "[{name: shop, labels: {__address__: x}}]", "shops.yml: 0.labels.__address__"),
        ("pgvigil.yml", "cost_budget: lots", "pgvigil.yml: cost_budget"),
        ("pgvigil.yml", "targets: []\ndisable: [nonsense]", "nonsense: no such collector"),
        ("collectors/own.yaml", "name: own", "own.yaml"),
    ],
)
def test_what_cannot_be_used_changes_nothing(refusing: Configured, file: str, text: str, said: str) -> None:
    refusing.name("shops.yml", "shop", "blog")
    wait_until(lambda: refusing.names() == {"shop", "blog"})
    before = refusing.metrics().value("pgvigil_config_last_success_timestamp_seconds") or 0
    said_before = len(refusing.log.read_text())
    if (refusing.folder / file).is_dir():
        (refusing.folder / file).rename(refusing.folder / "away")
    else:
        (refusing.folder / file).write_text(text)
    wait_until(lambda: refusing.metrics().value("pgvigil_config_success") == 0)
    assert refusing.names() == {"shop", "blog"}
    assert NOTICE in refusing.exporter.get("/").text
    assert refusing.page("shop").value("pg_up") == 1
    if (refusing.folder / "away").exists():
        (refusing.folder / "away").rename(refusing.folder / file)
    else:
        (refusing.folder / file).unlink()
    refusing.write()
    refusing.name("shops.yml", "shop")
    wait_until(lambda: refusing.names() == {"shop"})
    assert refusing.metrics().value("pgvigil_config_success") == 1
    assert NOTICE not in refusing.exporter.get("/").text
    assert (refusing.metrics().value("pgvigil_config_last_success_timestamp_seconds") or 0) > before
    lines = refusing.log.read_text()[said_before:].splitlines()
    refused = [line for line in lines if "configuration cannot be used" in line]
    assert len(refused) == 1
    assert said.format(folder=refusing.folder) in refused[0]


def test_collectors_come_change_and_go(configured: Configured) -> None:
    assert configured.page("shop").series("shop_size_bytes") == []
    for value in (1, 2):
        (configured.own / "sizes.yaml").write_text(OWN.format(value=value))
        wait_until(partial(_is_shown, configured, value))
    configured.write(disable=["sizes"])
    wait_until(lambda: configured.page("shop").series("shop_size_bytes") == [])
    assert configured.page("shop").value("pg_up") == 1


def _is_shown(configured: Configured, value: float) -> bool:
    return [found for _, found in configured.page("shop").series("shop_size_bytes")] == [value]


@pytest.mark.full
def test_another_dsn_is_another_target(configured: Configured) -> None:
    configured.page("shop")
    configured.name("shops.yml", "shop", dsn="host=127.0.0.1 port=1 user=nobody")
    wait_until(lambda: configured.page("shop").value("pg_up") == 0)


@pytest.mark.parametrize("how", ["request", "look", pytest.param("service", marks=pytest.mark.full)])
def test_a_dsn_file_that_names_another_server_is_another_target(
    server18: Cluster, cluster: Callable[..., Cluster], tmp_path: Path, how: str
) -> None:
    """What is known of the old one goes, and its connections with it."""
    other = cluster()
    other.execute("CREATE DATABASE elsewhere")
    file, services = tmp_path / "dsn", tmp_path / "services"

    def name(server: Cluster) -> None:
        dsn = f"host=127.0.0.1 port={server.port} user={MONITOR} dbname=postgres"
        services.write_text("[watched]\n" + dsn.replace(" ", "\n"))
        if how != "service":
            file.write_text(dsn)

    file.write_text("service=watched")
    name(server18)
    named = {"targets": json.dumps([{"name": "shop", "dsn_file": str(file)}])}
    surroundings = Surroundings(variables={"PGSERVICEFILE": str(services)})
    with serving_in(surroundings, **({"dsn_file": str(file)} if how == "look" else named)) as exporter:
        page = "/probe?target=shop" if how != "look" else "/metrics"
        for _ in range(2):
            before = read(exporter.get(page).text)
        assert before.value("pg_up") == 1
        backends = _backends(server18)
        name(other)
        if how == "request":
            assert post(exporter).status_code == 200

        def is_there() -> Page | None:
            found = read(exporter.get(page).text)
            return found if _has_elsewhere(found) else None

        after = is_there() if how == "request" else wait_until(is_there)
        assert after is not None, "a page of the old server"
        [now] = exporter.get("/api/v1/targets").json()
        assert now["address"] == f"127.0.0.1:{other.port}"
        left = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND pid = ANY($2)"
        wait_until(lambda: server18.value(left, MONITOR, backends) == 0)
    assert not _has_elsewhere(before)
    assert before.value("pgvigil_scrapes_total") == 2


def _has_elsewhere(page: Page) -> bool:
    return any(labels["datname"] == "elsewhere" for labels, _ in page.series("pg_database_size_bytes"))


def test_a_dsn_file_with_another_password_is_the_same_target(server18: Cluster, tmp_path: Path) -> None:
    file, dsn = tmp_path / "dsn", server18.dsn(user=MONITOR)
    file.write_text(dsn)
    with serving(dsn_file=str(file)) as exporter:
        for _ in range(2):
            exporter.get()
        backends = _backends(server18)
        file.write_text(dsn.replace(MONITOR, f"{MONITOR}:secret", 1))
        assert post(exporter).status_code == 200
        page = read(exporter.get().text)
        assert set(backends) & set(_backends(server18))
    assert (page.value("pg_up"), page.value("pgvigil_scrapes_total")) == (1, 3)


@pytest.mark.full
def test_files_that_change_all_the_time_are_read_all_the_same(configured: Configured) -> None:
    numbers = itertools.count()

    def is_read() -> bool:
        configured.name("new.yml", f"new{next(numbers)}")
        return any(name.startswith("new") for name in configured.names())

    wait_until(is_read, every=0.3)


@pytest.mark.parametrize("how", ["signal", "request"])
def test_it_reads_again_when_asked(configured: Configured, how: str) -> None:
    before = configured.metrics().value("pgvigil_config_last_success_timestamp_seconds") or 0
    time.sleep(0.01)
    if how == "signal":
        configured.exporter.process.send_signal(signal.SIGHUP)
    else:
        assert post(configured.exporter).status_code == 200

    def is_newer() -> bool:
        return (configured.metrics().value("pgvigil_config_last_success_timestamp_seconds") or 0) > before

    wait_until(is_newer)
    assert configured.names() == {"shop", "blog"}


def post(exporter: Exporter, **headers: str) -> httpx.Response:
    """Ask it to read again."""
    return httpx.post(f"{exporter.url}/-/reload", headers=headers, timeout=60)


def test_who_asks_is_told_what_is_wrong(configured: Configured) -> None:
    configured.config.write_text("cost_budget: lots")
    answer = post(configured.exporter)
    assert answer.status_code == 500
    assert answer.text.startswith(f"{configured.config}: cost_budget: ")


@pytest.mark.full
def test_a_configuration_of_one_server_is_not_emptied(server18: Cluster, tmp_path: Path) -> None:
    config = tmp_path / "pgvigil.yml"
    config.write_text(yaml.safe_dump({"dsn": server18.dsn(user=MONITOR)}))
    with serving("--config", str(config)) as exporter:
        config.write_text("")
        answer = post(exporter)
        assert (answer.status_code, answer.text) == (500, f"{config}: is empty. Restart for that\n")
        assert read(exporter.get().text).value("pg_up") == 1


def test_a_signal_before_it_serves_ends_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "exporter", "serve"]
    variables = environment(targets="[]", listen=f"127.0.0.1:{free_port()}")
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as process:
        heeded = Path(f"/proc/{process.pid}/status")
        wait_until(lambda: int(heeded.read_text().partition("SigIgn:")[2].split()[0], 16) & 1)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: _lives(f"http://{variables['PGVIGIL_LISTEN']}/healthz"), every=0.1)
        process.terminate()


def _lives(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def test_only_who_may_see_pages_asks(configured: Configured) -> None:
    assert post(configured.exporter, Origin="http://attacker.example").status_code == 403
    assert post(configured.exporter, Origin=configured.exporter.url).status_code == 200
    assert post(configured.exporter, Host="attacker.example").status_code == 403
    assert configured.exporter.get("/-/reload").status_code == 405, "a link changes nothing"


def test_a_pattern_that_no_file_matches_is_missing(tmp_path: Path) -> None:
    done = run("check", targets_files=f"{tmp_path}/*.yml")
    assert (done.returncode, done.stdout) == (1, "No server is named, so there is nothing to check.\n")
    assert f"targets_files: no file matches {tmp_path}/*.yml. Write one, or correct the pattern" in done.stderr


def test_a_file_without_pattern_has_to_be_there(tmp_path: Path) -> None:
    done = run("check", targets_files=str(tmp_path / "missing.yml"))
    assert done.returncode == 2
    assert str(tmp_path / "missing.yml") in done.stderr


def test_prometheus_is_told_of_each_target(configured: Configured) -> None:
    configured.name("shops.yml", "shop", labels={"team": "shop", "version": "of ours"})
    wait_until(lambda: configured.names() == {"shop"})
    assert configured.page("shop").value("pg_up") == 1
    place = configured.exporter.url.removeprefix("http://")
    own, shop = configured.discovered()
    assert own == {"targets": [place], "labels": {"__scheme__": "http", "__metrics_path__": "/metrics"}}
    assert shop == {
        "targets": [place],
        "labels": {
            "__scheme__": "http",
            "__metrics_path__": "/probe",
            "__param_target": "shop",
            "instance": "shop",
            "team": "shop",
            "role": "primary",
            "version": "of ours",
        },
    }


@pytest.mark.full
def test_servers_that_are_down_or_silent_are_listed_once_that_is_known(configured: Configured) -> None:
    with closing(silent_listener()) as silent:
        configured.name("down.yml", "down", dsn="host=127.0.0.1 port=1 user=nobody")
        configured.name("silent.yml", "silent", dsn=f"host=127.0.0.1 port={silent.getsockname()[1]} user=nobody")
        wait_until(lambda: configured.names() == {"shop", "blog", "down", "silent"})
        assert "role" not in next(each["labels"] for each in configured.discovered() if "down" in str(each))


def test_the_first_list_waits_for_servers_that_answer(configured: Configured) -> None:
    answer = configured.exporter.get("/sd")
    assert answer.status_code == 200, "Prometheus asks again a refresh interval later"
    assert {each["labels"].get("instance") for each in answer.json()} == {None, "shop", "blog"}


def test_a_server_that_comes_and_says_nothing_holds_up_the_list_of_no_other(configured: Configured) -> None:
    assert configured.names() == {"shop", "blog"}
    with closing(silent_listener()) as silent:
        configured.name("silent.yml", "silent", dsn=f"host=127.0.0.1 port={silent.getsockname()[1]} user=nobody")
        configured.name("more.yml", "news")

        def is_listed() -> bool:
            answer = configured.exporter.get("/sd")
            assert answer.status_code == 200, "which Prometheus takes for no news: it goes on with what has gone, too"
            return '"news"' in answer.text

        wait_until(is_listed)


def silent_listener() -> socket.socket:
    """Let clients connect, and say nothing."""
    return socket.create_server(("127.0.0.1", 0))
