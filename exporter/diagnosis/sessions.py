"""Finds what is wrong with sessions: lock queues, connections, logins, transactions, statements. Pure."""

import re
from collections.abc import Iterator

from exporter.diagnosis.culprits import found, remedies_for, terminate, who
from exporter.diagnosis.findings import Finding, Remedy, count, duration, limit
from exporter.diagnosis.readings import Labels, Readings, Series
from exporter.sql import literal

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
        if wait <= limit("LockWait", "wait_seconds") or is_meant(now, had, alert) or _is_allowed(now, wait):
            continue
        where = f" on {had['relation']}" if had.get("relation") else ""
        said = now.series("pg_lock_blocker_statement_info", **had)
        since = now.value("pg_lock_blocker_transaction_seconds", had)
        open_for = f" has had its transaction open for {duration(since)} and" if since else ""
        yield found(
            alert,
            f"{who(had)}{open_for} blocks {count(blocked, 'session')}{where}, the longest for {duration(wait)}",
            had,
            remedies_for(had),
            wait,
            said[0].labels.get("query", "") if said else "",
        )


def is_meant(now: Readings, had: Labels, alert: str = "LockWait") -> bool:
    """Return whether waiting is what the waiters are there for: index builds, elections of a leader."""
    if alert in ("BlockedByIdleTransaction", "BlockedByPreparedTransaction"):
        return False
    waits = had.get("locktype") == "virtualxid" or had.get("mode") == "ShareUpdateExclusiveLock"
    elects = had.get("locktype") == "advisory" and had.get("state") == "idle"
    data_wait = now.value("pg_lock_blocker_longest_data_wait_seconds", had) or 0.0
    return (waits or elects) and data_wait <= limit("LockWait", "data_wait_seconds")


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


def connections(now: Readings, _: float) -> Iterator[Finding]:
    """Find who holds the connections when few are left, and limits of roles and databases."""
    used, left = now.value("pg_connections_used"), now.value("pg_connections_available")
    if used is not None and left is not None and used + left:
        ratio = used / (used + left)
        if ratio > limit("ConnectionsNearlyUsed", "ratio"):
            alert = "ConnectionsAtLimit" if ratio >= limit("ConnectionsAtLimit", "ratio") else "ConnectionsNearlyUsed"
            holder = _holder(now)
            most = f"; {holder[1]} has {holder[0]:,.0f} of them" if holder else ""
            labels, ends = (holder[2], _ends(now, holder[2])) if holder else ({}, [])
            whole = now.value("pg_connections_max") or used + left
            kept = whole - used - left
            whom = "" if now.value("pg_connections_reserved") else " for superusers"
            others = f"{'' if left else 'the other '}{kept:,.0f} {'is' if kept == 1 else 'are'}"
            reserved = f", and {others} reserved{whom}" if kept > 0 else ""
            sentence = f"{used:,.0f} of {count(whole, 'connection')} are in use{reserved}{most}"
            if not left:
                ends = [_way_in(kept), *ends]
            yield found(alert, sentence, labels, ends, None, _most_run(now) if holder else "")
    for had in now.series("pg_roles_connection_limit"):
        has = now.value("pg_roles_connections", had.labels) or 0.0
        if had.value > 0 and has > limit("RoleConnectionsNearlyUsed", "ratio") * had.value:
            sentence = f"role {had.labels['rolname']} has {has:,.0f} of the {had.value:,.0f} connections it may have"
            yield found("RoleConnectionsNearlyUsed", sentence, had.labels)


def _holder(now: Readings) -> tuple[float, str, Labels] | None:
    """Return the application with the most sessions: their number, its name, and its labels."""
    sums: dict[tuple[str, str], float] = {}
    for session in now.series("pg_sessions"):
        key = session.labels.get("usename", ""), session.labels.get("application_name", "")
        sums[key] = sums.get(key, 0.0) + session.value
    if not sums:
        return None
    (user, application), most = max(sums.items(), key=lambda item: item[1])
    name = f"application {application} of {user}" if application else f"user {user}"
    return most, name, {"usename": user, "application_name": application}


def _ends(now: Readings, labels: Labels) -> list[Remedy]:
    """Return what frees connections of an application: it depends on what its sessions do."""
    of_state = {state: _sessions(now, {**labels, "state": state}) for state in ("idle", "active")}
    found = []
    if of_state["idle"]:
        effect = f"End its {count(of_state['idle'], 'session')} that are idle outside of a transaction."
        found.append(Remedy(effect, _of_sessions("pg_terminate_backend", {"state": "idle", **labels})))
    if of_state["active"] > of_state["idle"]:
        run = f"Cancel what its {count(of_state['active'], 'active session')} run"
        effect = f"{run}: the application gets errors. Its connections stay."
        found.append(Remedy(effect, _of_sessions("pg_cancel_backend", {"state": "active", **labels})))
        effect = "If it tries again, end its sessions, and stop the application."
        found.append(Remedy(effect, _of_sessions("pg_terminate_backend", labels)))
    return found


def _way_in(reserved: float) -> Remedy:
    if reserved > 0:
        kept = f"{count(reserved, 'connection')} {'is' if reserved == 1 else 'are'} kept for that"
        return Remedy(f"Log in as a superuser: {kept}.")
    return Remedy("Stop the application, or use a session that is open: no login succeeds, not even of a superuser.")


def _sessions(now: Readings, labels: Labels) -> float:
    return sum(each.value for each in now.series("pg_sessions", **labels))


def _of_sessions(function: str, labels: Labels) -> str:
    conditions = " AND ".join(f"{column} = {literal(value)}" for column, value in labels.items())
    return f"SELECT {function}(pid) FROM pg_stat_activity WHERE {conditions};"  # noqa: S608  # an operator runs it


def _most_run(now: Readings) -> str:
    """Return the text of the statement that most sessions are at."""
    running = now.series("pg_statement_running_sessions")
    return _text(now, running[0].labels) if running else ""


def logins(now: Readings, _: float) -> Iterator[Finding]:
    """Find why nobody new gets in."""
    reasons = [each.labels["reason"] for each in now.series("pg_login_reason") if each.value]
    if now.value("pg_login_success") == 0:
        if reasons != ["too_many_connections"]:
            yield found("LoginsFail", f"new logins fail ({', '.join(reasons) or 'unknown reason'})", {})
        elif left := now.value("pg_connections_available"):  # else connections say it
            why = f"though {left:,.0f} places seem left: logins that are not finished hold them"
            yield found("LoginsFail", f"new logins fail (too_many_connections), {why}", {})


def transactions(now: Readings, _: float) -> Iterator[Finding]:
    """Find transactions that are forgotten or long."""
    named = set()
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
            yield found("LongTransaction", sentence, each.labels, remedies_for(each.labels), each.value)


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
                _text(now, each.labels),
            )


def _text(now: Readings, labels: Labels) -> str:
    key = {name: labels[name] for name in ("datname", "usename", "queryid") if name in labels}
    said = now.series("pg_statement_info", **key)
    return said[0].labels.get("query", "") if said else ""
