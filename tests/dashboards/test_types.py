"""The JSON is what the oldest and the newest Grafana that we promise take, by the types that Grafana publishes."""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from dashboards.boards import FOLDER, uids
from servers import kept

NPM = ("npm", "it comes with Node.js")
TYPESCRIPT = "7.0.2"
GRAFANAS = ("10.4.19", "13.2.3")  # versions of @grafana/schema
OPTIONS = [
    "--noEmit",
    "--strict",
    "--skipLibCheck",
    "--moduleResolution",
    "bundler",
    "--module",
    "esnext",
    "--target",
    "es2022",
]
SHOWN = Path(__file__).with_name("shown.ts")
HEAD = "import type { Shown } from './shown';\n\nexport const shown: Shown = "

pytestmark = pytest.mark.timeout(300)  # the first run downloads the types


@pytest.fixture(params=GRAFANAS)
def types(request: pytest.FixtureRequest, tool: Callable[..., Path]) -> Path:
    """A folder with the types of one Grafana, and a compiler."""
    npm, grafana = tool(*NPM), request.param

    def install(folder: Path) -> Path:
        packages = [f"@grafana/schema@{grafana}", f"typescript@{TYPESCRIPT}"]
        quiet = ["--silent", "--ignore-scripts", "--no-audit", "--no-fund", "--legacy-peer-deps"]
        made = folder / "types"
        made.mkdir()
        subprocess.run([npm, "install", *quiet, *packages], cwd=made, check=True, capture_output=True, timeout=240)
        return made

    return kept(f"npm-grafana-schema-{grafana}-typescript-{TYPESCRIPT}", install)


def _complaints(types: Path, folder: Path, dashboards: Sequence[tuple[str, str]]) -> str:
    """What the compiler says of dashboards, by name and JSON."""
    (folder / "node_modules").symlink_to(types / "node_modules")
    shutil.copy(SHOWN, folder)
    for uid, text in dashboards:
        (folder / f"{uid}.ts").write_text(HEAD + text, "utf-8")
    compiler = folder / "node_modules" / ".bin" / "tsc"
    files = [f"{uid}.ts" for uid, _ in dashboards]
    done = subprocess.run([compiler, *OPTIONS, *files], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_every_dashboard_is_of_the_published_types(types: Path, tmp_path: Path) -> None:
    texts = [(uid, (FOLDER / f"{uid}.json").read_text("utf-8")) for uid in uids()]

    assert _complaints(types, tmp_path, texts) == ""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('"schemaVersion": 39', '"schemaVersion": "39"'),
        ('"mode": "absolute"', '"mode": "absolut"'),
        ('"lineWidth": 1', '"lineWidth": "1"'),
        ('"textMode": "auto"', '"textMod": "auto"'),
        ('"titleFormat"', '"titleFormats"'),
    ],
)
def test_a_mistake_is_found(types: Path, tmp_path: Path, right: str, wrong: str) -> None:
    text = (FOLDER / "pg-instance.json").read_text("utf-8")
    assert right in text

    assert "error TS" in _complaints(types, tmp_path, [("broken", text.replace(right, wrong, 1))])
