"""Plays incidents by the demo and takes pictures of the page, as whoever is paged sees it.

    python tests/web/pictures.py FOLDER [INCIDENT ...]

Writes `INCIDENT-phone-light.png` and `INCIDENT-desktop-dark.png` once the page names the culprit, else after four
minutes, and prints what it says. Of the migration it writes all four views, and half a minute later the page of its
record.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import Browser

sys.path.insert(0, str(Path(__file__).parents[1]))
from browsers import VIEWS, View, browser_of, opened

from exporter.demo.scenarios.repertoire import SCENARIOS

TELLING: Mapping[str, str] = {
    "friday-deploy": "application dashboard of web has",
    "black-friday": "a statement of web in shop",
    "migration": "blocks .* on public.users",
    "nightly-job": "blocks .* on public.orders",
    "pinned-horizon": "keeps VACUUM from removing",
    "forgotten-slot": "replication slot feed .*holds back",
    "stale-statistics": "table public.orders",
    "no-backups": "archiving fails",
    "index-debt": "index orders_nightly_idx",
}
"""Of each incident, the sentence that names its culprit."""

LONGEST_SECONDS = 240.0

RECORDED = "migration"
"""The incident whose record is shown as well."""


@contextmanager
def demo(incident: str) -> Iterator[str]:
    """Play an incident; gives the address of the page."""
    command = [sys.executable, "-m", "exporter", "demo", "--incident", incident, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield next(found[1] for line in process.stdout or () if (found := re.search(r"(http://\S+/)metrics", line)))
        finally:
            process.terminate()
            process.wait(60)


def sentences(url: str) -> list[str]:
    """What is wrong now."""
    [now] = httpx.get(f"{url}api/v1/now", timeout=30).json()
    return [finding["sentence"] for finding in now["findings"]]


def _picture(browser: Browser, view: View, url: str, file: Path) -> None:
    with opened(browser, view, url) as seen:
        seen.page.screenshot(path=file)


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("incidents", nargs="*", default=[*TELLING])
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    number = {scenario.name: scenario.number for scenario in SCENARIOS}
    with browser_of(lambda name, _, *others: Path(next(filter(None, map(shutil.which, (name, *others)))))) as browser:
        for incident in chosen.incidents:
            with demo(incident) as url:
                began = time.monotonic()
                while not any(re.search(TELLING[incident], each) for each in sentences(url)):
                    if time.monotonic() - began > LONGEST_SECONDS:
                        break
                    time.sleep(1)
                for view in VIEWS if incident == RECORDED else (VIEWS[0], VIEWS[3]):
                    _picture(browser, view, url, chosen.folder / f"{incident}-{view.name}.png")
                said = {
                    "incident": number[incident],
                    "seconds": round(time.monotonic() - began),
                    "said": sentences(url),
                }
                print(json.dumps({"name": incident, **said}), flush=True)
                if incident == RECORDED:
                    time.sleep(30)
                    [recorded, *_] = httpx.get(f"{url}incidents?format=json", timeout=30).json()
                    file = chosen.folder / f"{incident}-recorded-{VIEWS[2].name}.png"
                    _picture(browser, VIEWS[2], f"{url}incidents/{recorded['id']}", file)


if __name__ == "__main__":
    main()
