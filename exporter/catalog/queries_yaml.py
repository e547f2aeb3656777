"""postgres_exporter's custom queries (queries.yaml) -> collector files of our own format. Pure.

A namespace becomes a collector, a histogram one of its own. Names and labels stay; what our format has no word for is
written into the SQL around the query: mapped texts, durations, buckets, and the label `server` that theirs adds.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

from exporter import strict_yaml
from exporter.catalog.model import COMPUTED
from exporter.catalog.version_ranges import by_first_version, checked
from exporter.errors import CatalogError
from exporter.literals import without_literals
from exporter.sql import literal, quoted, without_end

Document = dict[str, Any]
"""A collector file as YAML gives it."""


@dataclass(frozen=True)
class Translation:
    """The collectors that a file became, and notes for its user."""

    collectors: tuple[Document, ...]
    notes: tuple[str, ...]


class Words(strict_yaml.StrictLoader):
    """YAML in which every scalar is text: `on: 1` maps the word on, as the Go reader of these files has it."""

    yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile("<<"))]}  # noqa: RUF012  # so is theirs


_FOREIGN = {"name", "ttl", "min_version", "max_version", "predicate_queries", "tags", "timeout", "fatal", "skip"}
"""Keys at this place of pgsty's pg_exporter, whose files look much the same."""


class _Theirs(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_the_default(cls, data: Any) -> Any:
        """A key without a value says nothing."""
        if not isinstance(data, dict):
            raise ValueError("expected a mapping")
        return {key: value for key, value in data.items() if value != ""}

    @property
    def unknown(self) -> tuple[str, ...]:
        """The keys that mean nothing here, and nothing there."""
        return tuple(self.model_extra or ())


class _Column(_Theirs):
    """Use of one column of the result."""

    usage: Literal["LABEL", "GAUGE", "COUNTER", "MAPPEDMETRIC", "DURATION", "HISTOGRAM", "DISCARD"]
    description: str = ""
    metric_mapping: dict[str, float] = {}


class _Query(_Theirs):
    """One namespace: a query, and what its columns are for."""

    query: str = ""
    metrics: tuple[dict[str, _Column], ...] = ()
    master: bool | None = None
    cache_seconds: int = Field(0, ge=0)
    runonserver: Annotated[str, AfterValidator(checked)] = ""

    @model_validator(mode="before")
    @classmethod
    def _may_be_empty(cls, data: Any) -> Any:
        return {} if data == "" else data

    @model_validator(mode="after")
    def _is_theirs(self) -> "_Query":
        if foreign := sorted(_FOREIGN & {*self.unknown}):
            raise ValueError(f"{foreign[0]}: a key of pgsty's pg_exporter, whose files are not translated")
        for column, given in self.columns.items():
            pattern = r"[a-zA-Z_][a-zA-Z0-9_]*" if given.usage == "LABEL" else r"[a-zA-Z0-9_:]+"
            if given.usage != "DISCARD" and not re.fullmatch(pattern, column):
                raise ValueError(f"metrics: {column!r} cannot be a {given.usage}: it must match {pattern}")
        return self

    @field_validator("query")
    @classmethod
    def _is_one_select(cls, query: str) -> str:
        """Take a query that can stand in FROM, since the label `server` and what is computed are added around it."""
        query = without_end(query)
        if shown := re.fullmatch(r"\s*SHOW\s+(?!ALL\s*$)([a-z_][\w.]*)\s*", query, re.IGNORECASE):
            return f"SELECT current_setting({literal(shown[1])}) AS {quoted(shown[1].lower())}"
        words = without_literals(query)
        first = re.match(r"[\s(]*(\w*)", words)
        if first and first[1] and first[1].upper() not in _SELECTS:
            raise ValueError(f"it begins with {first[1]}, and has to run as a subquery: {_REMEDY}")
        if ";" in re.sub(r'"(?:[^"]|"")*"', "", words):
            raise ValueError(f"it has several statements, and has to run as a subquery: {_REMEDY}")
        return query

    @property
    def columns(self) -> dict[str, _Column]:
        """The columns by name; of two with one name the last counts."""
        return {name: column for each in self.metrics for name, column in each.items()}

    def used_as(self, *usages: str) -> dict[str, _Column]:
        """Select the columns for these uses; the parts of a histogram belong to it alone."""
        parts = {f"{name}_{part}" for name, c in self.columns.items() if c.usage == "HISTOGRAM" for part in _PARTS}
        return {name: c for name, c in self.columns.items() if c.usage in usages and name not in parts}


_SELECTS = ("SELECT", "WITH", "VALUES", "TABLE")
"""First words of a query that can stand in FROM."""

_REMEDY = (
    "write one SELECT. Settings that it needs belong to the role (ALTER ROLE ... SET ...), the value of one is"
    " current_setting('name')"
)

_PLAIN = ("GAUGE", "COUNTER", "MAPPEDMETRIC", "DURATION")
"""The uses of a column whose value is one number."""

_PARTS = ("bucket", "sum", "count")


def _namespace(name: str) -> str:
    if not re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", name):
        raise ValueError(f"{name!r} cannot begin the name of a metric")
    return name


_FILE = TypeAdapter(dict[Annotated[str, AfterValidator(_namespace)], _Query])


def translated(file: str, text: str) -> Translation:
    """Translate a file; pydantic's ValidationError says what is wrong with it."""
    queries = _FILE.validate_python(strict_yaml.parse(text, CatalogError, file, Words))
    collectors = tuple(made for name, query in queries.items() for made in _collectors(file, name, query))
    notes = (note for name, query in queries.items() for note in _notes(f"{file}: {name}", name, query))
    return Translation(collectors, (f"{file}: {_SUMMARY}", *notes))


_SUMMARY = (
    "custom queries of postgres_exporter, translated. They run with the role's own search_path; once, in the database"
    " of the DSN, or with `master: false` in every one. NULL, and what is no number, gives no sample."
)


def _collectors(file: str, namespace: str, query: _Query) -> Iterator[Document]:
    if not without_end(query.query):
        return
    if plain := _plain(namespace, query):
        yield _collector(file, namespace, query, plain, _around(query))
    for column, given in query.used_as("HISTOGRAM").items():
        parts = _histogram(f"{namespace}_{column}", given)
        yield _collector(file, f"{namespace}_{column}", query, parts, _buckets(query, column))


def _collector(file: str, name: str, query: _Query, metrics: list[Document], sql: str) -> Document:
    labels = [label for label in query.used_as("LABEL") if query.master is not False or label != "datname"]
    return {
        "name": re.sub(r"[^a-z0-9_]", "_", name.lower()).lstrip("_0123456789"),
        "help": f"A custom query of postgres_exporter, {name} of {file}.",
        "sql": by_first_version(query.runonserver, sql) if query.runonserver else sql,
        "labels": list(dict.fromkeys([*labels, "server"])),
        "scope": "database" if query.master is False else "server",
        "cache": query.cache_seconds,
        "search_path": "role",
        "lenient": True,
        "metrics": metrics,
    }


def _plain(namespace: str, query: _Query) -> list[Document]:
    """Declare the metrics whose value is one number."""
    found = []
    for column, given in query.used_as(*_PLAIN).items():
        name = f"{namespace}_{column}" + ("_milliseconds" if given.usage == "DURATION" else "")
        found.append(_metric(name, _type(name, given.usage), _value_column(column, given), given))
    return found


def _metric(name: str, kind: str, column: str, given: _Column, labels: Iterable[str] = ()) -> Document:
    text = given.description.strip() or f"The author of {name} did not describe it."
    return {"name": name, "type": kind, "help": text, "column": column, "labels": list(labels)}


def _type(name: str, usage: str) -> str:
    """A counter's name ends with _total, and no other's does; what breaks the rule is untyped."""
    if name.endswith("_total") != (usage == "COUNTER"):
        return "untyped"
    return "counter" if usage == "COUNTER" else "gauge"


def _value_column(column: str, given: _Column) -> str:
    computed = given.usage == "DURATION" or (given.usage == "MAPPEDMETRIC" and given.metric_mapping)
    return f"{COMPUTED}{column}" if computed else column


def _histogram(name: str, given: _Column) -> list[Document]:
    """Declare the parts of a histogram; our format has no such type, and Prometheus goes by the names."""
    return [
        _metric(f"{name}_{part}", "untyped", f"pgvigil_{part}", given, ("le",) if part == "bucket" else ())
        for part in _PARTS
    ]


_SERVER = """(SELECT coalesce(host(inet_server_addr()) || ':' || inet_server_port(),
                        (SELECT split_part(setting, ',', 1) FROM pg_catalog.pg_settings
                          WHERE name = 'unix_socket_directories') || ':' || current_setting('port'),
                        'localhost:' || current_setting('port')))"""
"""SQL for postgres_exporter's label `server`: host and port, as the server knows them."""


def _around(query: _Query) -> str:
    """Write the query, with what is computed from its columns beside them."""
    columns = {
        name: c for name, c in query.used_as("DURATION", "MAPPEDMETRIC").items() if _value_column(name, c) != name
    }
    values = [
        f"{_duration(name) if c.usage == 'DURATION' else _mapped(name, c)} AS {quoted(_value_column(name, c))}"
        for name, c in columns.items()
    ]
    computed = "".join(f",\n       {value}" for value in values)
    return f"SELECT q.*{computed}{_server(query)}\n  FROM (\n{without_end(query.query)}\n) AS q{_given(columns)}"  # noqa: S608  # a person's SQL


def _given(columns: Iterable[str]) -> str:
    """Read the texts of columns once more, as v: NULL for one that the query lacks, of two with one name the last."""
    texts = ", ".join(f"to_json(q.*) ->> {literal(name)} AS {quoted(name)}" for name in columns)
    return f"\n CROSS JOIN LATERAL (SELECT {texts}) AS v" if texts else ""


def _server(query: _Query) -> str:
    return "" if "server" in query.used_as("LABEL") else f",\n       {_SERVER} AS server"


def _mapped(column: str, given: _Column) -> str:
    cases = "".join(f" WHEN {literal(text)} THEN '{value!r}'::float8" for text, value in given.metric_mapping.items())
    return f"CASE v.{quoted(column)}{cases} END"


_AMOUNT = r"(\d+\.?\d*|\.\d+)"
_UNIT = r"(h|m|s|ms|ns|[^0-9.]s)"  # the last for microseconds, whose letter not every encoding has
_INTERVAL = r"(?=.)([-+]?\d+ (year|mon|day)s? ?)*([-+]?\d+:\d\d:\d\d(\.\d+)?)?"


def _duration(column: str) -> str:
    """Read a duration as Go writes it (1h2m3.5s), an interval, or plain milliseconds; -1 stands for none."""
    text = f"v.{quoted(column)}"
    milliseconds = "CASE part[2] WHEN 'h' THEN 3600000 WHEN 'm' THEN 60000 WHEN 's' THEN 1000 WHEN 'ms' THEN 1"
    milliseconds += " WHEN 'ns' THEN 0.000001 ELSE 0.001 END"
    return f"""CASE WHEN {text} = '-1' THEN NULL
            WHEN {text} ~ '^{_INTERVAL}$' THEN extract(epoch FROM {text}::interval)::float8 * 1000
            WHEN {text} ~ '^[-+]?{_AMOUNT}$' THEN {text}::float8
            WHEN {text} ~ '^[-+]?({_AMOUNT}{_UNIT})+$'
            THEN (SELECT trunc(round(sum(part[1]::numeric * {milliseconds}), 6))::float8
                    FROM regexp_matches({text}, '{_AMOUNT}{_UNIT}', 'g') AS part)
                 * CASE WHEN {text} LIKE '-%' THEN -1 ELSE 1 END
       END"""  # noqa: S608  # the column is quoted


def _buckets(query: _Query, column: str) -> str:
    """Unfold the arrays of a histogram, a row a bucket; sum and count stand in the row of the last one only."""
    keys, values, total, count = (quoted(name) for name in (column, *(f"{column}_{part}" for part in _PARTS)))
    return (
        f"SELECT q.*,\n       b.le,\n       b.bucket AS pgvigil_bucket,\n"  # noqa: S608  # a person's SQL
        f"       CASE WHEN b.le = '+Inf' THEN q.{total} END AS pgvigil_sum,\n"
        f"       CASE WHEN b.le = '+Inf' THEN q.{count} END AS pgvigil_count{_server(query)}\n"
        f"  FROM (\n{without_end(query.query)}\n) AS q\n"
        f" CROSS JOIN LATERAL (\n"
        f"   SELECT u.le::text, u.bucket FROM unnest(q.{keys}::float8[], q.{values}::float8[]) AS u (le, bucket)\n"
        f"    WHERE u.le < 'Infinity' AND u.bucket IS NOT NULL\n"
        f"   UNION ALL SELECT '+Inf', q.{count}::float8\n"
        f" ) AS b"
    )


def _notes(place: str, namespace: str, query: _Query) -> Iterator[str]:
    """Say what a user of postgres_exporter would not expect of a namespace."""
    unknown = [*query.unknown, *(f"{name}.{key}" for name, column in query.columns.items() for key in column.unknown)]
    if unknown:
        yield f"{place}: ignored, as there: {', '.join(unknown)}"
    if not without_end(query.query):
        yield f"{place}: left out, since it has no query"
        return
    values = {column: _type(f"{namespace}_{column}", c.usage) for column, c in query.used_as(*_PLAIN).items()}
    if not values and not query.used_as("HISTOGRAM"):
        yield f"{place}: left out, since it declares no value; a column that is not declared is not guessed at"
        return
    if untyped := [column for column, kind in values.items() if kind == "untyped"]:
        yield f"{place}: untyped, since a counter's name has to end with _total, and no other's: {', '.join(untyped)}"
    if query.runonserver:
        yield f"{place}: runs where runonserver says, {query.runonserver}; postgres_exporter never looks at it"
    if query.master is False:
        yield f"{place}: runs in every database, whose name is the label datname"
