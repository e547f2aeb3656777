"""What is odd and yet healthy: servers and clients in good hands, of which nobody is to be told."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import asyncpg
from bouncers import Bouncer
from incidents.load import DATABASE, drop_index, furnish, run_program, sql, working
from incidents.stage import HEALTHY, Stage, new_server
from standby import clone_standby

from exporter.demo.cluster import Cluster
from exporter.demo.shop import MONITOR

FEW, MANY = 27, 30
"""Sessions between which a pool swings, of 37 that ordinary roles may have: with two of the exporter 78 % and 86 %."""

COPIED = 100_000
"""Rows of the table that a new subscriber copies, at 10 ms each: a quarter of an hour, then anew."""


@dataclass(frozen=True)
class Odd:
    """One such state, the exporter that sees it, and how to see that it was there."""

    name: str
    instance: str
    seen: str
    """PromQL over the series of that exporter, `INSTANCE`, with a result when the state is there."""

    @property
    def question(self) -> str:
        """Return what has a result if the state was there within the last two hours."""
        asked = self.seen.replace("INSTANCE", f'instance="{self.instance}"')
        return f"max_over_time(({asked})[2h:5s])"


def settings(archive: str) -> dict[str, str]:
    """What the healthy server has to do so that the others can follow it."""
    return {
        "archive_command": f"cp %p {archive}/%f",
        "archive_timeout": "1min",
        "max_parallel_workers_per_gather": "2",
        "wal_level": "logical",
    }


@asynccontextmanager
async def oddities(on: Stage, primary: Cluster, control: str) -> AsyncIterator[list[Odd]]:
    """All of them, around a healthy server that has its settings and an exporter."""
    jobs = (partial(_parallel, primary), 20.0), (partial(_reindex, primary), 60.0), (partial(_nightly, primary), 300.0)
    async with AsyncExitStack() as stack:
        odd = [await stack.enter_async_context(each(on, primary)) for each in AROUND]
        await stack.enter_async_context(working(*jobs))
        yield [*odd, *(Odd(name, control, seen) for name, seen in ON_THE_CONTROL.items())]


ON_THE_CONTROL = {
    "parallel queries": "sum(rate(pg_database_parallel_workers_launched_total{INSTANCE}[1m])) > 0",
    "REINDEX CONCURRENTLY": 'pg_progress_processes{INSTANCE,command="REINDEX CONCURRENTLY"} > 0',
    "a nightly job": 'pg_sessions_oldest_transaction_seconds{INSTANCE,application_name="nightly"} > 60',
}


async def _parallel(primary: Cluster) -> None:
    hard = "SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; "
    await sql(primary, "report", hard + "SELECT count(*), avg(length(filler)) FROM pgbench_accounts WHERE abalance > 0")


async def _reindex(primary: Cluster) -> None:
    try:
        await sql(primary, "maintenance", "REINDEX INDEX CONCURRENTLY pgbench_branches_pkey")
    except asyncpg.DeadlockDetectedError:  # it met the other build, and leaves an invalid index
        await drop_index(primary, "maintenance", "pgbench_branches_pkey_ccnew")


async def _nightly(primary: Cluster) -> None:
    """A batch of minutes in one transaction, which nobody waits for."""
    await sql(primary, "nightly", "CREATE TABLE IF NOT EXISTS sums (day timestamptz, bid int, amount bigint)")
    batch = "INSERT INTO sums SELECT now(), bid, sum(abalance + length(pg_sleep(0.0002)::text)) FROM pgbench_accounts"
    await sql(primary, "nightly", f"{batch} GROUP BY bid")
    await sql(primary, "nightly", "DELETE FROM sums WHERE day < now() - interval '1 hour'")


@asynccontextmanager
async def _standby(on: Stage, primary: Cluster, name: str, **changes: str) -> AsyncIterator[str]:
    standby = await asyncio.to_thread(_cloned, on, primary, name, changes)
    with standby:
        async with _watched(on, standby) as instance:
            yield instance


def _cloned(on: Stage, primary: Cluster, name: str, changes: dict[str, str]) -> Cluster:
    folder = on.folder / name
    folder.mkdir()
    return clone_standby(primary, folder, application_name=name, settings=changes)


@asynccontextmanager
async def _delayed(on: Stage, primary: Cluster) -> AsyncIterator[Odd]:
    changes = {"recovery_min_apply_delay": "10min", "restore_command": _restored(primary)}
    async with _standby(on, primary, "delayed", **changes) as instance:
        yield Odd("a delayed standby", instance, "pg_replication_lag_seconds{INSTANCE} > 60")


def _restored(primary: Cluster) -> str:
    """Without it, or a slot, a standby that lags is lost when its primary removes what it needs."""
    archive = str(primary.settings["archive_command"]).split()[-1].removesuffix("/%f")
    return f"cp {archive}/%f %p"


@asynccontextmanager
async def _archived(on: Stage, primary: Cluster) -> AsyncIterator[Odd]:
    changes = {"primary_conninfo": "", "restore_command": _restored(primary)}
    async with _standby(on, primary, "archived", **changes) as instance:
        yield Odd("a standby that lives from the archive", instance, "pg_wal_receiver_configured{INSTANCE} == 0")


@asynccontextmanager
async def _copied(on: Stage, primary: Cluster) -> AsyncIterator[Odd]:
    """A new subscriber, which copies a large table slowly."""
    await sql(primary, "deploy", f"CREATE TABLE copied AS SELECT i AS id FROM generate_series(1, {COPIED}) AS i")
    await sql(primary, "deploy", "CREATE PUBLICATION copied FOR TABLE copied")
    async with _furnished(on, "subscriber") as subscriber:
        for step in (
            "CREATE TABLE copied (id int PRIMARY KEY)",
            f"CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS '{SLOWLY}'",
            "CREATE TRIGGER slowly BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION slowly()",
            "ALTER TABLE copied ENABLE ALWAYS TRIGGER slowly",
            f"CREATE SUBSCRIPTION copied CONNECTION '{primary.dsn(DATABASE)}' PUBLICATION copied",
        ):
            await sql(subscriber, "deploy", step)
        async with _watched(on, subscriber) as instance:
            yield Odd("an initial copy", instance, 'pg_subscription_relations{INSTANCE,state="data_copy"} > 0')
        await sql(subscriber, "deploy", "DROP SUBSCRIPTION copied")


SLOWLY = "BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END"


@asynccontextmanager
async def _encoded(on: Stage, _: Cluster) -> AsyncIterator[Odd]:
    """Databases in other encodings beside UTF8, with names that not every encoding has."""
    async with _furnished(on, "encoded") as server:
        for name, encoding in (("latin", "LATIN1"), ("bytes", "SQL_ASCII")):
            await sql(server, "deploy", f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
            await sql(server, "deploy", 'CREATE TABLE "größe" AS SELECT generate_series(1, 1000) AS "fläche"', name)
        asked = partial(sql, server, "web", 'SELECT max("fläche") FROM "größe"')
        asking = (partial(asked, "latin"), 1.0), (partial(asked, "bytes"), 1.0)
        async with _watched(on, server) as instance, working(*asking):
            yield Odd(
                "LATIN1 and SQL_ASCII", instance, 'pg_table_live_tuples{INSTANCE,datname="latin",relname="größe"}'
            )


@asynccontextmanager
async def _unprivileged(on: Stage, _: Cluster) -> AsyncIterator[Odd]:
    async with _furnished(on, "unprivileged") as server:
        await sql(server, "deploy", f"REVOKE pg_monitor FROM {MONITOR}")
        async with _watched(on, server) as instance:
            seen = 'sum(pgvigil_collector_errors_total{INSTANCE,reason="permission"}) > 0'
            yield Odd("a role without pg_monitor", instance, seen)


@asynccontextmanager
async def _at_its_limit(on: Stage, _: Cluster) -> AsyncIterator[Odd]:
    """A pool as large as the server was sized for; it opens slowly, as applications start one after the other."""
    async with (
        _furnished(on, "limit", max_connections="40") as server,
        _watched(on, server) as instance,
        working((partial(_swing, server), 0.0)),
    ):
        yield Odd("a pool at 85 %", instance, "instance:pg_connections_used:ratio{INSTANCE} > 0.83")


async def _swing(server: Cluster) -> None:
    pool: list[asyncpg.Connection] = []
    try:
        for size in (*range(1, FEW), *itertools.chain.from_iterable(itertools.repeat((FEW, MANY), 1000))):
            while len(pool) < size:
                pool.append(await asyncpg.connect(server.dsn(DATABASE, "app", server.password), ssl="disable"))
            while len(pool) > size:
                await pool.pop().close()
            for session in pool:
                await session.execute("SELECT 1")
            await asyncio.sleep(10)
    finally:
        for session in pool:
            session.terminate()


@asynccontextmanager
async def _pooled(on: Stage, primary: Cluster) -> AsyncIterator[Odd]:
    """Applications come through a PgBouncer in transaction mode."""
    behind = f"dbname={DATABASE} user=app password='{primary.password}' pool_size=2"
    bench = ("--client=8", "--rate=20", "--time=36000", "--no-vacuum", "--protocol=simple", DATABASE)
    with Bouncer(primary, {DATABASE: behind}) as bouncer:
        work = partial(run_program, primary, "pgbench", *bench, user="web", port=bouncer.port)
        async with on.watched(bouncer.dsn(), kind="pgbouncer") as instance, working((work, 1.0)):
            seen = f'pgbouncer_pools_client_active_connections{{INSTANCE,database="{DATABASE}"}} > 0'
            yield Odd("a PgBouncer in transaction mode", instance, seen)


AROUND = (_delayed, _archived, _copied, _encoded, _unprivileged, _at_its_limit, _pooled)


@asynccontextmanager
async def _furnished(on: Stage, name: str, **changes: str) -> AsyncIterator[Cluster]:
    """Another server, with the roles and the database of the healthy one and nothing to do."""
    with new_server(on.folder / name, {**HEALTHY, **changes}) as server:
        await furnish(server)
        yield server


@asynccontextmanager
async def _watched(on: Stage, server: Cluster) -> AsyncIterator[str]:
    async with on.watched(server.dsn(DATABASE, MONITOR, server.password)) as instance:
        yield instance
