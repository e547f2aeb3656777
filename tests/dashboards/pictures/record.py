"""Records what the pictures are drawn from: `uv run python tests/dashboards/pictures/record.py FOLDER [--minutes 70]`.

A Prometheus with our rules scrapes the demo's shop, a standby of it, a server that subscribes to its prices, and the
file systems of this machine. What it saw stays in FOLDER, from which draw.py can draw again and again.
"""

import argparse
import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # as pytest does: `servers` and `prom` are found in tests/

import asyncpg
from programs import running
from prom import PROMETHEUS, prometheus
from servers import NEWEST, build, program
from serving import serving
from standby import clone_standby

from exporter.demo.cluster import FAST, HOST, SUPERUSER, Cluster, free_port
from exporter.demo.shop import DATABASE, MONITOR, SETTINGS, Shop
from exporter.demo.workload import everybody

EVERY = "15s"
RULES = Path(__file__).parents[3] / "alerts" / "rules" / "*.yml"
NODE_EXPORTER = ("node_exporter", "Debian's package is called prometheus-node-exporter", "prometheus-node-exporter")
OLDER = 17
"""What the subscriber runs, which is upgraded last."""

SAFE = {name: value for name, value in SETTINGS.items() if name not in FAST}
"""The shop's settings, as on servers whose data somebody will miss."""
DEBT = (
    "CREATE INDEX orders_user_id_idx1 ON orders (user_id)",
    "CREATE INDEX orders_placed_at_idx ON orders (placed_at)",
    "CREATE TABLE tickets (id serial PRIMARY KEY, subject text)",
    "SELECT setval('tickets_id_seq', 1900000000)",
    f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {MONITOR}",
)
"""What piles up in the shop beside what the demo shows: indexes too many, and a column that is too small."""
HALF_BUILT = "CREATE UNIQUE INDEX CONCURRENTLY orders_total_key ON orders (total)"
TICKETS = "SELECT count(nextval('tickets_id_seq')) FROM generate_series(1, 2000)"
REPORT = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM orders"
REPORT_SECONDS = 400.0


async def record(folder: Path, minutes: float) -> None:
    """Let everybody work for a while, and Prometheus watch."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_context
        prom = enter(prometheus(program(*PROMETHEUS), folder, every=EVERY, rules=[RULES]))
        prom.scrape(enter(_host(folder)), instance="db1:9100")
        shop = enter(_shop(folder))
        standby = enter(_standby(shop, folder))
        for name, server in (("db1", shop.cluster), ("db2", standby), ("db3", enter(_subscriber(shop, folder)))):
            exporter = enter(serving(dsn=server.dsn(DATABASE, MONITOR, shop.password), cost_budget="0"))
            prom.scrape(exporter.url.removeprefix("http://"), instance=f"{name}:9187")
        await stack.enter_async_context(_at_work(shop, standby))
        print(f"{prom.url} records for {minutes:g} minutes", flush=True)
        await asyncio.sleep(60 * minutes)


@contextmanager
def _host(folder: Path) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    command = [str(program(*NODE_EXPORTER)), f"--web.listen-address={address}"]
    with running(command, folder / "node_exporter.log", f"http://{address}/"):
        yield address


@contextmanager
def _shop(folder: Path) -> Iterator[Shop]:
    word = secrets.token_hex(8)
    with _server(NEWEST, folder / "shop", word) as server:
        shop = Shop(server, word)
        shop.furnish()
        shop.neglect()
        for statement in DEBT:
            server.execute(statement, DATABASE)
        with suppress(asyncpg.UniqueViolationError):
            server.execute(HALF_BUILT, DATABASE)
        server.execute("CREATE PUBLICATION prices FOR TABLE prices", DATABASE)
        server.execute("SELECT pg_create_physical_replication_slot('replica', true)")
        yield shop


@contextmanager
def _standby(shop: Shop, folder: Path) -> Iterator[Cluster]:
    settings = {"archive_mode": "off", "hot_standby_feedback": "on"}
    made = clone_standby(
        shop.cluster, folder / "standby", application_name="replica", slot="replica", settings=settings
    )
    with made:
        yield made


@contextmanager
def _subscriber(shop: Shop, folder: Path) -> Iterator[Cluster]:
    """A server that has a copy of the shop's prices."""
    upstream = f"host={HOST} port={shop.cluster.port} user={SUPERUSER} password={shop.password} dbname={DATABASE}"
    with _server(OLDER, folder / "copy", shop.password) as server:
        server.execute(f"CREATE ROLE {MONITOR} LOGIN PASSWORD '{shop.password}'; GRANT pg_monitor TO {MONITOR}")
        server.execute(f"CREATE DATABASE {DATABASE}")
        for statement in (
            "CREATE EXTENSION pg_stat_statements",
            "CREATE TABLE prices (id int PRIMARY KEY, price numeric(10, 2) NOT NULL)",
            f"CREATE SUBSCRIPTION prices CONNECTION '{upstream}' PUBLICATION prices",
        ):
            server.execute(statement, DATABASE)
        yield server


def _server(major: int, folder: Path, password: str) -> Cluster:
    return Cluster(build(major), folder, settings=SAFE, auth="scram-sha-256", password=password)


@asynccontextmanager
async def _at_work(shop: Shop, standby: Cluster) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in (*everybody(shop), _tickets(shop), _reports(standby))]
        yield
        for task in tasks:
            task.cancel()


async def _tickets(shop: Shop) -> None:
    """Use up the numbers of a column that cannot hold more than 2^31."""
    while True:
        await asyncio.to_thread(shop.cluster.execute, TICKETS, DATABASE)
        await asyncio.sleep(1)


async def _reports(standby: Cluster) -> None:
    """Read from the standby for minutes, which keeps the primary from removing what died since."""
    while True:
        session = await asyncpg.connect(
            standby.dsn(DATABASE), ssl="disable", server_settings={"application_name": "weekly report"}
        )
        with suppress(asyncpg.PostgresError):
            await session.execute(REPORT)
            await asyncio.sleep(REPORT_SECONDS)
        session.terminate()
        await asyncio.sleep(REPORT_SECONDS / 4)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=70)
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # the servers run as another user
    asyncio.run(record(folder, arguments.minutes))


if __name__ == "__main__":
    main()
