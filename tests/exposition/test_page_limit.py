"""A page has so many samples and no more."""

from exporter.exposition.page_limit import bounded
from exporter.exposition.self_metrics import SCRAPES
from exporter.report import JobStatus
from exporter.samples.model import Family, Samples


def job(rows: int, families: int = 1) -> JobStatus:
    labels = [f'n="{i}"' for i in range(rows)]
    made = tuple(Family(SCRAPES, labels, list(range(rows))) for _ in range(families))
    return JobStatus(f"of_{rows}", "", True, Samples(made, rows), 0.1, 0.0)


def sizes(jobs: tuple[JobStatus, ...]) -> list[int]:
    return [sum(len(family.values) for family in job.samples.families) for job in jobs if job.samples]


def test_a_page_within_its_bound_is_left_alone() -> None:
    jobs = (job(10), job(20))
    assert all(found is before for found, before in zip(bounded(jobs, 30), jobs, strict=True))


def test_the_largest_is_cut_to_its_first_rows_and_what_is_gone_is_counted() -> None:
    small, large = bounded((job(10), job(1000, families=2)), 110)
    assert (small.dropped, large.dropped) == (0, 1900)
    assert large.samples
    assert [list(family.values) for family in large.samples.families] == [list(range(50))] * 2
    assert [len(family.labels) for family in large.samples.families] == [50, 50]


def test_who_needs_less_leaves_the_rest_to_the_others() -> None:
    assert sizes(bounded((job(100), job(5), job(300)), 105)) == [50, 5, 50]
