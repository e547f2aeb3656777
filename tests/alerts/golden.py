"""Records the golden pages, from which the rule tests take their series: `uv run python tests/alerts/golden.py`."""

import asyncio
import hashlib
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: `servers` and `alerts` are found in tests/

import asyncpg
from alerts.troubles import MONITOR, at_peace, in_trouble
from bouncers import Bouncer
from pages import read
from servers import build
from serving import serving

from exporter.demo.cluster import Cluster

FOLDER = Path(__file__).parent / "golden"

SECONDS = 14
"""How long a server is watched: who holds the horizon is named from ten seconds on."""

NOISE = re.compile(
    r"# HELP "
    r"|(# TYPE )?(process_|python_)"  # of the process, not of the server
    r'|.*\bschemaname="(pg_catalog|information_schema)"'
    r'|pg_statement(s|_info).*\busename="(pgvigil|postgres)"'  # what the exporter and this recording ran
)
"""Lines that no rule is about and that would be most of a page."""

FIRST_PID = 1001


def main(*names: str) -> None:
    """Record the pages of these names, or all."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in asyncio.run(_recorded(names or ("primary18", "primary13", "healthy18", "pgbouncer"))):
        (FOLDER / f"{name}.prom").write_text(text, "utf-8")
        print(f"{name}: {len(text) // 1024} kB, {len(read(text).samples)} names")


async def _recorded(names: tuple[str, ...]) -> list[tuple[str, str]]:
    pages = []
    if "healthy18" in names:
        async with at_peace(18) as (primary, standby):
            pages += [("healthy18", await _page(primary)), ("standby18", await _page(standby))]
    for major in (18, 13):
        if f"primary{major}" in names:
            async with in_trouble(major) as server:
                pages.append((f"primary{major}", await _page(server)))
    if "pgbouncer" in names:
        pages.append(("pgbouncer", await _pooled()))
    return pages


async def _pooled() -> str:
    """A page of a PgBouncer whose pool has one connection and three clients, of which one holds it and two wait."""
    with Cluster(build(18)) as server, Bouncer(server) as bouncer:
        server.execute("CREATE ROLE web LOGIN")
        clients = [await asyncpg.connect(bouncer.dsn("web", "shop"), statement_cache_size=0) for _ in range(3)]
        await clients[0].execute("BEGIN")
        waiting = [asyncio.create_task(client.execute("SELECT 1")) for client in clients[1:]]
        try:
            with serving(dsn=bouncer.dsn(), kind="pgbouncer") as exporter:
                return steady(await asyncio.to_thread(lambda: exporter.get().text), {})
        finally:
            for client in clients:
                client.terminate()
            await asyncio.gather(*waiting, return_exceptions=True)


async def _page(server: Cluster) -> str:
    """A page of a server that the exporter has watched for a while."""
    return await asyncio.to_thread(_watched, server)


def _watched(server: Cluster) -> str:
    with serving(dsn=server.dsn(user=MONITOR), cost_budget="0") as exporter:
        for _ in range(3):
            time.sleep(SECONDS / 3)
            page = exporter.get().text
    return steady(page, {row["queryid"]: row["query"] for row in server.query(TEXTS)})


TEXTS = "SELECT DISTINCT ON (queryid) queryid::text AS queryid, query FROM pg_stat_statements ORDER BY queryid, query"


def steady(page: str, texts: dict[str, str]) -> str:
    """The page without its noise, and with numbers of our own where they are by chance: pids, ports, query ids."""
    pids = {pid: str(FIRST_PID + i) for i, pid in enumerate(dict.fromkeys(re.findall(r'\bpid="(\d+)"', page)))}
    page = _with(page, "pid", lambda pid: pids[pid])
    page = _with(page, "queryid", lambda queryid: _number(texts[queryid]) if queryid in texts else queryid)
    page = _with(page, "(?:sender_)?port", lambda _: "5432")
    page = _with(page, "system_identifier", lambda _: "7500000000000000000")
    page = _with(page, "location", lambda _: "/var/lib/postgresql/data")
    return "".join(f"{line}\n" for line in page.splitlines() if not NOISE.match(line))


def _with(page: str, label: str, value: Callable[[str], str]) -> str:
    return re.sub(rf'\b({label})="([^"]+)"', lambda found: f'{found[1]}="{value(found[2])}"', page)


def _number(text: str) -> str:
    """A query id that depends on the text alone, not on the oids of the tables."""
    return str(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
