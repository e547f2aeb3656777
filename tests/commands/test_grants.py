"""The SQL of `pgvigil grants`, run on real servers and then used."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import page
from serving import environment, run_in
from standby import restart

from exporter.commands.grants import grants
from exporter.demo.cluster import Cluster
from exporter.errors import SettingsError

Tool = Callable[[str, str], Path]
Clusters = Callable[..., Cluster]

REPLACES = "DROP OWNED BY pgvigil; DROP ROLE pgvigil; DROP EXTENSION pg_stat_statements"


def pgvigil(*arguments: str, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command line with these settings and no others."""
    return run_in({**environment(), **settings}, *arguments)


@pytest.mark.parametrize("major", [13, 15, 16, 18])
@pytest.mark.parametrize("role", ["pgvigil", "Ro\"le o'f $do$ %I"])
def test_the_role_it_creates_can_collect_everything(major: int, role: str, cluster: Clusters) -> None:
    server = cluster(major)
    server.execute(REPLACES)
    server.execute("CREATE DATABASE closed")
    server.execute("REVOKE ALL ON DATABASE closed FROM PUBLIC")
    for _ in range(2):  # it may be run again
        server.execute(grants(role, 5))
    seen = page(server.dsn(user=role))
    assert [labels for labels, value in seen.series("pgvigil_collector_success") if value != 1] == []
    assert seen.series("pgvigil_collector_success", collector="table_vacuum", datname="closed")
    assert seen.series("pgvigil_collector_success", collector="statements")
    assert server.query("SELECT rolsuper, rolconnlimit FROM pg_roles WHERE rolname = $1", role) == [(False, 10)]


def test_psql_takes_it_as_it_is(cluster: Clusters, tool: Tool) -> None:
    psql = tool("psql", "it comes with PostgreSQL's client programs")
    server = cluster(18, {"shared_preload_libraries": 'auto_explain, "$libdir/pg_stat_statements"'})
    server.execute(REPLACES)
    printed = pgvigil("grants", "--role", "watch", settings={"PGVIGIL_MAX_CONNECTIONS_PER_TARGET": "4"})
    assert (printed.returncode, printed.stderr) == (0, "")
    command = [str(psql), "-X", "-v", "ON_ERROR_STOP=1", server.dsn()]
    done = subprocess.run(command, input=printed.stdout, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert server.value("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'watch'") == 8


def test_without_the_library_it_says_how_to_load_it_and_creates_nothing(cluster: Clusters, tool: Tool) -> None:
    psql = tool("psql", "it comes with PostgreSQL's client programs")
    server = cluster(18, {"shared_preload_libraries": "auto_explain"})
    server.execute("DROP EXTENSION pg_stat_statements")
    command = [str(psql), "-X", "-v", "ON_ERROR_STOP=1", server.dsn()]
    done = subprocess.run(command, input=grants("pgvigil", 5), capture_output=True, text=True)
    assert done.returncode == 0
    statement = "ALTER SYSTEM SET shared_preload_libraries = 'auto_explain', 'pg_stat_statements';"
    assert statement in done.stderr
    assert server.query("SELECT FROM pg_extension WHERE extname = 'pg_stat_statements'") == []
    server.execute(statement)
    restart(server)
    server.execute(grants("pgvigil", 5))
    assert page(server.dsn(user="pgvigil")).value("pgvigil_collector_success", collector="statements") == 1


@pytest.mark.parametrize("role", ["", "public", "none", "pg_mine", "two\nlines", "back\\slash", "x" * 64])
def test_a_name_that_postgresql_would_not_keep_is_refused(role: str) -> None:
    with pytest.raises(SettingsError, match="no name for a role"):
        grants(role, 5)
