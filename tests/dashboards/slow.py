"""Says how long the slowest query of each dashboard takes on a fleet: `uv run python tests/dashboards/slow.py`.

A day of 50 servers, made from the recorded pages, is written into a Prometheus, in blocks of two hours as it makes them
itself; then every query of every dashboard is run as for All of each variable and the whole day, three times.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: `prom` and `dashboards` are found in tests/

import yaml
from alerts.golden import FOLDER as GOLDEN
from alerts.ruleset import Rules, load, selectors
from dashboards.ask import Viewer
from dashboards.boards import FOLDER, Board, Target, boards, expanded, targets, usual
from dashboards.situations import RULES, alerts_of, backfill, looking, promtool, tape_of
from prom import JOB, PROMETHEUS, prometheus
from servers import program

HOUR = 3600
BLOCK = 2 * HOUR
PAGES = (*["healthy18"] * 7, *["standby18"] * 2, "primary18")
"""Of ten servers seven are at peace, two are standbys, and one is in every trouble at once."""
TIMES = 3
AT_ONCE = 3
"""How many blocks are written at once: each is read by a promtool of its own, which takes longest."""


@dataclass(frozen=True)
class Fleet:
    """How many servers, for how long, scraped how often."""

    instances: int
    hours: int
    every: int


@dataclass(frozen=True)
class Line:
    """One series: its name and labels as they are written, and how its value goes."""

    written: str
    value: float
    pace: float

    def at(self, seconds: float) -> str:
        """What is written of it so many seconds after the start, but for the time."""
        return f"{self.written}{self.value + self.pace * seconds:.6g} "


def metrics(rules: Rules) -> tuple[set[str], list[str]]:
    """The metrics that the dashboards read, and the recorded series, those first that others are made of."""
    named: set[str] = set()
    records: dict[str, None] = {}

    def follow(names: Iterator[str]) -> None:
        for name in names:
            if record := rules.records.get(name):
                follow(selector.name or "" for selector in record.selectors)
                records.setdefault(name)
            else:
                named.add(name)

    for shown in boards():
        for target in targets(shown):
            follow(selector.name or "" for selector in selectors(expanded(target.expr, usual(shown))))
    return named, list(records)


def lines(instance: int, wanted: set[str]) -> list[Line]:
    """The series of one server that the dashboards read."""
    [phase] = tape_of(GOLDEN / f"{PAGES[instance % len(PAGES)]}.prom").phases
    where = f'job="{JOB}",instance="db{instance:02}:9187"'
    made = []
    for (name, labels), value in phase.second.values.items():
        if name in wanted:
            made.append(Line(f"{name}{{{labels + ',' if labels else ''}{where}}} ", value, phase.pace((name, labels))))
    return [*made, Line(f"up{{{where}}} ", 1, 0)]


def write(fleet: Fleet, folder: Path, start: float) -> int:
    """Write the fleet's past, block by block; gives the number of series."""
    wanted, _ = metrics(load())
    series = [line for instance in range(fleet.instances) for line in lines(instance, wanted)]
    steady = [line.at(0) for line in series if not line.pace]
    moving = [line for line in series if line.pace]

    def block(first: int) -> None:
        file = folder / f"{first}.txt"
        with file.open("w") as out:
            for second in range(first, first + BLOCK, fleet.every):
                at = f"{start + second:.0f}\n"
                out.write(at.join([*steady, *(line.at(second) for line in moving), ""]))
            out.write("# EOF\n")
        promtool("create-blocks-from", "openmetrics", "--quiet", str(file), str(folder / "data"))
        file.unlink()
        print(f"{first // HOUR} to {(first + BLOCK) // HOUR} hours written", file=sys.stderr)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(block, range(0, fleet.hours * HOUR, BLOCK)))
    return len(series)


def record(fleet: Fleet, folder: Path, start: float) -> None:
    """Write what recording rules would have made of it."""
    rules = load()
    for name in metrics(rules)[1]:  # each after those that it reads
        file = folder / "rule.yml"
        rule = {"record": name, "expr": rules.records[name].expr}
        file.write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [rule]}]}), "utf-8")
        times = [f"--start={start:.0f}", f"--end={start + fleet.hours * HOUR:.0f}", f"--eval-interval={fleet.every}s"]
        with prometheus(program(*PROMETHEUS), folder, every="1y") as past:
            promtool(
                "create-blocks-from", "rules", *times, f"--url={past.url}", f"--output-dir={folder / 'data'}", str(file)
            )
        print(f"{name} recorded", file=sys.stderr)
    with prometheus(program(*PROMETHEUS), folder, every="1y", rules=RULES) as past:
        backfill(folder, alerts_of(past, start, start + fleet.hours * HOUR))


def timed(viewer: Viewer, shown: Board) -> Iterator[tuple[float, Target, int]]:
    """The median time of each query, and the series that it gave."""
    for target in targets(shown):
        answers = [viewer.asks(target, usual(shown)) for _ in range(TIMES)]
        assert not answers[0].said, answers[0].said
        yield statistics.median(answer.seconds for answer in answers), target, answers[0].series


def told(viewer: Viewer) -> Iterator[str]:
    """A line for each dashboard."""
    yield "| dashboard | KiB | queries | with data | slowest query, s | panel |"
    yield "|---|---|---|---|---|---|"
    for shown in boards():
        size = (FOLDER / f"{shown['uid']}.json").stat().st_size
        found = list(timed(viewer, shown))
        seconds, slowest, _ = max(found, key=lambda each: each[0])
        data = sum(1 for _, _, series in found if series)
        name = f"{slowest.panel['title']} ({slowest.ref})"
        yield f"| {shown['uid']} | {size / 1024:.0f} | {len(found)} | {data} | {seconds:.2f} | {name} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the fleet's day, look at all dashboards, and print how long that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=50)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--every", type=int, default=60, help="seconds between two scrapes")
    fleet = Fleet(**vars(parser.parse_args(arguments)))
    end = time.time() // BLOCK * BLOCK
    start = end - fleet.hours * HOUR
    with tempfile.TemporaryDirectory(prefix="pgvigil-slow-") as name:
        folder, began = Path(name), time.monotonic()
        series = write(fleet, folder, start)
        record(fleet, folder, start)
        disk = subprocess.run(
            ["du", "-sm", folder / "data"], capture_output=True, text=True, check=True
        ).stdout.split()[0]
        print(
            f"{fleet.instances} servers, {series} series, {fleet.hours} hours, a scrape every {fleet.every} s: "
            f"{disk} MiB, written in {time.monotonic() - began:.0f} s"
        )
        with (
            prometheus(program(*PROMETHEUS), folder, every="1y") as prom,
            looking(prom.url, fleet.hours * HOUR, fleet.every, end - fleet.every) as viewer,
        ):
            for line in told(viewer):
                print(line, flush=True)


if __name__ == "__main__":
    main()
