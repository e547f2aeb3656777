"""One page: the blocks of all collectors, each rendered once for as long as its result stays."""

from collections.abc import Iterable
from itertools import groupby

from exporter.exposition.compression import Block, gzipped, identity
from exporter.exposition.negotiation import Format
from exporter.exposition.page_limit import Cuts, limited
from exporter.exposition.self_metrics import compatibility_families, own_families
from exporter.exposition.text_format import block
from exporter.report import JobStatus, Report
from exporter.samples.model import Family, Samples

_LARGE_BYTES = 64 * 1024
"""Length from which a piece is shared by pages, not copied into each, in bytes."""


class Pages:
    """Writes the pages of one target. Remembers the blocks of the last page of each format, and nothing else."""

    def __init__(self, max_samples: int, compatibility_names: bool = False) -> None:
        self._max_samples = max_samples
        self._compatibility_names = compatibility_names
        self._blocks: dict[bool, dict[str, tuple[list[Samples], Block]]] = {}
        self._cuts: Cuts = {}

    def page(self, report: Report, form: Format, gzip: bool) -> bytes:
        """Write a page in one piece."""
        return b"".join(self.pieces(report, form, gzip))

    def pieces(self, report: Report, form: Format, gzip: bool, process: Iterable[Family] = ()) -> list[bytes]:
        """Write the samples of a report and the exporter's own metrics as one page; cached blocks come first.

        Pages of the same results share their large pieces, so that many slow readers hold them once.

        Args:
            report: the scrape.
            form: the format that the client accepts.
            gzip: whether the client accepts compression.
            process: the families of the exporter's process, where this page carries them.

        """
        report = limited(report, self._max_samples, self._cuts)
        before, after = self._blocks.get(form.openmetrics, {}), {}
        kept: list[Block] = []
        fresh: list[Block] = []
        for name, results in _by_collector(report.jobs).items():
            known = before.get(name)
            if known and _same(known[0], results):
                kept.append(known[1])
            else:
                families = (family for result in results for family in result.families)
                known = results, block(self._twinned(families), form.openmetrics)
                (kept if known[1].size >= _LARGE_BYTES else fresh).append(known[1])
            after[name] = known
        self._blocks[form.openmetrics] = after
        own = [*own_families(report), *process, *(compatibility_families(report) if self._compatibility_names else ())]
        return _pieces(kept, [*fresh, block(self._twinned(own), form.openmetrics)], form, gzip)

    def _twinned(self, families: Iterable[Family]) -> Iterable[Family]:
        """Follow each family by its twin under postgres_exporter's name, with compatibility_names."""
        for family in families:
            yield family
            if self._compatibility_names and (twin := family.metric.twin()):
                yield Family(twin, family.labels, family.values)


def page_of(families: Iterable[Family], form: Format, gzip: bool) -> list[bytes]:
    """Write some families as a page of their own, in pieces."""
    return _pieces([], [block(families, form.openmetrics)], form, gzip)


def _pieces(kept: list[Block], fresh: list[Block], form: Format, gzip: bool) -> list[bytes]:
    """Join blocks, all but the large ones; the small new ones are compressed in one piece, which is faster."""
    whole = [*kept, Block(identity(fresh) + form.end)]
    found: list[bytes] = []
    for is_large, run in groupby(gzipped(whole) if gzip else [each.text for each in whole], _is_large):
        pieces = list(run)
        found += pieces if is_large else [b"".join(pieces)]
    return found


def _is_large(piece: bytes) -> bool:
    return len(piece) >= _LARGE_BYTES


def _same(left: list[Samples], right: list[Samples]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def _by_collector(jobs: Iterable[JobStatus]) -> dict[str, list[Samples]]:
    """Gather the results of each collector, since families must not be torn apart."""
    results: dict[str, list[Samples]] = {}
    for job in jobs:
        if job.samples:
            results.setdefault(job.collector, []).append(job.samples)
    return results
