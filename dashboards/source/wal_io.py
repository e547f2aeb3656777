"""WAL and I/O: whether WAL is archived, what it is made of, how checkpoints fare, and who waits for the disk."""

from dashboards.source import variables
from dashboards.source.alert_thresholds import CRITICAL, GOOD, of, rising
from dashboards.source.expressions import leading
from dashboards.source.layout import Dashboard, Row
from dashboards.source.links import of_series, to
from dashboards.source.panels import Column, Query, stat, table, timeseries
from dashboards.source.statements import LABELS, with_text

WAL = "deriv(pg_wal_position_bytes{<server>}[$__rate_interval]OFFSET)"
ARCHIVES = "on (job, instance) pg_archiver_enabled{<server>} == 1"
SINCE = "(time() - pg_checkpointer_last_checkpoint_timestamp_seconds{<server>})"

OLD = "PostgreSQL 13 does not count it"
UNTIMED = "track_io_timing is off, or PostgreSQL is older than 16"
OLDER = "PostgreSQL 15 and older do not count it"
DOWN = "does not answer"

BACKLOG = rising(of("PostgreSQLArchiveBacklogOld", "seconds") / 4, of("PostgreSQLArchiveBacklogOld", "seconds"))
OVERDUE = rising(of("PostgreSQLCheckpointOverdue", "times_checkpoint_timeout"))
IO = "sum by (instance, backend_type, object, context)"
BY_RELATION = "instance, datname, schemaname, relname, relkind"


def dashboard() -> Dashboard:
    """Give the dashboard of WAL and I/O."""
    return Dashboard(
        uid="pg-wal-io",
        title="PostgreSQL / WAL and I/O",
        description="Whether WAL is archived, what it is made of, how checkpoints fare, and who waits for the disk.",
        variables=variables.server(variables.datname(), variables.topk()),
        rows=(_state(), _archiving(), _wal(), _checkpoints(), _disk(), _memory(), _small_caches()),
    )


def _state() -> Row:
    return Row(
        "Is WAL safe, do checkpoints complete, and does the disk keep up?",
        (
            stat(
                "archiving",
                "Archiving",
                "Whether the last attempt to archive a WAL file succeeded, of the worst server.",
                f"max(pg_archiver_failing{{<server>}} and {ARCHIVES})",
                unit="none",
                empty="off",
                mappings=((0, "works", GOOD), (1, "FAILS", CRITICAL)),
                runbooks=("PostgreSQLArchiveFailing",),
            ),
            stat(
                "backlog-age",
                "Oldest WAL not archived",
                "How long the oldest WAL file that is complete has waited for the archive. What was written since is lost with "
                "the server.",
                f"max(pg_archiver_ready_oldest_age_seconds{{<server>}} and {ARCHIVES})",
                unit="s",
                empty="archiving is off",
                steps=BACKLOG,
                sparkline=True,
                runbooks=("PostgreSQLArchiveBacklogOld",),
            ),
            stat(
                "wal-pace",
                "WAL",
                "Bytes of WAL written a second, or replayed on standbys.",
                f"sum({WAL.replace('OFFSET', '')})",
                unit="Bps",
                empty=DOWN,
                sparkline=True,
            ),
            stat(
                "checkpoint-age",
                "Checkpoint, in its timeouts",
                "Time since the last complete checkpoint began, in multiples of checkpoint_timeout, of the worst primary. "
                "An idle server makes none.",
                f"""
                max(
                  {SINCE} / on (job, instance) pg_settings_checkpoint_timeout_seconds{{<server>}}
                  unless on (job, instance) pg_replication_is_replica{{<server>}} == 1
                )
                """,
                unit="short",
                empty="no primary answers",
                decimals=1,
                steps=OVERDUE,
                runbooks=("PostgreSQLCheckpointOverdue",),
            ),
            stat(
                "redo",
                "To replay after a crash",
                "WAL since the last checkpoint began. Nobody can log in after a crash before it is replayed.",
                "max(pg_checkpointer_redo_bytes{<server>})",
                unit="bytes",
                empty=DOWN,
                sparkline=True,
            ),
            stat(
                "forced-flushes",
                "Sessions that flush files",
                "Flushes of tables a second by others than the checkpointer. Above 0 its queue is full, and sessions wait.",
                """
                sum(
                  sum by (instance) (
                    rate(pg_io_fsyncs_total{<server>, object="relation", backend_type!~"checkpointer|startup"}[$__rate_interval])
                  )
                  or
                  sum by (instance) (rate(pg_stat_bgwriter_buffers_backend_fsync_total{<server>}[$__rate_interval]))
                )
                """,
                unit="ops",
                empty=DOWN,
                steps=rising(0.01),
            ),
            timeseries(
                "wal-past",
                "WAL written or replayed",
                "Bytes of WAL a second; dashed, a week ago.",
                Query(f"sum by (instance) ({WAL.replace('OFFSET', '')})", "{{instance}}"),
                Query(f"sum by (instance) ({WAL.replace('OFFSET', ' offset 1w')})", "{{instance}} last week", "past"),
                unit="Bps",
                empty=DOWN,
                links=(of_series("pg-instance", "This server", instance="instance"),),
                width=8,
            ),
            timeseries(
                "wal-kept",
                "WAL on disk",
                "Bytes in pg_wal, and max_wal_size in red. Above it for long, a slot, an archiver that fails or wal_keep_size "
                "keeps them until the disk is full.",
                Query("sum by (instance) (pg_wal_size_bytes{<server>})", "{{instance}}"),
                Query(
                    "sum by (instance) (pg_settings_max_wal_size_bytes{<server>})", "{{instance}} max_wal_size", "limit"
                ),
                unit="bytes",
                empty=DOWN,
                links=(of_series("pg-replication", "Replication slots", instance="instance"),),
                width=8,
            ),
            timeseries(
                "backlog",
                "WAL files that wait to be archived",
                "Some are always on their way. A steady rise means that archiving fails, hangs or is too slow.",
                Query(f"sum by (instance) (pg_archiver_ready_files{{<server>}} and {ARCHIVES})", "{{instance}}"),
                unit="short",
                empty="archiving is off",
                steps=rising(of("PostgreSQLArchiveStalled", "files")),
                alerts=("PostgreSQLArchiveStalled",),
                width=8,
            ),
        ),
    )


def _archiving() -> Row:
    return Row(
        "Is WAL archived, and for how long has it not been?",
        (
            timeseries(
                "archived",
                "Files archived and attempts that failed, in 15 minutes",
                "Failures without a success mean that the archive is full, gone or refuses; the server log says why.",
                Query(
                    "sum by (instance) (increase(pg_archiver_archived_total{<server>}[15m]))", "{{instance}} archived"
                ),
                Query(
                    "sum by (instance) (increase(pg_archiver_failed_total{<server>}[15m]))",
                    "{{instance}} failed",
                    "limit",
                ),
                unit="short",
                empty=DOWN,
                alerts=("PostgreSQLArchiveFailing",),
                width=8,
            ),
            timeseries(
                "backlog-ages",
                "Oldest file that waits",
                "Nothing written since then can be recovered from a backup.",
                Query(
                    f"max by (instance) (pg_archiver_ready_oldest_age_seconds{{<server>}} and {ARCHIVES})",
                    "{{instance}}",
                ),
                unit="s",
                empty="archiving is off",
                steps=BACKLOG,
                alerts=("PostgreSQLArchiveBacklogOld",),
                width=8,
            ),
            table(
                "archivers",
                "Archivers",
                "Each server that archives: what waits, and when it last succeeded and failed.",
                Column("Waiting", f"max by (instance) (pg_archiver_ready_bytes{{<server>}} and {ARCHIVES})", "bytes"),
                Column(
                    "Archived last",
                    f"max by (instance) (1000 * pg_archiver_last_archived_timestamp_seconds{{<server>}} and {ARCHIVES})",
                    "dateTimeFromNow",
                ),
                Column(
                    "Failed last",
                    f"max by (instance) (1000 * pg_archiver_last_failed_timestamp_seconds{{<server>}} and {ARCHIVES})",
                    "dateTimeFromNow",
                ),
                labels={"instance": "Instance"},
                empty="archiving is off",
                ranked=True,
                runbooks=("PostgreSQLArchiveFailing",),
                width=8,
            ),
        ),
        collapsed=True,
    )


def _wal() -> Row:
    return Row(
        "What is WAL made of, and who writes it?",
        (
            timeseries(
                "full-pages",
                "Pages written whole",
                "Pages a second that went to WAL whole, each the first time it changes after a checkpoint. They rise after "
                "each checkpoint; high all the time, checkpoints come too often.",
                _each("pg_wal_full_page_images_total"),
                unit="ops",
                empty=OLD,
                width=8,
            ),
            timeseries(
                "records",
                "Records",
                "WAL records a second: how much is changed.",
                _each("pg_wal_records_total"),
                unit="ops",
                empty=OLD,
                width=8,
            ),
            timeseries(
                "record-bytes",
                "Bytes a record",
                "Mean size of a record. A jump while records stay is pages written whole, or large rows.",
                Query(
                    """
                    sum by (instance) (rate(pg_wal_bytes_total{<server>}[$__rate_interval]))
                      / (sum by (instance) (rate(pg_wal_records_total{<server>}[$__rate_interval])) > 0)
                    """,
                    "{{instance}}",
                ),
                unit="bytes",
                empty=OLD,
                width=8,
            ),
            timeseries(
                "buffers-full",
                "WAL buffers full",
                "Times a second that a session had to write WAL itself because wal_buffers were full. A steady rate: raise them.",
                _each("pg_wal_buffers_full_total"),
                unit="ops",
                empty=OLD,
                width=8,
            ),
            timeseries(
                "flushes",
                "Flushes of WAL",
                "Flushes a second. Commits wait for them, and those at the same time share one.",
                _each("pg_wal_syncs_total"),
                unit="ops",
                empty=OLD,
                width=8,
            ),
            timeseries(
                "flush-time",
                "Time of a flush of WAL",
                "How long a flush of WAL takes, which is what a commit waits for the disk; 0 while nothing is flushed.",
                Query(
                    """
                    sum by (instance) (rate(pg_wal_sync_seconds_total{<server>}[$__rate_interval]))
                      / (sum by (instance) (rate(pg_wal_syncs_total{<server>}[$__rate_interval])) > 0)
                    or
                    0 * sum by (instance) (rate(pg_wal_sync_seconds_total{<server>}[$__rate_interval]))
                    """,
                    "{{instance}}",
                ),
                unit="s",
                empty="track_wal_io_timing is off, or not known before PostgreSQL 14",
                width=8,
            ),
            table(
                "wal-writers",
                "Statements that write most WAL",
                "Bytes of WAL that each statement wrote in the time shown, and the pages that it wrote whole.",
                Column("WAL", _written("pg_statements_wal_bytes_total"), "bytes"),
                Column("Pages whole", _written("pg_statements_wal_fpi_total")),
                Column("Calls", _written("pg_statements_calls_total")),
                labels=LABELS,
                beside=with_text,
                label_links={
                    "queryid": (
                        to(
                            "pg-query-detail",
                            "This statement",
                            instance="instance",
                            datname="datname",
                            queryid="queryid",
                        ),
                    )
                },
                empty="no pg_stat_statements, or nothing is written",
                ranked=True,
            ),
        ),
        collapsed=True,
    )


def _each(metric: str) -> Query:
    return Query(f"sum by (instance) (rate({metric}{{<server>}}[$__rate_interval]))", "{{instance}}")


def _written(metric: str) -> str:
    named = '{<database>, queryid!~"other|pgvigil"}'
    return f"sum by (instance, datname, usename, queryid) (increase({metric}{named}[$__range]))"


def _checkpoints() -> Row:
    return Row(
        "Do checkpoints come when they should, and what do they cost?",
        (
            timeseries(
                "checkpoint-causes",
                "Checkpoints in an hour, by cause",
                "By time, as they should be, and requested: because max_wal_size was reached, or by command or backup.",
                Query(
                    "sum by (instance) (increase(pg_checkpointer_timed_total{<server>}[1h]))", "{{instance}} by time"
                ),
                Query(
                    "sum by (instance) (increase(pg_checkpointer_requested_total{<server>}[1h]))",
                    "{{instance}} requested",
                ),
                unit="short",
                empty=DOWN,
                steps=rising(of("PostgreSQLCheckpointsTooFrequent", "checkpoints")),
                alerts=("PostgreSQLCheckpointsTooFrequent",),
            ),
            timeseries(
                "checkpoint-ages",
                "Time since the last checkpoint, in its timeouts",
                "Time since the last complete checkpoint began, in multiples of checkpoint_timeout. An idle server makes none.",
                Query(
                    f"""
                    max by (instance) (
                      {SINCE} / on (job, instance) pg_settings_checkpoint_timeout_seconds{{<server>}}
                    )
                    """,
                    "{{instance}}",
                ),
                unit="short",
                empty=DOWN,
                steps=OVERDUE,
                alerts=("PostgreSQLCheckpointOverdue",),
            ),
            timeseries(
                "redo-past",
                "WAL to replay after a crash",
                "WAL since the last checkpoint began. At about half of max_wal_size, in red, a checkpoint comes by itself.",
                Query("sum by (instance) (pg_checkpointer_redo_bytes{<server>})", "{{instance}}"),
                Query(
                    "sum by (instance) (pg_settings_max_wal_size_bytes{<server>})", "{{instance}} max_wal_size", "limit"
                ),
                unit="bytes",
                empty=DOWN,
                width=8,
            ),
            timeseries(
                "checkpoint-time",
                "Time that checkpoints write and flush",
                "Share of the time: writing is spread on purpose; flushing is felt by all, and rises when the disk cannot keep up.",
                Query(
                    "sum by (instance) (rate(pg_checkpointer_write_seconds_total{<server>}[$__rate_interval]))",
                    "{{instance}} writing",
                ),
                Query(
                    "sum by (instance) (rate(pg_checkpointer_sync_seconds_total{<server>}[$__rate_interval]))",
                    "{{instance}} flushing",
                ),
                unit="percentunit",
                empty=DOWN,
                width=8,
            ),
            timeseries(
                "writers",
                "Who writes changed buffers",
                "Bytes a second. What sessions write themselves they wait for: the checkpointer and the background writer should "
                "have written it before.",
                Query(
                    "<block> * sum(rate(pg_checkpointer_buffers_written_total{<server>}[$__rate_interval]))",
                    "checkpointer",
                ),
                Query(
                    "<block> * sum(rate(pg_stat_bgwriter_buffers_clean_total{<server>}[$__rate_interval]))",
                    "background writer",
                ),
                Query(
                    """
                    sum(
                      sum by (instance) (
                        rate(
                          pg_io_write_bytes_total{<server>, object="relation", backend_type="client backend"}[$__rate_interval]
                        )
                      )
                      or
                      <block> * sum by (instance) (rate(pg_stat_bgwriter_buffers_backend_total{<server>}[$__rate_interval]))
                    )
                    """,
                    "sessions",
                ),
                unit="Bps",
                empty=DOWN,
                stack="normal",
                width=8,
            ),
        ),
        collapsed=True,
    )


def _io(metric: str) -> str:
    return f"{IO} (increase({metric}{{<server>}}[$__range]))"


def _read_and_written() -> str:
    """Both together; some only read and some only write. A label of their own keeps the one from hiding the other."""
    read, written = (
        f'label_replace(increase(pg_io_{way}_bytes_total{{<server>}}[$__range]), "way", "{way}", "", "")'
        for way in ("read", "write")
    )
    return f"{IO} ({read} or {written})"


def _disk() -> Row:
    return Row(
        "Who reads and writes, and how long does the disk take?",
        (
            timeseries(
                "reads-by",
                "Reads by who reads, and why",
                "Bytes a second from disk or the system's cache. bulkread is a scan of a large table, vacuum is a vacuum's.",
                _by_process("pg_io_read_bytes_total"),
                unit="Bps",
                empty=OLDER,
                stack="normal",
            ),
            timeseries(
                "writes-by",
                "Writes by who writes, and why",
                "Bytes a second handed to the operating system. Sessions (client backend) that write have to wait for it.",
                _by_process("pg_io_write_bytes_total"),
                unit="Bps",
                empty=OLDER,
                stack="normal",
            ),
            timeseries(
                "read-latency",
                "Time of a read",
                "How long a read takes, by server and process. A rise means a slow disk; tens of microseconds are the "
                "system's cache.",
                _time_of("read"),
                unit="s",
                empty=UNTIMED,
                width=8,
            ),
            timeseries(
                "write-latency",
                "Time of a write",
                "How long a write takes, by server and process; 0 while nothing is written.",
                _time_of("write"),
                unit="s",
                empty=UNTIMED,
                width=8,
            ),
            timeseries(
                "fsync-latency",
                "Time of a flush of a table",
                "How long a flush of a table's file takes, by server and process; 0 while none is flushed. Those of WAL are above.",
                _time_of("fsync"),
                unit="s",
                empty=UNTIMED,
                width=8,
            ),
            timeseries(
                "database-reads",
                "Sessions that wait for reads, by database",
                "Sessions that wait for blocks to be read, on average, on every version of PostgreSQL.",
                Query(
                    """
                    sum by (instance, datname) (rate(pg_database_block_read_seconds_total{<database>}[$__rate_interval])) > 0
                    """,
                    "{{datname}} on {{instance}}",
                ),
                unit="short",
                empty="track_io_timing is off, or nothing is read",
                links=(of_series("pg-queries", "Statements", instance="instance", datname="datname"),),
                width=8,
            ),
            table(
                "io-by",
                "All of it",
                "What each kind of process did to what, and why, in the time shown.",
                Column("Read and written", _read_and_written(), "bytes"),
                Column("Read", _io("pg_io_read_bytes_total"), "bytes"),
                Column("Written", _io("pg_io_write_bytes_total"), "bytes"),
                Column("Time reading", _io("pg_io_read_seconds_total"), "s"),
                Column("Time writing", _io("pg_io_write_seconds_total"), "s"),
                labels={"instance": "Instance", "backend_type": "Process", "object": "Object", "context": "Context"},
                empty=OLDER,
                ranked=True,
                width=16,
            ),
        ),
        collapsed=True,
    )


def _by_process(metric: str) -> Query:
    by = "sum by (backend_type, object, context)"
    return Query(
        leading(
            f"{by} (rate({metric}{{<server>}}[$__rate_interval]))",
            f"{by} (increase({metric}{{<server>}}[$__range] @ end())) > 0",
        ),
        "{{backend_type}}, {{object}} {{context}}",
    )


def _time_of(what: str) -> Query:
    by = "sum by (instance, backend_type)"
    seconds, count = f"pg_io_{what}_seconds_total", f"pg_io_{what}s_total"
    return Query(
        f"""
        {by} (rate({seconds}{{<server>, object!="wal"}}[$__rate_interval]))
          / ({by} (rate({count}{{<server>, object!="wal"}}[$__rate_interval])) > 0)
        or
        0 * {by} (rate({seconds}{{<server>, object!="wal"}}[$__rate_interval]))
        """,
        "{{backend_type}} on {{instance}}",
    )


def _memory() -> Row:
    return Row(
        "Are shared buffers large enough?",
        (
            timeseries(
                "evicted",
                "Thrown out of shared buffers",
                "Bytes a second of blocks thrown out to make room, by ordinary reads. High all the time, what is worked on does "
                "not fit.",
                Query(
                    '<block> * sum by (instance) (rate(pg_io_evictions_total{<server>, context="normal"}[$__rate_interval]))',
                    "{{instance}}",
                ),
                unit="Bps",
                empty=OLDER,
                width=8,
            ),
            timeseries(
                "allocated",
                "Allocated",
                "Bytes a second of buffers allocated, mostly to read blocks into: how fast shared buffers turn over.",
                Query(
                    "<block> * sum by (instance) (rate(pg_stat_bgwriter_buffers_alloc_total{<server>}[$__rate_interval]))",
                    "{{instance}}",
                ),
                unit="Bps",
                empty=DOWN,
                width=8,
            ),
            timeseries(
                "maxwritten",
                "Rounds that the background writer cut short",
                "Times a second that it stopped because it had written bgwriter_lru_maxpages. A steady rate: the limit is too low.",
                _each("pg_stat_bgwriter_maxwritten_clean_total"),
                unit="ops",
                empty=DOWN,
                width=8,
            ),
            timeseries(
                "buffers",
                "What shared buffers hold",
                "Bytes that hold a block, that hold nothing, and whose block has to be written yet.",
                Query("<block> * sum by (instance) (pg_buffer_cache_used_buffers{<server>})", "{{instance}} used"),
                Query("<block> * sum by (instance) (pg_buffer_cache_unused_buffers{<server>})", "{{instance}} unused"),
                Query(
                    "<block> * sum by (instance) (pg_buffer_cache_dirty_buffers{<server>})",
                    "{{instance}} to be written",
                ),
                unit="bytes",
                empty="the extension pg_buffercache is not there, or older than PostgreSQL 16",
            ),
            timeseries(
                "usage",
                "Mean usage of a buffer",
                "From 0 to 5. Near 5 nearly all buffers are used again and again, and memory may be short.",
                Query("max by (instance) (pg_buffer_cache_usage_count_mean{<server>})", "{{instance}}"),
                unit="short",
                empty="the extension pg_buffercache is not there, or older than PostgreSQL 16",
                most=5,
            ),
            timeseries(
                "buffers-by-database",
                "Shared buffers by database",
                "Where the collector buffer_cache_databases is switched on. A database that pushes out the others, such as for a report.",
                Query(
                    "sum by (instance, datname) (pg_buffer_cache_database_bytes{<server>})",
                    "{{datname}} on {{instance}}",
                ),
                unit="bytes",
                empty="buffer_cache_databases is off",
                stack="normal",
                width=12,
            ),
            table(
                "buffers-by-relation",
                "Shared buffers by relation",
                "Where the collector buffer_cache_relations is switched on. One that nobody needs so much of pushes out what others read.",
                Column("Held", f"max by ({BY_RELATION}) (pg_buffer_cache_relation_bytes{{<server>}})", "bytes"),
                Column(
                    "To be written",
                    f"max by ({BY_RELATION}) (pg_buffer_cache_relation_dirty_bytes{{<server>}})",
                    "bytes",
                ),
                Column(
                    "Mean usage",
                    f"max by ({BY_RELATION}) (pg_buffer_cache_relation_usage_count_mean{{<server>}})",
                    "short",
                ),
                labels={
                    "instance": "Instance",
                    "datname": "Database",
                    "schemaname": "Schema",
                    "relname": "Relation",
                    "relkind": "Kind",
                },
                empty="buffer_cache_relations is off",
                ranked=True,
                width=12,
            ),
        ),
        collapsed=True,
    )


def _small_caches() -> Row:
    by = "sum by (instance, name)"
    return Row(
        "Are the small caches of transactions large enough?",
        (
            timeseries(
                "slru-reads",
                "Pages read because they were not cached",
                "A steady rate means that sessions wait for it. subtransaction: many savepoints beside a long transaction; "
                "multixact_*: rows locked by many at once.",
                Query(
                    leading(
                        f"{by} (rate(pg_slru_blocks_read_total{{<server>}}[$__rate_interval]))",
                        f"{by} (increase(pg_slru_blocks_read_total{{<server>}}[$__range] @ end())) > 0",
                    ),
                    "{{name}} on {{instance}}",
                ),
                unit="ops",
                empty="nothing was read",
            ),
            timeseries(
                "slru-hits",
                "Pages looked up",
                "Pages looked up a second, found or not: how much each cache is used.",
                Query(
                    leading(
                        f"{by} (rate(pg_slru_blocks_hit_total{{<server>}}[$__rate_interval]))",
                        f"{by} (increase(pg_slru_blocks_hit_total{{<server>}}[$__range] @ end())) > 0",
                    ),
                    "{{name}} on {{instance}}",
                ),
                unit="ops",
                empty="nothing was looked up",
            ),
        ),
        collapsed=True,
    )
