"""When a job runs next, and why not earlier: the specification as a table."""

import pytest

from exporter.report import Why
from exporter.schedule.next_run import NEVER, Failed, New, Running, Spacing, State, Suspended, Waiting, next_run

EVERY_SCRAPE = Spacing()
CACHED = Spacing(cache=60)
THROTTLED = Spacing(cache=60, throttle=200)
RARELY_VISITED = Spacing(cache=60, visit=240)
REFUSED = Spacing(cache=60, rests_until=175)


@pytest.mark.parametrize(
    ("state", "spacing", "at", "why"),
    [
        # What has not run is due at once, however expensive it may be.
        (New(), EVERY_SCRAPE, NEVER, "new"),
        (New(), THROTTLED, NEVER, "new"),
        # After a success: a result is served until 95 % of its interval has passed, as scrapes are far apart.
        (Waiting(100), EVERY_SCRAPE, 100, "cached"),
        (Waiting(100), CACHED, 157, "cached"),
        (Waiting(100), THROTTLED, 290, "throttled"),
        (Waiting(100), RARELY_VISITED, 328, "throttled"),
        (Waiting(100), Spacing(cache=300, throttle=200), 385, "cached"),
        # After a failure: the cache does not hold it back, its backoff does.
        (Failed(100, until=102, failures=1), CACHED, 102, "backoff"),
        (Failed(100, until=115, failures=9), EVERY_SCRAPE, 115, "backoff"),
        # A throttled job is tried after a quarter of its interval, then two, three quarters, then a whole one.
        (Failed(100, until=101, failures=1), THROTTLED, 147.5, "throttled"),
        (Failed(100, until=101, failures=2), THROTTLED, 195, "throttled"),
        (Failed(100, until=101, failures=4), THROTTLED, 290, "throttled"),
        (Failed(100, until=101, failures=9), THROTTLED, 290, "throttled"),
        # Without a connection nothing ran, and nothing has to wait.
        (Failed(NEVER, until=NEVER, failures=0), THROTTLED, NEVER, "backoff"),
        # A query that ignored its statement_timeout rests, whatever else holds.
        (Suspended(100, until=160, failures=1, suspensions=1), EVERY_SCRAPE, 160, "suspended"),
        (Suspended(100, until=160, failures=1, suspensions=1), THROTTLED, 160, "suspended"),
        (Running(100, before=New()), EVERY_SCRAPE, 100, "running"),
        # Nothing runs in a database that has refused us before its rest is over.
        (New(), REFUSED, 175, "backoff"),
        (Waiting(100), REFUSED, 175, "backoff"),
        (Waiting(150), REFUSED, 207, "cached"),
        (Failed(NEVER, until=NEVER, failures=0), REFUSED, 175, "backoff"),
        (Suspended(100, until=160, failures=1, suspensions=1), REFUSED, 175, "backoff"),
        (Running(100, before=New()), REFUSED, 100, "running"),
    ],
)
def test_when_a_job_runs_next(state: State, spacing: Spacing, at: float, why: Why) -> None:
    found = next_run(state, spacing)
    assert found.at == pytest.approx(at)
    assert found.why == why
