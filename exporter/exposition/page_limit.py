"""Keeps a page within `max_samples`: what does not fit is cut from the largest results, and counted. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from exporter.report import JobStatus, Report
from exporter.samples.model import Family, Samples


def limited(report: Report, most: int) -> Report:
    """Share the samples of a page evenly: a result that needs less than its share leaves the rest to the others."""
    sizes = {i: job.samples.size for i, job in enumerate(report.jobs) if job.samples}
    if sum(sizes.values()) <= most:
        return report
    return replace(report, jobs=_cut(report.jobs, sizes, most))


def _cut(jobs: Sequence[JobStatus], sizes: dict[int, int], most: int) -> tuple[JobStatus, ...]:
    """Give every result its share, smallest first."""
    found, left = list(jobs), most
    for done, i in enumerate(sorted(sizes, key=sizes.__getitem__)):
        share = left // (len(sizes) - done)
        samples = jobs[i].samples
        if samples and sizes[i] > share:
            cut = _first(samples, share // max(len(samples.families), 1))
            found[i] = replace(jobs[i], samples=cut, dropped=jobs[i].dropped + sizes[i] - cut.size)
        left -= served.size if (served := found[i].samples) else 0
    return tuple(found)


def _first(samples: Samples, rows: int) -> Samples:
    """Keep the first rows, which are the most important ones."""
    families = (Family(f.metric, f.labels[:rows], f.values[:rows]) for f in samples.families)
    return replace(samples, families=tuple(families))
