"""Draws every dashboard from what record.py recorded: `uv run python tests/dashboards/pictures/draw.py FOLDER`.

No Grafana is asked: the dashboards' JSON says what stands where, their queries go to a Prometheus on the recorded data,
and a page of ours draws the answers with uPlot, the library that Grafana draws its lines with. While a recording is
being made, `--prometheus URL` asks the one that records.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # as pytest does: `servers` and `dashboards` are found in tests/

import httpx
from dashboards.boards import FOLDER, boards
from dashboards.pictures.answers import Json, Moment, page
from prom import PROMETHEUS, prometheus
from servers import cache, program

UPLOT = "1.6.32"
WIDTH = 1440
MOST_BYTES = 250_000
PICTURES = FOLDER / "pictures"
PAGE = Path(__file__).with_name("page.html")
CHROMIUM = ("chromium", "Debian's package is called chromium", "chromium-browser", "google-chrome")
PNGQUANT = ("pngquant", "Debian's package is called pngquant")
CHOSEN: Mapping[str, tuple[str, str]] = {
    "pg-query-detail": ("queryid", "topk(1, sum by (queryid) (rate(pg_statements_exec_seconds_total[30m])))"),
}
"""Dashboards of one object: its variable, and what finds one to show."""
ROW, GAP, HEAD = 30, 8, 104
"""Pixels of one unit of Grafana's grid, between two, and above the first."""


@contextmanager
def _asked(folder: Path, url: str) -> Iterator[str]:
    """The Prometheus that records, or one on what was recorded, which scrapes nothing."""
    if url:
        yield url
        return
    (folder / "targets.json").write_text("[]")
    with prometheus(program(*PROMETHEUS), folder, every="1d") as found:
        yield found.url


def _end(url: str) -> float:
    """When the last sample was taken."""
    head = httpx.get(f"{url}/api/v1/status/tsdb", timeout=10).json()["data"]["headStats"]
    return float(head["maxTime"]) / 1000 - 15.0


def _uplot() -> Path:
    """The library, fetched once."""
    folder = cache() / f"uplot-{UPLOT}"
    if not (folder / "node_modules").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [program("npm", "it comes with Node.js"), "install", "--silent", f"uplot@{UPLOT}"], cwd=folder, check=True
        )
    return folder / "node_modules" / "uplot" / "dist"


def _chosen(uid: str, moment: Moment) -> dict[str, str]:
    if uid not in CHOSEN:
        return {}
    label, expr = CHOSEN[uid]
    found = moment.instant(expr)
    return {label: found[0]["metric"][label]} if found else {}


def _height(drawn: Json) -> int:
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in drawn["panels"])
    return int(HEAD + bottom * (ROW + GAP) + GAP)


def draw(drawn: Json, file: Path) -> None:
    """Draw one dashboard."""
    with tempfile.TemporaryDirectory(prefix="pgvigil-picture-") as name:
        html, dist = Path(name) / "page.html", _uplot()
        text = PAGE.read_text("utf-8").replace("/*UPLOT_CSS*/", (dist / "uPlot.min.css").read_text("utf-8"))
        text = text.replace("/*UPLOT*/", (dist / "uPlot.iife.min.js").read_text("utf-8"))
        html.write_text(
            text.replace("/*DRAWN*/", json.dumps(drawn).replace("</", "<\\/").replace("NaN", "null")), "utf-8"
        )
        command = [
            str(program(*CHROMIUM)), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={name}/profile", f"--screenshot={name}/picture.png",
            f"--window-size={WIDTH},{_height(drawn)}", "--virtual-time-budget=4000", html.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        small = [str(program(*PNGQUANT)), "--force", "--strip", "--output", str(file), "256", f"{name}/picture.png"]
        subprocess.run(small, check=True)


def main() -> int:
    """Draw all dashboards, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what record.py wrote")
    parser.add_argument("uids", nargs="*", help="these dashboards only")
    parser.add_argument("--prometheus", default="", help="ask this one instead")
    parser.add_argument("--minutes", type=float, default=60)
    arguments = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    too_large = []
    with _asked(arguments.folder.resolve(), arguments.prometheus) as url:
        moment = Moment(url, _end(url), 60 * arguments.minutes)
        for board in boards():
            if not arguments.uids or board["uid"] in arguments.uids:
                file = PICTURES / f"{board['uid']}.png"
                draw(page(board, moment, _chosen(board["uid"], moment)), file)
                print(f"{file.name}: {file.stat().st_size // 1000} kB")
                too_large += [file.name] * (file.stat().st_size > MOST_BYTES)
    if too_large:
        print(f"larger than {MOST_BYTES // 1000} kB: {', '.join(too_large)}")
    return 1 if too_large else 0


if __name__ == "__main__":
    sys.exit(main())
