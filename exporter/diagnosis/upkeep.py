"""Finds neglect of a server: freezing, replication, archiving, statistics, indexes, ends of things. Pure."""

import re
from collections.abc import Iterator
from dataclasses import replace

from exporter.diagnosis.culprits import RELOAD, RESUME, found, relation, who
from exporter.diagnosis.findings import Finding, Remedy, duration, limit, size
from exporter.diagnosis.readings import Labels, Readings, Series
from exporter.diagnosis.sessions import lets_go
from exporter.sql import literal

DAY = 86_400.0


def wraparound(now: Readings, _: float) -> Iterator[Finding]:
    """Find databases that freeze too late, and who keeps VACUUM from it; a standby freezes nothing."""
    if now.value("pg_replication_is_replica"):
        return
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
            yield found("XminHorizonHeld", sentence, had, lets_go(now, had))


def replication(now: Readings, at: float) -> Iterator[Finding]:
    """Find slots that lose their WAL, and a standby that is behind."""
    losing = set()
    for slot in now.series("pg_replication_slots_wal_status"):
        if slot.value and slot.labels["wal_status"] in _LOSING:
            losing.add(slot.labels["slot_name"])
            yield from _LOSING[slot.labels["wal_status"]](now, slot.labels)
    for slot in now.series("pg_replication_slots_retained_bytes"):
        if slot.labels["slot_name"] in losing:
            continue
        left = now.value("pg_replication_slots_safe_wal_size_bytes", slot.labels)
        if left and left > 0 and slot.value / (slot.value + left) > limit("ReplicationSlotNearLimit", "ratio"):
            yield _held_back(now, slot, left, at, "ReplicationSlotNearLimit")
        elif slot.value > limit("ReplicationSlotInactive", "bytes") and _is_left(now, slot.labels):
            yield _held_back(now, slot, left, at, "ReplicationSlotInactive")
    yield from _lag(now)


def _lag(now: Readings) -> Iterator[Finding]:
    lag = now.value("pg_replication_lag_seconds")
    delay = now.value("pg_recovery_min_apply_delay_seconds") or 0.0
    is_behind = lag is not None and lag - delay > limit("ReplicaLagging", "seconds") and not may_lag(now)
    is_paused = now.value("pg_recovery_paused") == 1
    if is_behind or is_paused:
        alert = "ReplicaStale" if (lag or 0.0) - delay > limit("ReplicaStale", "seconds") else "ReplicaLagging"
        old = f"this standby shows data that is {duration(lag)} old" if lag and is_behind else ""
        paused = "replay is paused, and what the primary writes is not seen here" if is_paused else ""
        yield found(
            alert if is_behind else "ReplayPaused",
            ": ".join(filter(None, (old, paused))),
            {},
            RESUME if is_paused else (),
            lag if is_behind else None,
        )


def _lost(now: Readings, had: Labels) -> Iterator[Finding]:
    name = had["slot_name"]
    idle = {"slot_name": name, "invalidation_reason": "idle_timeout"}
    if not now.value("pg_replication_slots_invalidation_reason", idle):
        about = _about_slot(now, had)
        sentence = f"replication slot {name}{about} has lost WAL that its reader needs; the reader has to be built anew"
        drop = replace(_drop(name), effect="Drop the slot, which is of no use any more.")
        yield found("ReplicationSlotLost", sentence, had, [drop])


def _unreserved(now: Readings, had: Labels) -> Iterator[Finding]:
    name = had["slot_name"]
    held = now.value("pg_replication_slots_retained_bytes", {"slot_name": name})
    needs = f"some of the {size(held)} of WAL that it needs" if held else "some of the WAL that it needs"
    sentence = f"replication slot {name}{_about_slot(now, had)} is lost at the next checkpoint: {needs} is not kept"
    yield found("ReplicationSlotUnreserved", sentence, had, _KEEP)


_KEEP = (
    Remedy(
        "Where the disk has room, keep all WAL until its reader has caught up: one whose slot is lost is built anew.",
        "ALTER SYSTEM SET max_slot_wal_keep_size = -1;",
    ),
    RELOAD,
)


_LOSING = {"lost": _lost, "unreserved": _unreserved}


def _is_left(now: Readings, had: Labels) -> bool:
    """Return whether nobody reads a slot, which is neither of a session nor a copy of the primary's."""
    name = had["slot_name"]
    info = next(iter(now.series("pg_replication_slots_info", slot_name=name)), None)
    known = info.labels if info else {}
    is_copy = known.get("synced") == "true" and now.value("pg_replication_is_replica")
    is_copying = any(each.labels["application_name"] == name for each in now.series("pg_replication_sender_state"))
    is_read = now.value("pg_replication_slots_active", {"slot_name": name})
    return is_read == 0 and known.get("temporary") != "true" and not is_copy and not is_copying


_SOON_SECONDS = 3600.0
"""Seconds until a slot may be lost from which on time is to be won first, and then its reader to be started."""


def _held_back(now: Readings, slot: Series, left: float | None, at: float, alert: str) -> Finding:
    name, held = slot.labels["slot_name"], slot.value
    is_read = now.value("pg_replication_slots_active", {"slot_name": name})
    left_at = now.value("pg_replication_slots_inactive_since_timestamp_seconds", {"slot_name": name})
    since = f" for {duration(at - left_at)}" if left_at else ""
    reader = "" if is_read else f", and nobody has read it{since}"
    more, is_soon = "nothing limits what it keeps but the disk", False
    if left is not None and left > 0:
        seconds = left / held * (at - left_at) if left_at and at > left_at and held and not is_read else None
        pace = f", in {duration(seconds)} if all of it came since then," if seconds is not None else ""
        more = f"after {size(left)} more{pace} the slot is lost, and its reader has to be built anew"
        is_soon = seconds is not None and seconds < _SOON_SECONDS
    sentence = f"replication slot {name}{_about_slot(now, slot.labels)} holds back {size(held)} of WAL{reader}; {more}"
    is_logical = slot.labels.get("slot_type") == "logical"
    who_reads = "a subscription, or a tool for change data capture" if is_logical else "a standby, or pg_receivewal"
    start = Remedy(f"Start its reader ({who_reads}): it goes on where it was.")
    steps = [*_KEEP, start] if is_soon else [start, *(_KEEP if left is not None else ())]
    return found(alert, sentence, slot.labels, [] if is_read else [*steps, _drop(name)])


def _about_slot(now: Readings, had: Labels) -> str:
    """Say of which kind a slot is: ` (logical, pgoutput, database shop)`."""
    info = next(iter(now.series("pg_replication_slots_info", slot_name=had["slot_name"])), None)
    known = info.labels if info else had
    database = f"database {known['datname']}" if known.get("datname") else ""
    about = ", ".join(filter(None, (known.get("slot_type", ""), known.get("plugin", ""), database)))
    return f" ({about})" if about else ""


def may_lag(now: Readings) -> bool:
    """Return whether a standby is behind as it should be: it lives from an archive, or lets reports finish."""
    wait = now.value("pg_recovery_max_standby_delay_seconds")
    waits = now.value("pg_recovery_waits_for_query") == 1
    allowed = wait is None or wait >= limit("ReplicaStale", "allowed_wait_seconds")
    return now.value("pg_wal_receiver_configured") == 0 or (waits and allowed)


def _drop(slot: str) -> Remedy:
    return Remedy(
        "Only if nobody needs it any more, drop the slot. This cannot be undone: its reader has to be built anew.",
        f"SELECT pg_drop_replication_slot({literal(slot)});",
    )


def ends(now: Readings, at: float) -> Iterator[Finding]:
    """Find what comes to an end: sequences, certificates, passwords."""
    for sequence in now.series("pg_sequence_used_ratio"):
        if sequence.value > limit("SequenceNearlyUsed", "ratio"):
            had = sequence.labels
            left = now.value("pg_sequence_remaining_values", had)
            rest = f"; {left:,.0f} {'is' if left == 1 else 'are'} left" if left is not None else ""
            used = "all" if left == 0 else f"{min(round(sequence.value * 100), 99)}%"
            column = f", for {had['relname']}.{had['attname']} ({had['data_type']})," if had.get("attname") else ""
            sentence = (
                f"sequence {had['schemaname']}.{had['sequencename']} in {had['datname']}{column} has given out"
                f" {used} of its numbers{rest}"
            )
            if left == 0:
                fails = f"{sentence}: each INSERT that takes one fails"
                yield replace(found("SequenceNearlyUsed", fails, had, [_MORE_NUMBERS]), severity="critical")
            else:
                yield found("SequenceNearlyUsed", sentence, had, [_MORE_NUMBERS])
    for alert, metric, what, forgotten in _EXPIRING:
        for each in now.series(metric):
            seconds, name = each.value - at, what.format(**each.labels)
            if 0 <= seconds < limit(alert, "days") * DAY:
                yield found(alert, f"{name} expires in {duration(seconds)}", each.labels)
            elif seconds < 0 and (not forgotten or -seconds < limit(alert, forgotten) * DAY):
                yield found(alert, f"{name} expired {duration(-seconds)} ago", each.labels)


_MORE_NUMBERS = Remedy(
    "Raise its MAXVALUE (lower the MINVALUE of one that counts down) or, where the type of the column ends first, make"
    " that bigint: its runbook has how."
)

_EXPIRING = (
    ("ServerCertificateExpires", "pg_server_certificate_not_after_timestamp_seconds", "the certificate", ""),
    ("PasswordExpires", "pg_roles_valid_until_timestamp_seconds", "the password of {rolname}", "days_past"),
)
"""Alert, metric, what expires, and the threshold in days from which nobody misses it, if there is one."""


def archiving(now: Readings, _: float) -> Iterator[Finding]:
    """Find out whether WAL reaches the archive."""
    waiting, oldest = now.value("pg_archiver_ready_files") or 0.0, now.value("pg_archiver_ready_oldest_age_seconds")
    is_old = (oldest or 0.0) > limit("ArchiveBacklogOld", "seconds") and now.value("pg_archiver_enabled") != 0
    fails = bool(now.value("pg_archiver_failing"))
    if waiting and (fails or is_old):
        since = f", the oldest for {duration(oldest)}" if oldest else ""
        files = "1 WAL file waits" if waiting == 1 else f"{waiting:,.0f} WAL files wait"
        sentence = f"{'archiving fails: ' if fails else ''}{files} for the archive{since}"
        yield found("ArchiveBacklogOld" if is_old else "ArchiveFailing", sentence, {}, (), oldest)


def statistics(now: Readings, _: float) -> Iterator[Finding]:
    """Find tables that the planner knows too little of."""
    for table in now.series("pg_table_modified_since_analyze_tuples"):
        had, threshold = table.labels, now.value("pg_table_analyze_threshold_tuples", table.labels)
        is_many = table.value > limit("StaleStatistics", "floor")
        if threshold is not None and is_many and table.value > limit("StaleStatistics", "times") * threshold:
            believed = now.value("pg_table_estimated_rows", had)
            rows = f"; the planner believes that it has {believed:,.0f}" if believed is not None else ""
            is_off = now.value("pg_table_autovacuum_disabled", had) and now.value("pg_autovacuum_enabled") != 0
            off = "; autovacuum is off for it" if is_off else ""
            name = f"table {had['schemaname']}.{had['relname']} in {had['datname']}"
            sentence = f"{table.value:,.0f} rows of {name} were modified since it was last analyzed{rows}{off}"
            effect = f"Analyze it: this reads a sample and blocks nobody; in database {had['datname']}."
            yield found("StaleStatistics", sentence, had, [Remedy(effect, f"ANALYZE {relation(had, 'relname')};")])


def indexes(now: Readings, _: float) -> Iterator[Finding]:
    """Find what failed builds left; a standby cannot see whether its primary still builds it."""
    if now.value("pg_replication_is_replica"):
        return
    for index in now.series("pg_index_invalid"):
        if index.value:
            had = index.labels
            name = f"index {had['indexrelname']} of {had['schemaname']}.{had['relname']} in {had['datname']}"
            sentence = f"{name} is invalid, so no query uses it: a build or a drop of it did not end"
            yield replace(found("IndexInvalid", sentence, had, [*_rebuilt(had)]), can_wait=True)


def _rebuilt(had: Labels) -> Iterator[Remedy]:
    """Return what mends an invalid index; copies that REINDEX left are of no use."""
    place, index = f"in database {had['datname']}", relation(had, "indexrelname")
    is_copy = re.search(r"_cc(new|old)\d*$", had["indexrelname"])
    if not is_copy:
        effect = f"Build it again, when no long transaction is open: this blocks neither reads nor writes; {place}."
        yield Remedy(effect, f"REINDEX INDEX CONCURRENTLY {index};")
    why = "Drop it: a REINDEX that failed left it" if is_copy else "Or drop it, if nobody needs it"
    yield Remedy(f"{why}; {place}.", f"DROP INDEX CONCURRENTLY {index};")
