"""The declarative format: what a collector file may say, and `load`, which reads folders of them."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from exporter import queries
from exporter.documents import StrictLoader, explain
from exporter.errors import CatalogError

BUILT_IN = Path(__file__).parent / "collectors"

COMPATIBILITY = BUILT_IN / "compatibility"
"""Collectors that are loaded with compatibility_names only: what postgres_exporter shows with other labels or units."""

_OUR_OWN = (
    "pg_up",
    "pg_up_reason",
    "pgbouncer_up",
    "pgbouncer_up_reason",
    "pg_session_sampled_seconds",
    "pg_session_sampling_seconds",
    "pg_lock_wait_sampled_seconds",
    "pg_lock_wait_longest_recent_seconds",
)
"""Families that come from code."""

_OUR_PREFIXES = ("pgvigil_", "process_", "python_", "pg_exporter_", "pg_scrape_collector_")
"""What the names of all others that come from code begin with."""

Version = tuple[int, ...]
"""A server's or an extension's version, as numbers: (17,), (1, 11)."""

NameKind = Literal["database", "role", "relation"]

Kind = Literal["postgresql", "pgbouncer"]
"""What a target is."""

PRODUCTS: Mapping[Kind, str] = {"postgresql": "PostgreSQL", "pgbouncer": "PgBouncer"}
"""What people call it."""


def _version(value: object) -> Version:
    """Read `17` or `"1.11"`; a bare 1.10 is the number 1.1, so it has to be quoted."""
    if isinstance(value, float):
        raise ValueError(f"version {value} must be quoted: YAML reads 1.10 as the number 1.1")
    if isinstance(value, bool) or not re.fullmatch(r"\d+(\.\d+)*", str(value)):
        raise ValueError(f'{value!r} is no version: write 17 or "1.11"')
    return tuple(int(part) for part in str(value).split("."))


def _name(pattern: str, what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{value!r} is no {what}: it must match {pattern}")
        return value

    return AfterValidator(check)


def _queries(value: object) -> object:
    """`sql` as pairs (first version, query), oldest first; one query alone is for every version."""
    if isinstance(value, str):
        return (((0,), value),)
    if not isinstance(value, Mapping) or not value:
        raise ValueError("expected a query, or a map of first version to query")
    return tuple(sorted((_version(key), query) for key, query in value.items()))


VersionField = Annotated[Version, BeforeValidator(_version)]
MetricName = Annotated[str, _name(r"[a-zA-Z_:][a-zA-Z0-9_:]*", "metric name")]
LabelName = Annotated[str, _name(r"[a-zA-Z_][a-zA-Z0-9_]*", "label name")]
Queries = Annotated[tuple[tuple[Version, str | None], ...], BeforeValidator(_queries)]


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
    rest: bool = False

    @model_validator(mode="after")
    def _total_is_for_counters(self) -> Self:
        if (self.type == "counter") != self.name.endswith("_total") and self.type != "untyped":
            raise ValueError(f"{self.name}: a counter's name ends with _total, and no other's does")
        return self

    def exists_in(self, version: Version) -> bool:
        """Tell whether a server or extension of this version has the column."""
        return (self.since or (0,)) <= version and (self.until is None or version < self.until)

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


class LedgerKey(_Fact):
    """How a collector whose rows come and go is kept as counters that add up."""

    key: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    rank: str


class Collector(_Fact):
    """One subject: the query for each version, and the metrics its rows become."""

    name: Annotated[str, _name(r"[a-z][a-z0-9_]*", "collector name")]
    help: str = Field(min_length=1)
    kind: Kind = "postgresql"
    sql: Queries
    metrics: Annotated[tuple[Metric, ...], Field(strict=False, min_length=1)]
    labels: Annotated[tuple[LabelName, ...], Field(strict=False)] = ()
    names: dict[LabelName, NameKind] = {}
    extension: str | None = None
    optional: bool = False
    scope: Literal["server", "database"] = "server"
    needs_tables: bool = False
    role: Literal["any", "primary", "standby"] = "any"
    vital: bool = False
    timeout: Annotated[float, Field(gt=0, strict=False)] = 5
    cache: Annotated[float, Field(ge=0, strict=False)] = 0
    enabled: bool = True
    limit: Annotated[int, Field(gt=0)] | None = None
    details: Queries | None = None
    ledger: LedgerKey | None = None
    search_path: Literal["pg_catalog", "role"] = "pg_catalog"
    lenient: bool = False

    @model_validator(mode="before")
    @classmethod
    def _extension_versions_are_quoted(cls, data: Any) -> Any:
        """An extension's `1.10` and `1.1` differ only between quotes, so numbers are refused as its keys."""
        if isinstance(data, dict) and data.get("extension") and isinstance(data.get("sql"), dict):
            bare = [key for key in data["sql"] if not isinstance(key, str)]
            if bare:
                raise ValueError(f'sql: version {bare[0]} of an extension must be quoted: "{bare[0]}"')
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for metric in self.metrics:
            if not metric.column:
                raise ValueError(f"{metric.name}: names no column")
            if metric.total and not self.ledger:
                raise ValueError(f"{metric.name}: total: only a collector with a ledger has totals")
        if "datname" in self.all_labels and self.scope == "database":
            raise ValueError("labels: datname comes by itself with scope: database")
        if self.needs_tables and self.scope != "database":
            raise ValueError("needs_tables: only with scope: database")
        if self.ledger and (self.limit is None or self.scope == "database" or self.metric_labels):
            raise ValueError("ledger: needs a limit, scope: server, and the same labels for all metrics")
        if self.details and (self.limit is None or self.ledger):
            raise ValueError("details: needs a limit, which decides what rows they are asked for, and no ledger")
        return self

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        """PgBouncer's console has one set of answers for the whole of it, without databases to look into."""
        if self.kind == "pgbouncer":
            for key in ("extension", "names", "scope", "role", "search_path", "details"):
                if getattr(self, key) != type(self).model_fields[key].get_default():
                    raise ValueError(f"{key}: not with kind: pgbouncer")
        return self

    @model_validator(mode="after")
    def _labels_are_distinct_and_there(self) -> Self:
        for metric in self.metrics:
            labels = self.labels_of(metric)
            if len(set(labels)) < len(labels):
                raise ValueError(f"{metric.name}: a label is named twice")
        for label in self.names:
            if label not in self.all_labels:
                raise ValueError(f"names: {label} is not among the labels")
        return self

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

    def sql_for(self, version: Version) -> str | None:
        """Choose the newest query that is not newer than this version; None where there is none."""
        return _newest(self.sql, version)

    def details_for(self, version: Version) -> str | None:
        """Choose the query for what only the rows that are kept need; None where there is none."""
        return _newest(self.details or (), version)

    def metrics_for(self, version: Version) -> tuple[Metric, ...]:
        """List the metrics that this version has."""
        return tuple(metric for metric in self.metrics if metric.exists_in(version))


def _newest(queries: Iterable[tuple[Version, str | None]], version: Version) -> str | None:
    fitting = [sql for first, sql in queries if first <= version]
    return fitting[-1] if fitting else None


@dataclass(frozen=True)
class Catalog:
    """All collectors: built-in and own are alike here."""

    collectors: tuple[Collector, ...]
    notes: tuple[str, ...] = ()
    """What a person should know of files that had to be translated."""

    def __iter__(self) -> Iterator[Collector]:
        return iter(self.collectors)

    def of_kind(self, kind: Kind) -> "Catalog":
        """Leave out the collectors of other kinds of targets."""
        return replace(self, collectors=tuple(collector for collector in self if collector.kind == kind))

    def named(self, name: str) -> Collector:
        """Find one collector; KeyError when there is none of that name."""
        return {collector.name: collector for collector in self}[name]


def _is_enabled(collector: Collector) -> bool:
    return collector.enabled


def load(*folders: Path, runs: Callable[[Collector], bool] = _is_enabled) -> Catalog:
    """Read every `*.yaml` of the folders; the first thing wrong is a CatalogError with file, place and remedy.

    Args:
        folders: where the files are.
        runs: tells whether a collector is switched on; what is off leaves its names to postgres_exporter's queries.

    """
    files = [_read(file) for folder in folders for file in _files(folder)]
    read = [(file.path, collector) for file in files if not file.translated for collector in file.collectors]
    names = [(path, name) for path, collector in read for name in _names(collector)]
    _refuse_twice("collector", (collector.name for _, collector in read))
    _refuse_twice("metric", (name for _, name in names))
    _refuse_our_own(name for _, name in names)
    _refuse_one_family(names)
    return _beside(Catalog(tuple(collector for _, collector in read)), [f for f in files if f.translated], runs)


def _beside(ours: Catalog, files: Sequence["_File"], runs: Callable[[Collector], bool]) -> Catalog:
    """Add the translated collectors, without what would be on the page twice.

    A metric of ours that is on the page stays, since alert rules and dashboards read it as we label it. A compatibility
    name yields: its metric is there under its own name, and who wrote a query wants just that.
    """
    owners = {_family(n): c.name for c in ours if runs(c) for m in c.metrics for n in (m.name, m.total) if n}
    taken = {collector.name for collector in ours}
    places: dict[str, str] = {}
    added: list[Collector] = []
    notes: list[str] = []
    for place, made in ((f"{file.path.name}: {m.name}", m) for file in files for m in file.collectors):
        kept, left_out = _parted(made, owners)
        notes += [f"{place}: left out, since {why}: {', '.join(names)}" for why, names in left_out.items()]
        if kept:
            name = f"{made.name}_queries" if made.name in taken else made.name
            added.append(made.model_copy(update={"name": name, "metrics": kept}))
            taken.add(name)
            if runs(added[-1]):
                _refuse_declared(places, kept, place)
    collectors = (*(_less(collector, places) for collector in ours), *added)
    return Catalog(collectors, (*(note for file in files for note in file.notes), *notes))


def _parted(made: Collector, owners: Mapping[str, str]) -> tuple[tuple[Metric, ...], dict[str, list[str]]]:
    """Part the metrics of a translated collector into those to keep, and the names of the others by reason."""
    kept = []
    left_out: dict[str, list[str]] = {}
    for metric in made.metrics:
        if owner := owners.get(_family(metric.name)):
            left_out.setdefault(f"our collector {owner} has that name, or one that differs by _total only", []).append(
                metric.name
            )
        elif _is_our_own(metric.name):
            left_out.setdefault("the exporter itself has it", []).append(metric.name)
        else:
            kept.append(metric)
    return tuple(kept), left_out


def _refuse_declared(places: dict[str, str], metrics: Iterable[Metric], place: str) -> None:
    """Remember where each family of the translated files is declared, and refuse it at a second place."""
    for metric in metrics:
        if (family := _family(metric.name)) in places:
            raise CatalogError(
                f"{place}: {metric.name}: {places[family]} has that name already, or it differs by _total only"
            )
        places[family] = place


def _less(collector: Collector, families: Collection[str]) -> Collector:
    """Take from a collector the compatibility names that somebody else serves."""
    if not any(metric.also and _family(metric.also) in families for metric in collector.metrics):
        return collector
    metrics = tuple(
        metric.model_copy(update={"also": None}) if metric.also and _family(metric.also) in families else metric
        for metric in collector.metrics
    )
    return collector.model_copy(update={"metrics": metrics})


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise CatalogError(f"{folder}: no such folder of collectors; create it or correct PGVIGIL_COLLECTORS_DIR")
    return sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])


def _names(collector: Collector) -> Iterator[str]:
    for metric in collector.metrics:
        yield from (name for name in (metric.name, metric.also, metric.total) if name)


def _refuse_twice(what: str, names: Iterable[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise CatalogError(
                f"{what} {name}: declared {times} times; to replace a built-in collector, switch it off"
                " with PGVIGIL_DISABLE and give yours other names"
            )


def _refuse_our_own(names: Iterable[str]) -> None:
    for name in names:
        if _is_our_own(name):
            raise CatalogError(f"metric {name}: the exporter's own; choose another name")


def _is_our_own(name: str) -> bool:
    return _family(name) in _OUR_OWN or name.startswith(_OUR_PREFIXES)


def _refuse_one_family(names: Iterable[tuple[Path, str]]) -> None:
    first: dict[str, str] = {}
    for file, name in names:
        other = first.setdefault(_family(name), name)
        if name != other:
            raise CatalogError(
                f"{file.name}: {name}: the same family as {other} in OpenMetrics, which leaves _total out;"
                " choose another name"
            )


def _family(name: str) -> str:
    return name.removesuffix("_total")


@dataclass(frozen=True)
class _File:
    """What one file holds: a collector of ours, or the collectors that postgres_exporter's queries became."""

    path: Path
    collectors: tuple[Collector, ...]
    translated: bool = False
    notes: tuple[str, ...] = ()


def _read(file: Path) -> _File:
    try:
        text = file.read_text("utf-8")
        data = yaml.load(text, StrictLoader)  # noqa: S506  # it is a SafeLoader
        if queries.recognised(data):
            made = queries.translated(file.name, text)
            return _File(file, tuple(map(Collector.model_validate, made.collectors)), True, made.notes)
        if not isinstance(data, dict):
            raise CatalogError(f"{file.name}: expected a mapping with name, help, sql and metrics")
        return _File(file, (Collector.model_validate(data),))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise CatalogError(f"{file.name}: line {line}: {error.problem}") from error
    except ValidationError as error:
        raise CatalogError("\n".join(f"{file.name}: {line}" for line in explain(error))) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CatalogError(f"{file.name}: cannot be read: {error}") from error
