"""Every block of code and every command of the pages for users works as it stands there."""

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pages import MONITOR, catalog
from pydantic import SecretStr
from serving import run, serving

from exporter.__main__ import cli
from exporter.catalog.load import BUILT_IN, load
from exporter.configuration import load_settings
from exporter.connections.postgres import Postgres
from exporter.demo.cluster import HOST, Cluster
from exporter.planning.plan import plan
from exporter.planning.server import Server
from exporter.settings import PREFIX, Settings
from exporter.web.web_config import read_web_config

REPOSITORY = Path(__file__).parents[1]

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "exporter/MIGRATING.md",
    "exporter/collectors/README.md",
)

OF_COMMANDS = (*PAGES, "alerts/README.md", "dashboards/README.md", "docs/page.md")
"""Pages whose commands are tried too; their YAML is that of rules and dashboards, which have tests of their own."""


@dataclass(frozen=True)
class Block:
    """A block of code, and where it begins."""

    place: str
    language: str
    text: str


def blocks(language: str, *pages: str) -> Iterator[Block]:
    """All blocks of a language."""
    for name in pages:
        text = (REPOSITORY / name).read_text("utf-8")
        for found in re.finditer(r"^ *```(\w+)\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
            if found[1] == language:
                line = text.count("\n", 0, found.start()) + 1
                yield Block(f"{name}:{line}", found[1], found[2])


def of_yaml(key: str) -> list[Any]:
    """The blocks of YAML that have this key, as parameters of a test."""
    found = [(block, yaml.safe_load(block.text)) for block in blocks("yaml", *PAGES)]
    return [pytest.param(block, id=block.place) for block, data in found if key in data]


def test_every_block_of_yaml_is_of_a_kind_that_is_tested() -> None:
    known = {"name", "fragments", "targets", "discovery", "scrape_configs", "tls_server_config"}
    odd = [block.place for block in blocks("yaml", *PAGES) if not known & {*yaml.safe_load(block.text)}]
    assert odd == []


@pytest.mark.parametrize("block", of_yaml("tls_server_config"))
def test_a_web_configuration_is_read(block: Block, tmp_path: Path) -> None:
    (tmp_path / "web.yml").write_text(block.text)
    assert read_web_config(tmp_path / "web.yml").tls_server_config.is_enabled


def completed(text: str) -> str:
    """A collector of which the page shows the query only, with a metric of a column of it."""
    if "name" in yaml.safe_load(text):
        return text
    return (
        f"name: shown\nhelp: Of the page.\n{text}\nmetrics: [{{name: shown, type: gauge, help: A., column: waiters}}]\n"
    )


@pytest.mark.parametrize("block", [*of_yaml("name"), *of_yaml("fragments")])
async def test_a_collector_stands_beside_those_that_are_built_in(
    block: Block, server: Cluster, major: int, tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text(completed(block.text))
    known = {each.name for each in catalog()}
    [own] = load(tmp_path).collectors
    if own.name in known:
        assert block.place.startswith("CONTRIBUTING"), "its reader may have put it there just now"
        return
    own = next(each for each in load(BUILT_IN, tmp_path) if each.name == own.name)
    if own.kind == "pgbouncer":
        return
    server.execute("CREATE TABLE IF NOT EXISTS public.orders (sent_at timestamptz, paid_at timestamptz, region text)")
    server.execute(f"GRANT SELECT ON public.orders TO {MONITOR}")
    try:
        wanted = own.model_copy(update={"databases": ()})
        [job] = plan(type(catalog())((wanted,)), Server((major, 0), False, "postgres", ("postgres",))).jobs
        async with await Postgres(SecretStr(server.dsn(user=MONITOR))).connect() as session:
            columns = await session.columns(job.sql)
    finally:
        server.execute("DROP TABLE public.orders")
    assert {*own.all_labels, *(metric.column for metric in own.metrics)} <= {*columns}


@pytest.mark.parametrize("block", [*of_yaml("targets"), *of_yaml("discovery")])
def test_settings_are_read(block: Block, tmp_path: Path) -> None:
    (tmp_path / "pgvigil.yml").write_text(block.text)
    settings = load_settings(tmp_path / "pgvigil.yml")
    assert settings.targets or settings.discovery
    settings.applied_to(catalog())


@pytest.mark.parametrize("block", of_yaml("scrape_configs"))
def test_a_configuration_of_prometheus_is_one(block: Block, tool: Callable[[str, str], Path], tmp_path: Path) -> None:
    promtool = tool("promtool", "it comes with Prometheus; Debian's package is called prometheus")
    (tmp_path / "prometheus.yml").write_text(block.text)
    command = [str(promtool), "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def commands() -> Iterator[tuple[str, str]]:
    """Every command line of ours in blocks and in prose, and where it is."""
    for block in blocks("sh", *OF_COMMANDS):
        for line in block.text.replace("\\\n", " ").splitlines():
            yield from ((block.place, part) for part in re.split(r"&&|\|", line) if "pgvigil" in part)
    for name in OF_COMMANDS:
        prose = re.sub(r"```sh.*?```", "", (REPOSITORY / name).read_text("utf-8"), flags=re.DOTALL)
        for found in re.findall(r"`([^`\n]*)`", prose):
            for part in re.split(r"&&|\|", found):
                if re.match(r"\s*(PGVIGIL_\w+=\S+ )*(uv run (--extra \w+ )?)?pgvigil [a-z-]", part):
                    yield name, part


def arguments(line: str) -> list[str] | None:
    """What stands after our command; None where the line runs another one, such as docker."""
    words = shlex.split(line, comments=True)
    for at, word in enumerate(words):
        if re.fullmatch(r"(.*/)?pgvigil", word):
            before = [each for each in words[:at] if "=" not in each]
            return words[at + 1 :] if before in ([], ["uv", "run"], ["uv", "run", "--extra", "demo"]) else None
    return None


@pytest.mark.parametrize(("place", "line"), sorted(set(commands())))
def test_a_command_has_the_options_that_it_is_given(place: str, line: str) -> None:
    given = arguments(line)
    if given is None:
        return
    if given[:1] == ["--config"]:
        given = given[2:]
    if given[:1] == ["--version"]:
        return
    name, *rest = given
    command = cli.commands[name]
    takes_argument = any(isinstance(parameter, click.Argument) for parameter in command.params)
    try:
        command.make_context(name, rest, parent=click.Context(cli))
    except click.MissingParameter:
        assert takes_argument, "the sentence only names the command"


def test_commands_are_found() -> None:
    lines = [line for _, line in commands()]
    assert len(lines) > 20
    assert any("--config" in line for line in lines)


@pytest.mark.parametrize("block", [pytest.param(block, id=block.place) for block in blocks("sh", *OF_COMMANDS)])
def test_variables_and_files_of_a_block_exist(block: Block) -> None:
    for variable in re.findall(rf"\b{PREFIX}(\w+)=", block.text):
        assert variable.lower() in {*Settings.model_fields, "config"}
    for file in re.findall(r"\b(?:tests|exporter|alerts|dashboards)/[\w/.-]+\.(?:py|yml|yaml)\b", block.text):
        new = {"tests/collectors/test_event_triggers.py"}
        assert (REPOSITORY / file).exists() or file in new, file


def test_run_it_works_as_written(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """With the role that `pgvigil grants` makes, whose password stands in the file."""
    server = cluster(18, {}, auth="scram-sha-256", password="superuser")
    server.execute(f"DROP OWNED BY {MONITOR}; DROP ROLE {MONITOR}")
    server.execute(run("grants").stdout)
    server.execute(f"ALTER ROLE {MONITOR} PASSWORD 'the right one'")
    (tmp_path / "password").write_text("the right one\n")
    text = (REPOSITORY / "README.md").read_text("utf-8").split("\n## Run it\n")[1]
    block = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert block
    said = (
        block[1]
        .replace("db.example", f"{HOST}:{server.port}")
        .replace("/run/secrets/pgvigil", str(tmp_path / "password"))
    )
    settings = dict(re.findall(rf"export {PREFIX}(\w+)=(\S+)", said))
    assert [line for line in said.splitlines() if not line.startswith("export")] == ["pgvigil check", "pgvigil serve"]
    checked = run("check", **{name.lower(): value for name, value in settings.items()})
    assert checked.returncode == 0, checked.stdout
    with serving(**{name.lower(): value for name, value in settings.items()}) as ours:
        assert "\npg_up 1" in ours.get().text


def test_that_no_password_was_given_is_said(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    server = cluster(18, {}, auth="scram-sha-256", password="superuser")
    server.execute(f"ALTER ROLE {MONITOR} PASSWORD 'the right one'")
    dsn = f"postgresql://{MONITOR}@127.0.0.1:{server.port}/postgres"
    without = run("check", dsn=dsn)
    assert without.returncode == 2
    assert "no password was given" in without.stdout
    assert "set PGVIGIL_PASSWORD_FILE or PGPASSWORD" in without.stdout
    (tmp_path / "password").write_text("\n")
    empty = run("check", dsn=dsn, password_file=str(tmp_path / "password"))
    assert empty.returncode == 2
    assert f"password_file: {tmp_path}/password: is empty" in empty.stdout
    given = run("check", dsn=f"postgresql://{MONITOR}:wrong@127.0.0.1:{server.port}/postgres")
    assert "no password was given" not in given.stdout
