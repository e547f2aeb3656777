"""The declarative format: what a collector file may say."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from exporter.catalog.by_version import OLDEST, ByVersion, Version, VersionField, expanded, faults, newest
from exporter.catalog.sources import SOURCES, SourceName, tables, with_tables
from exporter.catalog.transforms import TransformName
from exporter.kinds import Kind
from exporter.validation_errors import shaped

NameKind = Literal["database", "role", "relation"]


def _name(pattern: str, what: str) -> AfterValidator:
    return shaped(pattern, f"{what}: it must match {pattern}")


MetricName = Annotated[str, _name(r"[a-zA-Z_:][a-zA-Z0-9_:]*", "metric name")]


LabelName = Annotated[str, _name(r"[a-zA-Z_][a-zA-Z0-9_]*", "label name")]


FragmentName = Annotated[str, _name(r"[a-z][a-z0-9_]*", "fragment name")]


STATEMENT_KEY = frozenset({"userid", "dbid", "queryid", "toplevel", "generation"})
"""The columns of pg_stat_statements that tell statements apart; `generation` counts its resets where it can."""


_OF_POSTGRESQL = ("extension", "names", "scope", "role", "search_path", "sources")

COMPUTED = "pgvigil_value_"
"""Prefix of a column that a translated query computes; the rest of its name is the source column."""


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Metric(_Fact):
    """One family of samples: its name, its meaning, and the column its values come from."""

    name: MetricName
    type: Literal["counter", "gauge", "untyped"]
    help: str = Field(min_length=1)
    column: str = ""
    labels: Annotated[tuple[LabelName, ...], Field(strict=False)] = ()
    since: VersionField | None = None
    until: VersionField | None = None
    also: MetricName | None = None
    total: MetricName | None = None
    sum: bool = False
    """True if the column sums members that may be dropped; a drop does not lower the counter."""
    rest: bool | str = False
    """True to sum the rows that a limit cuts, or the column of `sql` to sum if `column` is one of `details`."""

    @model_validator(mode="after")
    def _total_is_for_counters(self) -> Self:
        if (self.type == "counter") != self.name.endswith("_total") and self.type != "untyped":
            raise ValueError(f"{self.name}: a counter's name ends with _total, and no other's does")
        if self.sum and (self.type != "counter" or self.rest):
            raise ValueError(f"{self.name}: sum is for a counter without rest")
        return self

    def exists_in(self, version: Version) -> bool:
        """Return whether this server or extension version has the column."""
        return (self.since or (0,)) <= version and (self.until is None or version < self.until)

    @property
    def rest_column(self) -> str | None:
        """The column whose sum over all rows, less the rows shown, is the rest; None for a metric without one."""
        return self.rest if isinstance(self.rest, str) else self.column if self.rest else None

    def twin(self) -> "Metric | None":
        """Build the metric under postgres_exporter's name; one that breaks the counters' rule is untyped."""
        if self.also is None:
            return None
        lawful = (self.type == "counter") == self.also.endswith("_total")
        return self.model_copy(update={"name": self.also, "type": self.type if lawful else "untyped", "also": None})

    def in_total(self) -> "Metric | None":
        """Build the metric that adds up a ledger's members and remainder."""
        if self.total is None:
            return None
        text = f"Sum of {self.name} over all its series, those in `other` included."
        return Metric(
            name=self.total, type="counter", help=text, column=self.column, since=self.since, until=self.until
        )


class Changes(_Fact):
    """Columns that tell which rows of a ledger have changed: only those are read whole."""

    columns: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    """Columns of metrics, at least one of which differs when any other does."""
    by: str
    """The column of the key, an integer, by which the rows that have changed are asked for."""


class LedgerKey(_Fact):
    """Key and rank of a ledger: counters that add up rows that come and go."""

    key: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    rank: str
    changes: Changes | None = None

    def fault(self, metrics: Iterable[Metric]) -> str | None:
        """Say what is wrong with the columns that it names; None when they fit the metrics."""
        always = {metric.column for metric in metrics if metric.since is None and metric.until is None}
        if self.changes and self.changes.by not in self.key:
            return f"ledger.changes.by: {self.changes.by} is not in the key; name a column that is"
        for column in self.changes.columns if self.changes else ():
            if column not in always:
                return (
                    f"ledger.changes.columns: {column} is not the column of a metric that every version has; name one"
                )
        return None


class Batches(_Fact):
    """Batches of a query that may lock only so many relations at once: one statement after another.

    Its $1 is the last value of `by` so far, 0 at first; its $2 is `rows`. It returns its rows in the order of `by`, and
    fewer than `rows` in the last batch only. A row whose `rank` is NULL is not kept.
    """

    by: str
    rows: Annotated[int, Field(gt=0)]
    rank: str


class Collector(_Fact):
    """One subject: the query for each version, and the metrics its rows become."""

    name: Annotated[str, _name(r"[a-z][a-z0-9_]*", "collector name")]
    help: str = Field(min_length=1)
    kind: Kind = "postgresql"
    sources: Annotated[tuple[SourceName, ...], Field(strict=False)] = ()
    sql: ByVersion
    fragments: dict[FragmentName, ByVersion] = {}
    metrics: Annotated[tuple[Metric, ...], Field(strict=False, min_length=1)]
    labels: Annotated[tuple[LabelName, ...], Field(strict=False)] = ()
    names: dict[LabelName, NameKind] = {}
    extension: str | None = None
    optional: bool = False
    scope: Literal["server", "database"] = "server"
    needs_tables: bool = False
    databases: Annotated[tuple[str, ...], Field(strict=False)] = ()
    role: Literal["any", "primary", "standby"] = "any"
    vital: bool = False
    timeout: Annotated[float, Field(ge=0.001, le=3600, strict=False, allow_inf_nan=False)] = 5
    cache: Annotated[float, Field(ge=0, strict=False, allow_inf_nan=False)] = 0
    fresh: bool = True
    enabled: bool = True
    limit: Annotated[int, Field(gt=0)] | None = None
    details: ByVersion | None = None
    table: str | None = None
    """The column with the OID of a row's table, by which the user's patterns of tables choose rows."""
    ledger: LedgerKey | None = None
    batches: Batches | None = None
    remember: Annotated[tuple[str, ...], Field(strict=False)] = ()
    statements: bool = False
    statement_texts: Annotated[tuple[LabelName, ...], Field(strict=False)] = ()
    """Labels that are texts of statements; their columns may be bytea."""
    transform: TransformName | None = None
    last_good: bool = True
    search_path: Literal["pg_catalog", "role"] = "pg_catalog"
    lenient: bool = False
    joins: bool = False
    _text_length: int = PrivateAttr(default=160)

    @model_validator(mode="before")
    @classmethod
    def _extension_versions_are_quoted(cls, data: Any) -> Any:
        """An extension's `1.10` and `1.1` differ only between quotes, so numbers are refused as its keys."""
        if isinstance(data, dict) and data.get("extension"):
            fragments = data.get("fragments")
            maps = {key: data.get(key) for key in ("sql", "details")}
            if isinstance(fragments, dict):
                maps |= {f"fragments.{name}": texts for name, texts in fragments.items()}
            for place, texts in maps.items():
                bare = [key for key in texts if not isinstance(key, str)] if isinstance(texts, dict) else []
                if bare:
                    raise ValueError(f'{place}: version {bare[0]} of an extension must be quoted: "{bare[0]}"')
        return data

    @model_validator(mode="after")
    def _fragments_fit(self) -> Self:
        oldest = (OLDEST,) if self.kind == "postgresql" and not self.extension else (0,)
        start = next((max(first, oldest) for first, sql in self.sql.items() if sql is not None), oldest)
        queries = {"sql": self.sql} | ({"details": self.details} if self.details else {})
        if fault := next(faults(queries, self.fragments, start, with_schema=bool(self.extension)), None):
            raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for metric in self.metrics:
            if not metric.column:
                raise ValueError(f"{metric.name}: names no column")
            if metric.total and not self.ledger:
                raise ValueError(f"{metric.name}: total: only a collector with a ledger has totals")
        if not self.fresh and not self.cache:
            raise ValueError("fresh: without a cache each scrape reads the result anew")
        return self

    @model_validator(mode="after")
    def _fits_its_scope(self) -> Self:
        if "datname" in self.all_labels and self.scope == "database":
            raise ValueError("labels: datname comes by itself with scope: database")
        for key in ("needs_tables", "databases", "table"):
            if getattr(self, key) and self.scope != "database":
                raise ValueError(f"{key}: only with scope: database")
        return self

    @model_validator(mode="after")
    def _ledger_fits(self) -> Self:
        if self.ledger and (self.limit is None or self.scope == "database" or self.metric_labels):
            raise ValueError("ledger: needs a limit, scope: server, and the same labels for all metrics")
        if self.ledger and (fault := self.ledger.fault(self.metrics)):
            raise ValueError(fault)
        if self.statements and not (self.ledger and {*self.ledger.key} >= STATEMENT_KEY):
            raise ValueError(f"statements: needs a ledger whose key has {', '.join(sorted(STATEMENT_KEY))}")
        if self.details and (self.limit is None or self.ledger or self.batches):
            raise ValueError("details: needs a limit, which decides what rows they are asked for, and no ledger")
        if not self.details and any(isinstance(metric.rest, str) for metric in self.metrics):
            raise ValueError("rest: names a column of `sql` only beside details, whose own columns have no sum")
        if self.transform and (self.scope == "database" or self.ledger or self.details):
            raise ValueError("transform: needs scope: server, no ledger and no details")
        return self

    @model_validator(mode="after")
    def _sources_fit(self) -> Self:
        if self.sources and self.extension:
            raise ValueError("sources: not with an extension, by whose version its queries are chosen")
        if len(set(self.sources)) < len(self.sources):
            raise ValueError("sources: one is named twice")
        return self

    @model_validator(mode="after")
    def _parameters_fit(self) -> Self:
        if self.batches and (self.limit is None or self.ledger or self.table or any(m.rest for m in self.metrics)):
            raise ValueError("batches: needs a limit, and neither a ledger nor a table nor a metric with rest")
        if self.remember and (self.batches or self.limit is not None):
            raise ValueError("remember: only the first row is remembered, so it takes neither batches nor a limit")
        return self

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        """PgBouncer's console has one set of answers for the whole of it, without databases to look into."""
        if self.kind == "pgbouncer":
            for key in (*_OF_POSTGRESQL, "details", "batches", "remember"):
                if getattr(self, key) != type(self).model_fields[key].get_default():
                    raise ValueError(f"{key}: not with kind: pgbouncer")
            if self.ledger and self.ledger.changes:
                raise ValueError("ledger.changes: not with kind: pgbouncer")
        return self

    @model_validator(mode="after")
    def _labels_are_distinct_and_there(self) -> Self:
        for metric in self.metrics:
            labels = self.labels_of(metric)
            if len(set(labels)) < len(labels):
                raise ValueError(f"{metric.name}: a label is named twice")
        for key, labels in (("names", tuple(self.names)), ("statement_texts", self.statement_texts)):
            if unknown := next((label for label in labels if label not in self.all_labels), None):
                raise ValueError(f"{key}: {unknown} is not among the labels")
        return self

    @property
    def text_length(self) -> int:
        """Upper bound on the characters of `statement_texts`; the settings decide it, not the file."""
        return self._text_length

    @property
    def metric_labels(self) -> tuple[str, ...]:
        """The labels that only some of the metrics have."""
        return tuple(dict.fromkeys(label for metric in self.metrics for label in metric.labels))

    @property
    def all_labels(self) -> tuple[str, ...]:
        """Every column of the query that is a label."""
        return self.labels + self.metric_labels

    def labels_of(self, metric: Metric) -> tuple[str, ...]:
        """Name the labels of one metric's samples, in the order the page has them."""
        by_scope = ("datname",) if self.scope == "database" else ()
        return by_scope + self.labels + metric.labels

    def with_texts(self, length: int) -> "Collector":
        """Shorten the texts of statements to this length; for 0, leave out the metrics that have one."""
        if not self.statement_texts:
            return self
        kept = tuple(each for each in self.metrics if length or not {*each.labels} & {*self.statement_texts})
        copy = self.model_copy(update={"metrics": kept})
        copy._text_length = length  # noqa: SLF001  # of its own class
        return copy

    def sql_for(self, version: Version) -> str | None:
        """Choose the newest query that is not newer than this version, with its sources; None where there is none."""
        sql = self.part_for(version)
        return sql and with_tables(sql, tables(self.sources, version))

    def part_for(self, version: Version) -> str | None:
        """Choose the query as `sql_for` does, without the sources that it reads."""
        return self._query(self.sql, version)

    def details_for(self, version: Version) -> str | None:
        """Choose the query for what only the rows that are kept need; None where there is none."""
        return self._query(self.details or {}, version)

    def _query(self, queries: ByVersion, version: Version) -> str | None:
        sql = newest(queries, version)
        return sql and expanded(sql, self.fragments, version)

    def queries(self) -> Iterator[str]:
        """List what `sql` and `details` become, version by version."""
        texts = (self.sql, self.details or {}, *self.fragments.values(), *(SOURCES[name] for name in self.sources))
        for version in sorted({first for each in texts for first in each}):
            yield from filter(None, (self.sql_for(version), self.details_for(version)))

    def metrics_for(self, version: Version) -> tuple[Metric, ...]:
        """List the metrics that this version has."""
        return tuple(metric for metric in self.metrics if metric.exists_in(version))


@dataclass(frozen=True)
class Catalog:
    """All collectors: built-in and own are alike here."""

    collectors: tuple[Collector, ...]
    notes: tuple[str, ...] = ()
    """Notes for the user on files that were translated."""

    def __iter__(self) -> Iterator[Collector]:
        return iter(self.collectors)

    def of_kind(self, kind: Kind) -> "Catalog":
        """Leave out the collectors of other kinds of targets."""
        return replace(self, collectors=tuple(collector for collector in self if collector.kind == kind))
