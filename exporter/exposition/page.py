"""One page: the blocks of all collectors, each rendered once for as long as its result stays."""

from collections.abc import Iterable

from exporter.exposition.self_metrics import compatibility_families
from exporter.exposition.text_format import Block, Format, block, gzipped, identity
from exporter.report import JobStatus, Report
from exporter.samples.model import Family, Samples


class Pages:
    """Puts pages together. Remembers the blocks of the last page of each format, and nothing else."""

    def __init__(self, compatibility_names: bool = False) -> None:
        self._compatibility_names = compatibility_names
        self._blocks: dict[tuple[str, bool], tuple[list[Samples], Block]] = {}

    def page(self, report: Report, own: Iterable[Family], form: Format, gzip: bool) -> bytes:
        """Write what a report serves, and the exporter's own families, as one page; what was rendered before leads."""
        kept, fresh = [], []
        for name, results in _by_collector(report.jobs).items():
            known = self._blocks.get((name, form.openmetrics))
            if known and _same(known[0], results):
                kept.append(known[1])
            else:
                made = block(
                    self._twinned(family for result in results for family in result.families), form.openmetrics
                )
                self._blocks[name, form.openmetrics] = (results, made)
                fresh.append(made)
        if self._compatibility_names:
            own = [*own, *compatibility_families(report)]
        return _joined(kept, [*fresh, block(self._twinned(own), form.openmetrics)], form, gzip)

    def _twinned(self, families: Iterable[Family]) -> Iterable[Family]:
        """Let each family be followed by the same one under postgres_exporter's name, where that is asked for."""
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
