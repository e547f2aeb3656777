"""Replication: who follows whom and how far behind, what slots keep, and how subscriptions fare."""

from dashboards.source import endings, variables
from dashboards.source.alert_thresholds import CRITICAL, DAY, GOOD, HOUR, INFO, WARNING, falling, of, rising
from dashboards.source.expressions import leading
from dashboards.source.layout import Dashboard, Row
from dashboards.source.links import of_series, to
from dashboards.source.panels import Column, Query, stat, state_timeline, table, timeseries

LAG = "pg_replication_lag_seconds{<server>} - on (job, instance) pg_recovery_min_apply_delay_seconds{<server>}"
LATE = rising(of("PostgreSQLReplicaLagging", "seconds"), of("PostgreSQLReplicaStale", "seconds"))
BEHIND = "clamp_min(instance:pg_replication_behind_primary_bytes:max{<server>}, 0)"
"""The two are not scraped at the same moment."""
MUCH = of("PostgreSQLReplicationSlotInactive", "bytes")
SOON = falling(DAY, of("PostgreSQLReplicationSlotSoonLost", "hours") * HOUR)
BY_SLOT = "instance, slot_name, slot_type"
BY_SENDER = "instance, application_name, client_addr, slot_name"
BY_SUBSCRIPTION = "instance, datname, subname"
BY_PUBLICATION = "instance, datname, pubname"
YES_NO = ((1, "yes", "text"), (0, "NO", CRITICAL))


def dashboard() -> Dashboard:
    """Give the dashboard of replication."""
    return Dashboard(
        uid="pg-replication",
        title="PostgreSQL / Replication",
        description="Who follows whom and how far behind, what replication slots keep, and how subscriptions fare.",
        variables=variables.server(variables.topk()),
        rows=(_state(), _standbys(), _slots(), _commits(), _subscriptions()),
    )


def _state() -> Row:
    return Row(
        "Is it broken, how bad, and since when?",
        (
            stat(
                "role",
                "Primaries and standbys",
                "How many of the chosen servers take writes, and how many follow another.",
                Query("count(pg_replication_is_replica{<server>} == 0)", "primaries"),
                Query("count(pg_replication_is_replica{<server>} == 1)", "standbys"),
                unit="short",
                empty="none answers",
            ),
            stat(
                "not-streaming",
                "Standbys that do not stream",
                "Standbys that have an upstream to follow and receive nothing from it.",
                """
                count(
                  pg_wal_receiver_streaming{<server>} == 0
                    and on (job, instance) pg_wal_receiver_configured{<server>} == 1
                )
                """,
                unit="short",
                empty="none",
                steps=((None, CRITICAL),),
                runbooks=("PostgreSQLStandbyNotStreaming",),
            ),
            stat(
                "lag",
                "Oldest data on a standby",
                "How old the data of the standby may be that is farthest behind, less what recovery_min_apply_delay asks for.",
                f"max({LAG})",
                unit="s",
                empty="no standby",
                steps=LATE,
                sparkline=True,
                runbooks=("PostgreSQLReplicaLagging",),
            ),
            stat(
                "behind",
                "Farthest behind its primary",
                "WAL that a primary has written and its standby has not replayed, of the one that is farthest behind. Needs "
                "both to be scraped by the same Prometheus.",
                f"max({BEHIND})",
                unit="bytes",
                empty="no standby with its primary",
                steps=rising(of("PostgreSQLReplicaBehindPrimary", "bytes")),
                sparkline=True,
                runbooks=("PostgreSQLReplicaBehindPrimary",),
            ),
            stat(
                "kept",
                "Kept by a slot",
                "WAL that cannot be removed because of the slot that keeps most.",
                f"max({endings.SLOT_KEEPS})",
                unit="bytes",
                empty="no slot",
                steps=rising(MUCH),
                sparkline=True,
                runbooks=("PostgreSQLReplicationSlotGrows",),
            ),
            stat(
                "eta-slot",
                "A slot is lost in",
                "Time until a slot whose consumer does not keep up needs more than max_slot_wal_keep_size, at the pace of half an hour.",
                f"min({endings.SLOT})",
                unit="s",
                empty="none in sight",
                steps=SOON,
                runbooks=("PostgreSQLReplicationSlotSoonLost",),
            ),
            state_timeline(
                "roles",
                "Primary or standby",
                "What each server was. A change is a failover or a switchover; two primaries of one cluster must not be.",
                Query(
                    """
                    max by (instance, system_identifier) (
                      pg_server_info{<server>} * on (job, instance) group_left () pg_replication_is_replica{<server>}
                    )
                    """,
                    "{{instance}} of {{system_identifier}}",
                ),
                empty="none answers",
                mappings=((0, "primary", INFO), (1, "standby", "super-light-blue")),
                links=(of_series("pg-instance", "This server", instance="instance"),),
                alerts=("PostgreSQLRoleChanged", "PostgreSQLTwoPrimaries", "PostgreSQLNoPrimary"),
            ),
            state_timeline(
                "streaming",
                "Streaming",
                "When each standby received WAL from its upstream. One that restores from an archive only is left out.",
                Query(
                    """
                    min by (instance) (
                      pg_wal_receiver_streaming{<server>} and on (job, instance) pg_wal_receiver_configured{<server>} == 1
                    )
                    """,
                    "{{instance}}",
                ),
                empty="no standby",
                mappings=((1, "streams", GOOD), (0, "DOES NOT", CRITICAL)),
                links=(of_series("pg-instance", "This server", instance="instance"),),
                alerts=("PostgreSQLStandbyNotStreaming",),
            ),
        ),
    )


def _standbys() -> Row:
    return Row(
        "How far behind is everybody?",
        (
            timeseries(
                "data-age",
                "Age of the data on standbys",
                "How old a standby's data may be; 0 when it has replayed all that it received and its upstream is there.",
                Query(f"max by (instance) ({LAG})", "{{instance}}"),
                unit="s",
                empty="no standby",
                steps=LATE,
                links=(of_series("pg-instance", "This server", instance="instance"),),
                alerts=("PostgreSQLReplicaLagging", "PostgreSQLReplicaStale"),
                width=8,
            ),
            timeseries(
                "behind-primary",
                "Behind the primary",
                "WAL that the primary has written and the standby has not replayed. It rises when the link is cut, too.",
                Query(f"max by (instance) ({BEHIND})", "{{instance}}"),
                unit="bytes",
                empty="no standby with its primary",
                steps=rising(of("PostgreSQLReplicaBehindPrimary", "bytes")),
                alerts=("PostgreSQLReplicaBehindPrimary",),
                width=8,
            ),
            timeseries(
                "wal",
                "WAL written or replayed",
                "Bytes of WAL per second. A standby that replays less than its primary writes falls behind.",
                Query("sum by (instance) (deriv(pg_wal_position_bytes{<server>}[$__rate_interval]))", "{{instance}}"),
                unit="Bps",
                empty="none answers",
                links=(of_series("pg-wal-io", "WAL and I/O", instance="instance"),),
                width=8,
            ),
            table(
                "consumers",
                "Who receives WAL, as the sender sees it",
                "Standbys, subscribers and others. What is sent but not written hangs in the network, what is written but "
                "not replayed at the receiver.",
                Column(
                    "Not replayed",
                    f"topk($topk, max by ({BY_SENDER}) (pg_replication_sender_replay_lag_bytes{{<server>}}))",
                    "bytes",
                    rising(of("PostgreSQLReplicationConsumerBehind", "bytes")),
                ),
                *(
                    Column(title, f"max by ({BY_SENDER}) (pg_replication_sender_{name}{{<server>}})", unit)
                    for title, name, unit in (
                        ("Not sent", "sent_lag_bytes", "bytes"),
                        ("Not written", "write_lag_bytes", "bytes"),
                        ("Not flushed", "flush_lag_bytes", "bytes"),
                        ("Replay takes", "replay_lag_seconds", "s"),
                        ("Last reply", "reply_age_seconds", "s"),
                    )
                ),
                Column(
                    "Streams",
                    f"""
                    max by ({BY_SENDER}, state) (
                      pg_replication_sender_state{{<server>, state="streaming"}} == 1
                        or 0 * (pg_replication_sender_state{{<server>, state!="streaming"}} == 1)
                    )
                    """,
                    "none",
                    mappings=YES_NO,
                ),
                Column(
                    "Counts for commits",
                    f"""
                    max by ({BY_SENDER}, sync_state) (
                      pg_replication_sender_sync_state{{<server>, sync_state=~"sync|quorum"}} == 1
                        or 0 * (pg_replication_sender_sync_state{{<server>, sync_state!~"sync|quorum"}} == 1)
                    )
                    """,
                    "none",
                    mappings=((1, "yes", "text"), (0, "no", "text")),
                ),
                labels={
                    "instance": "Instance",
                    "application_name": "Application",
                    "client_addr": "Address",
                    "slot_name": "Slot",
                    "state": "State",
                    "sync_state": "Synchronous",
                },
                empty="nobody receives WAL",
                alerts=("PostgreSQLReplicationConsumerBehind",),
                height=6,
            ),
            timeseries(
                "sender-seconds",
                "Until written, flushed, replayed",
                "Time from the flush here until the receiver had written, flushed and replayed it. None when nothing is written.",
                *(
                    Query(
                        f"max by (instance, application_name) (pg_replication_sender_{name}_lag_seconds{{<server>}})",
                        f"{{{{application_name}}}} {said}",
                    )
                    for name, said in (("write", "written"), ("flush", "flushed"), ("replay", "replayed"))
                ),
                unit="s",
                empty="nobody receives WAL, or none is written",
                width=8,
            ),
            timeseries(
                "not-replayed",
                "Received but not replayed",
                "WAL that a standby has and has not replayed: it is too slow, waits for a query, or is paused.",
                Query("max by (instance) (pg_replication_lag_bytes{<server>})", "{{instance}}"),
                unit="bytes",
                empty="no standby",
                width=8,
            ),
            state_timeline(
                "paused",
                "Replay paused",
                "When somebody had paused replay, and data grew old.",
                Query("max by (instance) (pg_recovery_paused{<server>})", "{{instance}}"),
                empty="no standby",
                mappings=((0, "replays", GOOD), (1, "PAUSED", WARNING)),
                alerts=("PostgreSQLReplayPaused",),
                width=8,
                height=8,
            ),
        ),
    )


def _slots() -> Row:
    most = endings.SLOT_KEEPS.replace("{<server>}", "{<server>}[$__range] @ end()")
    return Row(
        "Which slots keep WAL, and for how long?",
        (
            table(
                "slots",
                "Slots",
                "What each slot keeps, and how long until it is lost. One without a consumer is to be dropped or its "
                "consumer to be mended.",
                Column("Keeps", f"max by ({BY_SLOT}) ({endings.SLOT_KEEPS})", "bytes", rising(MUCH)),
                Column(
                    "Of what it may",
                    f"max by ({BY_SLOT}) ({endings.SLOT_KEEPS} / ({endings.SLOT_KEEPS} + ({endings.SLOT_ROOM} > 0)))",
                    "percentunit",
                    rising(of("PostgreSQLReplicationSlotNearLimit", "ratio")),
                ),
                Column("Room left", f"max by ({BY_SLOT}) ({endings.SLOT_ROOM})", "bytes"),
                Column("Lost in", f"min by ({BY_SLOT}) ({endings.SLOT})", "s", SOON),
                Column(
                    "Has a consumer",
                    f"max by ({BY_SLOT}) (pg_replication_slots_active{{<server>}})",
                    "none",
                    mappings=YES_NO,
                ),
                Column(
                    "Inactive for",
                    f"max by ({BY_SLOT}) (time() - pg_replication_slots_inactive_since_timestamp_seconds{{<server>}})",
                    "s",
                ),
                Column(
                    "Holds back vacuum",
                    f"max by ({BY_SLOT}) (pg_replication_slots_xmin_age{{<server>}})",
                    links=(to("pg-vacuum", "Who holds the horizon", instance="instance"),),
                ),
                labels={"instance": "Instance", "slot_name": "Slot", "slot_type": "Kind"},
                empty="no slot",
                ranked=True,
                alerts=("PostgreSQLReplicationSlotInactive",),
            ),
            timeseries(
                "slots-kept",
                "Kept by slots",
                "WAL that each slot keeps; in red, max_slot_wal_keep_size, where there is one. Without it the disk fills up.",
                Query(
                    leading(
                        f"max by (instance, slot_name) ({endings.SLOT_KEEPS})",
                        f"max by (instance, slot_name) (max_over_time({most}))",
                    ),
                    "{{slot_name}} on {{instance}}",
                ),
                Query("max by (instance) (pg_wal_max_slot_keep_size_bytes{<server>})", "{{instance}} at most", "limit"),
                unit="bytes",
                empty="no slot",
                alerts=(
                    "PostgreSQLReplicationSlotGrows",
                    "PostgreSQLReplicationSlotNearLimit",
                    "PostgreSQLReplicationSlotSoonLost",
                ),
            ),
            state_timeline(
                "slot-states",
                "State of the WAL that slots need",
                "Extended is kept beyond max_wal_size, unreserved is removed at the next checkpoint, lost is gone: its "
                "consumer has to be built anew.",
                Query(
                    """
                    sum by (instance, slot_name) (pg_replication_slots_wal_status{<server>, wal_status="extended"})
                      + 2 * sum by (instance, slot_name) (pg_replication_slots_wal_status{<server>, wal_status="unreserved"})
                      + 3 * sum by (instance, slot_name) (pg_replication_slots_wal_status{<server>, wal_status="lost"})
                    """,
                    "{{slot_name}} on {{instance}}",
                ),
                empty="no slot",
                mappings=(
                    (0, "reserved", GOOD),
                    (1, "extended", INFO),
                    (2, "UNRESERVED", WARNING),
                    (3, "LOST", CRITICAL),
                ),
                alerts=("PostgreSQLReplicationSlotUnreserved", "PostgreSQLReplicationSlotLost"),
                height=8,
            ),
        ),
    )


def _commits() -> Row:
    return Row(
        "Whom does it hold up?",
        (
            timeseries(
                "commits-wait",
                "Commits that wait for a standby",
                "Sessions that cannot commit until a synchronous standby answers. Steadily above 0, none is connected or it is slow.",
                Query('sum by (instance) (pg_session_waits{<server>, wait_event="SyncRep"})', "{{instance}}"),
                unit="short",
                empty="none",
                alerts=("PostgreSQLCommitsWaitForStandby",),
                width=8,
            ),
            timeseries(
                "conflicts",
                "Queries cancelled for replay",
                "On standbys, in the last 15 minutes, by reason: replay does not wait for them longer than max_standby_streaming_delay.",
                Query(
                    "sum by (instance, conflict) (increase(pg_recovery_conflicts_total{<server>}[15m])) > 0",
                    "{{conflict}} on {{instance}}",
                ),
                unit="short",
                empty="none",
                steps=rising(of("PostgreSQLRecoveryConflicts", "queries")),
                alerts=("PostgreSQLRecoveryConflicts",),
                width=8,
            ),
            timeseries(
                "senders",
                "WAL senders",
                "Senders in use and, in red, max_wal_senders. When all are taken, no standby can connect.",
                Query("max by (instance) (pg_wal_senders{<server>})", "{{instance}}"),
                Query("max by (instance) (pg_wal_senders_max{<server>})", "{{instance}} at most", "limit"),
                unit="short",
                empty="none answers",
                alerts=("PostgreSQLWalSendersNearlyUsed",),
                width=8,
            ),
        ),
        collapsed=True,
    )


def _subscriptions() -> Row:
    named = "{{subname}} in {{datname}} on {{instance}}"
    return Row(
        "Do subscriptions keep up?",
        (
            table(
                "subscriptions",
                "Subscriptions",
                "Those of the chosen servers, as the subscriber sees them.",
                Column(
                    "Last heard of",
                    f"max by ({BY_SUBSCRIPTION}) (time() - pg_subscription_last_message_timestamp_seconds{{<server>}})",
                    "s",
                    rising(of("PostgreSQLSubscriptionLagging", "seconds")),
                ),
                Column(
                    "Enabled",
                    f"min by ({BY_SUBSCRIPTION}) (pg_subscription_enabled{{<server>}})",
                    "none",
                    mappings=YES_NO,
                ),
                Column(
                    "Time at work",
                    f"min by ({BY_SUBSCRIPTION}) (clamp_max(avg_over_time(pg_subscription_apply_workers{{<server>}}[5m]), 1))",
                    "percentunit",
                    falling(critical=of("PostgreSQLSubscriptionNotRunning", "share_of_time")),
                ),
                Column(
                    "Tables not ready",
                    f'sum by ({BY_SUBSCRIPTION}) (pg_subscription_relations{{<server>, state!="ready"}})',
                    "short",
                    rising(1),
                ),
                Column("Tables", f"sum by ({BY_SUBSCRIPTION}) (pg_subscription_relations{{<server>}})"),
                labels={"instance": "Instance", "datname": "Database", "subname": "Subscription"},
                empty="no subscription",
                alerts=(
                    "PostgreSQLSubscriptionNotRunning",
                    "PostgreSQLSubscriptionDisabled",
                    "PostgreSQLSubscriptionLagging",
                    "PostgreSQLSubscriptionTablesNotReady",
                ),
                height=6,
            ),
            timeseries(
                "subscription-errors",
                "Errors of subscriptions",
                "Times within ten minutes that a change, or the copy of a table, failed and is tried again (from PostgreSQL 15 on).",
                Query(
                    f"sum by ({BY_SUBSCRIPTION}) (increase(pg_subscription_apply_errors_total{{<server>}}[10m]))", named
                ),
                Query(
                    f"sum by ({BY_SUBSCRIPTION}) (increase(pg_subscription_sync_errors_total{{<server>}}[10m]))",
                    f"{named}: copy",
                ),
                unit="short",
                empty="no subscription, or PostgreSQL 14 and older",
                steps=rising(of("PostgreSQLSubscriptionFailing", "errors")),
                alerts=("PostgreSQLSubscriptionFailing",),
            ),
            timeseries(
                "subscription-conflicts",
                "Changes that met a row that differs",
                "Within 15 minutes, by what was found (from PostgreSQL 18 on). Any means that the two sides differ.",
                Query(
                    "sum by (instance, subname, conflict) (increase(pg_subscription_conflicts_total{<server>}[15m])) > 0",
                    "{{conflict}} of {{subname}} on {{instance}}",
                ),
                unit="short",
                empty="none",
                alerts=("PostgreSQLSubscriptionConflicts",),
            ),
            timeseries(
                "decoding",
                "Decoded for subscribers",
                "Bytes per second that slots decode, and those that went to disk because logical_decoding_work_mem was too small.",
                Query(
                    "sum by (instance, slot_name) (rate(pg_replication_slots_decoded_bytes_total{<server>}[$__rate_interval]))",
                    "{{slot_name}} on {{instance}}",
                ),
                Query(
                    "sum by (instance, slot_name) (rate(pg_replication_slots_spilled_bytes_total{<server>}[$__rate_interval])) > 0",
                    "{{slot_name}} on {{instance}} to disk",
                ),
                unit="Bps",
                empty="no logical slot, or PostgreSQL 13",
            ),
            table(
                "publications",
                "Publications",
                "What the chosen servers send to subscribers. An UPDATE or DELETE of a table without a replica identity fails.",
                Column("Tables", f"max by ({BY_PUBLICATION}) (pg_publication_tables{{<server>}})"),
                Column(
                    "Without replica identity",
                    f"max by ({BY_PUBLICATION}) (pg_publication_tables_without_identity{{<server>}})",
                    "short",
                    rising(1),
                ),
                Column(
                    "All tables",
                    f"""
                    max by ({BY_PUBLICATION}, publish) (
                      pg_publication_info{{<server>, all_tables="true"}}
                        or 0 * pg_publication_info{{<server>, all_tables="false"}}
                    )
                    """,
                    "none",
                    mappings=((1, "yes", "text"), (0, "no", "text")),
                ),
                labels={
                    "instance": "Instance",
                    "datname": "Database",
                    "pubname": "Publication",
                    "publish": "Operations",
                },
                empty="no publication",
                height=6,
            ),
        ),
        collapsed=True,
    )
