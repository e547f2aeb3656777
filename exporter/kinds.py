"""The kinds of target. Each has a driver in `connections`, and is put together in `assembly`."""

from collections.abc import Mapping
from typing import Literal

Kind = Literal["postgresql", "pgbouncer"]

PRODUCTS: Mapping[Kind, str] = {"postgresql": "PostgreSQL", "pgbouncer": "PgBouncer"}
"""The name of each product."""

PREFIXES: Mapping[Kind, str] = {"postgresql": "pg", "pgbouncer": "pgbouncer"}
"""First word of the names of each kind's metrics."""
