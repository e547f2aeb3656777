"""Subjects of a server: each finds what is wrong with it, by the thresholds of the alert rules. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from exporter.diagnosis.findings import Finding, Remedy, count, duration, limit, rule, size
from exporter.diagnosis.readings import Labels, Readings
from exporter.sql import literal

DAY = 86_400.0

Subject = Callable[[Readings, float], Iterable[Finding]]
"""Finds what is wrong in readings; the number is the Unix time at which they were taken."""


def found(
    alert: str,
    sentence: str,
    labels: Labels,
    remedies: Sequence[Remedy] = (),
    seconds: float | None = None,
    statement: str = "",
) -> Finding:
    """Make the finding of an alert."""
    return Finding(
        f"PostgreSQL{alert}", rule(alert).severity, sentence, seconds, statement, tuple(remedies), dict(labels)
    )  # fmt: skip


def who(labels: Labels) -> str:
    """Name a session or a prepared transaction: `pid 9148 (reporting, notebook, idle in transaction)`."""
    name = f"pid {labels['pid']}" if labels.get("pid") else f"prepared transaction {labels.get('gid', '')}"
    about = [labels.get(label, "") for label in ("usename", "application_name", "state")]
    return f"{name} ({', '.join(filter(None, about))})" if any(about) else name


def cancel(pid: str) -> Remedy:
    """Stop the statement of a session."""
    return Remedy("stops its statement; its transaction fails, its session stays", f"SELECT pg_cancel_backend({pid});")


def terminate(pid: str) -> Remedy:
    """End a session."""
    return Remedy("ends its session and rolls its transaction back", f"SELECT pg_terminate_backend({pid});")


def remedies_for(labels: Labels) -> list[Remedy]:
    """Return what makes a session or a prepared transaction let go, the safest first."""
    pid, state = labels.get("pid", ""), labels.get("state", "")
    if "SyncRep" in state:
        return []  # its commit is done here: cancelled, it counts as committed without the standby
    if not pid:
        gid = literal(labels.get("gid", ""))
        return [Remedy("rolls it back, in its own database and for good", f"ROLLBACK PREPARED {gid};")]
    return [terminate(pid)] if state.startswith("idle") else [cancel(pid), terminate(pid)]


def locks(now: Readings, _: float) -> Iterator[Finding]:
    """Find the root of each lock queue."""
    for root in now.series("pg_lock_blocker_longest_wait_seconds"):
        had, wait = root.labels, root.value
        blocked = now.value("pg_lock_blocker_blocked_sessions", had) or 0.0
        if max(wait, 0.0) <= limit("LockWait", "wait_seconds") or _is_harmless(now, had):
            continue
        where = f" on {had['relation']}" if had.get("relation") else ""
        said = now.series("pg_lock_blocker_statement_info", **had)
        since = now.value("pg_lock_blocker_transaction_seconds", had)
        open_for = f" has had its transaction open for {duration(since)} and" if since else ""
        yield found(
            _lock_alert(had, blocked),
            f"{who(had)}{open_for} blocks {count(blocked, 'session')}{where}, the longest for {duration(wait)}",
            had,
            remedies_for(had),
            wait,
            said[0].labels.get("query", "") if said else "",
        )


def _is_harmless(now: Readings, had: Labels) -> bool:
    """Return whether waiting is what the waiters are there for: index builds, elections of a leader."""
    waits = had.get("locktype") == "virtualxid" or had.get("mode") == "ShareUpdateExclusiveLock"
    elects = had.get("locktype") == "advisory" and had.get("state") == "idle"
    data_wait = now.value("pg_lock_blocker_longest_data_wait_seconds", had) or 0.0
    return (waits or elects) and data_wait <= limit("LockWait", "data_wait_seconds")


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
            labels, ends = (holder[2], [_idle_end(holder[2])]) if holder else ({}, [])
            yield found(alert, f"{used:,.0f} of {count(used + left, 'connection')} are in use{most}", labels, ends)
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


def _idle_end(labels: Labels) -> Remedy:
    conditions = [f"{column} = {literal(value)}" for column, value in {"state": "idle", **labels}.items()]
    return Remedy(
        "ends its sessions that are idle outside of a transaction",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {' AND '.join(conditions)};",  # noqa: S608
    )


def logins(now: Readings, _: float) -> Iterator[Finding]:
    """Find why nobody new gets in."""
    if now.value("pg_login_success") == 0:
        reasons = [each.labels["reason"] for each in now.series("pg_login_reason") if each.value]
        yield found("LoginsFail", f"new logins fail ({', '.join(reasons) or 'unknown reason'})", {})


def transactions(now: Readings, _: float) -> Iterator[Finding]:
    """Find transactions that are forgotten or long."""
    idle = now.series("pg_session_oldest_seconds", kind="idle in transaction")
    named = set()
    for each in idle:
        if each.value > limit("IdleInTransaction", "seconds"):
            named.add(each.labels["pid"])
            sentence = f"{who(each.labels)} has been idle in its transaction for {duration(each.value)}"
            yield found("IdleInTransaction", sentence, each.labels, [terminate(each.labels["pid"])], each.value)
    for each in now.series("pg_xmin_horizon_seconds", holder="backend", name="client backend"):
        if each.value > limit("LongTransaction", "seconds") and each.labels["pid"] not in named:
            sentence = f"{who(each.labels)} has had its transaction open for {duration(each.value)}"
            yield found("LongTransaction", sentence, each.labels, remedies_for(each.labels), each.value)


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


def wraparound(now: Readings, _: float) -> Iterator[Finding]:
    """Find databases that freeze too late, and who keeps VACUUM from it."""
    for what, of, prefix in (("xid", "transaction ids", "Xid"), ("mxid", "multixact ids", "Multixact")):
        oldest = now.series(f"pg_database_{what}_age")
        if not oldest:
            continue
        name, age = oldest[0].labels["datname"], oldest[0].value
        kind = "" if what == "xid" else "multixact_"
        freeze = now.value(f"pg_wraparound_{kind}freeze_max_age") or 2.0**31
        failsafe = now.value(f"pg_wraparound_{kind}failsafe_age") or limit(f"{prefix}FailsafeReached", "age_on_13")
        alert = ""
        if 2.0**31 - age < limit(f"{prefix}NearlyExhausted", "ids"):
            alert = f"{prefix}NearlyExhausted"
        elif age > failsafe:
            alert = f"{prefix}FailsafeReached"
        elif age > limit(f"{prefix}FreezeOverdue", "factor") * freeze:
            alert = f"{prefix}FreezeOverdue"
        if alert:
            left = f"{(2.0**31 - age) / 1e6:,.0f} million {of} are left"
            yield found(alert, f"database {name} is {age / 1e6:,.0f} million {of} old; {left}", {"datname": name})
    yield from _horizon(now)


def _horizon(now: Readings) -> Iterator[Finding]:
    freeze = now.value("pg_wraparound_freeze_max_age")
    for holder in now.series("pg_xmin_horizon_age")[:1]:
        if freeze and holder.value > limit("XminHorizonHeld", "ratio") * freeze:
            had = holder.labels
            is_session = had["holder"] == "backend"
            name = who(had) if is_session else f"{had['holder'].replace('_', ' ')} {had['name']}"
            span = f"{holder.value / 1e6:,.0f} million transactions"
            sentence = f"{name} keeps VACUUM from removing what died in the last {span}"
            yield found("XminHorizonHeld", sentence, had, remedies_for(had) if is_session else [])


def replication(now: Readings, at: float) -> Iterator[Finding]:
    """Find slots that lose their WAL, and a standby that is behind."""
    for slot in now.series("pg_replication_slots_wal_status", wal_status="lost"):
        if slot.value:
            name = slot.labels["slot_name"]
            sentence = f"replication slot {name} has lost WAL that its reader needs; the reader has to be built anew"
            yield found("ReplicationSlotLost", sentence, slot.labels, [_drop(name)])
    for slot in now.series("pg_replication_slots_safe_wal_size_bytes"):
        held = now.value("pg_replication_slots_retained_bytes", slot.labels) or 0.0
        if held and held / (held + max(slot.value, 0.0)) > limit("ReplicationSlotNearLimit", "ratio"):
            name = slot.labels["slot_name"]
            is_read = now.value("pg_replication_slots_active", {"slot_name": name})
            reader = "" if is_read else ", and nobody reads it"
            more = size(max(slot.value, 0.0))
            sentence = f"replication slot {name} holds back {size(held)} of WAL{reader}; it is lost after {more} more"
            yield found("ReplicationSlotNearLimit", sentence, slot.labels, [] if is_read else [_drop(name)])
    lag = now.value("pg_replication_lag_seconds")
    delay = now.value("pg_recovery_min_apply_delay_seconds") or 0.0
    if lag is not None and lag - delay > limit("ReplicaLagging", "seconds"):
        alert = "ReplicaStale" if lag - delay > limit("ReplicaStale", "seconds") else "ReplicaLagging"
        yield found(alert, f"this standby shows data that is {duration(lag)} old", {}, (), lag)


def _drop(slot: str) -> Remedy:
    return Remedy(
        "gives the slot up, with the WAL it holds; its reader cannot go on from there",
        f"SELECT pg_drop_replication_slot({literal(slot)});",
    )


def ends(now: Readings, at: float) -> Iterator[Finding]:
    """Find what comes to an end: sequences, certificates, passwords."""
    for sequence in now.series("pg_sequence_used_ratio"):
        if sequence.value > limit("SequenceNearlyUsed", "ratio"):
            had = sequence.labels
            left = now.value("pg_sequence_remaining_values", had)
            rest = f"; {left:,.0f} are left" if left is not None else ""
            sentence = (
                f"sequence {had['schemaname']}.{had['sequencename']} in {had['datname']} has given out"
                f" {sequence.value:.0%} of its numbers{rest}"
            )
            yield found("SequenceNearlyUsed", sentence, had)
    for alert, metric, what in _EXPIRING:
        for each in now.series(metric):
            seconds, name = each.value - at, what.format(**each.labels)
            if 0 <= seconds < limit(alert, "days") * DAY:
                yield found(alert, f"{name} expires in {duration(seconds)}", each.labels)
            elif -limit("PasswordExpires", "days_past") * DAY < seconds < 0:
                yield found(alert, f"{name} expired {duration(-seconds)} ago", each.labels)


_EXPIRING = (
    ("ServerCertificateExpires", "pg_server_certificate_not_after_timestamp_seconds", "the certificate"),
    ("PasswordExpires", "pg_roles_valid_until_timestamp_seconds", "the password of {rolname}"),
)
"""Alert, metric, and what expires."""


def archiving(now: Readings, _: float) -> Iterator[Finding]:
    """Find out whether WAL reaches the archive."""
    waiting, oldest = now.value("pg_archiver_ready_files") or 0.0, now.value("pg_archiver_ready_oldest_age_seconds")
    if now.value("pg_archiver_failing") and waiting:
        since = f", the oldest for {duration(oldest)}" if oldest else ""
        is_old = (oldest or 0.0) > limit("ArchiveBacklogOld", "seconds")
        sentence = (
            f"archiving fails: {count(waiting, 'WAL file')} wait{'s' if waiting == 1 else ''} for the archive{since}"
        )
        yield found("ArchiveBacklogOld" if is_old else "ArchiveFailing", sentence, {}, (), oldest)


def vacuum(now: Readings, _: float) -> Iterator[Finding]:
    """Find tables whose dead rows autovacuum does not remove."""
    for table in now.series("pg_table_dead_tuples"):
        threshold = now.value("pg_table_vacuum_threshold_tuples", table.labels)
        floor, times = limit("DeadTuples", "floor"), limit("DeadTuples", "times")
        if threshold is not None and table.value > max(floor, times * threshold):
            had = table.labels
            is_off = now.value("pg_table_autovacuum_disabled", had)
            off = "; autovacuum is off for it" if is_off else ""
            sentence = (
                f"table {had['schemaname']}.{had['relname']} in {had['datname']} has {table.value:,.0f} dead rows,"
                f" {table.value / (threshold + 1):.1f} times what autovacuum waits for{off}"
            )
            name = ".".join(_identifier(had[label]) for label in ("schemaname", "relname"))
            remedy = Remedy("removes them, beside reads and writes, once nobody needs them", f"VACUUM {name};")
            yield found("TableAutovacuumOff" if is_off else "DeadTuples", sentence, had, [remedy])


def _identifier(name: str) -> str:
    return name if name.isidentifier() and name.islower() and name.isascii() else '"' + name.replace('"', '""') + '"'


SUBJECTS: Sequence[Subject] = (
    logins,
    locks,
    connections,
    transactions,
    statements,
    replication,
    archiving,
    wraparound,
    ends,
    vacuum,
)
