"""`pgvigil check` against real servers that lack one thing each."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import MONITOR
from serving import run as run_command
from standby import clone_standby, restart

from exporter.demo.cluster import Cluster, free_port

Clusters = Callable[..., Cluster]
Run = subprocess.CompletedProcess[str]

OWN = """
name: mine
help: A collector of one's own.
sql: {sql}
metrics:
  - name: mine_things
    type: gauge
    help: Things.
    column: things
"""


def check(dsn: str, **settings: str) -> Run:
    """Run the command with these settings and no others."""
    return run_command("check", **({"dsn": dsn} if dsn else {}), **settings)


def marked(run: Run, mark: str) -> list[str]:
    """What the lines with a mark say."""
    return re.findall(rf"^  {mark} +(.*)$", run.stdout, re.MULTILINE)


def mend(server: Cluster, run: Run) -> list[str]:
    """Run each statement of the block that check prints, in its database."""
    database, statements = "postgres", []
    block = run.stdout.split("run as a superuser", 1)[1].split("\n\n")[1]
    for line in block.splitlines():
        if place := re.fullmatch(r'-- in database "(.*)":', line):
            database = place[1]
        else:
            server.execute(line, database)
            statements.append(line)
    return statements


def test_a_pattern_that_matches_no_database_is_found(server18: Cluster) -> None:
    """That is no failure: the database may be still to come."""
    run = check(server18.dsn(user=MONITOR), INCLUDE_DATABASES="shop_*,postgres", EXCLUDE_DATABASES="test")
    assert marked(run, "warning") == ["no database matches shop_*", "no database matches test"]
    assert run.returncode == 0


def test_where_all_is_well_the_exit_code_is_0(server: Cluster) -> None:
    run = check(server.dsn(user=MONITOR))
    assert (run.returncode, run.stderr) == (0, ""), run.stdout
    assert marked(run, "missing") == marked(run, "warning") == marked(run, "failed") == []
    assert any(line.startswith("statements ") for line in marked(run, "ok"))
    assert "To mend this" not in run.stdout


@pytest.mark.parametrize("major", [13, 15, 16, 18])
def test_the_sql_it_prints_mends_what_is_missing(major: int, cluster: Clusters) -> None:
    server = cluster(major, {"track_io_timing": "off"})
    server.execute(f"REVOKE pg_monitor FROM {MONITOR}; ALTER ROLE {MONITOR} NOINHERIT CONNECTION LIMIT 4")
    server.execute("DROP EXTENSION pg_stat_statements")
    server.execute('CREATE DATABASE "my shop"')
    server.execute('REVOKE ALL ON DATABASE "my shop" FROM PUBLIC')
    before = check(server.dsn(user=MONITOR))
    assert before.returncode == 1
    assert len(marked(before, "missing")) == 4
    assert len(marked(before, "warning")) == 1
    assert any("statements" in line and "not installed" in line for line in marked(before, "skipped"))
    statements = mend(server, before)
    assert any(line.startswith(f'GRANT pg_monitor TO "{MONITOR}"') for line in statements)
    assert "CREATE EXTENSION pg_stat_statements;" in statements
    assert f'GRANT CONNECT ON DATABASE "my shop" TO "{MONITOR}";' in statements
    after = check(server.dsn(user=MONITOR))
    assert after.returncode == 0, after.stdout
    assert marked(after, "missing") == marked(after, "warning") == []


@pytest.mark.parametrize("major", [13, 18])
def test_a_library_that_is_loaded_already_stays(major: int, cluster: Clusters) -> None:
    server = cluster(major, {"shared_preload_libraries": "auto_explain"})
    before = check(server.dsn(user=MONITOR))
    assert before.returncode == 1
    assert any(line.startswith("statements ") for line in marked(before, "failed"))
    [statement] = mend(server, before)
    assert "'auto_explain', 'pg_stat_statements'" in statement
    restart(server)
    assert server.value("SHOW shared_preload_libraries") == "auto_explain, pg_stat_statements"
    assert check(server.dsn(user=MONITOR)).returncode == 0


def test_a_schema_closed_to_the_role_is_found_and_opened(cluster: Clusters) -> None:
    server = cluster(18)
    server.execute('CREATE SCHEMA "odd one"; ALTER EXTENSION pg_stat_statements SET SCHEMA "odd one"')
    before = check(server.dsn(user=MONITOR))
    assert before.returncode == 1
    assert mend(server, before) == [f'GRANT USAGE ON SCHEMA "odd one" TO "{MONITOR}";']
    assert check(server.dsn(user=MONITOR)).returncode == 0


def test_a_superuser_works_and_is_warned(server18: Cluster) -> None:
    run = check(server18.dsn())
    assert run.returncode == 0
    assert any("superuser" in line for line in marked(run, "warning"))


def test_a_standby_says_where_to_run_what(cluster: Clusters) -> None:
    primary = cluster(18, {"track_io_timing": "off"})
    with clone_standby(primary) as standby:
        run = check(standby.dsn(user=MONITOR))
    assert run.returncode == 0
    assert "a standby" in run.stdout
    assert "ALTER SYSTEM here, the rest on the primary" in run.stdout


def test_a_wrong_password_is_2_and_nobody_sees_it(cluster: Clusters, tmp_path: Path) -> None:
    server = cluster(18, {}, auth="scram-sha-256", password="superuser")
    server.execute(f"ALTER ROLE {MONITOR} PASSWORD 'the right one'")
    wrong = check(server.dsn(user=MONITOR, password="hunter2"))
    assert wrong.returncode == 2
    assert "authentication failed" in wrong.stdout
    assert "password_command" in wrong.stdout
    assert "hunter2" not in wrong.stdout + wrong.stderr
    file = tmp_path / "password"
    file.write_text("hunter3\n")
    filed = check(server.dsn(user=MONITOR), PASSWORD_FILE=str(file))
    assert filed.returncode == 2
    assert "hunter3" not in filed.stdout + filed.stderr
    file.write_text("the right one\n")
    right = check(server.dsn(user=MONITOR), PASSWORD_FILE=str(file))
    assert right.returncode == 0
    assert "the right one" not in right.stdout + right.stderr


def test_a_command_has_the_time_that_it_takes(server18: Cluster) -> None:
    """The exporter would give up this login, and have the password for the next."""
    slow = check(server18.dsn(user=MONITOR), PASSWORD_COMMAND="sh -c 'sleep 2; echo secret'", CONNECT_TIMEOUT="1")
    assert slow.returncode == 0, slow.stdout


def test_where_nobody_listens_is_2() -> None:
    run = check(f"postgresql://{MONITOR}:hunter2@127.0.0.1:{free_port()}/postgres")
    assert run.returncode == 2
    assert "listen_addresses" in run.stdout
    assert "hunter2" not in run.stdout + run.stderr


def test_a_database_that_does_not_exist_is_2(server18: Cluster) -> None:
    run = check(server18.dsn("nowhere", MONITOR))
    assert run.returncode == 2
    assert 'database "nowhere" does not exist' in run.stdout


def test_a_wrong_setting_is_2() -> None:
    run = check("", SCRAPE_TIMEOUT="soon")
    assert run.returncode == 2
    assert "PGVIGIL_SCRAPE_TIMEOUT" in run.stderr


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize(
    ("setting", "text", "expected"),
    [
        ("web_config_file", None, "cannot be read: No such file or directory"),
        ("web_config_file", "tls_server_confg: {}", "did you mean tls_server_config?"),
        ("web_config_file", "basic_auth_users: {alice: s3cret}", "alice: its password is not hashed with bcrypt"),
        ("web_config_file", "tls_server_config: {cert_file: nowhere.crt, key_file: a.key}", "nowhere.crt"),
        ("bearer_token_file", None, "cannot be read: No such file or directory"),
        ("bearer_token_file", "s3cret", "line 1: is no token of 16 characters or more"),
    ],
)
def test_who_may_ask_the_exporter_is_checked_as_well(
    command: str, setting: str, text: str | None, expected: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.yml"
    if text:
        file.write_text(text)
    done = run_command(command, targets="[]", listen="127.0.0.1:0", **{setting: str(file)})
    assert done.returncode == (2 if command == "check" else 1)
    assert str(tmp_path) in done.stderr
    assert expected in done.stderr
    assert "s3cret" not in done.stderr


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("SELECT 1 AS thing", "no column things"),
        ("SELECT 1 AS thing WHERE false", "no column things"),
        ("SELECT 'many' AS things WHERE false", "column things is of type text"),
        ("SELECT 'many' AS things", "column things is of type text"),
        ("SELECT things FROM public.nowhere", 'relation "public.nowhere" does not exist'),
        ("SELECT things FROM public.secret", "permission denied for table secret"),
        ("SELECT 1/0 AS things", "division by zero"),
    ],
)
def test_an_own_collector_that_is_wrong_is_named_with_what_is_wrong(
    sql: str, problem: str, server18: Cluster, tmp_path: Path
) -> None:
    server18.execute("CREATE TABLE IF NOT EXISTS public.secret (things int)")
    (tmp_path / "mine.yaml").write_text(OWN.format(sql=sql))
    run = check(server18.dsn(user=MONITOR), COLLECTORS_DIR=str(tmp_path))
    server18.execute("DROP TABLE public.secret")
    [line] = marked(run, "failed")
    assert run.returncode == 1
    assert line.startswith("mine ")
    assert problem in line


def test_the_privileges_that_a_collector_lacks_are_granted_by_what_it_prints(server: Cluster, tmp_path: Path) -> None:
    server.execute("CREATE DATABASE shop")
    server.execute(
        """
        CREATE SCHEMA "odd one";
        CREATE TABLE "odd one"."Orders" (id serial);
        CREATE VIEW public.waiting AS SELECT 1 AS n;
        CREATE SEQUENCE public.numbers;
        CREATE FUNCTION "odd one".counted(a int, b text) RETURNS int LANGUAGE sql AS 'SELECT 1';
        REVOKE EXECUTE ON FUNCTION "odd one".counted(int, text) FROM PUBLIC;
        """,
        "shop",
    )
    sql = (
        "SELECT count(*) + \"odd one\".counted(1, 'public.secret') AS things"
        ' FROM "odd one"."Orders", public.WAITING, public.numbers'
    )
    (tmp_path / "mine.yaml").write_text(
        OWN.replace("{sql}", f"|\n  {sql}").replace("metrics:", "scope: database\ndatabases: [sh?p]\nmetrics:")
    )
    before = check(server.dsn(user=MONITOR), COLLECTORS_DIR=str(tmp_path))
    statements = mend(server, before)
    after = check(server.dsn(user=MONITOR), COLLECTORS_DIR=str(tmp_path))
    server.execute("DROP DATABASE shop")
    assert statements == [
        'GRANT USAGE ON SCHEMA "odd one" TO "pgvigil";',
        'GRANT SELECT ON public.waiting TO "pgvigil";',
        'GRANT SELECT ON SEQUENCE public.numbers TO "pgvigil";',
        'GRANT SELECT ON "odd one"."Orders" TO "pgvigil";',
        'GRANT EXECUTE ON FUNCTION "odd one".counted(a integer, b text) TO "pgvigil";',
    ]
    assert (after.returncode, marked(after, "failed")) == (0, []), after.stdout
    assert any(line.startswith("mine ") for line in marked(after, "ok"))


def test_no_grant_on_a_system_catalog_is_advised(server18: Cluster, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(OWN.format(sql="SELECT count(*) AS things FROM pg_catalog.pg_authid"))
    run = check(server18.dsn(user=MONITOR), COLLECTORS_DIR=str(tmp_path))
    assert "permission denied for table pg_authid" in marked(run, "failed")[0]
    assert "GRANT" not in run.stdout


def test_several_targets_are_checked_each_in_turn(server18: Cluster, tmp_path: Path) -> None:
    nobody = f"postgresql://{MONITOR}@127.0.0.1:{free_port()}/postgres"
    file = tmp_path / "pgvigil.yaml"
    file.write_text(f"targets: [{{name: gone, dsn: '{nobody}'}}, {{name: here, dsn: '{server18.dsn(user=MONITOR)}'}}]")
    run = check("", CONFIG=str(file))
    assert run.returncode == 2
    assert "gone: cannot be checked" in run.stdout
    assert "here: PostgreSQL 18" in run.stdout
