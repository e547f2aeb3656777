"""The cases of the benchmark: a server, what is held in it, and the exporters that are compared there. Data only."""

from dataclasses import dataclass

from bench.data import LARGE, World, create_large, create_small, create_three, run_statements
from bench.exporters import ALL_SERIES, EQUAL, EQUAL_STATEMENTS, FRESH, SHIPPED, STATEMENTS, Way
from bench.load import Load

_SMALL = World()
_NOTHING = Load()
_STATEMENTS = World(steps=(create_small, run_statements))
_SESSIONS = World(settings={"max_connections": "900", "max_locks_per_transaction": "64"})
_LARGE = World(LARGE, (create_large,))
_THREE = World(LARGE, (create_three,))


@dataclass(frozen=True)
class Case:
    """One server, and what is compared there."""

    name: str
    title: str
    world: World = _SMALL
    load: Load = _NOTHING
    ours: tuple[Way, ...] = (SHIPPED, EQUAL)
    flags: tuple[str, ...] = ()
    """Flags of postgres_exporter."""
    scrapes: int = 8
    """Scrapes of each exporter in a round."""


SMALL = Case("small", "small database", ours=(SHIPPED, FRESH, EQUAL), scrapes=16)

LOCKS = tuple(Case(f"locks_{n}", f"{n:,} locks held", load=Load(locks=n)) for n in (10, 10_000, 30_000))

SESSIONS = tuple(Case(f"sessions_{n}", f"{n} connections", _SESSIONS, Load(sessions=n)) for n in (100, 400, 800))

CASES = (
    SMALL,
    *LOCKS,
    Case(
        "statements",
        "5 000 statements",
        _STATEMENTS,
        ours=(SHIPPED, FRESH, EQUAL_STATEMENTS),
        flags=(STATEMENTS,),
        scrapes=16,
    ),
    *SESSIONS,
    Case("tables", "10 000 tables", _LARGE, ours=(SHIPPED, FRESH, EQUAL, ALL_SERIES), scrapes=16),
    Case("databases", "3 x 3 000 tables", _THREE, ours=(SHIPPED, FRESH, EQUAL), scrapes=16),
)

QUICK = ("small", "locks_10000", "statements", "sessions_400", "databases")
"""The names of those that --quick runs."""
