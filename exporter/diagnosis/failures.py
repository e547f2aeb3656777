"""Finds what has failed: commits that wait for a standby, damaged blocks, subscriptions, full storage. Pure."""

from collections.abc import Iterator

from exporter.diagnosis.culprits import RELOAD, found
from exporter.diagnosis.findings import Finding, Remedy, count, duration, limit
from exporter.diagnosis.readings import Labels, Readings

_SYNCHRONOUS = ("sync", "quorum")

_WAIT_FOR_NOBODY = Remedy(
    "Only if the standby does not come back soon, commit without one: what is written is then on this server only.",
    "ALTER SYSTEM SET synchronous_standby_names = '';",
)


def commits(now: Readings, _: float) -> Iterator[Finding]:
    """Find commits that a synchronous standby does not confirm."""
    waits = {"wait_event": "SyncRep"}
    longest = now.value("pg_session_waits_longest_seconds", waits) or 0.0
    standbys = [
        each.labels["application_name"]
        for state in _SYNCHRONOUS
        for each in now.series("pg_replication_sender_sync_state", sync_state=state)
        if each.value
    ]
    if longest > limit("CommitsWaitForStandby", "seconds" if standbys else "lone_seconds"):
        many = sum(each.value for each in now.series("pg_session_waits", wait_event="SyncRep"))
        they = f"{count(many, 'session')} {'waits' if many == 1 else 'wait'}"
        of = f": {', '.join(standbys)}" if standbys else ", and none is connected"
        sentence = f"{they} to commit until a synchronous standby answers{of}; the longest for {duration(longest)}"
        start = Remedy("Bring back the standby: its log says why it does not answer. What waits goes on then.")
        yield found("CommitsWaitForStandby", sentence, {}, [start, _WAIT_FOR_NOBODY, RELOAD], longest)


def checksums(now: Readings, at: float) -> Iterator[Finding]:
    """Find databases of which a damaged block was read."""
    for each in now.series("pg_database_checksum_last_failure_timestamp_seconds"):
        if at - each.value < limit("ChecksumFailure", "hours") * 3600:
            name = each.labels.get("datname")
            where = f"database {name}" if name else "the catalogs that all databases share"
            many = now.value("pg_database_checksum_failures_total", each.labels)
            times = f", {many:,.0f} times so far" if many and many > 1 else ""
            sentence = f"a damaged block of {where} was read {duration(at - each.value)} ago{times}"
            keep = Remedy(
                "Keep the backups that there are: those of good blocks must not expire. Its log names the block."
            )
            yield found("ChecksumFailure", sentence, each.labels, [keep])


def subscriptions(now: Readings, _: float) -> Iterator[Finding]:
    """Find subscriptions that apply nothing, for which the publisher keeps WAL."""
    for each in now.series("pg_subscription_enabled"):
        had = each.labels
        name = f"subscription {had['subname']} in {had['datname']}"
        failed = now.value("pg_subscription_apply_errors_total", had)
        errors = f"; it has failed {count(failed, 'time')} to apply a change" if failed else ""
        if not each.value:
            yield found("SubscriptionDisabled", f"{name} is disabled, and its publisher keeps WAL for it{errors}", had)
        elif now.value("pg_subscription_apply_workers", had) == 0:
            read = Remedy("Read the server's log: it says why the worker ends, and of a conflict which row.")
            sentence = f"{name} has no worker, so it receives nothing, and its publisher keeps WAL for it{errors}"
            yield found("SubscriptionFailing" if failed else "SubscriptionNotRunning", sentence, had, [read])
        else:
            yield from _copies(now, had, name)


def _copies(now: Readings, had: Labels, name: str) -> Iterator[Finding]:
    """Find tables of a subscription whose copy fails again and again."""
    waiting = sum(
        each.value for each in now.series("pg_subscription_relations", **had) if each.labels.get("state") != "ready"
    )
    failed = now.value("pg_subscription_sync_errors_total", had) or 0.0
    if waiting and failed > limit("SubscriptionTablesNotReady", "errors"):
        tables = f"{count(waiting, 'table')} of {name} {'is' if waiting == 1 else 'are'} not copied yet"
        sentence = f"{tables}, and copies have failed {count(failed, 'time')} so far"
        read = Remedy("Read the server's log: it says which row of which table is in the way.")
        yield found("SubscriptionTablesNotReady", sentence, had, [read])


def multixacts(now: Readings, _: float) -> Iterator[Finding]:
    """Find multixacts that have nearly as many members as there can be."""
    members = now.value("pg_multixact_members") or 0.0
    if members > limit("MultixactMembersNearlyExhausted", "members"):
        sentence = (
            f"{members / 1e9:.1f} of 4.3 billion multixact members are kept: then row locks that several share fail"
        )
        yield found("MultixactMembersNearlyExhausted", sentence, {})
