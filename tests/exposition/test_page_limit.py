"""A page holds `max_samples` samples and no more."""

from dataclasses import replace

from exposition.reports import FEW_DATABASES, job, samples
from pages import written

from exporter.exposition.page_limit import limited
from exporter.report import JobStatus, Report


def report(*jobs: JobStatus) -> Report:
    return replace(FEW_DATABASES, jobs=jobs)


def sizes(found: Report) -> list[int]:
    return [sum(len(family.values) for family in job.samples.families) for job in found.jobs if job.samples]


def test_a_page_within_its_limit_is_left_alone() -> None:
    whole = report(job("a", served=samples(10)), job("b", served=samples(20)))
    assert limited(whole, 30) is whole


def test_the_largest_is_cut_to_its_first_rows_and_what_is_dropped_is_counted() -> None:
    found = limited(report(job("small", served=samples(10)), job("large", served=samples(1000, families=2))), 110)
    small, large = found.jobs
    assert (small.dropped, large.dropped) == (0, 1900)
    assert large.samples
    assert [list(family.values) for family in large.samples.families] == [list(range(50))] * 2
    assert [len(family.labels) for family in large.samples.families] == [50, 50]


def test_a_result_that_needs_less_leaves_the_rest_to_the_others() -> None:
    jobs = [job(f"of_{rows}", served=samples(rows)) for rows in (100, 5, 300)]
    assert sizes(limited(report(*jobs), 105)) == [50, 5, 50]


def test_a_page_is_cut_and_says_so() -> None:
    whole = report(job("a", "one", samples(10)), job("a", "two", samples(20)))
    found = written(whole, max_samples=15)
    assert [value for _, value in found.series("pgvigil_collector_dropped_samples")] == [3, 12]
    assert len(found.series("pg_values")) == 15
