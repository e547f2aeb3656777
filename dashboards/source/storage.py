"""Storage: whether the disk lasts, what grows, which sequences end, and which indexes cost more than they give."""

from collections.abc import Mapping

from dashboards.source import variables
from dashboards.source.alert_thresholds import CRITICAL, DAY, HOUR, INFO, NEUTRAL, WARNING, Steps, falling, of, rising
from dashboards.source.expressions import HOSTS
from dashboards.source.layout import Dashboard, Row
from dashboards.source.links import of_series, to
from dashboards.source.panels import Column, Panel, Query, stat, table, timeseries

TABLE = {"instance": "Instance", "datname": "Database", "schemaname": "Schema", "relname": "Table"}
BY_TABLE = "instance, datname, schemaname, relname"
INDEX = {**TABLE, "indexrelname": "Index"}
BY_INDEX = f"{BY_TABLE}, indexrelname"
BY_KEY_COLUMN = f"{BY_TABLE}, conname, attname, data_type, referenced_data_type"
BY_SEQUENCE = "instance, datname, schemaname, sequencename, relname, attname, data_type"
VACUUM = (to("pg-vacuum", "Its dead rows", instance="instance", datname="datname"),)

FREE = "instance_host_mountpoint:node_filesystem_avail_per_size:ratio"
BYTES_FREE = "instance_host_mountpoint:node_filesystem_avail_bytes:max"
FULL_IN = f"{BYTES_FREE} / (-deriv({BYTES_FREE}[3h]) > 0)"
SOON = falling(of("PostgreSQLDiskFullWithinDays", "days") * DAY, of("PostgreSQLDiskFullSoon", "hours") * HOUR)
LEFT = "pg_sequence_remaining_values{<database>}"
USED = "pg_sequence_used_ratio{<database>}"
ENDS_IN = f"{LEFT} / (-deriv({LEFT}[6h]) > 0)"
ENDS = falling(
    of("PostgreSQLSequenceEndsWithinWeeks", "days") * DAY, of("PostgreSQLSequenceEndsWithinDays", "days") * DAY
)
NO_NODE = "no node_exporter on the servers' hosts"


def dashboard() -> Dashboard:
    """Give the dashboard of storage."""
    return Dashboard(
        uid="pg-storage",
        title="PostgreSQL / Storage",
        description="Whether the disk lasts, what grows, which sequences end, and which indexes cost more than they give.",
        variables=variables.server(variables.datname(), variables.topk()),
        rows=(_state(), _growth(), _sequences(), _indexes(), _shape()),
        since="now-6h",
    )


def _on_host(expr: str) -> str:
    """What node_exporter says of the chosen servers' hosts. An alert about a disk leads here with those of node_exporter."""
    return f"({expr}) and on (host) {HOSTS} or ({expr}) and on (job, instance) up{{<server>}}"


def _state() -> Row:
    return Row(
        "Is it broken, how bad, and since when?",
        (
            stat(
                "eta-disk",
                "A disk is full in",
                "Time until a file system of a chosen server's host is full, at the pace of three hours.",
                f"min({_on_host(FULL_IN)})",
                unit="s",
                empty="not filling up, or no node_exporter",
                steps=SOON,
                runbooks=("PostgreSQLDiskFullSoon",),
            ),
            stat(
                "free",
                "Free on the fullest disk",
                "Share of the fullest file system of these hosts that is free. PostgreSQL stops when it cannot write WAL.",
                f"min({_on_host(FREE)})",
                unit="percentunit",
                empty=NO_NODE,
                steps=falling(
                    of("PostgreSQLDiskFullWithinDays", "free_ratio"), of("PostgreSQLDiskNearlyFull", "ratio")
                ),
                runbooks=("PostgreSQLDiskNearlyFull",),
            ),
            stat(
                "size",
                "Size of the databases",
                "Bytes of the chosen databases, without WAL and temporary files.",
                "sum(pg_database_size_bytes{<database>})",
                unit="bytes",
                empty="none answers",
                sparkline=True,
            ),
            stat(
                "eta-sequence",
                "A sequence ends in",
                "Time until a sequence, or the column it fills, has no number left and inserts fail, at the pace of six hours.",
                f"min({ENDS_IN})",
                unit="s",
                empty="none in use",
                steps=ENDS,
                runbooks=("PostgreSQLSequenceEndsWithinDays",),
            ),
            stat(
                "invalid",
                "Indexes left invalid",
                "Left behind by builds that failed: no query uses them, and writes may still maintain them.",
                "count(pg_index_invalid{<database>} == 1)",
                unit="short",
                empty="none",
                steps=((None, WARNING),),
                runbooks=("PostgreSQLIndexInvalid",),
            ),
            stat(
                "damage",
                "Last damaged block",
                "How long ago a block with a wrong checksum was read. Any is damage on disk.",
                "min(time() - pg_database_checksum_last_failure_timestamp_seconds{<database>})",
                unit="s",
                empty="none, or checksums are off",
                steps=((None, CRITICAL), (of("PostgreSQLChecksumFailure", "hours") * HOUR, WARNING)),
                alerts=("PostgreSQLChecksumFailure",),
            ),
            timeseries(
                "disks",
                "Free space",
                "Share of each file system of these hosts that is free, as node_exporter there sees it.",
                Query(f"min by (host, mountpoint) ({_on_host(FREE)})", "{{mountpoint}} on {{host}}"),
                unit="percentunit",
                empty=NO_NODE,
                most=1,
                steps=falling(
                    of("PostgreSQLDiskFullWithinDays", "free_ratio"), of("PostgreSQLDiskNearlyFull", "ratio")
                ),
                alerts=("PostgreSQLDiskNearlyFull",),
                width=8,
            ),
            timeseries(
                "databases",
                "Databases",
                "Bytes of each database; dashed, a week ago.",
                Query("max by (instance, datname) (pg_database_size_bytes{<database>})", "{{datname}} on {{instance}}"),
                Query(
                    "max by (instance, datname) (pg_database_size_bytes{<database>} offset 1w)",
                    "{{datname}} on {{instance}} last week",
                    "past",
                ),
                unit="bytes",
                empty="none answers",
                alerts=("PostgreSQLDatabaseGrowsFast",),
                width=8,
            ),
            timeseries(
                "wal-size",
                "WAL on disk, and what slots keep of it",
                "A rise beyond max_wal_size is kept by somebody: a slot, an archiver that fails, or wal_keep_size.",
                Query("max by (instance) (pg_wal_size_bytes{<server>})", "{{instance}}"),
                Query(
                    "max by (instance) (pg_replication_slots_retained_bytes{<server>})", "{{instance}} kept by a slot"
                ),
                unit="bytes",
                empty="none answers",
                links=(of_series("pg-replication", "Replication slots", instance="instance"),),
                runbooks=("PostgreSQLReplicationSlotGrows", "PostgreSQLArchiveFailing"),
                width=8,
            ),
        ),
    )


def _growth() -> Row:
    grew = f"max by ({BY_TABLE}) (delta(pg_table_total_size_bytes{{<database>}}[$__range]) > 0)"
    large = f"max by ({BY_TABLE}) (pg_table_total_size_bytes{{<database>}})"
    return Row(
        "What fills the disk?",
        (
            table(
                "filling",
                "File systems",
                "How long each lasts at the pace of three hours and of a day.",
                Column(
                    "Free",
                    f"min by (host, mountpoint) ({_on_host(FREE)})",
                    "percentunit",
                    falling(of("PostgreSQLDiskFullWithinDays", "free_ratio"), of("PostgreSQLDiskNearlyFull", "ratio")),
                ),
                Column("Free bytes", f"min by (host, mountpoint) ({_on_host(BYTES_FREE)})", "bytes"),
                Column("Full in, by 3 hours", f"min by (host, mountpoint) ({_on_host(FULL_IN)})", "s", SOON),
                Column(
                    "Full in, by a day",
                    f"min by (host, mountpoint) ({_on_host(FULL_IN.replace('[3h]', '[1d]'))})",
                    "s",
                    SOON,
                ),
                labels={"host": "Host", "mountpoint": "Mounted at"},
                empty=NO_NODE,
                rising=True,
                alerts=("PostgreSQLDiskFullSoon", "PostgreSQLDiskFullWithinDays"),
                width=12,
            ),
            table(
                "growers",
                "Tables that grew most",
                "In the time shown, with indexes and TOAST. Sizes follow vacuum and analyze, so they move in steps.",
                Column("Grew by", grew, "bytes"),
                _of_table("Now", "pg_table_total_size_bytes{<database>}", "bytes"),
                _of_table("Rows inserted", "increase(pg_table_inserted_tuples_total{<database>}[$__range])"),
                _of_table("Rows deleted", "increase(pg_table_deleted_tuples_total{<database>}[$__range])"),
                labels=TABLE,
                empty="none grew",
                ranked=True,
                label_links={"relname": VACUUM},
                alerts=("PostgreSQLTableNeverPurged",),
                runbooks=("PostgreSQLDatabaseGrowsFast",),
                width=12,
            ),
            table(
                "largest",
                "Largest tables",
                "With indexes and TOAST. Bloat is shown where the collector table_bloat is switched on.",
                Column("Total", large, "bytes"),
                _of_table("Heap", "pg_table_size_bytes{<database>}", "bytes"),
                _of_table("Indexes", "pg_table_index_size_bytes{<database>}", "bytes"),
                _of_table("TOAST", "pg_table_toast_size_bytes{<database>}", "bytes"),
                _of_table("Rows, as the planner believes", "pg_table_estimated_rows{<database>}"),
                _of_table("Dead rows", "pg_table_dead_tuples{<database>}"),
                _of_table("Bloat, estimated", "pg_table_bloat_estimate_ratio{<database>}", "percentunit"),
                labels=TABLE,
                empty="none",
                ranked=True,
                label_links={"relname": VACUUM},
            ),
        ),
    )


def _sequences() -> Row:
    return Row(
        "Which sequences end?",
        (
            table(
                "sequences",
                "Sequences",
                "The fullest, by the smaller of what the sequence and the column it fills can hold. At the end every insert fails.",
                Column(
                    "Used",
                    f"max by ({BY_SEQUENCE}) ({USED})",
                    "percentunit",
                    rising(of("PostgreSQLSequenceNearlyUsed", "ratio"), 0.95),
                    bar=True,
                ),
                Column("Numbers left", f"min by ({BY_SEQUENCE}) ({LEFT})"),
                Column("Ends in", f"min by ({BY_SEQUENCE}) ({ENDS_IN})", "s", ENDS),
                labels={
                    "instance": "Instance",
                    "datname": "Database",
                    "schemaname": "Schema",
                    "sequencename": "Sequence",
                    "relname": "Table",
                    "attname": "Column",
                    "data_type": "Type",
                },
                empty="none in use",
                ranked=True,
                alerts=(
                    "PostgreSQLSequenceNearlyUsed",
                    "PostgreSQLSequenceEndsWithinWeeks",
                    "PostgreSQLSequenceEndsWithinDays",
                ),
            ),
        ),
        collapsed=True,
    )


def _indexes() -> Row:
    built = "instance, datname, relname, indexrelname, command"
    return Row(
        "Which indexes cost more than they give?",
        (
            _costs(
                "unused",
                "Indexes that no query uses",
                "Since statistics began. They slow each write; ask the standbys before you drop one.",
                "pg_index_unused_bytes",
                steps=rising(of("PostgreSQLIndexUnused", "bytes")),
                alert="PostgreSQLIndexUnused",
            ),
            _costs(
                "duplicate",
                "Indexes that do the same",
                "As another of the same table, so that one of the two can go.",
                "pg_index_duplicate_bytes",
                more={"duplicate_of": "Same as"},
                steps=rising(of("PostgreSQLIndexDuplicate", "bytes")),
                alert="PostgreSQLIndexDuplicate",
            ),
            table(
                "invalid-indexes",
                "Invalid indexes",
                "No query uses them. One that is ready is still maintained by each write; drop it, or build it again.",
                Column(
                    "Size",
                    f"max by ({BY_INDEX}) (pg_index_size_bytes{{<database>}} and pg_index_invalid{{<database>}} == 1)",
                    "bytes",
                ),
                Column(
                    "Invalid",
                    f"max by ({BY_INDEX}) (pg_index_invalid{{<database>}} == 1)",
                    "none",
                    mappings=((1, "yes", WARNING),),
                ),
                Column(
                    "Writes maintain it",
                    f"max by ({BY_INDEX}) (pg_index_ready{{<database>}} and pg_index_invalid{{<database>}} == 1)",
                    "none",
                    mappings=((1, "yes", WARNING), (0, "no", "text")),
                ),
                labels=INDEX,
                empty="none",
                alerts=("PostgreSQLIndexInvalid",),
                width=12,
            ),
            table(
                "builds",
                "Indexes being built",
                "CREATE INDEX and REINDEX, the longest first. One that waits, waits for older transactions.",
                Column(
                    "Runs for",
                    f'max by ({built}) (pg_progress_seconds{{<database>, command=~"CREATE INDEX.*|REINDEX.*"}})',
                    "s",
                ),
                Column(
                    "Of the table read",
                    f'max by ({built}) (pg_progress_done_blocks{{<database>, command=~"CREATE INDEX.*|REINDEX.*"}} / (pg_progress_total_blocks{{<database>}} > 0))',
                    "percentunit",
                ),
                Column(
                    "Of the rows loaded",
                    f'max by ({built}) (pg_progress_done_tuples{{<database>, command=~"CREATE INDEX.*|REINDEX.*"}} / (pg_progress_total_tuples{{<database>}} > 0))',
                    "percentunit",
                ),
                Column(
                    "In its phase",
                    f'max by ({built}, phase) (pg_progress_phase{{<database>, command=~"CREATE INDEX.*|REINDEX.*"}} == 1)',
                    "none",
                    mappings=((1, "yes", "text"),),
                ),
                labels={
                    "instance": "Instance",
                    "datname": "Database",
                    "relname": "Table",
                    "indexrelname": "Index",
                    "command": "Command",
                    "phase": "Phase",
                },
                empty="none is being built",
                label_links={"phase": (to("pg-locks", "Whom it waits for", instance="instance"),)},
                alerts=("PostgreSQLIndexBuildRunning",),
                runbooks=("PostgreSQLIndexBuildWaits",),
                width=12,
            ),
            _costs(
                "covered",
                "Indexes that begin another",
                "Another index of the table begins with the same columns and can do what they do.",
                "pg_index_redundant_bytes",
                more={"covered_by": "Covered by"},
            ),
            table(
                "foreign-keys",
                "Foreign keys without an index",
                "Each delete in the table that is referred to reads this one in full.",
                Column(
                    "Size of the table",
                    f"max by ({BY_TABLE}, conname) (pg_foreign_key_without_index_bytes{{<database>}})",
                    "bytes",
                ),
                labels={**TABLE, "conname": "Foreign key"},
                empty="none",
                ranked=True,
                width=12,
            ),
            table(
                "bloated-indexes",
                "Bloated indexes",
                "By estimate, where the collector index_bloat is switched on. Up to 30 % is normal; REINDEX CONCURRENTLY gives back the rest.",
                Column("Bloat", f"max by ({BY_INDEX}) (pg_index_bloat_estimate_bytes{{<database>}})", "bytes"),
                Column(
                    "Of the index",
                    f"max by ({BY_INDEX}) (pg_index_bloat_estimate_ratio{{<database>}})",
                    "percentunit",
                    rising(0.5),
                ),
                labels=INDEX,
                empty="none, or index_bloat is off",
                ranked=True,
                width=12,
            ),
            table(
                "mistyped-foreign-keys",
                "Foreign keys of another type",
                "Than the column they refer to. A smaller integer fails at values that the other table still takes.",
                Column(
                    "Mistyped",
                    f"max by ({BY_KEY_COLUMN}) (pg_foreign_key_mistyped{{<database>}})",
                    "none",
                    mappings=((1, "yes", INFO),),
                ),
                labels={
                    **TABLE,
                    "conname": "Foreign key",
                    "attname": "Column",
                    "data_type": "Type",
                    "referenced_data_type": "Type referred to",
                },
                empty="none",
                width=12,
            ),
        ),
        collapsed=True,
    )


def _costs(
    key: str,
    title: str,
    says: str,
    metric: str,
    *,
    more: Mapping[str, str] = {},
    steps: Steps = NEUTRAL,
    alert: str = "",
) -> Panel:
    labels = ", ".join((BY_INDEX, *more))
    return table(
        f"{key}-indexes",
        title,
        says,
        Column("Size", f"max by ({labels}) ({metric}{{<database>}})", "bytes", steps),
        labels={**INDEX, **more},
        empty="none",
        ranked=True,
        alerts=(alert,) if alert else (),
        width=12,
    )


def _shape() -> Row:
    return Row(
        "How is it laid out?",
        (
            timeseries(
                "tablespaces",
                "Tablespaces",
                "Bytes of all files in each tablespace, of all databases, without WAL.",
                Query("max by (instance, spcname) (pg_tablespace_size_bytes{<server>})", "{{spcname}} on {{instance}}"),
                unit="bytes",
                empty="none answers",
                width=8,
            ),
            table(
                "schemas",
                "Schemas",
                "What each holds.",
                Column("Tables", _of_schema("tables")),
                Column("Size of tables", _of_schema("table_estimated_bytes"), "bytes"),
                Column("Size of indexes", _of_schema("index_estimated_bytes"), "bytes"),
                Column(
                    "Without primary key",
                    _of_schema("tables_without_primary_key"),
                    "short",
                    ((None, "text"), (1, INFO)),
                ),
                labels={"instance": "Instance", "datname": "Database", "schemaname": "Schema"},
                empty="none answers",
                sort="Size of tables",
                width=16,
            ),
            table(
                "no-primary-key",
                "Tables without a primary key",
                "Logical replication cannot update or delete in them, and rows cannot be told apart.",
                Column(
                    "Size",
                    f"max by ({BY_TABLE}) (pg_table_without_primary_key_bytes{{<database>}})",
                    "bytes",
                ),
                labels=TABLE,
                empty="none",
                ranked=True,
                width=12,
            ),
            timeseries(
                "default-partitions",
                "Rows in DEFAULT partitions",
                "For which there is no partition of their own. A rise means that nothing makes new partitions in time.",
                Query(
                    f"max by ({BY_TABLE}) (pg_partitioned_table_default_estimated_rows{{<database>}})",
                    "{{schemaname}}.{{relname}} in {{datname}} on {{instance}}",
                ),
                unit="short",
                empty="no DEFAULT partition",
            ),
            timeseries(
                "writes",
                "Rows written",
                "Inserted, updated and deleted rows per second by database: what growth comes from.",
                *(
                    Query(
                        f"sum by (datname) (rate(pg_database_tuples_{what}_total{{<database>}}[$__rate_interval]))",
                        f"{{{{datname}}}} {what}",
                    )
                    for what in ("inserted", "updated", "deleted")
                ),
                unit="ops",
                empty="none answers",
            ),
        ),
        collapsed=True,
    )


def _of_table(title: str, expr: str, unit: str = "short") -> Column:
    return Column(title, f"max by ({BY_TABLE}) ({expr})", unit)


def _of_schema(what: str) -> str:
    return f"max by (instance, datname, schemaname) (pg_schema_{what}{{<database>}})"
