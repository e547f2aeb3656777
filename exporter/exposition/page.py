"""One page: the blocks of all collectors, each rendered once for as long as its result stays."""

from collections.abc import Iterable

from exporter.exposition.page_limit import limited
from exporter.exposition.self_metrics import compatibility_families, own_families
from exporter.exposition.text_format import Block, Format, block, gzipped, identity
from exporter.report import JobStatus, Report
from exporter.samples.model import Family, Samples


class Pages:
    """Writes the pages of one target. Remembers the blocks of the last page of each format, and nothing else."""

    def __init__(self, max_samples: int, compatibility_names: bool = False) -> None:
        self._max_samples = max_samples
        self._compatibility_names = compatibility_names
        self._blocks: dict[bool, dict[str, tuple[list[Samples], Block]]] = {}

    def page(self, report: Report, form: Format, gzip: bool, process: Iterable[Family] = ()) -> bytes:
        """Write the samples of a report and the exporter's own metrics as one page; cached blocks come first.

        Args:
            report: the scrape.
            form: the format that the client accepts.
            gzip: whether the client accepts compression.
            process: the families of the exporter's process, where this page carries them.

        """
        report = limited(report, self._max_samples)
        before, after = self._blocks.get(form.openmetrics, {}), {}
        kept, fresh = [], []
        for name, results in _by_collector(report.jobs).items():
            known = before.get(name)
            if known and _same(known[0], results):
                kept.append(known[1])
            else:
                families = (family for result in results for family in result.families)
                known = results, block(self._twinned(families), form.openmetrics)
                fresh.append(known[1])
            after[name] = known
        self._blocks[form.openmetrics] = after
        own = [*own_families(report), *process, *(compatibility_families(report) if self._compatibility_names else ())]
        return _joined(kept, [*fresh, block(self._twinned(own), form.openmetrics)], form, gzip)

    def _twinned(self, families: Iterable[Family]) -> Iterable[Family]:
        """Follow each family by its twin under postgres_exporter's name, with compatibility_names."""
        for family in families:
            yield family
            if self._compatibility_names and (twin := family.metric.twin()):
                yield Family(twin, family.labels, family.values)


def page_of(families: Iterable[Family], form: Format, gzip: bool) -> bytes:
    """Write some families as a page of their own."""
    return _joined([], [block(families, form.openmetrics)], form, gzip)


def _joined(kept: list[Block], fresh: list[Block], form: Format, gzip: bool) -> bytes:
    """Join blocks; the new ones are compressed in one piece, which is faster than one by one."""
    whole = [*kept, Block(identity(fresh) + form.end)]
    return gzipped(whole) if gzip else identity(whole)


def _same(left: list[Samples], right: list[Samples]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def _by_collector(jobs: Iterable[JobStatus]) -> dict[str, list[Samples]]:
    """Gather the results of each collector, since families must not be torn apart."""
    results: dict[str, list[Samples]] = {}
    for job in jobs:
        if job.samples:
            results.setdefault(job.collector, []).append(job.samples)
    return results
