"""What can be said of the compose file without Docker."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages import page

from exporter.demo.cluster import Cluster

HERE = Path(__file__).parent
SERVICES: Mapping[str, Any] = yaml.safe_load((HERE / "compose.yaml").read_text("utf-8"))["services"]


def mounts() -> dict[str, Path]:
    """Where in which container what lies: service:target -> our file or folder."""
    every = [(name, volume.split(":")) for name, service in SERVICES.items() for volume in service.get("volumes", [])]
    ours = [(name, volume) for name, volume in every if volume[0].startswith(".")]
    return {f"{name}:{target}": (HERE / source).resolve() for name, (source, target, _) in ours}


def test_it_fits_the_compose_specification() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [str(program), "--builtin-schema", "vendor.compose-spec", str(HERE / "compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_is_mounted_is_there() -> None:
    dashboards = "grafana:/var/lib/grafana/dashboards"
    assert [place for place, ours in mounts().items() if not ours.exists() and place != dashboards] == []
    assert mounts()[dashboards].name == "dashboards"


def test_nothing_can_be_reached_from_elsewhere_and_images_have_a_version() -> None:
    assert [port for s in SERVICES.values() for port in s.get("ports", []) if not port.startswith("127.0.0.1:")] == []
    images = [service["image"] for service in SERVICES.values() if "image" in service]
    assert [image for image in images if not image.rpartition(":")[2].lstrip("v")[0].isdigit()] == []


def test_grafana_is_told_where_prometheus_and_the_dashboards_are() -> None:
    [datasource] = yaml.safe_load((HERE / "grafana/datasources/prometheus.yml").read_text("utf-8"))["datasources"]
    assert (datasource["type"], datasource["url"]) == ("prometheus", "http://prometheus:9090")
    [provider] = yaml.safe_load((HERE / "grafana/dashboards/pgvigil.yml").read_text("utf-8"))["providers"]
    assert f"grafana:{provider['options']['path']}" in mounts()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("promtool", ("check", "config", "--syntax-only", "prometheus.yml")),
        ("amtool", ("check-config", "alertmanager.yml")),
    ],
)
def test_its_tool_takes_the_configuration(name: str, command: tuple[str, ...], tool: Callable[..., Path]) -> None:
    found = tool(name, "it comes with Prometheus or Alertmanager")
    done = subprocess.run([found, *command], cwd=HERE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_role_sees_what_it_has_to(cluster: Callable[..., Cluster]) -> None:
    server = cluster(18)
    server.execute("DROP EXTENSION pg_stat_statements; REVOKE pg_monitor FROM pgvigil; DROP ROLE pgvigil")
    server.execute((HERE / "postgres.sql").read_text("utf-8"))
    found = page(server.dsn(user="pgvigil"))
    assert found.value("pg_up") == 1
    assert [labels for labels, value in found.series("pgvigil_collector_success") if value != 1] == []
    assert found.series("pg_statements_calls_total")
