"""Finds tables whose dead rows stay, and who keeps VACUUM from removing them. Pure."""

from collections.abc import Iterator
from dataclasses import replace

from exporter.diagnosis.culprits import RELOAD, found, relation, who
from exporter.diagnosis.findings import Finding, Remedy, duration, limit
from exporter.diagnosis.readings import Labels, Readings, Series
from exporter.diagnosis.sessions import lets_go

_LATELY_SECONDS = 600.0
"""Age up to which a vacuum of a table counts as one of now, where it is not known since when somebody holds it back."""


def vacuum(now: Readings, at: float) -> Iterator[Finding]:
    """Find tables whose dead rows autovacuum does not remove, and who keeps it from that."""
    is_off = now.value("pg_autovacuum_enabled") == 0
    if is_off:
        yield _off(now)
    tables = [
        (table, _times(now, table))
        for table in now.series("pg_table_dead_tuples")
        if (threshold := now.value("pg_table_vacuum_threshold_tuples", table.labels)) is not None
        and table.value > _too_many(now, table, threshold, is_off=is_off)
    ]
    holders = [_holder(now, table.labels, at) for table, _ in tables]
    for number, holder in enumerate(holders):
        if holder and holder not in holders[:number]:
            yield _held(now, holder, [each for each, by in zip(tables, holders, strict=True) if by == holder])
    for (table, said), holder in zip(tables, holders, strict=True):
        if not is_off and now.value("pg_table_autovacuum_disabled", table.labels):
            effect = f"Let autovacuum come to it again; in database {table.labels['datname']}."
            on = f"ALTER TABLE {relation(table.labels, 'relname')} RESET (autovacuum_enabled);"
            off = f"{said}; autovacuum is off for it"
            yield replace(found("TableAutovacuumOff", off, table.labels, [Remedy(effect, on)]), can_wait=True)
        elif not holder:
            yield replace(found("DeadTuples", said, table.labels, [_vacuum(table.labels, "Remove")]), can_wait=True)


def _off(now: Readings) -> Finding:
    """Say once that autovacuum is off for the whole server."""
    names = [name for name in ("track_counts",) if now.value(f"pg_settings_{name}") == 0] or ["autovacuum"]
    sentence = f"{names[0]} is off, so autovacuum comes to no table: dead rows stay, and statistics grow stale"
    on = f"ALTER SYSTEM SET {names[0]} = on;"
    effect = "Switch it on. Where the command line of the server has it, only a restart without that helps."
    return found("AutovacuumOff", sentence, {}, [Remedy(effect, on), RELOAD])


def _held(now: Readings, holder: Series, tables: list[tuple[Series, str]]) -> Finding:
    """Say who keeps VACUUM from the dead rows of tables; those of the first are removed afterwards."""
    (worst, said), more = tables[0], len(tables) - 1
    others = f", and {_named(tables[1][0].labels)}{f' and {more - 1} more' if more > 1 else ''} too" if more else ""
    had, seconds = holder.labels, now.value("pg_xmin_horizon_seconds", holder.labels)
    span = f"{duration(seconds)}" if seconds else f"{holder.value:,.0f} transactions"
    name = who(had) if had.get("pid") else f"{had['holder'].replace('_', ' ')} {had['name']}"
    ends = lets_go(now, had)
    sentence = f"{name} keeps VACUUM from removing what died in the last {span}: {said}{others}"
    steps = [*ends, _vacuum(worst.labels, "Then remove" if ends else "Afterwards, remove")]
    return found("DeadTuples", sentence, worst.labels, steps)


def _named(had: Labels) -> str:
    return f"{had['schemaname']}.{had['relname']}"


def _too_many(now: Readings, table: Series, threshold: float, *, is_off: bool) -> float:
    """Return the number of dead rows from which on they are worth a word."""
    if not is_off and now.value("pg_table_autovacuum_disabled", table.labels):
        return threshold
    return max(limit("DeadTuples", "floor"), limit("DeadTuples", "times") * threshold)


def _times(now: Readings, table: Series) -> str:
    had, threshold = table.labels, now.value("pg_table_vacuum_threshold_tuples", table.labels) or 0.0
    times = table.value / (threshold + 1)
    much = f"{times:,.0f}" if times >= 10 else f"{times:.1f}"
    name = f"table {had['schemaname']}.{had['relname']} in {had['datname']}"
    return f"{name} has {table.value:,.0f} dead rows, {much} times what autovacuum waits for"


def _vacuum(had: Labels, verb: str) -> Remedy:
    effect = f"{verb} the dead rows, beside reads and writes; in database {had['datname']}."
    return Remedy(effect, f"VACUUM {relation(had, 'relname')};")


def _holder(now: Readings, table: Labels, at: float) -> Series | None:
    """Return who kept the latest vacuum of a table from removing its dead rows; None where nobody is seen to.

    That is the oldest of those who count for its database: a vacuum that came while it was there has left the rows.
    A transaction with an id elsewhere counts where this database has a snapshot, which is no newer than that id.
    """
    here = [each for each in now.series("pg_xmin_horizon_age") if _counts_for(each.labels, table)]
    if any(each.labels["holder"] == "backend" and each.labels.get("datname") == table["datname"] for each in here):
        here += [each for each in now.series("pg_xmin_horizon_xid_age") if not _counts_for(each.labels, table)]
    oldest = max(here, key=lambda each: each.value, default=None)
    if oldest is None:
        return None
    vacuumed = max(
        now.value(f"pg_table_last_{what}_timestamp_seconds", _of(table)) or 0.0 for what in ("vacuum", "autovacuum")
    )
    seconds = now.value("pg_xmin_horizon_seconds", oldest.labels)
    return oldest if at - vacuumed < (seconds or _LATELY_SECONDS) else None


_WITH_DATABASE = ("backend", "prepared_transaction")
"""Holders that keep the dead rows of one database."""


def _counts_for(had: Labels, table: Labels) -> bool:
    """Return whether a holder counts for the rows of a table: slots for logical decoding do for catalogs only."""
    if had["holder"] == "replication_slot_catalog":
        return table["schemaname"] == "pg_catalog"
    return had["holder"] not in _WITH_DATABASE or had.get("datname", "") in ("", table["datname"])


def _of(table: Labels) -> Labels:
    return {name: table[name] for name in ("datname", "schemaname", "relname")}
