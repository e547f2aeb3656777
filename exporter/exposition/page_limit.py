"""Keeps a page within `max_samples`: what does not fit is cut from the largest results, and counted. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from exporter.report import JobStatus, Report
from exporter.samples.model import Family, Samples

Cuts = dict[int, tuple[Samples, Samples]]
"""Results and what was kept of them, by the place of their job."""


def limited(report: Report, most: int, cuts: Cuts | None = None) -> Report:
    """Share the samples of a page evenly: a result that needs less than its share leaves the rest to the others.

    Args:
        report: the scrape.
        most: the limit.
        cuts: what was kept on the page before, brought up to date: a result is not cut again while it stays.

    """
    cuts = {} if cuts is None else cuts
    sizes = {i: job.samples.size for i, job in enumerate(report.jobs) if job.samples}
    if sum(sizes.values()) <= most:
        cuts.clear()
        return report
    return replace(report, jobs=_cut(report.jobs, sizes, most, cuts))


def _cut(jobs: Sequence[JobStatus], sizes: dict[int, int], most: int, cuts: Cuts) -> tuple[JobStatus, ...]:
    """Give every result its share, smallest first."""
    before = cuts.copy()
    cuts.clear()
    found, left = list(jobs), most
    for done, i in enumerate(sorted(sizes, key=sizes.__getitem__)):
        share = left // (len(sizes) - done)
        samples = jobs[i].samples
        if samples and sizes[i] > share:
            cut = _first(samples, share // max(len(samples.families), 1), before.get(i))
            cuts[i] = samples, cut
            found[i] = replace(jobs[i], samples=cut, dropped=jobs[i].dropped + sizes[i] - cut.size)
        left -= served.size if (served := found[i].samples) else 0
    return tuple(found)


def _first(samples: Samples, rows: int, before: tuple[Samples, Samples] | None) -> Samples:
    """Keep the first rows, which are the most important ones."""
    if before and before[0] is samples and all(len(family.values) == rows for family in before[1].families):
        return before[1]
    families = (Family(f.metric, f.labels[:rows], f.values[:rows]) for f in samples.families)
    return replace(samples, families=tuple(families))
