"""Finds what is wrong with sessions: lock queues, transactions, statements. Pure."""

import re
from collections.abc import Iterator
from dataclasses import replace

from exporter.diagnosis.culprits import found, remedies_for, roll_back, terminate, who
from exporter.diagnosis.findings import Finding, Remedy, count, duration, limit
from exporter.diagnosis.readings import Labels, Readings, Series

MAINTENANCE = re.compile(r"pg_dump.*|pg_restore|pg_basebackup|pgbackrest.*|barman.*|vacuumdb|reindexdb")
"""Applications whose transactions are long by nature; as in the rules of these alerts."""


_REBUILDS = re.compile(r"CREATE INDEX.*|REINDEX.*|CLUSTER|VACUUM FULL|REPACK")
"""Commands that take long by nature."""


_SLACK_SECONDS = 60.0
"""Seconds that a transaction may be older than its command."""


def locks(now: Readings, _: float) -> Iterator[Finding]:
    """Find the root of each lock queue."""
    for root in now.series("pg_lock_blocker_longest_wait_seconds"):
        had, wait = root.labels, root.value
        blocked = now.value("pg_lock_blocker_blocked_sessions", had) or 0.0
        alert = _lock_alert(had, blocked)
        if wait <= limit("LockWait", "wait_seconds") or _is_allowed(now, wait):
            continue
        if is_meant(now, had, alert):
            yield from _election(had, wait, blocked)
            continue
        said = now.series("pg_lock_blocker_statement_info", **had)
        statement = said[0].labels.get("query", "") if said else ""
        since = now.value("pg_lock_blocker_transaction_seconds", had)
        open_for = f" has had its transaction open for {duration(since)} and" if since else ""
        yield found(
            alert,
            f"{who(had)}{open_for} blocks {count(blocked, 'session')}{_waits(now, had, blocked, duration(wait))}",
            had,
            remedies_for(had),
            wait,
            statement,
        )


def _waits(now: Readings, had: Labels, blocked: float, wait: str) -> str:
    """Say for how long they wait, and for which relation: all of them, where there is no queue for another."""
    relation = had.get("relation", "")
    queued = {each.labels.get("relation", "") for each in now.series("pg_lock_queue_waiters")}
    if relation and blocked > 1 and queued - {relation, ""}:
        return f", the longest for {wait} on {relation}"
    return f"{f' on {relation}' if relation else ''}, the longest for {wait}"


def rootless(now: Readings, _: float) -> Iterator[Finding]:
    """Find a long wait of which no root is known: the role may lack the rights to see it."""
    wait = now.value("pg_lock_longest_wait_seconds")
    is_named = now.series("pg_lock_blocker_longest_wait_seconds")
    if wait is not None and wait > limit("LockWait", "wait_seconds") and not is_named and not _is_allowed(now, wait):
        waiting = now.value("pg_lock_waiters") or 1.0
        they = f"{count(waiting, 'session')} {'waits' if waiting == 1 else 'wait'} for a lock"
        yield found("LockWait", f"{they}, the longest for {duration(wait)}; for whom is not known", {}, (), wait)


def is_meant(now: Readings, had: Labels, alert: str = "LockWait") -> bool:
    """Return whether waiting is what the waiters are there for: index builds, elections of a leader."""
    if alert in ("BlockedByIdleTransaction", "BlockedByPreparedTransaction"):
        return False
    waits = had.get("locktype") == "virtualxid" or had.get("mode") == "ShareUpdateExclusiveLock"
    data_wait = now.value("pg_lock_blocker_longest_data_wait_seconds", had) or 0.0
    return (waits or _elects(had)) and data_wait <= limit("LockWait", "data_wait_seconds")


def is_quiet(now: Readings, wait: float) -> bool:
    """Return whether the longest wait is one of which nothing is said: it is allowed, or all of them are meant."""
    roots = [each.labels for each in now.series("pg_lock_blocker_longest_wait_seconds")]
    blocked = (now.value("pg_lock_blocker_blocked_sessions", had) or 0.0 for had in roots)
    meant = [
        is_meant(now, had, _lock_alert(had, n)) and not _elects(had) for had, n in zip(roots, blocked, strict=True)
    ]
    return _is_allowed(now, wait) or (bool(meant) and all(meant))


def _elects(had: Labels) -> bool:
    return had.get("locktype") == "advisory" and had.get("state") == "idle"


_ELECTED_SECONDS = 3600.0
"""Time after which those who wait for an advisory lock are taken for candidates: whom it stops would be missed."""


def _election(had: Labels, wait: float, blocked: float) -> Iterator[Finding]:
    """Tell of sessions that wait for the advisory lock of an idle one: one that was forgotten looks the same."""
    if _elects(had):
        they = f"{count(blocked, 'session')} {'waits' if blocked == 1 else 'wait'}"
        sentence = (
            f"{who(had)} keeps an advisory lock that {they} for, the longest for {duration(wait)}:"
            " it leads them, or a pool has forgotten it"
        )
        end = Remedy(
            "Unless it leads them, end its session: that frees the lock.", f"SELECT pg_terminate_backend({had['pid']});"
        )
        yield replace(found("LockWait", sentence, had, [end], wait), can_wait=wait > _ELECTED_SECONDS)


def _is_allowed(now: Readings, wait: float) -> bool:
    """Return whether a standby lets replay wait so long, and then cancels the query that it waits for."""
    delay = now.value("pg_recovery_max_standby_delay_seconds")
    slack, most = limit("LockWait", "standby_slack_seconds"), limit("LockQueue", "standby_seconds")
    return delay is not None and wait <= min(delay + slack, most)


def _lock_alert(had: Labels, blocked: float) -> str:
    if blocked > limit("LockQueue", "sessions"):
        is_exclusive = "AccessExclusiveLock" in (had.get("mode"), had.get("held_mode"))
        return "LockQueueBehindAccessExclusive" if is_exclusive else "LockQueue"
    state = had.get("state", "")
    if state.startswith("idle in transaction"):
        return "BlockedByIdleTransaction"
    return "BlockedByPreparedTransaction" if state == "prepared transaction" else "LockWait"


def lock_table(now: Readings, _: float) -> Iterator[Finding]:
    """Find a lock table that fills up: when it is full, statements and logins fail."""
    entries = [each for each in now.series("pg_lock_entries") if each.labels.get("mode") != "SIReadLock"]
    held, most = sum(each.value for each in entries), now.value("pg_lock_entries_max")
    if most and held > limit("LockTableNearlyFull", "ratio") * most:
        top = max(entries, key=lambda each: each.value)
        kind = f"{top.labels.get('mode', '')} ({top.labels.get('locktype', '')})"
        where = f" in database {top.labels['datname']}" if top.labels.get("datname") else ""
        sentence = (
            f"{held:,.0f} locks are held, and the lock table has room for {most:,.0f} at least; {top.value:,.0f} are"
            f" {kind}{where}. When it is full, statements and logins fail: out of shared memory"
        )
        look = Remedy(
            "Find who holds them; ending its transaction frees them. One without a pid is in pg_prepared_xacts.",
            "SELECT pid, virtualtransaction, count(*) FROM pg_locks"
            " WHERE NOT fastpath AND mode <> 'SIReadLock' GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 5;",
        )
        yield found("LockTableNearlyFull", sentence, top.labels, [look])


def transactions(now: Readings, _: float) -> Iterator[Finding]:
    """Find transactions that are forgotten or long."""
    named = set()
    for each in now.series("pg_xmin_horizon_seconds", holder="prepared_transaction"):
        if each.value > limit("PreparedTransactionOrphaned", "seconds"):
            gid, datname = each.labels["name"], each.labels.get("datname", "")
            sentence = (
                f"prepared transaction {gid} in {datname} was prepared {duration(each.value)} ago, and nobody ends it"
            )
            had = {**each.labels, "gid": gid}
            yield found("PreparedTransactionOrphaned", sentence, had, [roll_back(gid, datname)], each.value)
    for each in now.series("pg_session_oldest_seconds", kind="idle in transaction"):
        if each.value > limit("IdleInTransaction", "seconds") and not is_maintenance(each.labels):
            named.add(each.labels["pid"])
            sentence = f"{who(each.labels)} has been idle in its transaction for {duration(each.value)}"
            yield found("IdleInTransaction", sentence, each.labels, [terminate(each.labels["pid"])], each.value)
    if now.value("pg_replication_is_replica") and not now.value("pg_settings_hot_standby_feedback"):
        return  # nobody else is held up by what reads there
    for each in now.series("pg_xmin_horizon_seconds", holder="backend", name="client backend"):
        is_long = each.value > limit("LongTransaction", "seconds") and each.labels["pid"] not in named
        if is_long and not is_maintenance(each.labels) and not _rebuilds(now, each):
            sentence = f"{who(each.labels)} has had its transaction open for {duration(each.value)}"
            yield found("LongTransaction", sentence, each.labels, lets_go(now, each.labels), each.value)


def lets_go(now: Readings, holder: Labels) -> list[Remedy]:
    """Return what makes a holder of the xmin horizon let go; nothing for dumps and backups, standbys and slots.

    While commits wait for a standby, an active session may be one of them: cancelled, it counts as committed.
    """
    if holder.get("state") == "active" and now.value("pg_session_waits", {"wait_event": "SyncRep"}):
        return []
    if holder["holder"] == "prepared_transaction":
        return [roll_back(holder["name"], holder.get("datname", ""))]
    return (
        remedies_for(holder)
        if holder.get("pid") and holder["holder"] == "backend" and not is_maintenance(holder)
        else []
    )


def is_maintenance(labels: Labels) -> bool:
    """Return whether a session is that of a dump, a restore or a backup."""
    return bool(MAINTENANCE.fullmatch(labels.get("application_name", "")))


def _rebuilds(now: Readings, transaction: Series) -> bool:
    """Return whether its database has an index or a table rebuilt, for as long as the transaction is open."""
    return any(
        _REBUILDS.fullmatch(each.labels.get("command", "")) and transaction.value < each.value + _SLACK_SECONDS
        for each in now.series("pg_progress_seconds", datname=transaction.labels.get("datname", ""))
    )


def statements(now: Readings, _: float) -> Iterator[Finding]:
    """Find a statement that most sessions are at."""
    active = sum(each.value for each in now.series("pg_sessions", state="active"))
    for each in now.series("pg_statement_running_sessions"):
        many, most = limit("StatementCrowdsOut", "sessions"), limit("StatementCrowdsOut", "share")
        if each.value > many and active and each.value / active > most:
            longest = now.value("pg_statement_longest_running_seconds", each.labels)
            who_and_where = f"{each.labels.get('usename', '')} in {each.labels.get('datname', '')}"
            yield found(
                "StatementCrowdsOut",
                f"{count(each.value, 'session')} of {who_and_where} are at one statement, which is most of the"
                f" {active:,.0f} active ones",
                each.labels,
                [],
                longest,
                statement_of(now, each.labels),
            )


def statement_of(now: Readings, labels: Labels) -> str:
    """Return the text of a statement; empty where it is not known."""
    key = {name: labels[name] for name in ("datname", "usename", "queryid") if name in labels}
    said = now.series("pg_statement_info", **key)
    return said[0].labels.get("query", "") if said else ""
