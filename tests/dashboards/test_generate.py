"""The committed dashboards, and where alerts land, are what the generator writes."""

from pathlib import Path

import pytest

from dashboards.source import alert_thresholds, generate
from dashboards.source.expressions import full
from dashboards.source.landing import landed
from dashboards.source.panels import identifier


def test_generating_again_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capsys.readouterr().err


def test_generating_twice_gives_the_same() -> None:
    assert generate.files() == generate.files()


def test_a_file_that_is_out_of_date_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = generate.ROOT / "dashboards" / "pg-instance.json"
    monkeypatch.setattr(generate, "files", lambda: {stale: "{}"})

    assert generate.main(["--check"]) == 1
    assert f"dashboards/{stale.name}: out of date" in capsys.readouterr().err


def test_every_dashboard_is_small_enough_for_a_config_map() -> None:
    for file, text in generate.files().items():
        assert len(text.encode()) < 2**20, file


def test_a_panel_keeps_its_id() -> None:
    """Links in chats and runbooks hold it."""
    assert identifier("connections") == 634645


def test_scopes_are_written_out() -> None:
    assert full("sum(\n  pg_up{<server>}\n)") == 'sum( pg_up{job=~"$job", instance=~"$instance"} )'


def test_thresholds_are_those_of_the_alerts() -> None:
    assert alert_thresholds.of("PostgreSQLConnectionsNearlyUsed", "ratio") == 0.8
    with pytest.raises(KeyError, match="has no threshold called share"):
        alert_thresholds.of("PostgreSQLConnectionsNearlyUsed", "share")


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        (alert_thresholds.rising(1, 2), ((None, "green"), (1, "orange"), (2, "red"))),
        (alert_thresholds.rising(critical=2), ((None, "green"), (2, "red"))),
        (alert_thresholds.falling(2, 1), ((None, "red"), (1, "orange"), (2, "green"))),
        (alert_thresholds.falling(2), ((None, "orange"), (2, "green"))),
    ],
)
def test_colours_change_at_the_thresholds(steps: alert_thresholds.Steps, wanted: alert_thresholds.Steps) -> None:
    assert steps == wanted


RULE = """
      - alert: Down
        annotations:
          dashboard_url: https://grafana.example.com/d/pg-a?var-job={{ $labels.job | urlquery }}OLD
"""


@pytest.mark.parametrize(
    ("old", "where", "new"),
    [
        ("", {"Down": ("pg-a", 7)}, "&viewPanel=7"),
        ("&viewPanel=6", {"Down": ("pg-a", 7)}, "&viewPanel=7"),
        ("&viewPanel=7", {"Down": ("pg-a", 7)}, "&viewPanel=7"),
        ("&viewPanel=6", {"Down": ("pg-b", 7)}, ""),
        ("&viewPanel=6", {}, ""),
    ],
)
def test_an_alert_is_sent_to_its_panel(old: str, where: dict[str, tuple[str, int]], new: str) -> None:
    assert landed(RULE.replace("OLD", old), where) == RULE.replace("OLD", new)


def test_the_generator_is_not_shipped() -> None:
    project = (generate.ROOT / "pyproject.toml").read_text("utf-8")

    assert "dashboards/source" not in project.split("[tool.hatch.build.targets.wheel]")[1].split("[tool.ruff]")[0]
    assert Path(generate.__file__).parent == generate.ROOT / "dashboards" / "source"
