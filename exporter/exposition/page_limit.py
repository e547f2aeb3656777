"""Keeps a page within its bound: what does not fit is cut from the largest results, and counted. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from exporter.report import JobStatus
from exporter.samples.model import Family, Samples


def bounded(jobs: Sequence[JobStatus], most: int) -> tuple[JobStatus, ...]:
    """Share the samples that a page may have evenly: who needs less than its part leaves the rest to the others."""
    sizes = {i: _size(job.samples) for i, job in enumerate(jobs) if job.samples}
    if sum(sizes.values()) <= most:
        return tuple(jobs)
    found, left = list(jobs), most
    for done, i in enumerate(sorted(sizes, key=sizes.__getitem__)):
        part = left // (len(sizes) - done)
        samples = jobs[i].samples
        if samples and sizes[i] > part:
            cut = _first(samples, part // max(len(samples.families), 1))
            found[i] = replace(jobs[i], samples=cut, dropped=sizes[i] - _size(cut))
        left -= _size(found[i].samples)
    return tuple(found)


def _size(samples: Samples | None) -> int:
    return sum(len(family.values) for family in samples.families) if samples else 0


def _first(samples: Samples, rows: int) -> Samples:
    """Keep the first rows, which are the most important ones."""
    families = (Family(f.metric, f.labels[:rows], f.values[:rows]) for f in samples.families)
    return replace(samples, families=tuple(families))
