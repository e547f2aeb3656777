"""Reads folders of collector files into a catalog; `model` defines the format, `queries_yaml` translates another."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from exporter import strict_yaml
from exporter.catalog.model import Catalog, Collector, Metric
from exporter.errors import CatalogError
from exporter.kinds import PREFIXES
from exporter.validation_errors import explain

BUILT_IN = Path(__file__).parents[1] / "collectors"

COMPATIBILITY = BUILT_IN / "compatibility"
"""Collectors that are loaded with compatibility_names only: what postgres_exporter shows with other labels or units."""

_OUR_OWN = (
    *(f"{prefix}_up{suffix}" for prefix in PREFIXES.values() for suffix in ("", "_reason")),
    "pg_login_success",
    "pg_login_reason",
    "pg_login_seconds",
    "pg_server_certificate_not_after_timestamp_seconds",
    "pg_session_sampled_seconds",
    "pg_session_sampling_seconds",
    "pg_lock_wait_sampled_seconds",
    "pg_lock_wait_longest_recent_seconds",
    "pg_statement_info",
    "pg_statement_sampled_seconds",
    "pg_application_sampled_seconds",
)
"""Families that come from code."""

_IN_CODE = ("statement_texts", "wait_sampler")
"""Collectors that are code."""

_OUR_PREFIXES = ("pgvigil_", "process_", "python_", "pg_exporter_", "pg_scrape_collector_")
"""Name prefixes of all other families that come from code."""


_YIELDING = ("stat_statements",)
"""Collectors of compatibility whose metrics yield to a query of the user's, since postgres_exporter has them on demand.

The example queries.yaml of its old releases gives the same families other labels.
"""


def _is_enabled(collector: Collector) -> bool:
    return collector.enabled


def load(*folders: Path, runs: Callable[[Collector], bool] = _is_enabled) -> Catalog:
    """Read every `*.yaml` of the folders; the first thing wrong is a CatalogError with file, place and remedy.

    Args:
        folders: where the files are.
        runs: tells whether a collector is switched on; what is off leaves its names to postgres_exporter's queries.

    """
    files = [_known(file) for folder in folders for file in _files(folder)]
    read = [(file.path, collector) for file in files if not file.translated for collector in file.collectors]
    names = [(path, name) for path, collector in read for name in _names(collector)]
    _refuse_twice("collector", (*_IN_CODE, *(collector.name for _, collector in read)))
    _refuse_twice("metric", (name for _, name in names))
    _refuse_our_own(name for _, name in names)
    _refuse_one_family(names)
    ours = Catalog(
        tuple(collector for _, collector in read), tuple(n for f in files if not f.translated for n in f.notes)
    )
    return _beside(ours, [file for file in files if file.translated], runs)


def _beside(ours: Catalog, files: Sequence["_File"], runs: Callable[[Collector], bool]) -> Catalog:
    """Add the translated collectors, without what would be on the page twice.

    A metric of ours that is on the page stays, since alert rules and dashboards read it as we label it. A compatibility
    name yields: its metric is there under its own name, and who wrote a query wants just that.
    """
    owning = [c for c in ours if runs(c) and c.name not in _YIELDING]
    owners = {_family(n): c.name for c in owning for m in c.metrics for n in (m.name, m.total) if n}
    taken = {*_IN_CODE, *(collector.name for collector in ours)}
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
    kept_ours = (less for collector in ours if (less := _less(collector, places)).metrics)
    collectors = (*kept_ours, *added)
    return Catalog(collectors, (*ours.notes, *(note for file in files for note in file.notes), *notes))


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
    """Take from a collector the compatibility names that a translated one serves, and the metrics that yield to it."""
    metrics = collector.metrics
    if collector.name in _YIELDING:
        metrics = tuple(metric for metric in metrics if _family(metric.name) not in families)
    if any(metric.also and _family(metric.also) in families for metric in metrics):
        metrics = tuple(
            metric.model_copy(update={"also": None}) if metric.also and _family(metric.also) in families else metric
            for metric in metrics
        )
    return collector if metrics == collector.metrics else collector.model_copy(update={"metrics": metrics})


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
    """Contents of one file: our own collector, or those that postgres_exporter's queries became."""

    path: Path
    collectors: tuple[Collector, ...]
    translated: bool = False
    notes: tuple[str, ...] = ()


def _has_queries(data: object) -> bool:
    """Return whether it is postgres_exporter's queries.yaml, by its shape: mappings with a query, or metrics alone."""
    if not isinstance(data, dict) or {"sql", "metrics"} & data.keys():
        return False
    return any(isinstance(value, dict) and {"query", "metrics"} & value.keys() for value in data.values())


def _known(file: Path) -> _File:
    """Read a file; what ships is read once, since it does not change while the process runs."""
    return _shipped(file) if file.is_relative_to(BUILT_IN) else _read(file)


@cache
def _shipped(file: Path) -> _File:
    return _read(file)


def _read(file: Path) -> _File:
    text = strict_yaml.read(file, CatalogError, file.name)
    data = strict_yaml.parse(text, CatalogError, file.name)
    if data is None or data == {}:
        return _File(file, (), notes=(f"{file.name}: holds no collector: it is empty, or has comments only",))
    try:
        if _has_queries(data):
            from exporter.catalog.queries_yaml import translated  # its models take a tenth of the start

            made = translated(file.name, text)
            return _File(file, tuple(map(Collector.model_validate, made.collectors)), True, made.notes)
        if not isinstance(data, dict):
            raise CatalogError(f"{file.name}: expected a mapping with name, help, sql and metrics")
        ours = {"joins": True} if file.is_relative_to(BUILT_IN) else {}
        return _File(file, (Collector.model_validate(ours | data),))
    except ValidationError as error:
        raise CatalogError("\n".join(f"{file.name}: {line}" for line in explain(error, Collector))) from error
